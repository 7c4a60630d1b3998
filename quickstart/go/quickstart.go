// Sends one message and receives it. Another address can be the argument.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	address := "127.0.0.1:8081"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	config := &rmq.Config{Endpoint: address, ConsumerGroup: "quickstart-go", Credentials: &credentials.SessionCredentials{}}

	producer, err := rmq.NewProducer(config, rmq.WithTopics("quickstart"))
	check(err)
	check(producer.Start())
	receipts, err := producer.Send(context.Background(), &rmq.Message{Topic: "quickstart", Body: []byte("hello from Go")})
	check(err)
	fmt.Println("sent", receipts[0].MessageID)
	check(producer.GracefulStop())

	consumer, err := rmq.NewSimpleConsumer(config, rmq.WithSimpleAwaitDuration(5*time.Second),
		rmq.WithSimpleSubscriptionExpressions(map[string]*rmq.FilterExpression{"quickstart": rmq.SUB_ALL}))
	check(err)
	check(consumer.Start())
	for came := false; !came; {
		// That nothing came yet is an error to this client.
		messages, _ := consumer.Receive(context.Background(), 16, 30*time.Second)
		for _, message := range messages {
			fmt.Println("received", string(message.GetBody()))
			check(consumer.Ack(context.Background(), message))
			came = came || string(message.GetBody()) == "hello from Go"
		}
	}
	check(consumer.GracefulStop())
}
