// Lite topics: a consumer gets those that it subscribes to, each in order, and no others.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// Messages belong to these in turn; nobody subscribes to the last. The second message of the first fails once.
var liteNames = []string{"first-session", "second-session", "nobodys-session"}

const (
	liteFailsOnce = 3
	// A send is tried again for as long as this.
	liteSentWithin = 40 * time.Second
)

func init() {
	scenarios["lite"] = (*official).lite
}

// What came of each lite topic, in the order in which it came.
type liteCame struct {
	lock     sync.Mutex
	came     [3][]int
	attempts []int32
	wrong    []string
}

// Whether the message shall fail now.
func (c *liteCame) note(message *rmq.MessageView) bool {
	c.lock.Lock()
	defer c.lock.Unlock()
	sequence, err := strconv.Atoi(string(message.GetBody()))
	number := sequence % len(liteNames)
	if err != nil || message.GetLiteTopic() != liteNames[number] || !intact(message, "official") {
		c.wrong = append(c.wrong, fmt.Sprintf("%s of %s", message.GetBody(), message.GetLiteTopic()))
	}
	c.came[number] = append(c.came[number], sequence)
	if sequence != liteFailsOnce {
		return false
	}
	c.attempts = append(c.attempts, message.GetDeliveryAttempt())
	return len(c.attempts) == 1
}

func (c *liteCame) has(sequence int) bool {
	c.lock.Lock()
	defer c.lock.Unlock()
	return slices.Contains(c.came[sequence%len(liteNames)], sequence)
}

// Sends until it is taken: for a while nobody leads.
func (o *official) sendLite(producer rmq.Producer, sequence int) error {
	message := o.message(sequence, "official")
	message.SetLiteTopic(liteNames[sequence%len(liteNames)])
	for deadline := time.Now().Add(liteSentWithin); ; {
		_, err := producer.Send(context.Background(), message)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		fmt.Fprintln(os.Stderr, err)
	}
}

// Sends count messages to each lite topic, half of them once the test says so, and then one more, which only the lite
// topic that is still subscribed to gives.
func (o *official) lite() (result, error) {
	came := &liteCame{came: [3][]int{{}, {}, {}}, wrong: []string{}}
	consume := func(message *rmq.MessageView) rmq.ConsumerResult {
		if came.note(message) {
			return rmq.FAILURE
		}
		return rmq.SUCCESS
	}
	consumer, err := rmq.NewLitePushConsumer(o.config(), rmq.NewLitePushConsumerConfig(o.topic, 30*time.Second),
		rmq.WithPushAwaitDuration(5*time.Second), rmq.WithPushConsumptionThreadCount(8),
		rmq.WithPushMaxCacheMessageCount(1024), rmq.WithPushMaxCacheMessageSizeInBytes(64<<20),
		rmq.WithPushMessageListener(&rmq.FuncMessageListener{Consume: consume}))
	if err != nil {
		return nil, err
	}
	if err := consumer.Start(); err != nil {
		return nil, err
	}
	if err := errors.Join(consumer.SubscribeLite(liteNames[0]), consumer.SubscribeLite(liteNames[1])); err != nil {
		return nil, err
	}
	producer, err := o.producer()
	if err != nil {
		return nil, err
	}
	last := len(liteNames) * o.count
	for sequence := range last {
		if sequence == last/2 {
			fmt.Println("HALF")
			awaitLine()
		}
		if err := o.sendLite(producer, sequence); err != nil {
			return nil, err
		}
	}
	until(func() bool { return came.has(last-3) && came.has(last-2) }, patience)
	if err := consumer.UnSubscribeLite(liteNames[1]); err != nil {
		return nil, err
	}
	for _, number := range []int{1, 2, 0} {
		if err := o.sendLite(producer, last+number); err != nil {
			return nil, err
		}
	}
	until(func() bool { return came.has(last) }, patience)
	// What should not come would come with it, or soon.
	time.Sleep(time.Second)
	came.lock.Lock()
	defer came.lock.Unlock()
	return result{"sent": o.count, "orders": came.came, "attempts": came.attempts, "wrong": came.wrong}, nil
}
