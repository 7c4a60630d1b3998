"""The official Python client (rocketmq-python-client) against a running cluster.

    official.py SCENARIO ACCESS TOPIC GROUP COUNT

SCENARIO is roundtrip, redelivery, send, orphan, hold or take. The last line on stdout is RESULT and a JSON object,
which tests/tests/official.rs judges. It signs with OFFICIAL_ACCESS_KEY and OFFICIAL_SECRET_KEY. `hold` prints HELD and a number whenever it holds more messages, and never ends.
"""

import faulthandler
import json
import os
import sys
import threading
import time
from collections import Counter
from concurrent.futures import wait

from rocketmq import (ClientConfiguration, ConsumeResult, Credentials, FilterExpression, Message, MessageListener,
                      Producer, PushConsumer, SimpleConsumer, TransactionChecker, TransactionResolution)

SEND_IN_FLIGHT = 64
# The client tries three times for 3 s each.
SEND_WITHIN = 15
# Its poll of 5 s, what the client adds to the deadline of a poll, and acknowledgements of 3 s at most on a busy machine.
RECEIVE_WITHIN = 20
# A little before the test gives up, the program says on stderr where each of its threads is, and ends.
LIMIT_S = {"roundtrip": 140, "redelivery": 80, "send": 50, "take": 95, "orphan": 100}


def configuration(access):
    keys = Credentials(os.environ.get("OFFICIAL_ACCESS_KEY", ""), os.environ.get("OFFICIAL_SECRET_KEY", ""))
    return ClientConfiguration(access, keys)


def send_all(access, topic, count):
    """Sends `count` messages whose bodies are their sequence numbers; the first failure is raised.

    A producer with a send under way must not be shut down: the client would try the send again without a route, and
    wait for one on the very thread that would bring it, with every other client of this process. So it is shut down
    only after the last answer, and never after a failure; the process ends instead.
    """
    producer = Producer(configuration(access), (topic,))
    producer.startup()
    permits = threading.Semaphore(SEND_IN_FLIGHT)
    failed = threading.Event()

    def sent(future):
        if future.exception() is not None:
            failed.set()
        permits.release()

    futures = []
    while len(futures) < count and not failed.is_set():
        sequence = len(futures)
        message = Message()
        message.topic = topic
        message.body = str(sequence).encode()
        message.tag = "official"
        message.keys = f"key-{sequence}"
        message.add_property("sequence", str(sequence))
        if not permits.acquire(timeout=SEND_WITHIN):
            raise TimeoutError(f"none of {SEND_IN_FLIGHT} sends ended in {SEND_WITHIN} s")
        future = producer.send_async(message)
        future.add_done_callback(sent)
        futures.append(future)
    if wait(futures, timeout=SEND_WITHIN).not_done:
        raise TimeoutError(f"a send did not end in {SEND_WITHIN} s")
    ids = {future.result().message_id for future in futures}
    if len(ids) != count:
        raise AssertionError("two sends were answered with one message id")
    producer.shutdown()


def simple_consumer(access, topic, group, wait=5):
    consumer = SimpleConsumer(configuration(access), group, {topic: FilterExpression("*")}, wait)
    consumer.startup()
    return consumer


def roundtrip(access, topic, group, count):
    """Every message that was sent comes exactly once to a group whose members acknowledge it."""
    started = time.monotonic()
    lock = threading.Lock()
    seen = Counter()
    wrong = []
    stop = threading.Event()

    failures = []

    def receive(consumer):
        try:
            while not stop.is_set():
                for message in consumer.receive(32, 30):
                    body = message.body.decode()
                    with lock:
                        seen[body] += 1
                        if message.delivery_attempt != 1 or message.properties.get("sequence") != body or message.tag != "official":
                            wrong.append(str(message))
                    consumer.ack(message)
        except Exception as failure:
            with lock:
                failures.append(str(failure))

    consumers = [simple_consumer(access, topic, group) for _ in range(2)]
    # Nothing may wait for them when something fails.
    receivers = [threading.Thread(target=receive, args=(consumers[i % 2],), daemon=True) for i in range(8)]
    for receiver in receivers:
        receiver.start()
    send_all(access, topic, count)
    sent = time.monotonic()
    while len(seen) < count and len(failures) < len(receivers) and time.monotonic() - sent < 60:
        time.sleep(0.02)
    received = time.monotonic()
    stop.set()
    # Each ends its poll first: a duplicate in the making would show.
    for receiver in receivers:
        receiver.join(RECEIVE_WITHIN)
        if receiver.is_alive():
            raise TimeoutError(f"a receive did not end in {RECEIVE_WITHIN} s")
    for consumer in consumers:
        consumer.shutdown()
    distinct = sum(1 for sequence in range(count) if str(sequence) in seen)
    return {"sent": count, "distinct": distinct, "foreign": len(seen) - distinct, "deliveries": sum(seen.values()),
            "wrong": wrong[:3], "failures": failures, "sent_ms": int((sent - started) * 1000),
            "received_ms": int((received - started) * 1000)}


