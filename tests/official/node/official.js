/*
 * The official Node.js client (rocketmq-client-nodejs) against a running cluster:
 *
 *     official.js SCENARIO ACCESS TOPIC GROUP COUNT
 *
 * The last line on stdout is RESULT and a JSON object, which tests/tests/official.rs judges. TLS is off, as this client
 * has it by itself, unless the environment says OFFICIAL_TLS=1.
 */
'use strict';

const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const { ConsumeResult, FilterExpression, Producer, PushConsumer, SimpleConsumer } = require('rocketmq-client-nodejs');
const { FilterType } = require('rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb');

// The client does not export it.
const TransactionResolution = { COMMIT: 1, ROLLBACK: 2 };

const SEND_IN_FLIGHT = 64;
const PATIENCE_MS = 60_000;

const [ scenario, access, topic, group, countText ] = process.argv.slice(2);
const count = Number(countText);

// What every scenario is made of.

// The client's own logger keeps a process from ending and writes where nobody looks.
const complain = (...words) => console.error(...words);
const logger = { debug() {}, info() {}, warn: complain, error: complain, close() {} };

const configuration = () =>
  ({ endpoints: access, namespace: '', sslEnabled: process.env.OFFICIAL_TLS === '1', logger });

async function started(client) {
  await client.startup();
  return client;
}

const producer = () => started(new Producer({ ...configuration(), topics: [ topic ] }));

const simpleConsumer = () => started(new SimpleConsumer({
  ...configuration(), consumerGroup: group, awaitDuration: 5000, subscriptions: new Map([[ topic, '*' ]]),
}));

const pushConsumer = (consume, filter = FilterExpression.SUB_ALL) => started(new PushConsumer({
  ...configuration(), consumerGroup: group, subscriptions: new Map([[ topic, filter ]]),
  messageListener: { consume },
}));

/** A push consumer with a filter that takes half of what is sent gets that and nothing else. */
async function filtered(filter) {
  const seen = new Seen();
  const consumer = await pushConsumer(view => {
    seen.note(view, 'wanted');
    return ConsumeResult.SUCCESS;
  }, filter);
  const client = await producer();
  for (let sequence = 0; sequence < count; sequence++) {
    await client.send(message(sequence, 'wanted'));
    await client.send(message(count + sequence, 'other'));
  }
  await client.shutdown();
  await until(() => seen.bodies.size >= count);
  await consumer.shutdown();
  return seen.result(count);
}

/** The message whose body is its sequence number. */
const message = (sequence, tag = 'official') => ({
  topic, tag, body: Buffer.from(String(sequence)), keys: [ `key-${sequence}` ],
  properties: new Map([[ 'sequence', String(sequence) ]]),
});

const body = view => view.body.toString();

const intact = (view, tag) => !view.corrupted && view.tag === tag && view.properties.get('sequence') === body(view)
  && view.keys.length === 1 && view.keys[0] === `key-${body(view)}`;

async function sendAll() {
  const client = await producer();
  const ids = new Set();
  let next = 0;
  await Promise.all(Array.from({ length: SEND_IN_FLIGHT }, async () => {
    while (next < count) {
      ids.add((await client.send(message(next++))).messageId);
    }
  }));
  await client.shutdown();
  if (ids.size !== count) {
    throw new Error('two sends were answered with one message id');
  }
}

async function until(condition, limit = PATIENCE_MS) {
  const deadline = Date.now() + limit;
  while (!await condition()) {
    if (Date.now() > deadline) {
      return false;
    }
    await sleep(20);
  }
  return true;
}

/** What consumers got: deliveries by body, and what was not as it was sent. */
class Seen {
  bodies = new Map();
  wrong = [];

  note(view, tag = 'official') {
    this.bodies.set(body(view), (this.bodies.get(body(view)) ?? 0) + 1);
    if (view.deliveryAttempt !== 1 || !intact(view, tag)) {
      this.wrong.push(`${body(view)}, attempt ${view.deliveryAttempt}, tag ${view.tag}, keys ${view.keys}`);
    }
  }

  get deliveries() {
    return [ ...this.bodies.values() ].reduce((sum, number) => sum + number, 0);
  }

  result(sent) {
    const distinct = Array.from({ length: sent }, (_, sequence) => String(sequence))
      .filter(sequence => this.bodies.has(sequence)).length;
    return {
      sent, distinct, foreign: this.bodies.size - distinct, deliveries: this.deliveries, wrong: this.wrong.slice(0, 3),
    };
  }
}

