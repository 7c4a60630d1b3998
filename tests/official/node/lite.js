/*
 * Lite topics: a consumer gets those that it subscribes to, each in order, and no others.
 */
'use strict';

const { ConsumeResult, LitePushConsumerBuilder } = require('rocketmq-client-nodejs');
const {
  awaitLine, body, configuration, count, group, intact, message, producer, sleep, topic, until,
} = require('./common');

// Messages belong to these in turn; nobody subscribes to the last. The second message of the first fails once.
const NAMES = [ 'first-session', 'second-session', 'nobodys-session' ];
const FAILS_ONCE = NAMES.length;
// A send is tried again for as long as this.
const SENT_WITHIN_MS = 40_000;

/** What came of each lite topic, in the order in which it came. */
class Came {
  came = NAMES.map(() => []);
  attempts = [];
  wrong = [];

  /** Whether the message shall fail now. */
  note(view) {
    const sequence = Number(body(view));
    const number = sequence % NAMES.length;
    if (view.liteTopic !== NAMES[number] || !intact(view, 'official')) {
      this.wrong.push(`${body(view)} of ${view.liteTopic}`);
    }
    this.came[number].push(sequence);
    if (sequence !== FAILS_ONCE) {
      return false;
    }
    this.attempts.push(view.deliveryAttempt);
    return this.attempts.length === 1;
  }

  has(sequence) {
    return this.came[sequence % NAMES.length].includes(sequence);
  }
}

/** Sends until it is taken: for a while nobody leads. */
async function send(client, sequence) {
  const deadline = Date.now() + SENT_WITHIN_MS;
  for (;;) {
    try {
      return await client.send({ ...message(sequence), liteTopic: NAMES[sequence % NAMES.length] });
    } catch (failure) {
      console.error(String(failure));
      if (Date.now() > deadline) {
        throw failure;
      }
    }
  }
}

module.exports = {
  /**
   * Sends `count` messages to each lite topic, half of them once the test says so, and then one more, which only the lite
   * topic that is still subscribed to gives.
   */
  async lite() {
    const came = new Came();
    const consume = async view => (came.note(view) ? ConsumeResult.FAILURE : ConsumeResult.SUCCESS);
    const consumer = await new LitePushConsumerBuilder().setClientConfiguration(configuration())
      .setConsumerGroup(group).bindTopic(topic).setMessageListener({ consume }).build();
    await consumer.subscribeLite(NAMES[0]);
    await consumer.subscribeLite(NAMES[1]);
    const client = await producer();
    const last = NAMES.length * count;
    for (let sequence = 0; sequence < last; sequence++) {
      if (sequence === Math.floor(last / 2)) {
        console.log('HALF');
        await awaitLine();
      }
      await send(client, sequence);
    }
    await until(() => came.has(last - 3) && came.has(last - 2));
    await consumer.unsubscribeLite(NAMES[1]);
    for (const number of [ 1, 2, 0 ]) {
      await send(client, last + number);
    }
    await until(() => came.has(last));
    // What should not come would come with it, or soon.
    await sleep(1000);
    return { sent: count, orders: came.came, attempts: came.attempts, wrong: came.wrong.slice(0, 3) };
  },
};
