"""Sends one message and receives it. Another address can be the argument."""

import sys

from rocketmq import ClientConfiguration, Credentials, FilterExpression, Message, Producer, SimpleConsumer

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8081"
configuration = ClientConfiguration(address, Credentials())

producer = Producer(configuration, ("quickstart",))
producer.startup()
message = Message()
message.topic = "quickstart"
message.body = b"hello from Python"
print("sent", producer.send(message).message_id)
producer.shutdown()

consumer = SimpleConsumer(configuration, "quickstart-python", {"quickstart": FilterExpression("*")}, 5)
consumer.startup()
came = False
while not came:
    for message in consumer.receive(16, 30):
        print("received", message.body.decode())
        consumer.ack(message)
        came = came or message.body == b"hello from Python"
consumer.shutdown()
