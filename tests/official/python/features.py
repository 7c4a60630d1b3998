"""Message types and consumer features, one scenario each. None closes its consumers: the process ends."""

import sys
import threading
import time
from collections import Counter, defaultdict

from common import (PATIENCE_S, Seen, body, intact, numbered, push_consumer, send_all, simple_consumer, start_producer,
                    until)
from rocketmq import ConsumeResult, Message, MessageListener, TransactionChecker, TransactionResolution

# Messages of a FIFO scenario belong to so many message groups in turn; the second of the first group fails once.
MESSAGE_GROUPS = 3
FAILS_ONCE = MESSAGE_GROUPS
PRIORITIES = 3
TOO_MANY_BYTES = (4 << 20) + 1


def receive_until(consumer, note, enough):
    """Receives, notes and acknowledges until there is enough, or for as long as anybody has patience."""
    deadline = time.monotonic() + PATIENCE_S
    while not enough() and time.monotonic() < deadline:
        for message in consumer.receive(32, 30):
            note(message)
            consumer.ack(message)


def refusal(call):
    """What a call says that must not succeed; empty when it did."""
    try:
        call()
        return ""
    except Exception as failure:
        return f"{type(failure).__name__} {getattr(failure, 'code', None)} {failure}"


def delay(access, topic, group, count):
    """Messages come at their time and not before; a third of them is taken back and does not come at all.

    The client sends whole seconds.
    """
    consumer = simple_consumer(access, topic, group)
    producer = start_producer(access, topic)
    start = int(time.time()) + 3
    recalled, handles = set(), {}
    for sequence in range(count):
        message = numbered(topic, sequence)
        message.delivery_timestamp = start + sequence // 4
        handles[sequence] = producer.send(message).recall_handle
        if sequence % 3 == 1:
            producer.recall_message(topic, handles[sequence])
            recalled.add(sequence)
    came, lateness, wrong = Counter(), [], []

    def note(message):
        sequence = int(body(message))
        due = start + sequence // 4
        lateness.append(int((time.time() - due) * 1000))
        came[sequence] += 1
        if message.delivery_timestamp != due * 1000:
            wrong.append(message.delivery_timestamp)

    receive_until(consumer, note, lambda: len(came) >= count - len(recalled))
    return {"sent": count, "recalled": len(recalled), "came": len(came),
            "recalled_came": sum(1 for sequence in recalled if sequence in came),
            "repeated": sum(came.values()) - len(came), "wrong_time": len(wrong),
            "earliest_ms": min(lateness, default=0), "latest_ms": max(lateness, default=0),
            "late_recall": refusal(lambda: producer.recall_message(topic, handles[0]))}


class Committer(TransactionChecker):
    """Commits what the broker asks about."""

    def __init__(self):
        self.checked = 0

    def check(self, message):
        self.checked += 1
        return TransactionResolution.COMMIT


