/*
 * Sending and consuming through whatever happens to the brokers.
 */
'use strict';

const { ConsumeResult } = require('rocketmq-client-nodejs');
const { Seen, awaitLine, count, message, producer, pushConsumer, sleep, until } = require('./common');

// A send goes out this long after the last was answered.
const PAUSE_MS = 20;

/** The longest time between two of many events, the time since the last one included. */
class Gap {
  last = performance.now();
  longest = 0;

  event() {
    this.longest = this.millis;
    this.last = performance.now();
  }

  get millis() {
    return Math.max(this.longest, Math.floor(performance.now() - this.last));
  }

  reset() {
    this.longest = 0;
    this.last = performance.now();
  }
}

module.exports = {
  /**
   * Sends and consumes without a pause, says UNDER_LOAD once `count` went through, and then answers each line on stdin
   * with how far it is: after "mark" the gaps count anew, and "end" ends the sends. What was answered OK must come; a
   * send may fail, which is told.
   */
  async carry() {
    const seen = new Seen();
    const sent = new Set();
    const writes = new Gap();
    const reads = new Gap();
    let next = 0;
    let failed = 0;
    let stop = false;
    await pushConsumer(view => {
      seen.note(view);
      reads.event();
      return ConsumeResult.SUCCESS;
    });
    const client = await producer();
    const senders = Array.from({ length: 4 }, async () => {
      while (!stop) {
        const sequence = next++;
        try {
          await client.send(message(sequence));
          sent.add(String(sequence));
          writes.event();
        } catch (failure) {
          failed++;
          console.error(String(failure));
        }
        await sleep(PAUSE_MS);
      }
    });
    const soFar = () => ({
      sent: sent.size, came: seen.bodies.size, failed, send_gap_ms: writes.millis, read_gap_ms: reads.millis,
    });
    await until(() => sent.size >= count && seen.bodies.size >= count);
    console.log('UNDER_LOAD');
    for (let word = await awaitLine(); word !== 'end' && word !== ''; word = await awaitLine()) {
      console.log('SO_FAR', JSON.stringify(soFar()));
      if (word === 'mark') {
        writes.reset();
        reads.reset();
      }
    }
    stop = true;
    await Promise.all(senders);
    const missing = () => [ ...sent ].filter(name => !seen.bodies.has(name)).length;
    await until(() => missing() === 0);
    return { ...soFar(), missing: missing(), deliveries: seen.deliveries };
  },
};
