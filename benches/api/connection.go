package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A stream is one request, and what is to be done with its answer.
type stream struct {
	status string
	// Of gRPC; empty elsewhere.
	grpcStatus string
	// began is called when the answer's head is there, data for each piece of its body, ended at
	// its end. Each may be nil.
	began func() error
	data  func(piece []byte) error
	ended func() error
}

// A connection speaks HTTP/2 with no more work than it takes, so that what is measured is the
// server: one goroutine writes and reads, what is ready to be sent goes out in one write, and
// nothing is handed from one goroutine to another. Headers are compressed as Go's client does it.
type connection struct {
	socket    net.Conn
	authority string
	reader    *bufio.Reader
	framer    *http2.Framer
	out       bytes.Buffer
	encoder   *hpack.Encoder
	block     bytes.Buffer
	next      uint32
	streams   map[uint32]*stream
	// How much of bodies the server takes still, and how much was taken of its own.
	window   int64
	received uint32
}

// The most that a window can be (RFC 9113, section 6.9.1).
const mostWindow = 1<<31 - 1

func dial(address string, config *tls.Config) (*connection, error) {
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	socket, err := tls.Dial("tcp", address, config)
	if err != nil {
		return nil, err
	}
	c := &connection{
		socket:    socket,
		authority: address,
		reader:    bufio.NewReaderSize(socket, 64<<10),
		next:      1,
		streams:   map[uint32]*stream{},
		window:    65535,
	}
	c.framer = http2.NewFramer(&c.out, c.reader)
	c.framer.SetReuseFrames()
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.encoder = hpack.NewEncoder(&c.block)
	c.out.WriteString(http2.ClientPreface)
	settings := []http2.Setting{
		{ID: http2.SettingEnablePush, Val: 0},
		{ID: http2.SettingInitialWindowSize, Val: mostWindow},
	}
	if err := c.framer.WriteSettings(settings...); err != nil {
		return nil, err
	}
	return c, c.framer.WriteWindowUpdate(0, mostWindow-65535)
}

// request begins a request; one that is not ended may send more.
func (c *connection) request(method, path string, headers [][2]string, body []byte, ends bool, s *stream) (uint32, error) {
	c.block.Reset()
	own := [][2]string{{":authority", c.authority}, {":method", method}, {":path", path}, {":scheme", "https"}}
	for _, some := range [][][2]string{own, headers} {
		for _, header := range some {
			if err := c.encoder.WriteField(hpack.HeaderField{Name: header[0], Value: header[1]}); err != nil {
				return 0, err
			}
		}
	}
	id := c.next
	c.next += 2
	c.streams[id] = s
	err := c.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: ends && len(body) == 0,
	})
	if err != nil || len(body) == 0 {
		return id, err
	}
	return id, c.send(id, body, ends)
}

// send adds to a request's body.
func (c *connection) send(id uint32, body []byte, ends bool) error {
	if c.window -= int64(len(body)); c.window < 0 {
		return errors.New("the server's window has no room for so much at once: more connections")
	}
	return c.framer.WriteData(id, ends, body)
}

// run sends and receives until enough.
func (c *connection) run(enough func() bool) error {
	for !enough() {
		if c.reader.Buffered() == 0 && c.out.Len() > 0 {
			if _, err := c.socket.Write(c.out.Bytes()); err != nil {
				return err
			}
			c.out.Reset()
		}
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return err
		}
		if err := c.handle(frame); err != nil {
			return err
		}
	}
	return nil
}

func (c *connection) handle(frame http2.Frame) error {
	id := frame.Header().StreamID
	switch frame := frame.(type) {
	case *http2.MetaHeadersFrame:
		s := c.streams[id]
		if s == nil {
			return nil
		}
		for _, field := range frame.Fields {
			switch field.Name {
			case ":status":
				s.status = field.Value
			case "grpc-status":
				s.grpcStatus = field.Value
			}
		}
		if s.began != nil {
			if err := s.began(); err != nil {
				return err
			}
			s.began = nil
		}
		return c.end(id, s, frame.StreamEnded())
	case *http2.DataFrame:
		if err := c.take(frame.Length); err != nil {
			return err
		}
		s := c.streams[id]
		if s == nil {
			return nil
		}
		if s.data != nil && len(frame.Data()) > 0 {
			if err := s.data(frame.Data()); err != nil {
				return err
			}
		}
		return c.end(id, s, frame.StreamEnded())
	case *http2.WindowUpdateFrame:
		if id == 0 {
			c.window += int64(frame.Increment)
		}
	case *http2.SettingsFrame:
		if !frame.IsAck() {
			return c.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !frame.IsAck() {
			return c.framer.WritePing(true, frame.Data)
		}
	case *http2.RSTStreamFrame:
		// After a whole answer it only says that the rest of the request is not needed.
		if c.streams[id] != nil {
			return fmt.Errorf("the server broke a request off: %s", frame.ErrCode)
		}
	case *http2.GoAwayFrame:
		return fmt.Errorf("the server ends the connection: %s", frame.ErrCode)
	}
	return nil
}

func (c *connection) end(id uint32, s *stream, ended bool) error {
	if !ended {
		return nil
	}
	delete(c.streams, id)
	if s.ended == nil {
		return nil
	}
	return s.ended()
}

// take gives room back for what was received, half a window at a time.
func (c *connection) take(length uint32) error {
	if c.received += length; c.received < mostWindow/2 {
		return nil
	}
	back := c.received
	c.received = 0
	return c.framer.WriteWindowUpdate(0, back)
}
