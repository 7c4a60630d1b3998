/*
 * The official Node.js client (rocketmq-client-nodejs) against a running cluster:
 *
 *     official.js SCENARIO ACCESS TOPIC GROUP COUNT
 *
 * The last line on stdout is RESULT and a JSON object, which tests/tests/official*.rs judge. TLS is off, as this client
 * has it by itself, unless the environment says OFFICIAL_TLS=1.
 */
'use strict';

const { ConsumeResult, FilterExpression } = require('rocketmq-client-nodejs');
const { FilterType } = require('rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb');
const {
  Again, Seen, awaitLine, body, count, message, producer, pushConsumer, scenario, sendAll, simpleConsumer, until,
} = require('./common');

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
    await awaitLine();
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

  ...require('./features'),
  ...require('./carry'),
  ...require('./lite'),
  ...require('./apart'),
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
