/*
 * Message types and consumer features, one scenario each. Few close their consumers: the process ends.
 */
'use strict';

const { ConsumeResult } = require('rocketmq-client-nodejs');
const { TransactionResolution } = require('rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb');
const {
  Seen, awaitLine, body, count, group, intact, message, producer, pushConsumer, sendAll, simpleConsumer, topic, until,
} = require('./common');

// Messages of a FIFO scenario belong to so many message groups in turn; the second of the first group fails once.
const MESSAGE_GROUPS = 3;
const FAILS_ONCE = MESSAGE_GROUPS;
const PRIORITIES = 3;
const TOO_MANY_BYTES = (4 << 20) + 1;

/** Receives, notes and acknowledges until there is enough, or for as long as anybody has patience. */
async function receiveUntil(consumer, note, enough) {
  await until(async () => {
    if (enough()) {
      return true;
    }
    for (const view of await consumer.receive(32, 30_000)) {
      note(view);
      await consumer.ack(view);
    }
    return enough();
  });
}

/** What a call says that must not succeed; empty when it did. */
async function refusal(call) {
  try {
    await call();
    return '';
  } catch (failure) {
    return String(failure);
  }
}

/**
 * A third of the messages is committed, a third rolled back, a third left open: those may come only when the broker has
 * asked about them.
 */
async function transaction() {
  const consumer = await simpleConsumer();
  let checked = 0;
  const check = async () => {
    checked++;
    return TransactionResolution.COMMIT;
  };
  const client = await producer({ checker: { check } });
  for (let sequence = 0; sequence < count; sequence++) {
    const open = client.beginTransaction();
    await client.send(message(sequence), open);
    if (sequence % 3 === 0) {
      await open.commit();
    } else if (sequence % 3 === 1) {
      await open.rollback();
    }
  }
  const came = new Map();
  const kind = number => [ ...came.keys() ].filter(sequence => sequence % 3 === number).length;
  const third = Math.floor(count / 3);
  await receiveUntil(consumer, view => came.set(Number(body(view)), (came.get(Number(body(view))) ?? 0) + 1),
    () => kind(0) >= third);
  const deliveries = [ ...came.values() ].reduce((sum, number) => sum + number, 0);
  return {
    sent: count, committed_came: kind(0), rolled_back_came: kind(1), open_came: kind(2),
    repeated: deliveries - came.size, checked,
  };
}

/**
 * A producer that leaves its transactions open is asked about each of them. The half messages below `count` it commits
 * then, and as many others it rolls back.
 */
async function orphans() {
  const seen = new Seen();
  const asked = new Set();
  const consumer = await pushConsumer(view => {
    seen.note(view);
    return ConsumeResult.SUCCESS;
  });
  const check = async half => {
    if (!intact(half, 'official')) {
      seen.wrong.push(`half ${body(half)}`);
    }
    asked.add(body(half));
    return Number(body(half)) < count ? TransactionResolution.COMMIT : TransactionResolution.ROLLBACK;
  };
  const client = await producer({ checker: { check } });
  for (let sequence = 0; sequence < 2 * count; sequence++) {
    await client.send(message(sequence), client.beginTransaction());
  }
  await until(() => asked.size >= 2 * count && seen.bodies.size >= count);
  // It ends its polls first: what was to be rolled back would show.
  await consumer.shutdown();
  return { ...seen.result(count), asked: asked.size };
}

/** What came of each message group, in the order in which it came. */
class Orders {
  came = Array.from({ length: MESSAGE_GROUPS }, () => []);
  ended = new Set();
  failed = false;

  /** Whether the message shall fail now. */
  note(view) {
    const sequence = Number(body(view));
    this.came[sequence % MESSAGE_GROUPS].push(sequence);
    if (sequence === FAILS_ONCE && !this.failed) {
      this.failed = true;
      return true;
    }
    this.ended.add(sequence);
    return false;
  }

  get whole() {
    return this.ended.size >= count;
  }

  result() {
    return { sent: count, orders: this.came };
  }
}

async function sendInOrder() {
  const client = await producer();
  for (let sequence = 0; sequence < count; sequence++) {
    await client.send({ ...message(sequence), messageGroup: `group-${sequence % MESSAGE_GROUPS}` });
  }
}

