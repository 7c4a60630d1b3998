// The official Go client (github.com/apache/rocketmq-clients/golang/v5) against a running cluster:
//
//	official-go SCENARIO ACCESS TOPIC GROUP COUNT
//
// The last line on stdout is RESULT and a JSON object, which tests/tests/official.rs judges. TLS is on, as this client
// has it by itself, unless the environment says OFFICIAL_TLS=0.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
)

const (
	sendInFlight = 64
	patience     = 60 * time.Second
)

type result map[string]any

// What the test says to the program.
var input = bufio.NewScanner(os.Stdin)

// The next line of it; empty at its end.
func awaitLine() string {
	input.Scan()
	return input.Text()
}

// What a program was asked to do.
type official struct {
	access, topic, group string
	count                int
}

var scenarios = map[string]func(*official) (result, error){
	"send":       (*official).send,
	"roundtrip":  (*official).roundtrip,
	"push":       (*official).push,
	"redelivery": (*official).redelivery,
	"retry":      (*official).retry,
	"filter":     (*official).filter,
	"sql":        (*official).sql,
	"invisible":  (*official).invisible,
	"hold":       (*official).hold,
	"take":       (*official).take,
}

// What every scenario is made of.

func (o *official) config() *rmq.Config {
	return &rmq.Config{Endpoint: o.access, ConsumerGroup: o.group, Credentials: &credentials.SessionCredentials{}}
}

func (o *official) producer() (rmq.Producer, error) {
	producer, err := rmq.NewProducer(o.config(), rmq.WithTopics(o.topic))
	if err != nil {
		return nil, err
	}
	return producer, producer.Start()
}

func (o *official) simpleConsumer() (rmq.SimpleConsumer, error) {
	return o.simpleConsumerOf(rmq.SUB_ALL)
}

func (o *official) simpleConsumerOf(filter *rmq.FilterExpression) (rmq.SimpleConsumer, error) {
	consumer, err := rmq.NewSimpleConsumer(o.config(), rmq.WithSimpleAwaitDuration(5*time.Second),
		rmq.WithSimpleSubscriptionExpressions(map[string]*rmq.FilterExpression{o.topic: filter}))
	if err != nil {
		return nil, err
	}
	return consumer, consumer.Start()
}

func (o *official) pushConsumer(filter *rmq.FilterExpression, threads int,
	consume func(*rmq.MessageView) rmq.ConsumerResult) (rmq.PushConsumer, error) {
	consumer, err := rmq.NewPushConsumer(o.config(), rmq.WithPushAwaitDuration(5*time.Second),
		rmq.WithPushSubscriptionExpressions(map[string]*rmq.FilterExpression{o.topic: filter}),
		rmq.WithPushConsumptionThreadCount(int32(threads)),
		// The client has no limits of its own and without them asks for nothing.
		rmq.WithPushMaxCacheMessageCount(1024), rmq.WithPushMaxCacheMessageSizeInBytes(64<<20),
		rmq.WithPushMessageListener(&rmq.FuncMessageListener{Consume: consume}))
	if err != nil {
		return nil, err
	}
	return consumer, consumer.Start()
}

// The message whose body is its sequence number.
func (o *official) message(sequence int, tag string) *rmq.Message {
	text := strconv.Itoa(sequence)
	message := &rmq.Message{Topic: o.topic, Body: []byte(text)}
	message.SetTag(tag)
	message.SetKeys("key-" + text)
	message.AddProperty("sequence", text)
	return message
}

// A receive; that nothing came is an error to this client.
func receive(consumer rmq.SimpleConsumer, invisible time.Duration) ([]*rmq.MessageView, error) {
	messages, err := consumer.Receive(context.Background(), 32, invisible)
	if status, ok := rmq.AsErrRpcStatus(err); ok && status.GetCode() == int32(v2.Code_MESSAGE_NOT_FOUND) {
		return nil, nil
	}
	return messages, err
}

