package main

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
)

// A server under measurement: what differs between them.
type target interface {
	connect() (*connection, error)
	// prepare makes what so many writers replace.
	prepare(writers int) error
	// put asks to write a value under the writer's key; done is called when the server says that
	// it is durable.
	put(c *connection, writer int, value []byte, done func() error) error
	// watch asks for the changes of the first writer's key by so many watchers; watching is called
	// when one of them is told of, and event with what one is told of a change.
	watch(c *connection, watchers int, watching func(), event func(text []byte)) error
}

// A mark at a value's beginning makes it another one: a write that changes nothing is answered,
// and not written.
const markLength = 16

func mark(number int) []byte {
	return fmt.Appendf(nil, "write-%09d-", number)
}

func value(size int) []byte {
	letters := make([]byte, size)
	for at := range letters {
		letters[at] = 'a' + byte(at%26)
	}
	return letters
}

// lean keeps this program small beside what it measures: one thread at a time, few collections.
func lean() {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(800)
}

// put lets each client write one value after the other.
func put(server target, clients, connections int, duration time.Duration, size int) error {
	if size < markLength {
		return errors.New("a value has at least 16 bytes")
	}
	if err := server.prepare(clients); err != nil {
		return err
	}
	lean()
	failed := make(chan error, connections)
	used := min(connections, clients)
	done := make([]int, used)
	before := processorTime()
	began := time.Now()
	end := began.Add(duration)
	for number := range used {
		c, err := server.connect()
		if err != nil {
			return err
		}
		writing := 0
		for writer := number; writer < clients; writer += connections {
			text := value(size)
			count := 0
			var next func() error
			next = func() error {
				copy(text, mark(count))
				count++
				return server.put(c, writer, text, func() error {
					done[number]++
					if time.Now().After(end) {
						writing--
						return nil
					}
					return next()
				})
			}
			writing++
			if err := next(); err != nil {
				return err
			}
		}
		go func() { failed <- c.run(func() bool { return writing == 0 }) }()
	}
	for range used {
		if err := <-failed; err != nil {
			return err
		}
	}
	took := time.Since(began)
	sum := 0
	for _, count := range done {
		sum += count
	}
	return tell(map[string]float64{
		"rate": float64(sum) / took.Seconds(),
		"cpu":  (processorTime() - before) / float64(sum),
	})
}

// A write on its way to the watchers.
type news struct {
	mark  []byte
	began time.Time
}

// fanout makes writes, and tells how long each took to reach each watcher, from before the write.
// The writer has a connection of its own.
func fanout(server target, watchers, connections, writes, size int) error {
	if err := server.prepare(1); err != nil {
		return err
	}
	lean()
	var newest atomic.Pointer[news]
	newest.Store(&news{mark: []byte("none")})
	failed := make(chan error, connections)
	var reached atomic.Int64
	all := make(chan struct{}, 1)
	one := func() {
		if reached.Add(1) == int64(watchers) {
			all <- struct{}{}
		}
	}
	times := make([][]float64, connections)
	for number := range connections {
		c, err := server.connect()
		if err != nil {
			return err
		}
		share := (watchers + connections - 1 - number) / connections
		told := func(text []byte) {
			// What an earlier write has left is not of this one.
			if news := newest.Load(); bytes.Contains(text, news.mark) {
				times[number] = append(times[number], time.Since(news.began).Seconds())
				one()
			}
		}
		if err := server.watch(c, share, one, told); err != nil {
			return err
		}
		go func() { failed <- c.run(func() bool { return false }) }()
	}
	everybody := func() error {
		defer reached.Store(0)
		select {
		case <-all:
			return nil
		case err := <-failed:
			return err
		case <-time.After(30 * time.Second):
			return fmt.Errorf("of %d watchers %d were reached", watchers, reached.Load())
		}
	}
	if err := everybody(); err != nil {
		return err
	}
	c, err := server.connect()
	if err != nil {
		return err
	}
	text := value(size)
	var acknowledged []float64
	before := processorTime()
	pause := 20 * time.Millisecond
	for write := range writes {
		time.Sleep(pause)
		// Unlike any of an earlier run.
		number := int(time.Now().UnixMicro() % 1e9)
		copy(text, mark(number))
		newest.Store(&news{mark: mark(number), began: time.Now()})
		began := newest.Load().began
		written := false
		if err := server.put(c, 0, text, func() error { written = true; return nil }); err != nil {
			return err
		}
		if err := c.run(func() bool { return written }); err != nil {
			return err
		}
		acknowledged = append(acknowledged, time.Since(began).Seconds())
		if err := everybody(); err != nil {
			return fmt.Errorf("write %d: %w", write, err)
		}
	}
	return tell(map[string]any{"seconds": slices.Concat(times...), "acknowledged": acknowledged, "cpu": (processorTime() - before) / float64(writes)})
}

// processorTime is what this program has used so far, in seconds.
func processorTime() float64 {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0
	}
	return float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
}
