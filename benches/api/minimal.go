package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
)

// A journal: records that wait share one write and one sync.
type journal struct {
	file    *os.File
	lock    sync.Mutex
	moved   *sync.Cond
	waiting []byte
	// Records that wait, and those that are on the disk, by number.
	next, done uint64
	syncing    bool
	failed     error
}

func newJournal(path string) (*journal, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	j := &journal{file: file}
	j.moved = sync.NewCond(&j.lock)
	return j, nil
}

// add returns when the record is on the disk.
func (j *journal) add(record []byte) error {
	j.lock.Lock()
	defer j.lock.Unlock()
	j.waiting = append(j.waiting, record...)
	j.next++
	own := j.next
	for j.done < own && j.failed == nil {
		if j.syncing {
			j.moved.Wait()
			continue
		}
		j.syncing = true
		batch, last := j.waiting, j.next
		j.waiting = nil
		j.lock.Unlock()
		_, err := j.file.Write(batch)
		if err == nil {
			err = syncData(j.file)
		}
		j.lock.Lock()
		j.syncing, j.done, j.failed = false, last, err
		j.moved.Broadcast()
	}
	return j.failed
}

// minimal is the least server that a client of the API can write to: it puts each body into a
// journal and sends it back. It prints its address, and serves until its input ends.
func minimal(pki, path string) error {
	j, err := newJournal(path)
	if err != nil {
		return err
	}
	certificate, err := serverCertificate(pki)
	if err != nil {
		return err
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{certificate},
		NextProtos:   []string{"h2"},
	})
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	return http.Serve(listener, http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err == nil {
			err = j.add(body)
		}
		if err != nil {
			http.Error(answer, err.Error(), http.StatusInternalServerError)
			return
		}
		answer.Header().Set("Content-Type", "application/json")
		answer.Write(body)
	}))
}
