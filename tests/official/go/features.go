// Message types and consumer features, one scenario each. Few close their consumers: the process ends.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

const (
	// Messages of a FIFO scenario belong to so many message groups in turn; the second of the first group fails once.
	messageGroups = 3
	failsOnce     = messageGroups
	priorities    = 3
)

func init() {
	for name, scenario := range map[string]func(*official) (result, error){
		"delay":         (*official).delay,
		"transaction":   (*official).transaction,
		"orphans":       (*official).orphans,
		"fifo":          (*official).fifo,
		"fifo-simple":   (*official).fifoSimple,
		"priority":      (*official).priority,
		"dead-letter":   (*official).deadLetter,
		"largest":       (*official).largest,
		"unknown-topic": (*official).unknownTopic,
	} {
		scenarios[name] = scenario
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Messages come at their time and not before; a third of them is taken back and does not come at all.
func (o *official) delay() (result, error) {
	consumer, err := o.simpleConsumer()
	if err != nil {
		return nil, err
	}
	producer, err := o.producer()
	if err != nil {
		return nil, err
	}
	start := time.Now().Add(2 * time.Second).Truncate(time.Millisecond)
	due := func(sequence int) time.Time { return start.Add(time.Duration(sequence) * 100 * time.Millisecond) }
	recalled := map[int]bool{}
	var first string
	for sequence := range o.count {
		message := o.message(sequence, "official")
		message.SetDelayTimestamp(due(sequence))
		receipts, err := producer.Send(context.Background(), message)
		if err != nil {
			return nil, err
		}
		if sequence == 0 {
			first = receipts[0].RecallHandle
		}
		if sequence%3 == 1 {
			if _, err := producer.Recall(context.Background(), o.topic, receipts[0].RecallHandle); err != nil {
				return nil, fmt.Errorf("recall of %d: %w", sequence, err)
			}
			recalled[sequence] = true
		}
	}
	arrivals := newArrivals()
	if err := o.receiveUntil(consumer, func(message *rmq.MessageView) {
		sequence, _ := strconv.Atoi(string(message.GetBody()))
		arrivals.note(sequence, due(sequence))
		if stamp := message.GetDeliveryTimestamp(); stamp == nil || !stamp.Equal(due(sequence)) {
			arrivals.wrong++
		}
	}, func() bool { return len(arrivals.came) >= o.count-len(recalled) }); err != nil {
		return nil, err
	}
	_, late := producer.Recall(context.Background(), o.topic, first)
	result := arrivals.result(recalled)
	result["sent"] = o.count
	result["late_recall"] = text(late)
	return result, nil
}

// When messages came that have a time to come at.
type arrivals struct {
	came             map[int]bool
	repeated, wrong  int
	earliest, latest time.Duration
}

func newArrivals() *arrivals {
	return &arrivals{came: map[int]bool{}, earliest: time.Hour, latest: -time.Hour}
}

func (a *arrivals) note(sequence int, due time.Time) {
	late := time.Since(due)
	a.earliest, a.latest = min(a.earliest, late), max(a.latest, late)
	if a.came[sequence] {
		a.repeated++
	}
	a.came[sequence] = true
}

func (a *arrivals) result(recalled map[int]bool) result {
	came := 0
	for sequence := range recalled {
		if a.came[sequence] {
			came++
		}
	}
	return result{"recalled": len(recalled), "came": len(a.came), "recalled_came": came, "repeated": a.repeated,
		"wrong_time": a.wrong, "earliest_ms": a.earliest.Milliseconds(), "latest_ms": a.latest.Milliseconds()}
}

// Receives, notes and acknowledges until there is enough, or for as long as anybody has patience.
func (o *official) receiveUntil(consumer rmq.SimpleConsumer, note func(*rmq.MessageView), enough func() bool) error {
	for deadline := time.Now().Add(patience); !enough() && time.Now().Before(deadline); {
		messages, err := receive(consumer, 30*time.Second)
		if err != nil {
			return err
		}
		for _, message := range messages {
			note(message)
			if err := consumer.Ack(context.Background(), message); err != nil {
				return err
			}
		}
	}
	return nil
}

// A third of the messages is committed, a third rolled back, a third left open: those may come only when the broker has
// asked about them.
func (o *official) transaction() (result, error) {
	consumer, err := o.simpleConsumer()
	if err != nil {
		return nil, err
	}
	var checked atomic.Int64
	checker := &rmq.TransactionChecker{Check: func(*rmq.MessageView) rmq.TransactionResolution {
		checked.Add(1)
		return rmq.COMMIT
	}}
	producer, err := rmq.NewProducer(o.config(), rmq.WithTopics(o.topic), rmq.WithTransactionChecker(checker))
	if err != nil {
		return nil, err
	}
	if err := producer.Start(); err != nil {
		return nil, err
	}
	for sequence := range o.count {
		transaction := producer.BeginTransaction()
		if _, err := producer.SendWithTransaction(context.Background(), o.message(sequence, "official"), transaction); err != nil {
			return nil, err
		}
		switch sequence % 3 {
		case 0:
			err = transaction.Commit()
		case 1:
			err = transaction.RollBack()
		}
		if err != nil {
			return nil, err
		}
	}
	came := map[int]int{}
	kinds := func(kind int) int {
		number := 0
		for sequence := range came {
			if sequence%3 == kind {
				number++
			}
		}
		return number
	}
	third := o.count / 3
	if err := o.receiveUntil(consumer, func(message *rmq.MessageView) {
		sequence, _ := strconv.Atoi(string(message.GetBody()))
		came[sequence]++
	}, func() bool { return kinds(0) >= third }); err != nil {
		return nil, err
	}
	deliveries := 0
	for _, number := range came {
		deliveries += number
	}
	return result{"sent": o.count, "committed_came": kinds(0), "rolled_back_came": kinds(1), "open_came": kinds(2),
		"repeated": deliveries - len(came), "checked": checked.Load()}, nil
}

// A producer that leaves its transactions open is asked about each of them. The half messages below count it commits
// then, and as many others it rolls back.
func (o *official) orphans() (result, error) {
	seen, asked := newSeen(), newSeen()
	consumer, err := o.pushConsumer(rmq.SUB_ALL, 8, func(message *rmq.MessageView) rmq.ConsumerResult {
		seen.note(message, "official")
		return rmq.SUCCESS
	})
	if err != nil {
		return nil, err
	}
	checker := &rmq.TransactionChecker{Check: func(half *rmq.MessageView) rmq.TransactionResolution {
		asked.ask(half, "official")
		if sequence, err := strconv.Atoi(string(half.GetBody())); err == nil && sequence < o.count {
			return rmq.COMMIT
		}
		return rmq.ROLLBACK
	}}
	producer, err := rmq.NewProducer(o.config(), rmq.WithTopics(o.topic), rmq.WithTransactionChecker(checker))
	if err != nil {
		return nil, err
	}
	if err := producer.Start(); err != nil {
		return nil, err
	}
	for sequence := range 2 * o.count {
		half, transaction := o.message(sequence, "official"), producer.BeginTransaction()
		if _, err := producer.SendWithTransaction(context.Background(), half, transaction); err != nil {
			return nil, err
		}
	}
	until(func() bool { return asked.distinct() >= 2*o.count && seen.distinct() >= o.count }, patience)
	// It ends its polls first: what was to be rolled back would show.
	if err := consumer.GracefulStop(); err != nil {
		return nil, err
	}
	result := seen.result(o.count)
	result["asked"] = asked.distinct()
	result["wrong"] = append(seen.wrong, asked.wrong...)
	return result, nil
}

// What came of each message group, in the order in which it came.
type orders struct {
	lock   sync.Mutex
	came   [messageGroups][]int
	ended  map[int]bool
	failed bool
}

// Whether the message shall fail now.
func (s *orders) note(message *rmq.MessageView) bool {
	s.lock.Lock()
	defer s.lock.Unlock()
	sequence, _ := strconv.Atoi(string(message.GetBody()))
	group := sequence % messageGroups
	s.came[group] = append(s.came[group], sequence)
	if sequence == failsOnce && !s.failed {
		s.failed = true
		return true
	}
	s.ended[sequence] = true
	return false
}

func (s *orders) whole(count int) bool {
	s.lock.Lock()
	defer s.lock.Unlock()
	return len(s.ended) >= count
}

func (o *official) sendInOrder() error {
	producer, err := o.producer()
	if err != nil {
		return err
	}
	for sequence := range o.count {
		message := o.message(sequence, "official")
		message.SetMessageGroup("group-" + strconv.Itoa(sequence%messageGroups))
		if _, err := producer.Send(context.Background(), message); err != nil {
			return err
		}
	}
	return nil
}

// A push consumer gets each message group in order, and one that failed before its successors.
func (o *official) fifo() (result, error) {
	orders := &orders{ended: map[int]bool{}}
	if _, err := o.pushConsumer(rmq.SUB_ALL, 8, func(message *rmq.MessageView) rmq.ConsumerResult {
		if orders.note(message) {
			return rmq.FAILURE
		}
		return rmq.SUCCESS
	}); err != nil {
		return nil, err
	}
	if err := o.sendInOrder(); err != nil {
		return nil, err
	}
	until(func() bool { return orders.whole(o.count) }, patience)
	orders.lock.Lock()
	defer orders.lock.Unlock()
	return result{"sent": o.count, "orders": orders.came}, nil
}

// The same with a simple consumer, which lets a message fail by making it visible soon.
func (o *official) fifoSimple() (result, error) {
	consumer, err := o.simpleConsumer()
	if err != nil {
		return nil, err
	}
	if err := o.sendInOrder(); err != nil {
		return nil, err
	}
	orders := &orders{ended: map[int]bool{}}
	for deadline := time.Now().Add(patience); !orders.whole(o.count) && time.Now().Before(deadline); {
		messages, err := receive(consumer, 30*time.Second)
		if err != nil {
			return nil, err
		}
		for _, message := range messages {
			if orders.note(message) {
				err = consumer.ChangeInvisibleDuration(message, time.Second)
			} else {
				err = consumer.Ack(context.Background(), message)
			}
			if err != nil {
				return nil, err
			}
		}
	}
	return result{"sent": o.count, "orders": orders.came}, nil
}

// Of messages that wait, those of the highest priority come first.
func (o *official) priority() (result, error) {
	producer, err := o.producer()
	if err != nil {
		return nil, err
	}
	for sequence := range o.count {
		message := o.message(sequence, "official")
		if err := message.SetPriority(int32(sequence % priorities)); err != nil {
			return nil, err
		}
		if _, err := producer.Send(context.Background(), message); err != nil {
			return nil, err
		}
	}
	consumer, err := o.simpleConsumer()
	if err != nil {
		return nil, err
	}
	came := []int{}
	err = o.receiveUntil(consumer, func(message *rmq.MessageView) {
		sequence, _ := strconv.Atoi(string(message.GetBody()))
		came = append(came, sequence%priorities)
	}, func() bool { return len(came) >= o.count })
	return result{"sent": o.count, "priorities": came}, err
}

// Messages that always fail come as often as their consumer group says, and then to its dead letter topic.
func (o *official) deadLetter() (result, error) {
	var lock sync.Mutex
	attempts := map[string][]int32{}
	if _, err := o.pushConsumer(rmq.SUB_ALL, 8, func(message *rmq.MessageView) rmq.ConsumerResult {
		lock.Lock()
		defer lock.Unlock()
		body := string(message.GetBody())
		attempts[body] = append(attempts[body], message.GetDeliveryAttempt())
		return rmq.FAILURE
	}); err != nil {
		return nil, err
	}
	if err := o.sendAll(); err != nil {
		return nil, err
	}
	// The broker says when there is a dead letter topic; the client would not wait for it.
	fmt.Println("FAILING")
	awaitLine()
	dead := &official{access: o.access, topic: "%DLQ%" + o.group, group: o.group + "-dead", count: o.count}
	consumer, err := dead.simpleConsumer()
	if err != nil {
		return nil, err
	}
	letters := newSeen()
	if err := dead.receiveUntil(consumer, func(message *rmq.MessageView) { letters.note(message, "official") },
		func() bool { return letters.distinct() >= o.count }); err != nil {
		return nil, err
	}
	lock.Lock()
	defer lock.Unlock()
	result := letters.result(o.count)
	result["attempts"] = attempts
	return result, nil
}

// A body of count bytes comes back as it was; one above the broker's limit is refused, and nothing is stuck after it.
func (o *official) largest() (result, error) {
	consumer, err := o.simpleConsumer()
	if err != nil {
		return nil, err
	}
	producer, err := o.producer()
	if err != nil {
		return nil, err
	}
	pattern := func(length int) []byte {
		return []byte(strings.Repeat("0123456789abcdef", length/16+1)[:length])
	}
	_, tooLarge := producer.Send(context.Background(), &rmq.Message{Topic: o.topic, Body: pattern(tooManyBytes)})
	if _, err := producer.Send(context.Background(), &rmq.Message{Topic: o.topic, Body: pattern(o.count)}); err != nil {
		return nil, err
	}
	came, whole := 0, false
	err = o.receiveUntil(consumer, func(message *rmq.MessageView) {
		came++
		whole = bytes.Equal(message.GetBody(), pattern(o.count))
	}, func() bool { return came > 0 })
	return result{"came": came, "whole": whole, "error": text(tooLarge)}, err
}

const tooManyBytes = 4<<20 + 1

// A topic that does not exist is refused, and the producer goes on with one that does.
func (o *official) unknownTopic() (result, error) {
	producer, err := o.producer()
	if err != nil {
		return nil, err
	}
	unknown := &rmq.Message{Topic: o.topic + "-unknown", Body: []byte("nobody")}
	_, refused := producer.Send(context.Background(), unknown)
	_, after := producer.Send(context.Background(), o.message(0, "official"))
	if refused == nil {
		return nil, errors.New("a topic that does not exist took a message")
	}
	return result{"error": text(refused), "after": text(after)}, nil
}
