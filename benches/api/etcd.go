package main

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// An etcd server, over TLS with certificates of clients, as the API server is. Its few messages are written by hand, as the rest of what these
// clients say: fields of protobuf, in gRPC's frames.
type etcdServer struct {
	address string
	config  *tls.Config
}

// How long etcd may take until it can be written to.
const etcdStart = 10 * time.Second

func (s etcdServer) connect() (*connection, error) {
	return dial(s.address, s.config)
}

// prepare writes each key once, as soon as etcd can.
func (s etcdServer) prepare(writers int) error {
	deadline := time.Now().Add(etcdStart)
	for {
		err := s.write(writers)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (s etcdServer) write(writers int) error {
	c, err := s.connect()
	if err != nil {
		return err
	}
	defer c.socket.Close()
	for writer := range writers {
		written := false
		err := s.put(c, writer, []byte("prepared"), func() error { written = true; return nil })
		if err != nil {
			return err
		}
		if err := c.run(func() bool { return written }); err != nil {
			return err
		}
	}
	return nil
}

func (s etcdServer) put(c *connection, writer int, value []byte, done func() error) error {
	key := fmt.Appendf(nil, "bench-%d", writer)
	// etcdserverpb.PutRequest: key is field 1, value 2.
	body := grpcFrame(field(field(nil, 1, key), 2, value))
	answer := &stream{}
	answer.ended = func() error {
		if answer.status != "200" || answer.grpcStatus != "0" {
			return fmt.Errorf("Put: %s, grpc-status %s", answer.status, answer.grpcStatus)
		}
		return done()
	}
	_, err := c.request(http.MethodPost, "/etcdserverpb.KV/Put", grpcHeaders, body, true, answer)
	return err
}

// watch asks for all watches of a connection on one stream, as etcd's own client does.
func (s etcdServer) watch(c *connection, watchers int, watching func(), event func([]byte)) error {
	var received []byte
	answer := &stream{}
	answer.data = func(piece []byte) error {
		received = append(received, piece...)
		rest := received
		for {
			message, behind, whole := grpcMessage(rest)
			if !whole {
				received = append(received[:0], rest...)
				return nil
			}
			rest = behind
			created, err := isCreated(message)
			if err != nil {
				return err
			}
			if created {
				watching()
			} else {
				event(message)
			}
		}
	}
	answer.ended = func() error { return errors.New("a watch has ended: grpc-status " + answer.grpcStatus) }
	id, err := c.request(http.MethodPost, "/etcdserverpb.Watch/Watch", grpcHeaders, nil, false, answer)
	if err != nil {
		return err
	}
	// etcdserverpb.WatchRequest: create_request is field 1, and of that the key.
	create := grpcFrame(field(nil, 1, field(nil, 1, []byte("bench-0"))))
	for range watchers {
		if err := c.send(id, create, false); err != nil {
			return err
		}
	}
	return nil
}

var grpcHeaders = [][2]string{
	{"content-type", "application/grpc"}, {"te", "trailers"}, {"user-agent", "bench-api"},
}

// grpcFrame is a message that is not compressed, with its length before it.
func grpcFrame(message []byte) []byte {
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return append(frame, message...)
}

// grpcMessage is the first message of what was received, and what is behind it.
func grpcMessage(received []byte) (message, rest []byte, whole bool) {
	if len(received) < 5 {
		return nil, nil, false
	}
	end := 5 + int(binary.BigEndian.Uint32(received[1:5]))
	if len(received) < end {
		return nil, nil, false
	}
	return received[5:end], received[end:], true
}

// field adds a field of bytes.
func field(message []byte, number uint64, content []byte) []byte {
	message = binary.AppendUvarint(message, number<<3|2)
	message = binary.AppendUvarint(message, uint64(len(content)))
	return append(message, content...)
}

// isCreated says whether a WatchResponse is the answer to the request for it: its field 3.
func isCreated(message []byte) (bool, error) {
	broken := errors.New("a message of etcd makes no sense")
	for len(message) > 0 {
		tag, length := binary.Uvarint(message)
		if length <= 0 {
			return false, broken
		}
		value, more := binary.Uvarint(message[length:])
		if more <= 0 {
			return false, broken
		}
		message = message[length+more:]
		switch tag & 7 {
		case 0:
			if tag>>3 == 3 {
				return value == 1, nil
			}
		case 2:
			if value > uint64(len(message)) {
				return false, broken
			}
			message = message[value:]
		default:
			return false, broken
		}
	}
	return false, nil
}
