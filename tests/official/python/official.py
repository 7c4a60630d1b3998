"""The official Python client (rocketmq-python-client) against a running cluster.

    official.py SCENARIO ACCESS TOPIC GROUP COUNT

SCENARIO is roundtrip, redelivery, send, hold or take. The last line on stdout is RESULT and a JSON object,
which tests/tests/official.rs judges. `hold` prints HELD and a number whenever it holds more messages, and never ends.
"""

import json
import os
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from rocketmq import (ClientConfiguration, ConsumeResult, Credentials, FilterExpression, Message, MessageListener,
                      Producer, PushConsumer, SimpleConsumer)

SEND_IN_FLIGHT = 64


def configuration(access):
    return ClientConfiguration(access, Credentials())


def send_all(access, topic, count):
    """Sends `count` messages whose bodies are their sequence numbers; any failure is raised."""
    producer = Producer(configuration(access), (topic,))
    producer.startup()
    try:
        permits = threading.Semaphore(SEND_IN_FLIGHT)

        def send(sequence):
            message = Message()
            message.topic = topic
            message.body = str(sequence).encode()
            message.tag = "official"
            message.keys = f"key-{sequence}"
            message.add_property("sequence", str(sequence))
            permits.acquire()
            future = producer.send_async(message)
            future.add_done_callback(lambda _: permits.release())
            return future

        ids = [future.result(timeout=30).message_id for future in [send(sequence) for sequence in range(count)]]
        if len(set(ids)) != count:
            raise AssertionError("two sends were answered with one message id")
    finally:
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

    def receive(consumer):
        while not stop.is_set():
            for message in consumer.receive(32, 30):
                body = message.body.decode()
                with lock:
                    seen[body] += 1
                    if message.delivery_attempt != 1 or message.properties.get("sequence") != body or message.tag != "official":
                        wrong.append(str(message))
                consumer.ack(message)

    consumers = [simple_consumer(access, topic, group) for _ in range(2)]
    with ThreadPoolExecutor(8) as pool:
        receivers = [pool.submit(receive, consumers[i % 2]) for i in range(8)]
        try:
            send_all(access, topic, count)
            sent = time.monotonic()
            while len(seen) < count and time.monotonic() - sent < 60:
                time.sleep(0.02)
            received = time.monotonic()
        finally:
            stop.set()
        # Each ends its poll first: a duplicate in the making would show.
        failures = [str(receiver.exception()) for receiver in receivers if receiver.exception()]
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
    if scenario == "send":
        send_all(access, topic, count)
        result = {"sent": count}
    else:
        scenarios = {"roundtrip": roundtrip, "redelivery": redelivery, "hold": hold, "take": take}
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