func (o *official) sendAll() (err error) {
	producer, err := o.producer()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, producer.GracefulStop()) }()
	var next atomic.Int64
	var ids sync.Map
	var distinct atomic.Int64
	failures := make(chan error, sendInFlight)
	for range sendInFlight {
		go func() {
			for {
				sequence := int(next.Add(1)) - 1
				if sequence >= o.count {
					failures <- nil
					return
				}
				receipts, err := producer.Send(context.Background(), o.message(sequence, "official"))
				if err != nil {
					failures <- err
					return
				}
				if _, known := ids.LoadOrStore(receipts[0].MessageID, true); !known {
					distinct.Add(1)
				}
			}
		}()
	}
	for range sendInFlight {
		err = errors.Join(err, <-failures)
	}
	if err == nil && int(distinct.Load()) != o.count {
		return errors.New("two sends were answered with one message id")
	}
	return err
}

func until(condition func() bool, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for !condition() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
	return true
}

// What consumers got: deliveries by body, and what was not as it was sent.
type seen struct {
	lock       sync.Mutex
	bodies     map[string]int
	deliveries int
	wrong      []string
}

func newSeen() *seen {
	return &seen{bodies: map[string]int{}, wrong: []string{}}
}

func (s *seen) note(message *rmq.MessageView, tag string) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.add(message, intact(message, tag) && message.GetDeliveryAttempt() == 1)
}

// A producer was asked about a half message, which is in no attempt yet.
func (s *seen) ask(half *rmq.MessageView, tag string) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.add(half, intact(half, tag))
}

func (s *seen) add(message *rmq.MessageView, right bool) {
	body := string(message.GetBody())
	s.bodies[body]++
	s.deliveries++
	if !right && len(s.wrong) < 3 {
		s.wrong = append(s.wrong, fmt.Sprintf("%s, attempt %d", body, message.GetDeliveryAttempt()))
	}
}

func intact(message *rmq.MessageView, tag string) bool {
	body := string(message.GetBody())
	return message.GetTag() != nil && *message.GetTag() == tag && message.GetProperties()["sequence"] == body &&
		slices.Equal(message.GetKeys(), []string{"key-" + body})
}

func (s *seen) has(body string) bool {
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.bodies[body] > 0
}

func (s *seen) distinct() int {
	s.lock.Lock()
	defer s.lock.Unlock()
	return len(s.bodies)
}

