// Sending and consuming through whatever happens to the brokers.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// A send goes out this long after the last was answered.
const pause = 20 * time.Millisecond

func init() {
	scenarios["carry"] = (*official).carry
}

// The longest time between two of many events, the time since the last one included.
type gap struct {
	lock    sync.Mutex
	last    time.Time
	longest time.Duration
}

func (g *gap) event() {
	g.lock.Lock()
	defer g.lock.Unlock()
	g.longest = max(g.longest, time.Since(g.last))
	g.last = time.Now()
}

func (g *gap) millis() int64 {
	g.lock.Lock()
	defer g.lock.Unlock()
	return max(g.longest, time.Since(g.last)).Milliseconds()
}

func (g *gap) reset() {
	g.lock.Lock()
	defer g.lock.Unlock()
	g.longest, g.last = 0, time.Now()
}

// Sends and consumes without a pause, says UNDER_LOAD once count went through, and then answers each line on stdin with
// how far it is: after "mark" the gaps count anew, and "end" ends the sends. What was answered OK must come; a send may
// fail, which is told.
func (o *official) carry() (result, error) {
	seen := newSeen()
	writes, reads := &gap{last: time.Now()}, &gap{last: time.Now()}
	if _, err := o.pushConsumer(rmq.SUB_ALL, 8, func(message *rmq.MessageView) rmq.ConsumerResult {
		seen.note(message, "official")
		reads.event()
		return rmq.SUCCESS
	}); err != nil {
		return nil, err
	}
	producer, err := o.producer()
	if err != nil {
		return nil, err
	}
	var lock sync.Mutex
	sent := map[string]bool{}
	failed := 0
	var next atomic.Int64
	var stop atomic.Bool
	var senders sync.WaitGroup
	for range 4 {
		senders.Go(func() {
			for !stop.Load() {
				sequence := int(next.Add(1)) - 1
				_, err := producer.Send(context.Background(), o.message(sequence, "official"))
				lock.Lock()
				if err == nil {
					sent[strconv.Itoa(sequence)] = true
					writes.event()
				} else {
					failed++
					fmt.Fprintln(os.Stderr, err)
				}
				lock.Unlock()
				time.Sleep(pause)
			}
		})
	}
	missing := func() int {
		lock.Lock()
		defer lock.Unlock()
		missing := 0
		for body := range sent {
			if !seen.has(body) {
				missing++
			}
		}
		return missing
	}
	soFar := func() result {
		lock.Lock()
		defer lock.Unlock()
		return result{"sent": len(sent), "came": seen.distinct(), "failed": failed, "send_gap_ms": writes.millis(),
			"read_gap_ms": reads.millis()}
	}
	until(func() bool {
		lock.Lock()
		defer lock.Unlock()
		return len(sent) >= o.count && seen.distinct() >= o.count
	}, patience)
	fmt.Println("UNDER_LOAD")
	for word := awaitLine(); word != "end" && word != ""; word = awaitLine() {
		text, err := json.Marshal(soFar())
		if err != nil {
			return nil, err
		}
		fmt.Printf("SO_FAR %s\n", text)
		if word == "mark" {
			writes.reset()
			reads.reset()
		}
	}
	stop.Store(true)
	senders.Wait()
	until(func() bool { return missing() == 0 }, patience)
	result := soFar()
	result["missing"] = missing()
	result["deliveries"] = seen.deliveries
	return result, nil
}