module.exports = {
  /** Messages come at their time and not before; a third of them is taken back and does not come at all. */
  async delay() {
    const consumer = await simpleConsumer();
    const client = await producer();
    const start = Date.now() + 2000;
    const due = sequence => start + sequence * 100;
    const recalled = new Set();
    let first;
    for (let sequence = 0; sequence < count; sequence++) {
      const receipt = await client.send({ ...message(sequence), deliveryTimestamp: new Date(due(sequence)) });
      first ??= receipt.recallHandle;
      if (sequence % 3 === 1) {
        await client.recallMessage(topic, receipt.recallHandle);
        recalled.add(sequence);
      }
    }
    const came = new Set();
    const lateness = [];
    let repeated = 0;
    let wrong_time = 0;
    await receiveUntil(consumer, view => {
      const sequence = Number(body(view));
      lateness.push(Date.now() - due(sequence));
      repeated += came.has(sequence) ? 1 : 0;
      came.add(sequence);
      wrong_time += view.deliveryTimestamp?.getTime() === due(sequence) ? 0 : 1;
    }, () => came.size >= count - recalled.size);
    return {
      sent: count, recalled: recalled.size, came: came.size,
      recalled_came: [ ...recalled ].filter(sequence => came.has(sequence)).length, repeated, wrong_time,
      earliest_ms: Math.min(...lateness), latest_ms: Math.max(...lateness),
      late_recall: await refusal(() => client.recallMessage(topic, first)),
    };
  },

  transaction,
  orphans,

  /** A push consumer gets each message group in order, and one that failed before its successors. */
  async fifo() {
    const orders = new Orders();
    await pushConsumer(view => (orders.note(view) ? ConsumeResult.FAILURE : ConsumeResult.SUCCESS));
    await sendInOrder();
    await until(() => orders.whole);
    return orders.result();
  },

  /** The same with a simple consumer, which lets a message fail by making it visible soon. */
  async 'fifo-simple'() {
    const consumer = await simpleConsumer();
    await sendInOrder();
    const orders = new Orders();
    await until(async () => {
      for (const view of await consumer.receive(32, 30_000)) {
        if (orders.note(view)) {
          await consumer.changeInvisibleDuration(view, 1000);
        } else {
          await consumer.ack(view);
        }
      }
      return orders.whole;
    });
    return orders.result();
  },

  /** Of messages that wait, those of the highest priority come first. */
  async priority() {
    const client = await producer();
    for (let sequence = 0; sequence < count; sequence++) {
      // The client takes a priority of 0 for none.
      await client.send({ ...message(sequence), priority: 1 + sequence % PRIORITIES });
    }
    const priorities = [];
    await receiveUntil(await simpleConsumer(), view => priorities.push(Number(body(view)) % PRIORITIES),
      () => priorities.length >= count);
    return { sent: count, priorities };
  },

  /** Messages that always fail come as often as their consumer group says, and then to its dead letter topic. */
  async 'dead-letter'() {
    const attempts = {};
    await pushConsumer(view => {
      (attempts[body(view)] ??= []).push(view.deliveryAttempt);
      return ConsumeResult.FAILURE;
    });
    await sendAll();
    // The broker says when there is a dead letter topic; the client would not wait for it.
    console.log('FAILING');
    await awaitLine();
    const letters = new Seen();
    await receiveUntil(await simpleConsumer(`%DLQ%${group}`, `${group}-dead`), view => letters.note(view),
      () => letters.bodies.size >= count);
    return { ...letters.result(count), attempts };
  },

  /** A body of count bytes comes back as it was; one above the limit is refused, and nothing is stuck after it. */
  async largest() {
    const pattern = length => Buffer.alloc(length, '0123456789abcdef');
    const consumer = await simpleConsumer();
    const client = await producer();
    const error = await refusal(() => client.send({ topic, body: pattern(TOO_MANY_BYTES) }));
    await client.send({ topic, body: pattern(count) });
    const came = [];
    await receiveUntil(consumer, view => came.push(view.body), () => came.length > 0);
    return { came: came.length, whole: came.length > 0 && pattern(count).equals(came[0]), error };
  },

  /** A topic that does not exist is refused, and the producer goes on with one that does. */
  async 'unknown-topic'() {
    const client = await producer();
    return {
      error: await refusal(() => client.send({ topic: `${topic}-unknown`, body: Buffer.from('nobody') })),
      after: await refusal(() => client.send(message(0))),
    };
  },
};
