"""The official Python client (rocketmq-python-client) against a running cluster.

    official.py SCENARIO ACCESS TOPIC GROUP COUNT

The last line on stdout is RESULT and a JSON object, which tests/tests/official*.rs judge. It signs with
OFFICIAL_ACCESS_KEY and OFFICIAL_SECRET_KEY. TLS is off, as this client has it by itself, unless the environment says
OFFICIAL_TLS=1.
"""

import faulthandler
import json
import os
import sys
import threading
import time

import apart
import carry
import features
import lite
from common import (RECEIVE_WITHIN, Again, Seen, body, numbered, push_consumer, send_all, simple_consumer,
                    start_producer, until)
from rocketmq import ConsumeResult, MessageListener

# A little before the test gives up, the program says on stderr where each of its threads is, and ends.
LIMIT_S = {"roundtrip": 140, "push": 140, "take": 95, "send": 50, "lite": 140, "lite-simple": 140,
           "fifo-apart": 240}
LIMIT_ELSE_S = 80
# These go on until they are told or killed.
WITHOUT_LIMIT = ("hold", "carry")


def send(access, topic, _group, count):
    send_all(access, topic, count)
    return {"sent": count}


def roundtrip(access, topic, group, count):
    """Every message that was sent comes exactly once to a group whose simple consumers acknowledge it."""
    started = time.monotonic()
    seen, failures = Seen(), []
    stop = threading.Event()

    def receive(consumer):
        try:
            while not stop.is_set():
                for message in consumer.receive(32, 30):
                    seen.note(message)
                    consumer.ack(message)
        except Exception as failure:
            failures.append(repr(failure))

    consumers = [simple_consumer(access, topic, group) for _ in range(2)]
    # Nothing may wait for them when something fails.
    receivers = [threading.Thread(target=receive, args=(consumers[i % 2],), daemon=True) for i in range(8)]
    for receiver in receivers:
        receiver.start()
    send_all(access, topic, count)
    sent = time.monotonic()
    until(lambda: len(seen.bodies) >= count or len(failures) == len(receivers))
    received = time.monotonic()
    stop.set()
    # Each ends its poll first: a duplicate in the making would show.
    for receiver in receivers:
        receiver.join(RECEIVE_WITHIN)
        if receiver.is_alive():
            raise TimeoutError(f"a receive did not end in {RECEIVE_WITHIN} s")
    for consumer in consumers:
        consumer.shutdown()
    return {**seen.result(count), "failures": failures, "sent_ms": int((sent - started) * 1000),
            "received_ms": int((received - started) * 1000)}


class Listener(MessageListener):
    """Hands each message to a function, which says whether it is finished."""

    def __init__(self, finishes):
        self.finishes = finishes

    def consume(self, message):
        return ConsumeResult.SUCCESS if self.finishes(message) else ConsumeResult.FAILURE


def push(access, topic, group, count):
    """Every message that was sent comes exactly once to a push consumer that finishes it."""
    seen = Seen()

    def finish(message):
        seen.note(message)
        return True

    consumer = push_consumer(access, topic, group, Listener(finish))
    started = time.monotonic()
    send_all(access, topic, count)
    until(lambda: len(seen.bodies) >= count)
    received = time.monotonic()
    # It ends its polls and finishes what they brought.
    consumer.shutdown()
    return {**seen.result(count), "received_ms": int((received - started) * 1000)}


def redelivery(access, topic, group, count):
    """Messages that nobody acknowledges come back as attempt 2 after their invisible time and not before."""
    invisible = 10
    return {**come_back(access, topic, group, count, invisible, None), "invisible_ms": invisible * 1000}


def invisible(access, topic, group, count):
    """A message held for longer and then for shorter than it was received for comes back when it was last told."""
    last = 5
    return {**come_back(access, topic, group, count, 120, last), "invisible_ms": last * 1000}