func (s *seen) result(sent int) result {
	distinct := 0
	for sequence := range sent {
		if s.has(strconv.Itoa(sequence)) {
			distinct++
		}
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	return result{"sent": sent, "distinct": distinct, "foreign": len(s.bodies) - distinct, "deliveries": s.deliveries,
		"wrong": s.wrong}
}

// What a consumer saw of messages that come twice.
type again struct {
	lock     sync.Mutex
	first    map[string]time.Time
	gaps     map[string]int64
	repeated int
}

func newAgain() *again {
	return &again{first: map[string]time.Time{}, gaps: map[string]int64{}}
}

// Whether this is its second coming; since is when its first began.
func (a *again) second(message *rmq.MessageView, since time.Time) bool {
	a.lock.Lock()
	defer a.lock.Unlock()
	body := string(message.GetBody())
	began, came := a.first[body]
	_, cameAgain := a.gaps[body]
	switch {
	case message.GetDeliveryAttempt() == 1 && !came:
		a.first[body] = since
		return false
	case message.GetDeliveryAttempt() == 2 && came && !cameAgain:
		a.gaps[body] = time.Since(began).Milliseconds()
		return true
	default:
		a.repeated++
		return false
	}
}

func (a *again) whole(count int) bool {
	a.lock.Lock()
	defer a.lock.Unlock()
	return len(a.gaps) >= count
}

func (a *again) result(sent int) result {
	a.lock.Lock()
	defer a.lock.Unlock()
	var shortest, longest int64
	for _, gap := range a.gaps {
		if shortest == 0 || gap < shortest {
			shortest = gap
		}
		longest = max(longest, gap)
	}
	return result{"sent": sent, "first": len(a.first), "second": len(a.gaps), "repeated": a.repeated,
		"min_gap_ms": shortest, "max_gap_ms": longest}
}

// The scenarios.

func (o *official) send() (result, error) {
	return result{"sent": o.count}, o.sendAll()
}

// Every message that was sent comes exactly once to a group whose simple consumers acknowledge it.
func (o *official) roundtrip() (result, error) {
	started := time.Now()
	seen := newSeen()
	var stop atomic.Bool
	var receivers sync.WaitGroup
	var lock sync.Mutex
	failures := []string{}
	var consumers []rmq.SimpleConsumer
	for range 2 {
		consumer, err := o.simpleConsumer()
		if err != nil {
			return nil, err
		}
		consumers = append(consumers, consumer)
	}
	for number := range 8 {
		consumer := consumers[number%2]
		receivers.Go(func() {
			for !stop.Load() {
				messages, err := receive(consumer, 30*time.Second)
				for _, message := range messages {
					seen.note(message, "official")
					err = errors.Join(err, consumer.Ack(context.Background(), message))
				}
				if err != nil {
					lock.Lock()
					failures = append(failures, err.Error())
					lock.Unlock()
					return
				}
			}
		})
	}
	if err := o.sendAll(); err != nil {
		return nil, err
	}
	sent := time.Since(started)
	until(func() bool { return seen.distinct() >= o.count }, patience)
	received := time.Since(started)
	// Each ends its poll first: a duplicate in the making would show.
	stop.Store(true)
	receivers.Wait()
	for _, consumer := range consumers {
		if err := consumer.GracefulStop(); err != nil {
			return nil, err
		}
	}
	result := seen.result(o.count)
	result["failures"] = failures
	result["sent_ms"] = sent.Milliseconds()
	result["received_ms"] = received.Milliseconds()
	return result, nil
}

// Every message that was sent comes exactly once to a push consumer that finishes it.
func (o *official) push() (result, error) {
	seen := newSeen()
	consumer, err := o.pushConsumer(rmq.SUB_ALL, 8, func(message *rmq.MessageView) rmq.ConsumerResult {
		seen.note(message, "official")
		return rmq.SUCCESS
	})
	if err != nil {
		return nil, err
	}
	started := time.Now()
	if err := o.sendAll(); err != nil {
		return nil, err
	}
	until(func() bool { return seen.distinct() >= o.count }, patience)
	received := time.Since(started)
	// It ends its polls and finishes what they brought.
	if err := consumer.GracefulStop(); err != nil {
		return nil, err
	}
	result := seen.result(o.count)
	result["received_ms"] = received.Milliseconds()
	return result, nil
}

// Messages that nobody acknowledges come back as attempt 2 after their invisible time and not before.
func (o *official) redelivery() (result, error) {
	return o.comeBack(10*time.Second, 10*time.Second, func(rmq.SimpleConsumer, *rmq.MessageView) error { return nil })
}

// A message held for longer and then for shorter than it was received for comes back when it was last told.
func (o *official) invisible() (result, error) {
	last := 5 * time.Second
	return o.comeBack(120*time.Second, last, func(consumer rmq.SimpleConsumer, message *rmq.MessageView) error {
		if err := consumer.ChangeInvisibleDuration(message, 300*time.Second); err != nil {
			return err
		}
		return consumer.ChangeInvisibleDuration(message, last)
	})
}

// Each message is received for a time, given to first, and must come again when it is visible after that.
func (o *official) comeBack(invisible, visible time.Duration,
	first func(rmq.SimpleConsumer, *rmq.MessageView) error) (result, error) {
	again := newAgain()
	consumer, err := o.simpleConsumer()
	if err != nil {
		return nil, err
	}
	if err := o.sendAll(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(patience); !again.whole(o.count) && time.Now().Before(deadline); {
		called := time.Now()
		messages, err := receive(consumer, invisible)
		if err != nil {
			return nil, err
		}
		for _, message := range messages {
			if invisible != visible {
				called = time.Now()
			}
			if again.second(message, called) {
				err = consumer.Ack(context.Background(), message)
			} else {
				err = first(consumer, message)
			}
			if err != nil {
				return nil, err
			}
		}
	}
	result := again.result(o.count)
	result["invisible_ms"] = visible.Milliseconds()
	return result, consumer.GracefulStop()
}

// Messages that a push consumer fails once come back to it as attempt 2.
func (o *official) retry() (result, error) {
	again := newAgain()
	consumer, err := o.pushConsumer(rmq.SUB_ALL, 8, func(message *rmq.MessageView) rmq.ConsumerResult {
		if again.second(message, time.Now()) {
			return rmq.SUCCESS
		}
		return rmq.FAILURE
	})
	if err != nil {
		return nil, err
	}
	if err := o.sendAll(); err != nil {
		return nil, err
	}
	until(func() bool { return again.whole(o.count) }, patience)
	return again.result(o.count), consumer.GracefulStop()
}

// A push consumer that asked for one of two tags gets that and nothing else.
func (o *official) filter() (result, error) {
	return o.filtered(rmq.NewFilterExpression("wanted || also"))
}

// The same by an expression over a property and the tag.
func (o *official) sql() (result, error) {
	expression := fmt.Sprintf("sequence BETWEEN 0 AND %d AND TAGS IN ('wanted', 'also')", o.count-1)
	return o.filtered(rmq.NewFilterExpressionWithType(expression, rmq.SQL92))
}

func (o *official) filtered(filter *rmq.FilterExpression) (result, error) {
	seen := newSeen()
	consumer, err := o.pushConsumer(filter, 8,
		func(message *rmq.MessageView) rmq.ConsumerResult {
			seen.note(message, "wanted")
			return rmq.SUCCESS
		})
	if err != nil {
		return nil, err
	}
	producer, err := o.producer()
	if err != nil {
		return nil, err
	}
	for sequence := range o.count {
		if _, err := producer.Send(context.Background(), o.message(sequence, "wanted")); err != nil {
			return nil, err
		}
		if _, err := producer.Send(context.Background(), o.message(o.count+sequence, "other")); err != nil {
			return nil, err
		}
	}
	until(func() bool { return seen.distinct() >= o.count }, patience)
	if err := errors.Join(producer.GracefulStop(), consumer.GracefulStop()); err != nil {
		return nil, err
	}
	return seen.result(o.count), nil
}

// A push consumer that holds count messages until its process is killed.
func (o *official) hold() (result, error) {
	var lock sync.Mutex
	held := 0
	_, err := o.pushConsumer(rmq.SUB_ALL, o.count, func(*rmq.MessageView) rmq.ConsumerResult {
		lock.Lock()
		held++
		fmt.Println("HELD", held)
		lock.Unlock()
		select {}
	})
	if err != nil {
		return nil, err
	}
	for input.Scan() {
	}
	return result{}, nil
}

// A push consumer that finishes count messages: what another member of its group left.
func (o *official) take() (result, error) {
	var lock sync.Mutex
	attempts := map[string]int32{}
	deliveries := 0
	consumer, err := o.pushConsumer(rmq.SUB_ALL, 8, func(message *rmq.MessageView) rmq.ConsumerResult {
		lock.Lock()
		defer lock.Unlock()
		deliveries++
		attempts[string(message.GetBody())] = message.GetDeliveryAttempt()
		return rmq.SUCCESS
	})
	if err != nil {
		return nil, err
	}
	fmt.Println("READY")
	started := time.Now()
	until(func() bool {
		lock.Lock()
		defer lock.Unlock()
		return len(attempts) >= o.count
	}, 90*time.Second)
	took := time.Since(started)
	// The end of a consumer takes as long as its polls.
	fmt.Println("TAKEN")
	if err := consumer.GracefulStop(); err != nil {
		return nil, err
	}
	lock.Lock()
	defer lock.Unlock()
	values := []int32{}
	for _, attempt := range attempts {
		if !slices.Contains(values, attempt) {
			values = append(values, attempt)
		}
	}
	slices.Sort(values)
	return result{"distinct": len(attempts), "deliveries": deliveries, "took_ms": took.Milliseconds(),
		"attempts": values}, nil
}

func run(arguments []string) (result, error) {
	if len(arguments) != 5 {
		return nil, errors.New("usage: official-go SCENARIO ACCESS TOPIC GROUP COUNT")
	}
	count, err := strconv.Atoi(arguments[4])
	if err != nil {
		return nil, err
	}
	scenario, ok := scenarios[arguments[0]]
	if !ok {
		return nil, fmt.Errorf("no scenario is called %s", arguments[0])
	}
	return scenario(&official{access: arguments[1], topic: arguments[2], group: arguments[3], count: count})
}

func main() {
	rmq.EnableSsl = os.Getenv("OFFICIAL_TLS") != "0"
	result, err := run(os.Args[1:])
	if err == nil {
		var text []byte
		text, err = json.Marshal(result)
		if err == nil {
			fmt.Printf("RESULT %s\n", text)
			return
		}
	}
	fmt.Fprintln(os.Stderr, "FAILED", err)
	os.Exit(1)
}
