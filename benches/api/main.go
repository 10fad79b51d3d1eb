// The clients of the measurement `api`: of weft's API server as a Kubernetes client is one (JSON
// over HTTP/2 and TLS), and of etcd through its own client. Each command prints one JSON document.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

// A server under measurement: what differs between the two.
type target interface {
	// put writes a value of this size under a key of its own; it returns when that is durable.
	put(worker, number int, value string) error
	// watch calls told for every event, and returns when it watches.
	watch(number int, told func(value string)) error
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) < 2 {
		return fmt.Errorf("usage: bench-api fill|ready|kubeconfig|node|endpoints|list|put|fanout|minimal FLAGS")
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	url := flags.String("url", "", "the API server")
	pki := flags.String("pki", "", "its folder of certificates")
	etcd := flags.String("etcd", "", "etcd's address, instead")
	count := flags.Int("count", 1, "objects, times, or writes")
	clients := flags.Int("clients", 64, "at once")
	connections := flags.Int("connections", 10, "of all clients together")
	size := flags.Int("size", 1024, "bytes of a value")
	duration := flags.Duration("duration", 2*time.Second, "how long")
	path := flags.String("path", "", "of the list")
	limit := flags.Int("limit", 0, "of a page")
	file := flags.String("file", "", "the journal of the minimal server")
	services := flags.Int("services", 1, "there are")
	name := flags.String("name", "", "of the node")
	address := flags.String("address", "", "of the node")
	deadline := flags.Duration("deadline", 5*time.Minute, "for all of it")
	if err := flags.Parse(os.Args[2:]); err != nil {
		return err
	}
	if os.Args[1] == "minimal" {
		return minimal(*pki, *file)
	}
	// Whatever a server does: a measurement that hangs is none.
	time.AfterFunc(*deadline, func() {
		fmt.Fprintf(os.Stderr, "%s: not done within %s\n", os.Args[1], *deadline)
		os.Exit(1)
	})
	var api *apiServer
	var server target
	var err error
	if *etcd != "" {
		server, err = newEtcd(*etcd, *connections)
	} else {
		api, err = newAPIServer(*url, *pki, *connections)
		server = api
	}
	if err != nil {
		return err
	}
	switch os.Args[1] {
	case "ready":
		return api.ready()
	case "fill":
		return api.fill(*count, *clients)
	case "kubeconfig":
		return kubeconfig(*url, *pki)
	case "node":
		return api.node(*name, *address)
	case "endpoints":
		return api.endpoints(*count, *services)
	case "list":
		return api.list(*path, *limit, *count)
	case "put":
		return put(server, *clients, *duration, *size)
	case "fanout":
		return fanout(server, *clients, *count, *size)
	default:
		return fmt.Errorf("no such measurement: %s", os.Args[1])
	}
}

func tell(document any) error {
	return json.NewEncoder(os.Stdout).Encode(document)
}

func text(size int) string {
	letters := make([]byte, size)
	for at := range letters {
		letters[at] = 'a' + byte(at%26)
	}
	return string(letters)
}

// numbered makes a value another one: a write that changes nothing is answered, and not written.
func numbered(number int, value string) string {
	mark := fmt.Sprintf("%d-", number)
	return mark + value[min(len(mark), len(value)):]
}

// put lets each client write one value after the other.
func put(server target, clients int, duration time.Duration, size int) error {
	value := text(size)
	done := make([]int, clients)
	errors := make([]error, clients)
	end := time.Now().Add(duration)
	began := time.Now()
	var all sync.WaitGroup
	for client := range clients {
		all.Add(1)
		go func() {
			defer all.Done()
			for number := 0; time.Now().Before(end); number++ {
				if errors[client] = server.put(client, number, numbered(number, value)); errors[client] != nil {
					return
				}
				done[client]++
			}
		}()
	}
	all.Wait()
	took := time.Since(began)
	sum := 0
	for client := range clients {
		if errors[client] != nil {
			return errors[client]
		}
		sum += done[client]
	}
	return tell(map[string]float64{"rate": float64(sum) / took.Seconds()})
}

// fanout makes writes, and tells how long each took to reach each watcher, from before the write.
func fanout(server target, watchers, writes, size int) error {
	var lock sync.Mutex
	var began time.Time
	var number int
	var times, acknowledged []float64
	arrived := make(chan struct{}, watchers)
	told := func(value string) {
		now := time.Now()
		lock.Lock()
		defer lock.Unlock()
		// What an earlier write has left is not of this one.
		if value == fmt.Sprintf("%d-", number)+text(size) {
			times = append(times, now.Sub(began).Seconds())
			arrived <- struct{}{}
		}
	}
	for watcher := range watchers {
		if err := server.watch(watcher, told); err != nil {
			return err
		}
	}
	pause := 20 * time.Millisecond
	before := processorTime()
	for write := range writes {
		time.Sleep(pause)
		lock.Lock()
		number, began = write, time.Now()
		lock.Unlock()
		if err := server.put(0, 0, fmt.Sprintf("%d-", write)+text(size)); err != nil {
			return err
		}
		acknowledged = append(acknowledged, time.Since(began).Seconds())
		for range watchers {
			select {
			case <-arrived:
			case <-time.After(30 * time.Second):
				return fmt.Errorf("write %d has not reached all of %d watchers", write, watchers)
			}
		}
	}
	return tell(map[string]any{"seconds": times, "acknowledged": acknowledged, "cpu": (processorTime() - before) / float64(writes)})
}

// processorTime is what this program has used so far, in seconds.
func processorTime() float64 {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0
	}
	return float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
}
