"""Lite topics: a consumer gets those that it subscribes to, each in order, and no others."""

import sys
import threading
import time

from common import TLS, body, configuration, intact, numbered, start_producer, until
from rocketmq import ConsumeResult, LitePushConsumer, LiteSimpleConsumer, MessageListener
from rocketmq.v5.exception import LiteSubscriptionQuotaExceededException

# Messages belong to these in turn; nobody subscribes to the last. The second message of the first fails once.
NAMES = ("first-session", "second-session", "nobodys-session")
FAILS_ONCE = len(NAMES)
# A send is tried again for as long as this.
SENT_WITHIN_S = 40


class Came(MessageListener):
    """What came of each lite topic, in the order in which it came."""

    def __init__(self):
        self.lock = threading.Lock()
        self.came = [[] for _ in NAMES]
        self.attempts, self.wrong = [], []

    def note(self, message):
        """Whether the message shall fail now."""
        with self.lock:
            sequence = int(body(message))
            number = sequence % len(NAMES)
            if message.lite_topic != NAMES[number] or not intact(message, "official"):
                self.wrong.append(str(message))
            self.came[number].append(sequence)
            if sequence == FAILS_ONCE:
                self.attempts.append(message.delivery_attempt)
            return sequence == FAILS_ONCE and len(self.attempts) == 1

    def consume(self, message):
        return ConsumeResult.FAILURE if self.note(message) else ConsumeResult.SUCCESS

    def has(self, sequence):
        with self.lock:
            return sequence in self.came[sequence % len(NAMES)]


def subscribe_one(consumer, name):
    """Subscribes as soon as the client has the brokers' settings: until then it takes no lite topic to be allowed."""
    deadline = time.monotonic() + SENT_WITHIN_S
    while True:
        try:
            return consumer.subscribe_lite(name)
        except LiteSubscriptionQuotaExceededException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def subscribe(consumer):
    for name in NAMES[:2]:
        subscribe_one(consumer, name)
    # It has told the brokers each letter of the names instead of them, which this puts right.
    consumer.subscribe_lite_all()


def send(producer, topic, sequence):
    """Sends until it is taken: for a while nobody leads."""
    message = numbered(topic, sequence)
    message.lite_topic = NAMES[sequence % len(NAMES)]
    deadline = time.monotonic() + SENT_WITHIN_S
    while True:
        try:
            return producer.send(message)
        except Exception as failure:
            print(repr(failure), file=sys.stderr, flush=True)
            if time.monotonic() > deadline:
                raise


def play(access, topic, count, came, consumer):
    """Sends `count` messages to each lite topic, half of them once the test says so, and then one more, which only the
    lite topic that is still subscribed to gives."""
    subscribe(consumer)
    producer = start_producer(access, topic)
    last = len(NAMES) * count
    for sequence in range(last):
        if sequence == last // 2:
            print("HALF", flush=True)
            sys.stdin.readline()
        send(producer, topic, sequence)
    until(lambda: came.has(last - 3) and came.has(last - 2))
    consumer.unsubscribe_lite(NAMES[1])
    for number in (1, 2, 0):
        send(producer, topic, last + number)
    until(lambda: came.has(last))
    # What should not come would come with it, or soon.
    time.sleep(1)
    with came.lock:
        return {"sent": count, "orders": came.came, "attempts": came.attempts, "wrong": came.wrong[:3]}


def lite(access, topic, group, count):
    came = Came()
    consumer = LitePushConsumer(configuration(access), group, topic, came, tls_enable=TLS)
    consumer.startup()
    return play(access, topic, count, came, consumer)


def lite_simple(access, topic, group, count):
    """The same with a simple consumer, which lets a message fail by making it visible soon."""
    came = Came()
    consumer = LiteSimpleConsumer(topic, configuration(access), group, 5, TLS)
    consumer.startup()

    def receive():
        while True:
            try:
                for message in consumer.receive(32, 10):
                    if came.note(message):
                        consumer.change_invisible_duration(message, 1)
                    else:
                        consumer.ack(message)
            except Exception as failure:
                print(repr(failure), file=sys.stderr, flush=True)
                time.sleep(0.1)

    threading.Thread(target=receive, daemon=True).start()
    return play(access, topic, count, came, consumer)


SCENARIOS = {"lite": lite, "lite-simple": lite_simple}