def transaction(access, topic, group, count):
    """A third of the messages is committed, a third rolled back, a third left open: those may come only when the broker
    has asked about them."""
    consumer = simple_consumer(access, topic, group)
    checker = Committer()
    producer = start_producer(access, topic, checker)
    for sequence in range(count):
        half = producer.begin_transaction()
        producer.send(numbered(topic, sequence), half)
        if sequence % 3 == 0:
            half.commit()
        elif sequence % 3 == 1:
            half.rollback()
    came = Counter()

    def kind(number):
        return sum(1 for sequence in came if sequence % 3 == number)

    def note(message):
        came[int(body(message))] += 1

    receive_until(consumer, note, lambda: kind(0) >= count // 3)
    return {"sent": count, "committed_came": kind(0), "rolled_back_came": kind(1), "open_came": kind(2),
            "repeated": sum(came.values()) - len(came), "checked": checker.checked}


class Checker(TransactionChecker):
    """Commits the half messages whose numbers are below `count`, and rolls the others back."""

    def __init__(self, count):
        self.count = count
        self.lock = threading.Lock()
        self.asked = set()
        self.wrong = []

    def check(self, message):
        with self.lock:
            self.asked.add(body(message))
            if not intact(message, "official"):
                self.wrong.append(str(message))
        return TransactionResolution.COMMIT if int(body(message)) < self.count else TransactionResolution.ROLLBACK


def orphans(access, topic, group, count):
    """A producer that leaves its transactions open is asked about each of them."""
    consumer = simple_consumer(access, topic, group)
    checker = Checker(count)
    producer = start_producer(access, topic, checker)
    for sequence in range(2 * count):
        producer.send(numbered(topic, sequence), producer.begin_transaction())
    seen = Seen()
    receive_until(consumer, seen.note, lambda: len(seen.bodies) >= count and len(checker.asked) >= 2 * count)
    # A poll more: what should not come would show.
    for message in consumer.receive(32, 30):
        seen.note(message)
    result = seen.result(count)
    return {**result, "wrong": result["wrong"] + checker.wrong[:3], "asked": len(checker.asked)}


class Orders(MessageListener):
    """What came of each message group, in the order in which it came."""

    def __init__(self):
        self.lock = threading.Lock()
        self.came = [[] for _ in range(MESSAGE_GROUPS)]
        self.ended = set()
        self.failed = False

    def note(self, message):
        """Whether the message shall fail now."""
        with self.lock:
            sequence = int(body(message))
            self.came[sequence % MESSAGE_GROUPS].append(sequence)
            if sequence == FAILS_ONCE and not self.failed:
                self.failed = True
                return True
            self.ended.add(sequence)
            return False

    def consume(self, message):
        return ConsumeResult.FAILURE if self.note(message) else ConsumeResult.SUCCESS


def send_in_order(access, topic, count):
    producer = start_producer(access, topic)
    for sequence in range(count):
        message = numbered(topic, sequence)
        message.message_group = f"group-{sequence % MESSAGE_GROUPS}"
        producer.send(message)


def fifo(access, topic, group, count):
    """A push consumer gets each message group in order, and one that failed before its successors."""
    orders = Orders()
    push_consumer(access, topic, group, orders)
    send_in_order(access, topic, count)
    until(lambda: len(orders.ended) >= count)
    return {"sent": count, "orders": orders.came}


def fifo_simple(access, topic, group, count):
    """The same with a simple consumer, which lets a message fail by making it visible soon."""
    consumer = simple_consumer(access, topic, group)
    send_in_order(access, topic, count)
    orders = Orders()
    deadline = time.monotonic() + PATIENCE_S
    while len(orders.ended) < count and time.monotonic() < deadline:
        for message in consumer.receive(32, 30):
            if orders.note(message):
                consumer.change_invisible_duration(message, 1)
            else:
                consumer.ack(message)
    return {"sent": count, "orders": orders.came}


def priority(access, topic, group, count):
    """Of messages that wait, those of the highest priority come first."""
    producer = start_producer(access, topic)
    for sequence in range(count):
        message = numbered(topic, sequence)
        message.priority = sequence % PRIORITIES
        producer.send(message)
    came = []
    receive_until(simple_consumer(access, topic, group), lambda message: came.append(int(body(message)) % PRIORITIES),
                  lambda: len(came) >= count)
    return {"sent": count, "priorities": came}


class Failing(MessageListener):
    """Finishes no message, and remembers the attempts of each."""

    def __init__(self):
        self.lock = threading.Lock()
        self.attempts = defaultdict(list)

    def consume(self, message):
        with self.lock:
            self.attempts[body(message)].append(message.delivery_attempt)
        return ConsumeResult.FAILURE


def dead_letter(access, topic, group, count):
    """Messages that always fail come as often as their consumer group says, and then to its dead letter topic."""
    failing = Failing()
    push_consumer(access, topic, group, failing)
    send_all(access, topic, count)
    # The broker says when there is a dead letter topic; the client would not wait for it.
    print("FAILING", flush=True)
    sys.stdin.readline()
    letters = Seen()
    receive_until(simple_consumer(access, f"%DLQ%{group}", f"{group}-dead"), letters.note,
                  lambda: len(letters.bodies) >= count)
    return {**letters.result(count), "attempts": failing.attempts}


def largest(access, topic, group, count):
    """A body of `count` bytes comes back as it was; one above the limit is refused, and nothing is stuck after it."""
    consumer = simple_consumer(access, topic, group)
    producer = start_producer(access, topic)

    def patterned(length):
        message = Message()
        message.topic = topic
        message.body = (b"0123456789abcdef" * (length // 16 + 1))[:length]
        return message

    error = refusal(lambda: producer.send(patterned(TOO_MANY_BYTES)))
    producer.send(patterned(count))
    came = []
    receive_until(consumer, lambda message: came.append(message.body), lambda: came)
    return {"came": len(came), "whole": came[:1] == [patterned(count).body], "error": error}


def unknown_topic(access, topic, group, count):
    """A topic that does not exist is refused, and the producer goes on with one that does."""
    producer = start_producer(access, topic)
    unknown = Message()
    unknown.topic = f"{topic}-unknown"
    unknown.body = b"nobody"
    return {"error": refusal(lambda: producer.send(unknown)),
            "after": refusal(lambda: producer.send(numbered(topic, 0)))}


SCENARIOS = {"delay": delay, "transaction": transaction, "orphans": orphans, "fifo": fifo, "fifo-simple": fifo_simple,
             "priority": priority, "dead-letter": dead_letter, "largest": largest, "unknown-topic": unknown_topic}
