"""Message groups that two broker groups keep, one of which is down for a while."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from common import PATIENCE_S, body, numbered, simple_consumer, start_producer, until

MESSAGE_GROUPS = 12


def wanted(sequence):
    """Whether its tag is the one that the consumer subscribes to: of the messages of a message group the second of each
    three has another one."""
    return sequence // MESSAGE_GROUPS % 3 != 1


def consume(access, topic, group, orders, lock):
    consumer = simple_consumer(access, topic, group, expression="official")

    def receive():
        while True:
            try:
                for message in consumer.receive(32, 10):
                    sequence = int(body(message))
                    with lock:
                        orders[sequence % MESSAGE_GROUPS].append(sequence)
                    consumer.ack(message)
            except Exception as failure:
                # A queue of the broker group that is down, and it is another one's turn.
                print(repr(failure), file=sys.stderr, flush=True)
                time.sleep(0.05)

    threading.Thread(target=receive, daemon=True).start()


def fifo_apart(access, topic, group, count):
    """Sends `count` messages before and `count` while one broker group is down, until the test says that it is back: a
    message that is refused, and those that follow it in its message group, are sent then."""
    orders, lock = [[] for _ in range(MESSAGE_GROUPS)], threading.Lock()
    consume(access, topic, group, orders, lock)
    producer = start_producer(access, topic)

    def send(sequence):
        message = numbered(topic, sequence, "official" if wanted(sequence) else "other")
        message.message_group = f"group-{sequence % MESSAGE_GROUPS}"
        producer.send(message)

    def send_until_taken(sequence):
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return send(sequence)
            except Exception as failure:
                print(repr(failure), file=sys.stderr, flush=True)
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    for sequence in range(count):
        send_until_taken(sequence)
    print("HALF", flush=True)
    sys.stdin.readline()

    def send_while_down(message_group):
        sequences = range(count + message_group, 2 * count, MESSAGE_GROUPS)
        for taken, sequence in enumerate(sequences):
            try:
                send(sequence)
            except Exception as failure:
                print(repr(failure), file=sys.stderr, flush=True)
                return sequences[taken:]
        return ()

    # Clients wait seconds for a node that is down, so that the message groups are sent at the same time.
    with ThreadPoolExecutor(MESSAGE_GROUPS) as senders:
        held = sorted(sequence for part in senders.map(send_while_down, range(MESSAGE_GROUPS)) for sequence in part)
    print("HELD", len(held), flush=True)
    sys.stdin.readline()
    for sequence in held:
        send_until_taken(sequence)

    def whole():
        with lock:
            return sum(len(set(came)) for came in orders) >= sum(map(wanted, range(2 * count)))

    until(whole)
    with lock:
        return {"sent": 2 * count, "held": len(held), "orders": orders}


SCENARIOS = {"fifo-apart": fifo_apart}
