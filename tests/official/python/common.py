"""What every scenario is made of: the client's parts with the settings of this run, messages whose bodies are their
sequence numbers, and notes of what came."""

import os
import threading
import time
from collections import Counter
from concurrent.futures import wait

from rocketmq import ClientConfiguration, Credentials, FilterExpression, Message, Producer, PushConsumer, SimpleConsumer

PATIENCE_S = 60
TLS = os.environ.get("OFFICIAL_TLS") == "1"
SEND_IN_FLIGHT = 64
# The client tries three times for 3 s each.
SEND_WITHIN = 15
# Its poll of 5 s, what the client adds to the deadline of a poll, and acknowledgements of 3 s at most on a busy machine.
RECEIVE_WITHIN = 20


def configuration(access):
    keys = Credentials(os.environ.get("OFFICIAL_ACCESS_KEY", ""), os.environ.get("OFFICIAL_SECRET_KEY", ""))
    return ClientConfiguration(access, keys)


def start_producer(access, topic, checker=None):
    producer = Producer(configuration(access), (topic,), checker, TLS)
    producer.startup()
    return producer


def numbered(topic, sequence, tag="official"):
    """The message whose body is its sequence number."""
    message = Message()
    message.topic = topic
    message.body = str(sequence).encode()
    message.tag = tag
    message.keys = f"key-{sequence}"
    message.add_property("sequence", str(sequence))
    return message


def body(message):
    return message.body.decode()


def intact(message, tag):
    return message.properties.get("sequence") == body(message) and message.tag == tag and not message.corrupted


def send_all(access, topic, count):
    """Sends `count` messages whose bodies are their sequence numbers; the first failure is raised.

    A producer with a send under way must not be shut down: the client would try the send again without a route, and
    wait for one on the very thread that would bring it, with every other client of this process. So it is shut down
    only after the last answer, and never after a failure; the process ends instead.
    """
    producer = start_producer(access, topic)
    permits = threading.Semaphore(SEND_IN_FLIGHT)
    failed = threading.Event()

    def sent(future):
        if future.exception() is not None:
            failed.set()
        permits.release()

    futures = []
    while len(futures) < count and not failed.is_set():
        sequence = len(futures)
        message = numbered(topic, sequence)
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


def simple_consumer(access, topic, group, wait=5, expression="*"):
    subscriptions = {topic: FilterExpression(expression)}
    consumer = SimpleConsumer(configuration(access), group, subscriptions, wait, tls_enable=TLS)
    consumer.startup()
    return consumer


def push_consumer(access, topic, group, listener, expression="*", threads=20):
    consumer = PushConsumer(configuration(access), group, listener, {topic: FilterExpression(expression)},
                            consumption_thread_count=threads, tls_enable=TLS)
    consumer.startup()
    return consumer


def until(condition, limit=PATIENCE_S):
    """Waits until `condition()` holds, and gives up after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


class Again:
    """What a consumer saw of messages that come twice."""

    def __init__(self):
        self.lock = threading.Lock()
        self.first, self.gaps, self.repeated = {}, {}, 0

    def second(self, message, since):
        """Whether this is its second coming; `since` is when its first began."""
        with self.lock:
            name = body(message)
            if message.delivery_attempt == 1 and name not in self.first:
                self.first[name] = since
                return False
            if message.delivery_attempt == 2 and name in self.first and name not in self.gaps:
                self.gaps[name] = int((time.monotonic() - self.first[name]) * 1000)
                return True
            self.repeated += 1
            return False

    def result(self, sent):
        gaps = self.gaps.values()
        return {"sent": sent, "first": len(self.first), "second": len(gaps), "repeated": self.repeated,
                "min_gap_ms": min(gaps, default=0), "max_gap_ms": max(gaps, default=0)}


class Seen:
    """What consumers got: deliveries by body, and what was not as it was sent."""

    def __init__(self):
        self.lock = threading.Lock()
        self.bodies, self.wrong = Counter(), []

    def note(self, message, tag="official"):
        with self.lock:
            name = body(message)
            self.bodies[name] += 1
            if not intact(message, tag) or message.delivery_attempt != 1:
                self.wrong.append(str(message))

    def result(self, sent):
        with self.lock:
            distinct = sum(1 for sequence in range(sent) if str(sequence) in self.bodies)
            return {"sent": sent, "distinct": distinct, "foreign": len(self.bodies) - distinct,
                    "deliveries": sum(self.bodies.values()), "wrong": self.wrong[:3]}


