/*
 * Message groups that two broker groups keep, one of which is down for a while.
 */
'use strict';

const {
  PATIENCE_MS, awaitLine, body, count, group, message, producer, simpleConsumer, sleep, topic, until,
} = require('./common');

const MESSAGE_GROUPS = 12;

/**
 * Whether the tag of a message is the one that the consumer subscribes to: of the messages of a message group the second
 * of each three has another one.
 */
const wanted = sequence => Math.floor(sequence / MESSAGE_GROUPS) % 3 !== 1;

module.exports = {
  /**
   * Sends `count` messages before and `count` while one broker group is down, until the test says that it is back: a
   * message that is refused, and those that follow it in its message group, are sent then.
   */
  async 'fifo-apart'() {
    const orders = Array.from({ length: MESSAGE_GROUPS }, () => []);
    const consumer = await simpleConsumer(topic, group, 'official');
    const receive = async () => {
      for (;;) {
        try {
          for (const view of await consumer.receive(32, 10_000)) {
            orders[Number(body(view)) % MESSAGE_GROUPS].push(Number(body(view)));
            await consumer.ack(view);
          }
        } catch (failure) {
          // A queue of the broker group that is down, and it is another one's turn.
          console.error(String(failure));
          await sleep(50);
        }
      }
    };
    receive();
    const client = await producer();
    const send = sequence => client.send({
      ...message(sequence, wanted(sequence) ? 'official' : 'other'),
      messageGroup: `group-${sequence % MESSAGE_GROUPS}`,
    });
    const sendUntilTaken = async sequence => {
      for (const deadline = Date.now() + PATIENCE_MS; ;) {
        try {
          return await send(sequence);
        } catch (failure) {
          console.error(String(failure));
          if (Date.now() > deadline) {
            throw failure;
          }
          await sleep(100);
        }
      }
    };
    for (let sequence = 0; sequence < count; sequence++) {
      await sendUntilTaken(sequence);
    }
    console.log('HALF');
    await awaitLine();
    const held = [];
    // Clients wait seconds for a node that is down, so that the message groups are sent at the same time.
    await Promise.all(orders.map(async (_, group) => {
      let refused = false;
      for (let sequence = count + group; sequence < 2 * count; sequence += MESSAGE_GROUPS) {
        if (!refused) {
          try {
            await send(sequence);
            continue;
          } catch (failure) {
            console.error(String(failure));
            refused = true;
          }
        }
        held.push(sequence);
      }
    }));
    held.sort((one, other) => one - other);
    console.log('HELD', held.length);
    await awaitLine();
    for (const sequence of held) {
      await sendUntilTaken(sequence);
    }
    const all = Array.from({ length: 2 * count }, (_, sequence) => sequence).filter(wanted).length;
    await until(() => orders.reduce((sum, came) => sum + new Set(came).size, 0) >= all);
    return { sent: 2 * count, held: held.length, orders };
  },
};