/** What a consumer saw of messages that come twice. */
class Again {
  first = new Map();
  gaps = new Map();
  repeated = 0;

  /** Whether this is its second coming; `since` is when its first began. */
  second(view, since) {
    const name = body(view);
    if (view.deliveryAttempt === 1 && !this.first.has(name)) {
      this.first.set(name, since);
      return false;
    }
    if (view.deliveryAttempt === 2 && this.first.has(name) && !this.gaps.has(name)) {
      this.gaps.set(name, Math.floor(performance.now() - this.first.get(name)));
      return true;
    }
    this.repeated++;
    return false;
  }

  result(sent) {
    const gaps = this.gaps.size === 0 ? [ 0 ] : [ ...this.gaps.values() ];
    return {
      sent, first: this.first.size, second: this.gaps.size, repeated: this.repeated,
      min_gap_ms: Math.min(...gaps), max_gap_ms: Math.max(...gaps),
    };
  }
}

// The scenarios.

const scenarios = {
  async send() {
    await sendAll();
    return { sent: count };
  },

  /** Every message that was sent comes exactly once to a group whose simple consumers acknowledge it. */
  async roundtrip() {
    const began = Date.now();
    const seen = new Seen();
    const failures = [];
    let stop = false;
    const consumers = [ await simpleConsumer(), await simpleConsumer() ];
    const receivers = Array.from({ length: 8 }, async (_, number) => {
      const consumer = consumers[number % 2];
      try {
        while (!stop) {
          for (const view of await consumer.receive(32, 30_000)) {
            seen.note(view);
            await consumer.ack(view);
          }
        }
      } catch (failure) {
        failures.push(String(failure));
      }
    });
    await sendAll();
    const sent_ms = Date.now() - began;
    await until(() => seen.bodies.size >= count);
    const received_ms = Date.now() - began;
    // Each ends its poll first: a duplicate in the making would show.
    stop = true;
    await Promise.all(receivers);
    await Promise.all(consumers.map(consumer => consumer.shutdown()));
    return { ...seen.result(count), failures, sent_ms, received_ms };
  },

  /** Every message that was sent comes exactly once to a push consumer that finishes it. */
  async push() {
    const seen = new Seen();
    const consumer = await pushConsumer(view => {
      seen.note(view);
      return ConsumeResult.SUCCESS;
    });
    const began = Date.now();
    await sendAll();
    await until(() => seen.bodies.size >= count);
    const received_ms = Date.now() - began;
    // It ends its polls and finishes what they brought.
    await consumer.shutdown();
    return { ...seen.result(count), received_ms };
  },

  /**
   * A producer that leaves its transactions open is asked about each of them. The half messages below `count` it commits
   * then, and as many others it rolls back.
   */
  async orphan() {
    const seen = new Seen();
    const asked = new Set();
    const consumer = await pushConsumer(view => {
      seen.note(view);
      return ConsumeResult.SUCCESS;
    });
    const checker = {
      async check(half) {
        if (!intact(half, 'official')) {
          seen.wrong.push(`half ${body(half)}`);
        }
        asked.add(body(half));
        return Number(body(half)) < count ? TransactionResolution.COMMIT : TransactionResolution.ROLLBACK;
      },
    };
    const client = await started(new Producer({ ...configuration(), topics: [ topic ], checker }));
    for (let sequence = 0; sequence < 2 * count; sequence++) {
      await client.send(message(sequence), client.beginTransaction());
    }
    await until(() => asked.size >= 2 * count && seen.bodies.size >= count);
    await consumer.shutdown();
    await client.shutdown();
    return { ...seen.result(count), asked: asked.size };
  },

  /** Messages that nobody acknowledges come back as attempt 2 after their invisible time and not before. */
  async redelivery() {
    const invisible_ms = 10_000;
    const again = new Again();
    const consumer = await simpleConsumer();
    await sendAll();
    await until(async () => {
      const called = performance.now();
      for (const view of await consumer.receive(32, invisible_ms)) {
        if (again.second(view, called)) {
          await consumer.ack(view);
        }
      }
      return again.gaps.size >= count;
    });
    await consumer.shutdown();
    return { ...again.result(count), invisible_ms };
  },

  /** Messages that a push consumer fails once come back to it as attempt 2. */
  async retry() {
    const again = new Again();
    const consumer = await pushConsumer(view =>
      (again.second(view, performance.now()) ? ConsumeResult.SUCCESS : ConsumeResult.FAILURE));
    await sendAll();
    await until(() => again.gaps.size >= count);
    await consumer.shutdown();
    return again.result(count);
  },

  /** A push consumer that asked for one of two tags gets that and nothing else. */
  filter: () => filtered(new FilterExpression('wanted || also')),

  /** The same by an expression over a property and the tag. */
  sql: () => filtered(new FilterExpression(
    `sequence BETWEEN 0 AND ${count - 1} AND TAGS IN ('wanted', 'also')`, FilterType.SQL)),

  /** A message held for longer and then for shorter than it was received for comes back when it was last told. */
  async invisible() {
    const invisible_ms = 5000;
    const again = new Again();
    const consumer = await simpleConsumer();
    await sendAll();
    await until(async () => {
      for (const view of await consumer.receive(32, 120_000)) {
        if (again.second(view, performance.now())) {
          await consumer.ack(view);
        } else {
          await consumer.changeInvisibleDuration(view, 300_000);
          await consumer.changeInvisibleDuration(view, invisible_ms);
        }
      }
      return again.gaps.size >= count;
    });
    await consumer.shutdown();
    return { ...again.result(count), invisible_ms };
  },

  /** A push consumer that holds `count` messages until its process is killed. */
  async hold() {
    let held = 0;
    await pushConsumer(() => {
      console.log('HELD', ++held);
      return new Promise(() => {});
    });
    await once(process.stdin.resume(), 'end');
    return {};
  },

  /** A push consumer that finishes `count` messages: what another member of its group left. */
  async take() {
    const attempts = new Map();
    let deliveries = 0;
    const consumer = await pushConsumer(view => {
      deliveries++;
      attempts.set(body(view), view.deliveryAttempt);
      return ConsumeResult.SUCCESS;
    });
    console.log('READY');
    const began = Date.now();
    await until(() => attempts.size >= count, 90_000);
    const took_ms = Date.now() - began;
    // The end of a consumer takes as long as its polls.
    console.log('TAKEN', attempts.size);
    await consumer.shutdown();
    return { distinct: attempts.size, deliveries, took_ms, attempts: [ ...new Set(attempts.values()) ].sort() };
  },

  /**
   * Sends and consumes without a pause, says UNDER_LOAD once `count` went through, and after a line on stdin goes on
   * until as many again did. What was answered OK must come; a send may fail, which is told.
   */
  async carry() {
    const seen = new Seen();
    const sent = new Set();
    let next = 0;
    let failed = 0;
    let stop = false;
    let last = Date.now();
    let send_gap_ms = 0;
    const consumer = await pushConsumer(view => {
      seen.note(view);
      return ConsumeResult.SUCCESS;
    });
    const client = await producer();
    const senders = Array.from({ length: 4 }, async () => {
      while (!stop) {
        const sequence = next++;
        try {
          await client.send(message(sequence));
          sent.add(String(sequence));
          send_gap_ms = Math.max(send_gap_ms, Date.now() - last);
          last = Date.now();
          await sleep(5);
        } catch (failure) {
          failed++;
          console.error(String(failure));
        }
      }
    });
    const underLoad = await until(() => sent.size >= count && seen.bodies.size >= count);
    console.log(underLoad ? 'UNDER_LOAD' : 'STUCK');
    await once(process.stdin, 'data');
    const before = sent.size;
    await until(() => sent.size >= before + count);
    stop = true;
    await Promise.all(senders);
    const missing = () => [ ...sent ].filter(name => !seen.bodies.has(name)).length;
    await until(() => missing() === 0);
    await consumer.shutdown();
    await client.shutdown();
    return {
      sent: sent.size, after: sent.size - before, failed, missing: missing(), distinct: seen.bodies.size,
      deliveries: seen.deliveries, send_gap_ms,
    };
  },
};

async function main() {
  if (!Object.hasOwn(scenarios, scenario)) {
    throw new Error(`no scenario is called ${scenario}`);
  }
  const result = await scenarios[scenario]();
  process.stdout.write(`RESULT ${JSON.stringify(result)}\n`, () => process.exit(0));
}

main().catch(failure => {
  console.error(failure);
  process.exit(1);
});
