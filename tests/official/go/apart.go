// Message groups that two broker groups keep, one of which is down for a while.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

const apartGroups = 12

// Whether the tag of a message is the one that the consumer subscribes to: of the messages of a message group the second
// of each three has another one.
func apartWanted(sequence int) bool {
	return sequence/apartGroups%3 != 1
}

func init() {
	scenarios["fifo-apart"] = (*official).fifoApart
}

// What came of each message group, in the order in which it came.
type apartCame struct {
	lock   sync.Mutex
	orders [apartGroups][]int
	bodies map[int]bool
}

func (c *apartCame) note(sequence int) {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.orders[sequence%apartGroups] = append(c.orders[sequence%apartGroups], sequence)
	c.bodies[sequence] = true
}

func (c *apartCame) receive(consumer rmq.SimpleConsumer) error {
	messages, err := receive(consumer, 10*time.Second)
	if err != nil {
		return err
	}
	for _, message := range messages {
		sequence, err := strconv.Atoi(string(message.GetBody()))
		if err != nil {
			return err
		}
		c.note(sequence)
		if err := consumer.Ack(context.Background(), message); err != nil {
			return err
		}
	}
	return nil
}

func (o *official) sendApart(producer rmq.Producer, sequence int) error {
	tag := "official"
	if !apartWanted(sequence) {
		tag = "other"
	}
	message := o.message(sequence, tag)
	message.SetMessageGroup("group-" + strconv.Itoa(sequence%apartGroups))
	_, err := producer.Send(context.Background(), message)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return err
}

func (o *official) sendApartUntilTaken(producer rmq.Producer, sequence int) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		if err := o.sendApart(producer, sequence); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// Sends the second count messages, and tells which ones were refused or would have come before one that was. This client
// waits seconds for each node that is down, so that the message groups are sent at the same time.
func (o *official) sendWhileDown(producer rmq.Producer) []int {
	var all sync.WaitGroup
	var lock sync.Mutex
	var held []int
	for group := range apartGroups {
		all.Add(1)
		go func() {
			defer all.Done()
			refused := false
			for sequence := o.count; sequence < 2*o.count; sequence++ {
				if sequence%apartGroups != group {
					continue
				}
				if refused || o.sendApart(producer, sequence) != nil {
					refused = true
					lock.Lock()
					held = append(held, sequence)
					lock.Unlock()
				}
			}
		}()
	}
	all.Wait()
	slices.Sort(held)
	return held
}

// Sends count messages before and count while one broker group is down, until the test says that it is back: a message
// that is refused, and those that follow it in its message group, are sent then.
func (o *official) fifoApart() (result, error) {
	consumer, err := o.simpleConsumerOf(rmq.NewFilterExpression("official"))
	if err != nil {
		return nil, err
	}
	came := &apartCame{bodies: map[int]bool{}}
	go func() {
		for {
			if err := came.receive(consumer); err != nil {
				// A queue of the broker group that is down, and it is another one's turn.
				fmt.Fprintln(os.Stderr, err)
				time.Sleep(50 * time.Millisecond)
			}
		}
	}()
	producer, err := o.producer()
	if err != nil {
		return nil, err
	}
	for sequence := range o.count {
		if err := o.sendApartUntilTaken(producer, sequence); err != nil {
			return nil, err
		}
	}
	fmt.Println("HALF")
	awaitLine()
	held := o.sendWhileDown(producer)
	fmt.Println("HELD", len(held))
	awaitLine()
	for _, sequence := range held {
		if err := o.sendApartUntilTaken(producer, sequence); err != nil {
			return nil, err
		}
	}
	wanted := 0
	for sequence := range 2 * o.count {
		if apartWanted(sequence) {
			wanted++
		}
	}
	until(func() bool {
		came.lock.Lock()
		defer came.lock.Unlock()
		return len(came.bodies) >= wanted
	}, patience)
	came.lock.Lock()
	defer came.lock.Unlock()
	return result{"sent": 2 * o.count, "held": len(held), "orders": came.orders}, nil
}