def come_back(access, topic, group, count, received_for, changed_to):
    again = Again()
    consumer = simple_consumer(access, topic, group)
    send_all(access, topic, count)
    deadline = time.monotonic() + 60
    while len(again.gaps) < count and time.monotonic() < deadline:
        called = time.monotonic()
        for message in consumer.receive(32, received_for):
            if again.second(message, time.monotonic() if changed_to else called):
                consumer.ack(message)
            elif changed_to:
                consumer.change_invisible_duration(message, 300)
                consumer.change_invisible_duration(message, changed_to)
    consumer.shutdown()
    return again.result(count)


def retry(access, topic, group, count):
    """Messages that a push consumer fails once come back to it as attempt 2."""
    again = Again()
    consumer = push_consumer(access, topic, group, Listener(lambda message: again.second(message, time.monotonic())))
    send_all(access, topic, count)
    until(lambda: len(again.gaps) >= count)
    consumer.shutdown()
    return again.result(count)


def filter_by_tag(access, topic, group, count):
    """A push consumer that asked for one of two tags gets that and nothing else."""
    seen = Seen()

    def finish(message):
        seen.note(message, "wanted")
        return True

    consumer = push_consumer(access, topic, group, Listener(finish), "wanted || also")
    producer = start_producer(access, topic)
    for sequence in range(count):
        producer.send(numbered(topic, sequence, "wanted"))
        producer.send(numbered(topic, count + sequence, "other"))
    producer.shutdown()
    until(lambda: len(seen.bodies) >= count)
    consumer.shutdown()
    return seen.result(count)


def hold(access, topic, group, count):
    """A push consumer that holds `count` messages until its process is killed."""
    lock, held = threading.Lock(), []

    def never(message):
        with lock:
            held.append(body(message))
            print("HELD", len(held), flush=True)
        threading.Event().wait()

    consumer = push_consumer(access, topic, group, Listener(never), threads=count)
    # One line on stdin asks for a clean end (NotifyClientTermination); a kill is the other way.
    sys.stdin.readline()
    # shutdown() would wait for the listener, which holds on, before it tells the brokers.
    consumer._PushConsumer__consumption.shutdown = lambda: None
    consumer.shutdown()
    print("ENDED", 0, flush=True)
    os._exit(0)


def take(access, topic, group, count):
    """A push consumer that finishes `count` messages: what another member of its group left."""
    lock, attempts, deliveries = threading.Lock(), {}, []

    def finish(message):
        with lock:
            deliveries.append(body(message))
            attempts[body(message)] = message.delivery_attempt
        return True

    consumer = push_consumer(access, topic, group, Listener(finish))
    print("READY", flush=True)
    started = time.monotonic()
    until(lambda: len(attempts) >= count, 90)
    took = time.monotonic() - started
    # The end of a consumer takes as long as its polls.
    print("TAKEN", len(attempts), flush=True)
    consumer.shutdown()
    return {"distinct": len(attempts), "deliveries": len(deliveries), "took_ms": int(took * 1000),
            "attempts": sorted(set(attempts.values()))}


SCENARIOS = {"send": send, "roundtrip": roundtrip, "push": push, "redelivery": redelivery, "invisible": invisible,
             "retry": retry, "filter": filter_by_tag, "hold": hold, "take": take, **features.SCENARIOS,
             **carry.SCENARIOS, **lite.SCENARIOS, **apart.SCENARIOS}


def main():
    scenario, access, topic, group, count = sys.argv[1:]
    if scenario not in WITHOUT_LIMIT:
        faulthandler.dump_traceback_later(LIMIT_S.get(scenario, LIMIT_ELSE_S), exit=True)
    print("RESULT", json.dumps(SCENARIOS[scenario](access, topic, group, int(count))), flush=True)
    # The client leaves threads behind that a normal end would wait for.
    os._exit(0)


if __name__ == "__main__":
    try:
        main()
    except Exception as failure:  # the whole program ends with the reason
        print("FAILED", repr(failure), file=sys.stderr, flush=True)
        os._exit(1)
