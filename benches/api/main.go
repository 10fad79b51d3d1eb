// The clients of the measurement `api`: of weft's API server (JSON over HTTP/2 and TLS), and of
// etcd (gRPC, which is HTTP/2 too). What measures how fast a server is speaks with either through
// the same few lines (connection.go). Each command prints one JSON document.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) < 2 {
		return fmt.Errorf("usage: bench-api fill|ready|kubeconfig|node|peers|tunnels|endpoints|list|put|fanout|minimal|certificate FLAGS")
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
	file := flags.String("file", "", "the journal of the minimal server, or the certificate")
	services := flags.Int("services", 1, "there are")
	name := flags.String("name", "", "of the node")
	address := flags.String("address", "", "of the node")
	backend := flags.String("backend", "vxlan", "that the peers announce")
	deadline := flags.Duration("deadline", 5*time.Minute, "for all of it")
	if err := flags.Parse(os.Args[2:]); err != nil {
		return err
	}
	switch os.Args[1] {
	case "minimal":
		return minimal(*pki, *file)
	case "certificate":
		return writeCertificate(*pki, *file)
	}
	// Whatever a server does: a measurement that hangs is none.
	time.AfterFunc(*deadline, func() {
		fmt.Fprintf(os.Stderr, "%s: not done within %s\n", os.Args[1], *deadline)
		os.Exit(1)
	})
	var api *apiServer
	var server target
	if *etcd != "" {
		config, err := credentials(*pki)
		if err != nil {
			return err
		}
		server = etcdServer{*etcd, config}
	} else {
		var err error
		if api, err = newAPIServer(*url, *pki, *connections); err != nil {
			return err
		}
		server = api
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
	case "peers":
		return api.peers(*count, *clients, *backend)
	case "tunnels":
		return api.tunnels(*count, *services)
	case "endpoints":
		return api.endpoints(*count, *services)
	case "list":
		return api.list(*path, *limit, *count)
	case "put":
		return put(server, *clients, *connections, *duration, *size)
	case "fanout":
		return fanout(server, *clients, *connections, *count, *size)
	default:
		return fmt.Errorf("no such measurement: %s", os.Args[1])
	}
}

func tell(document any) error {
	return json.NewEncoder(os.Stdout).Encode(document)
}
