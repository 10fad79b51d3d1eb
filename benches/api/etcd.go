package main

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// An etcd server, through as many connections as clients.
type etcd struct {
	clients []*clientv3.Client
}

func newEtcd(address string, connections int) (*etcd, error) {
	server := &etcd{}
	for range connections {
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{address}, DialTimeout: 10 * time.Second})
		if err != nil {
			return nil, err
		}
		server.clients = append(server.clients, client)
	}
	// The first request of a connection pays for it.
	for _, client := range server.clients {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		_, err := client.Get(ctx, "bench-0")
		cancel()
		if err != nil {
			return nil, err
		}
	}
	return server, nil
}

func (s *etcd) put(worker, _ int, value string) error {
	client := s.clients[worker%len(s.clients)]
	_, err := client.Put(context.Background(), fmt.Sprintf("bench-%d", worker), value)
	return err
}

func (s *etcd) watch(number int, told func(string)) error {
	client := s.clients[number%len(s.clients)]
	ctx := context.Background()
	events := client.Watch(ctx, "bench-0", clientv3.WithCreatedNotify())
	if created := <-events; created.Err() != nil {
		return created.Err()
	}
	go func() {
		for response := range events {
			for _, event := range response.Events {
				told(string(event.Kv.Value))
			}
		}
	}()
	return nil
}