def redelivery(access, topic, group, count):
    """Messages that nobody acknowledges come back as attempt 2 after their invisible time and not before."""
    invisible = 10
    consumer = simple_consumer(access, topic, group)
    send_all(access, topic, count)
    first, gaps, attempts, repeated = {}, [], [], 0
    deadline = time.monotonic() + 60
    while len(gaps) < count and time.monotonic() < deadline:
        called = time.monotonic()
        for message in consumer.receive(32, invisible):
            body = message.body.decode()
            if body not in first:
                first[body] = called
            elif message.delivery_attempt == 2 and body in first and first[body] is not None:
                gaps.append(int((time.monotonic() - first[body]) * 1000))
                attempts.append(message.delivery_attempt)
                first[body] = None
                consumer.ack(message)
            else:
                repeated += 1
    consumer.shutdown()
    return {"sent": count, "first": len(first), "second": len(gaps), "repeated": repeated, "attempts": attempts,
            "min_gap_ms": min(gaps, default=0), "max_gap_ms": max(gaps, default=0), "invisible_ms": invisible * 1000}


class Checker(TransactionChecker):
    """Commits the half messages whose numbers are below `count`, and rolls the others back."""

    def __init__(self, count):
        self.count = count
        self.lock = threading.Lock()
        self.asked = set()
        self.wrong = []

    def check(self, message):
        body = message.body.decode()
        with self.lock:
            self.asked.add(body)
            if message.properties.get("sequence") != body or message.tag != "official":
                self.wrong.append(str(message))
        return TransactionResolution.COMMIT if int(body) < self.count else TransactionResolution.ROLLBACK


def orphan(access, topic, group, count):
    """A producer that leaves its transactions open is asked about each of them."""
    checker = Checker(count)
    producer = Producer(configuration(access), (topic,), checker)
    producer.startup()
    for sequence in range(2 * count):
        message = Message()
        message.topic = topic
        message.body = str(sequence).encode()
        message.tag = "official"
        message.add_property("sequence", str(sequence))
        producer.send(message, producer.begin_transaction())
    seen = Counter()
    consumer = simple_consumer(access, topic, group)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (len(seen) < count or len(checker.asked) < 2 * count):
        for message in consumer.receive(32, 30):
            seen[message.body.decode()] += 1
            consumer.ack(message)
    # A poll more: what should not come would show.
    for message in consumer.receive(32, 30):
        seen[message.body.decode()] += 1
    distinct = sum(1 for sequence in range(count) if str(sequence) in seen)
    return {"sent": count, "distinct": distinct, "foreign": len(seen) - distinct, "deliveries": sum(seen.values()),
            "wrong": checker.wrong[:3], "asked": len(checker.asked)}


class Holder(MessageListener):
    """Takes messages and finishes none."""

    def __init__(self):
        self.lock = threading.Lock()
        self.held = 0

    def consume(self, message):
        with self.lock:
            self.held += 1
            print("HELD", self.held, flush=True)
        threading.Event().wait()


class Taker(MessageListener):
    """Finishes every message at once and remembers its attempt."""

    def __init__(self):
        self.lock = threading.Lock()
        self.attempts = {}
        self.deliveries = 0

    def consume(self, message):
        with self.lock:
            self.deliveries += 1
            self.attempts[message.body.decode()] = message.delivery_attempt
        return ConsumeResult.SUCCESS


def hold(access, topic, group, count):
    """A push consumer that holds `count` messages until its process is killed."""
    holder = Holder()
    consumer = PushConsumer(configuration(access), group, holder, {topic: FilterExpression("*")},
                            consumption_thread_count=count)
    consumer.startup()
    # One line on stdin asks for a clean end (NotifyClientTermination); a kill is the other way.
    sys.stdin.readline()
    # shutdown() would wait for the listener, which holds on, before it tells the brokers.
    consumer._PushConsumer__consumption.shutdown = lambda: None
    consumer.shutdown()
    print("ENDED", 0, flush=True)
    os._exit(0)


def take(access, topic, group, count):
    """A push consumer that finishes `count` messages: what another member of its group left."""
    taker = Taker()
    consumer = PushConsumer(configuration(access), group, taker, {topic: FilterExpression("*")})
    consumer.startup()
    print("READY", flush=True)
    started = time.monotonic()
    while len(taker.attempts) < count and time.monotonic() - started < 90:
        time.sleep(0.02)
    took = time.monotonic() - started
    consumer.shutdown()
    return {"distinct": len(taker.attempts), "deliveries": taker.deliveries, "took_ms": int(took * 1000),
            "attempts": sorted(set(taker.attempts.values()))}


def main():
    scenario, access, topic, group, count = sys.argv[1:]
    count = int(count)
    if scenario in LIMIT_S:
        faulthandler.dump_traceback_later(LIMIT_S[scenario], exit=True)
    if scenario == "send":
        send_all(access, topic, count)
        result = {"sent": count}
    else:
        scenarios = {"roundtrip": roundtrip, "redelivery": redelivery, "hold": hold, "take": take,
                     "orphan": orphan}
        result = scenarios[scenario](access, topic, group, count)
    print("RESULT", json.dumps(result), flush=True)
    # The client leaves threads behind that a failure would wait for.
    os._exit(0)


if __name__ == "__main__":
    try:
        main()
    except Exception as failure:  # the whole program ends with the reason
        print("FAILED", repr(failure), file=sys.stderr, flush=True)
        os._exit(1)
