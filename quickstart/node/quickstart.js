// Sends one message and receives it. Another address can be the argument.
'use strict';

const { Producer, SimpleConsumer } = require('rocketmq-client-nodejs');

async function main() {
  // The client's own logger writes to a file, and complains of being closed.
  const logger = { debug() {}, info() {}, warn: console.warn, error: console.error, close() {} };
  const client = { endpoints: process.argv[2] ?? '127.0.0.1:8081', namespace: '', logger };

  const producer = new Producer({ ...client, topics: [ 'quickstart' ] });
  await producer.startup();
  const receipt = await producer.send({ topic: 'quickstart', body: Buffer.from('hello from Node.js') });
  console.log('sent', receipt.messageId);
  await producer.shutdown();

  const consumer = new SimpleConsumer({
    ...client, consumerGroup: 'quickstart-node', subscriptions: new Map([[ 'quickstart', '*' ]]), awaitDuration: 5000,
  });
  await consumer.startup();
  for (let came = false; !came;) {
    for (const message of await consumer.receive(16, 30_000)) {
      const body = message.body.toString();
      console.log('received', body);
      await consumer.ack(message);
      came ||= body === 'hello from Node.js';
    }
  }
  await consumer.shutdown();
}

main().then(() => process.exit(0), failure => {
  console.error(failure);
  process.exit(1);
});
