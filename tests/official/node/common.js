/*
 * What every scenario is made of: the client's parts with the settings of this run, messages whose bodies are their
 * sequence numbers, and notes of what came.
 */
'use strict';

const readline = require('node:readline');
const { setTimeout: sleep } = require('node:timers/promises');
const { FilterExpression, Producer, PushConsumer, SimpleConsumer } = require('rocketmq-client-nodejs');

const SEND_IN_FLIGHT = 64;
const PATIENCE_MS = 60_000;

const [ scenario, access, topic, group, countText ] = process.argv.slice(2);
const count = Number(countText);

// The client's own logger keeps a process from ending and writes where nobody looks.
const complain = (...words) => console.error(...words);
const logger = { debug() {}, info() {}, warn: complain, error: complain, close() {} };

const configuration = () =>
  ({ endpoints: access, namespace: '', sslEnabled: process.env.OFFICIAL_TLS === '1', logger });

async function started(client) {
  await client.startup();
  return client;
}

const producer = options => started(new Producer({ ...configuration(), topics: [ topic ], ...options }));

const simpleConsumer = (from = topic, consumerGroup = group, tags = '*') => started(new SimpleConsumer({
  ...configuration(), consumerGroup, awaitDuration: 5000, subscriptions: new Map([[ from, tags ]]),
}));

const pushConsumer = (consume, filter = FilterExpression.SUB_ALL) => started(new PushConsumer({
  ...configuration(), consumerGroup: group, subscriptions: new Map([[ topic, filter ]]),
  messageListener: { consume },
}));

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

// What the test says to the program, a line at a time.
const input = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** The next line; empty at the end. */
const awaitLine = async () => (await input.next()).value ?? '';

module.exports = {
  Again, PATIENCE_MS, Seen, access, awaitLine, body, configuration, count, group, intact, message, producer, pushConsumer,
  scenario, sendAll, simpleConsumer, sleep, topic, until,
};
