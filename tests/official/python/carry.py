"""Sending and consuming through whatever happens to the brokers."""

import json
import sys
import threading
import time

from common import Seen, numbered, push_consumer, start_producer, until
from rocketmq import ConsumeResult, MessageListener

# A send goes out this long after the last was answered.
PAUSE_S = 0.02


class Gap:
    """The longest time between two of many events, the time since the last one included."""

    def __init__(self):
        self.lock = threading.Lock()
        self.reset()

    def reset(self):
        with self.lock:
            self.longest, self.last = 0, time.monotonic()

    def event(self):
        with self.lock:
            now = time.monotonic()
            self.longest, self.last = max(self.longest, now - self.last), now

    def millis(self):
        with self.lock:
            return int(max(self.longest, time.monotonic() - self.last) * 1000)


class Noting(MessageListener):
    """Finishes every message at once."""

    def __init__(self):
        self.seen, self.reads = Seen(), Gap()

    def consume(self, message):
        self.seen.note(message)
        self.reads.event()
        return ConsumeResult.SUCCESS


def carry(access, topic, group, count):
    """Sends and consumes without a pause, says UNDER_LOAD once `count` went through, and then answers each line on stdin
    with how far it is: after "mark" the gaps count anew, and "end" ends the sends. What was answered OK must come; a
    send may fail, which is told."""
    listener, writes = Noting(), Gap()
    seen, reads = listener.seen, listener.reads
    push_consumer(access, topic, group, listener)
    producer = start_producer(access, topic)
    lock, stop = threading.Lock(), threading.Event()
    sent, state = set(), {"next": 0, "failed": 0}

    def send():
        while not stop.is_set():
            with lock:
                sequence = state["next"]
                state["next"] += 1
            try:
                producer.send(numbered(topic, sequence))
                with lock:
                    sent.add(str(sequence))
                writes.event()
            except Exception as failure:
                with lock:
                    state["failed"] += 1
                print(repr(failure), file=sys.stderr, flush=True)
            stop.wait(PAUSE_S)

    senders = [threading.Thread(target=send, daemon=True) for _ in range(4)]
    for sender in senders:
        sender.start()

    def so_far():
        with lock:
            return {"sent": len(sent), "came": len(seen.bodies), "failed": state["failed"],
                    "send_gap_ms": writes.millis(), "read_gap_ms": reads.millis()}

    def missing():
        with seen.lock:
            return sum(1 for name in sent if name not in seen.bodies)

    until(lambda: len(sent) >= count and len(seen.bodies) >= count)
    print("UNDER_LOAD", flush=True)
    for line in sys.stdin:
        word = line.strip()
        if word == "end":
            break
        print("SO_FAR", json.dumps(so_far()), flush=True)
        if word == "mark":
            writes.reset()
            reads.reset()
    stop.set()
    # The producer is never shut down: a send may be under way.
    for sender in senders:
        sender.join(30)
        if sender.is_alive():
            raise TimeoutError("a send did not end in 30 s")
    until(lambda: missing() == 0)
    return {**so_far(), "missing": missing(), "deliveries": sum(seen.bodies.values())}


SCENARIOS = {"carry": carry}
