package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// An API server, with as many connections as clients.
type apiServer struct {
	url     string
	clients []*http.Client
	config  *tls.Config
}

func newAPIServer(url, pki string, connections int) (*apiServer, error) {
	config, err := credentials(pki)
	if err != nil {
		return nil, err
	}
	server := &apiServer{url: url, config: config}
	for range connections {
		transport := &http.Transport{TLSClientConfig: config.Clone(), ForceAttemptHTTP2: true, DisableCompression: true}
		server.clients = append(server.clients, &http.Client{Transport: transport})
	}
	return server, nil
}

// authorityIn reads the certificate authority in the folder.
func authorityIn(pki string) (*x509.Certificate, any, error) {
	authorityText, err := os.ReadFile(filepath.Join(pki, "ca.crt"))
	if err != nil {
		return nil, nil, err
	}
	keyText, err := os.ReadFile(filepath.Join(pki, "ca.key"))
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(authorityText)
	keyBlock, _ := pem.Decode(keyText)
	if block == nil || keyBlock == nil {
		return nil, nil, fmt.Errorf("%s: no certificate authority", pki)
	}
	authority, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	return authority, key, err
}

func certificateFor(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name, Organization: []string{"system:masters"}},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
}

func signed(template, authority *x509.Certificate, key *ecdsa.PrivateKey, authorityKey any) (tls.Certificate, error) {
	certificate, err := x509.CreateCertificate(rand.Reader, template, authority, &key.PublicKey, authorityKey)
	return tls.Certificate{Certificate: [][]byte{certificate}, PrivateKey: key}, err
}

// serverCertificate makes one for a server on 127.0.0.1 with the authority in the folder.
func serverCertificate(pki string) (tls.Certificate, error) {
	authority, authorityKey, err := authorityIn(pki)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := certificateFor("bench")
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	return signed(template, authority, key, authorityKey)
}

// writeCertificate writes a server's certificate and its key into one file.
func writeCertificate(pki, path string) error {
	certificate, err := serverCertificate(pki)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	return os.WriteFile(path, text, 0o600)
}

// credentials makes a client's certificate with the authority in the folder.
func credentials(pki string) (*tls.Config, error) {
	authority, authorityKey, err := authorityIn(pki)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	certificate, err := signed(certificateFor("bench"), authority, key, authorityKey)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(authority)
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}}, nil
}

func (s *apiServer) client(number int) *http.Client {
	return s.clients[number%len(s.clients)]
}

func (s *apiServer) request(client int, method, path string, body []byte) (*http.Response, error) {
	request, err := http.NewRequest(method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := s.client(client).Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= 300 {
		said, _ := io.ReadAll(io.LimitReader(response.Body, 2000))
		response.Body.Close()
		return response, fmt.Errorf("%s %s: %s: %s", method, path, response.Status, said)
	}
	return response, nil
}

func (s *apiServer) do(client int, method, path string, body []byte) error {
	response, err := s.request(client, method, path, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

const configMaps = "/api/v1/namespaces/default/configmaps"

func configMap(name, value string) ([]byte, error) {
	return json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": name},
		"data":     map[string]string{"value": value},
	})
}

func (s *apiServer) connect() (*connection, error) {
	return dial(strings.TrimPrefix(s.url, "https://"), s.config)
}

// prepare creates the ConfigMaps that put replaces.
func (s *apiServer) prepare(writers int) error {
	for writer := range writers {
		body, err := configMap(fmt.Sprintf("bench-%d", writer), "")
		if err != nil {
			return err
		}
		response, err := s.request(writer, http.MethodPost, configMaps, body)
		if response == nil || err != nil && response.StatusCode != http.StatusConflict {
			return err
		}
		response.Body.Close()
	}
	return nil
}

func (s *apiServer) put(c *connection, writer int, value []byte, done func() error) error {
	name := fmt.Sprintf("bench-%d", writer)
	// As json.Marshal has it; the letters of a value stand for themselves.
	body := fmt.Appendf(nil, `{"apiVersion":"v1","data":{"value":"%s"},"kind":"ConfigMap","metadata":{"name":"%s"}}`, value, name)
	headers := [][2]string{
		{"accept", "application/json"},
		{"content-type", "application/json"},
		{"content-length", strconv.Itoa(len(body))},
		{"user-agent", "bench-api"},
	}
	answer := &stream{}
	answer.ended = func() error {
		if answer.status != "200" && answer.status != "201" {
			return fmt.Errorf("PUT %s: %s", name, answer.status)
		}
		return done()
	}
	_, err := c.request(http.MethodPut, configMaps+"/"+name, headers, body, true, answer)
	return err
}

func (s *apiServer) watch(c *connection, watchers int, watching func(), event func([]byte)) error {
	path := configMaps + "?watch=1&resourceVersion=0&timeoutSeconds=3600&fieldSelector=" + url.QueryEscape("metadata.name=bench-0")
	headers := [][2]string{{"accept", "application/json"}, {"user-agent", "bench-api"}}
	for range watchers {
		var line []byte
		answer := &stream{}
		answer.began = func() error {
			if answer.status != "200" {
				return fmt.Errorf("GET %s: %s", path, answer.status)
			}
			watching()
			return nil
		}
		answer.data = func(piece []byte) error {
			for {
				end := bytes.IndexByte(piece, '\n')
				if end < 0 {
					line = append(line, piece...)
					return nil
				}
				line = append(line, piece[:end]...)
				event(line)
				line, piece = line[:0], piece[end+1:]
			}
		}
		answer.ended = func() error { return errors.New("a watch has ended") }
		if _, err := c.request(http.MethodGet, path, headers, nil, true, answer); err != nil {
			return err
		}
	}
	return nil
}

// between is the text from after a mark to the next quote.
func between(line []byte, mark string) string {
	at := bytes.Index(line, []byte(mark))
	if at < 0 {
		return ""
	}
	rest := line[at+len(mark):]
	return string(rest[:max(bytes.IndexByte(rest, '"'), 0)])
}

// ready returns when the server answers with what it has stored.
func (s *apiServer) ready() error {
	deadline := time.Now().Add(time.Minute)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/api/v1/namespaces/default", nil)
		if err == nil {
			var response *http.Response
			if response, err = s.client(0).Do(request); err == nil {
				response.Body.Close()
				if response.StatusCode == http.StatusOK {
					cancel()
					return nil
				}
				err = fmt.Errorf("%s", response.Status)
			}
		}
		cancel()
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// fill creates so many Services, and for each an EndpointSlice of ten endpoints.
func (s *apiServer) fill(count, clients int) error {
	return s.each(count, clients, s.pair)
}

// each has so many clients do something with each of so many numbers.
func (s *apiServer) each(count, clients int, do func(client, number int) error) error {
	numbers := make(chan int)
	errors := make(chan error, clients)
	var all sync.WaitGroup
	for client := range clients {
		all.Add(1)
		go func() {
			defer all.Done()
			for number := range numbers {
				if err := do(client, number); err != nil {
					errors <- err
					for range numbers {
					}
					return
				}
			}
		}()
	}
	for number := range count {
		numbers <- number
	}
	close(numbers)
	all.Wait()
	select {
	case err := <-errors:
		return err
	default:
		return nil
	}
}

func (s *apiServer) pair(client, number int) error {
	name := fmt.Sprintf("service-%05d", number)
	labels := map[string]string{"app": name, "tier": "bench"}
	service, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Service",
		"metadata": map[string]any{"name": name, "labels": labels},
		"spec": map[string]any{
			"selector": map[string]string{"app": name},
			"ports":    []any{map[string]any{"name": "http", "port": 80, "targetPort": 8080}},
		},
	})
	if err != nil {
		return err
	}
	if err := s.do(client, http.MethodPost, "/api/v1/namespaces/default/services", service); err != nil {
		return err
	}
	slice, err := slice(number, 0)
	if err != nil {
		return err
	}
	return s.do(client, http.MethodPost, endpointSlices, slice)
}

const endpointSlices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"

// slice is the EndpointSlice of a Service, with ten endpoints from this one on.
func slice(number, first int) ([]byte, error) {
	name := fmt.Sprintf("service-%05d", number)
	var endpoints []any
	for endpoint := first; endpoint < first+10; endpoint++ {
		address := fmt.Sprintf("10.%d.%d.%d", 128+number>>12, number>>4&255, number&15<<4+endpoint)
		endpoints = append(endpoints, map[string]any{
			"addresses":  []string{address},
			"conditions": map[string]bool{"ready": true, "serving": true, "terminating": false},
			"nodeName":   fmt.Sprintf("node-%d", endpoint),
			"targetRef":  map[string]string{"kind": "Pod", "namespace": "default", "name": fmt.Sprintf("%s-%d", name, endpoint)},
		})
	}
	return json.Marshal(map[string]any{
		"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
		"metadata": map[string]any{
			"name":   name + "-abcde",
			"labels": map[string]string{"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
		},
		"addressType": "IPv4",
		"endpoints":   endpoints,
		"ports":       []any{map[string]any{"name": "http", "port": 8080, "protocol": "TCP"}},
	})
}

// endpoints replaces an endpoint of one Service after the other by another.
func (s *apiServer) endpoints(count, services int) error {
	for change := range count {
		number := change * 7919 % services
		body, err := slice(number, 1)
		if err != nil {
			return err
		}
		if err := s.do(0, http.MethodPut, fmt.Sprintf("%s/service-%05d-abcde", endpointSlices, number), body); err != nil {
			return err
		}
	}
	return nil
}

// node creates a Node.
func (s *apiServer) node(name, address string) error {
	body, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Node",
		"metadata": map[string]any{"name": name},
		"spec":     map[string]any{"podCIDR": "10.128.0.0/24", "podCIDRs": []string{"10.128.0.0/24"}},
		"status":   map[string]any{"addresses": []any{map[string]string{"type": "InternalIP", "address": address}}},
	})
	if err != nil {
		return err
	}
	if err := s.do(0, http.MethodPost, "/api/v1/nodes", body); err != nil {
		return err
	}
	return s.do(0, http.MethodPut, "/api/v1/nodes/"+name+"/status", body)
}

// kubeconfig tells a client's.
func kubeconfig(url, pki string) error {
	config, err := credentials(pki)
	if err != nil {
		return err
	}
	authority, err := os.ReadFile(filepath.Join(pki, "ca.crt"))
	if err != nil {
		return err
	}
	pair := config.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		return err
	}
	certificateText := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	keyText := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	return tell(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "bench",
		"clusters": []any{map[string]any{"name": "bench", "cluster": map[string]any{"server": url, "certificate-authority-data": authority}}},
		"users":    []any{map[string]any{"name": "bench", "user": map[string]any{"client-certificate-data": certificateText, "client-key-data": keyText}}},
		"contexts": []any{map[string]any{"name": "bench", "context": map[string]any{"cluster": "bench", "user": "bench"}}},
	})
}

// list reads a whole list so many times, in pages if there is a limit.
func (s *apiServer) list(path string, limit, times int) error {
	var seconds []float64
	var length int64
	// The first one warms the connection up.
	for time0 := range times + 1 {
		began := time.Now()
		length = 0
		next := ""
		for {
			page := path + "?limit=" + strconv.Itoa(limit)
			if next != "" {
				page += "&continue=" + url.QueryEscape(next)
			}
			response, err := s.request(0, http.MethodGet, page, nil)
			if err != nil {
				return err
			}
			if limit == 0 {
				read, err := io.Copy(io.Discard, response.Body)
				response.Body.Close()
				if err != nil {
					return err
				}
				length += read
				break
			}
			text, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err != nil {
				return err
			}
			length += int64(len(text))
			// A list's metadata comes before its items.
			if next = between(text[:min(len(text), 1024)], `"continue":"`); next == "" {
				break
			}
		}
		if time0 > 0 {
			seconds = append(seconds, time.Since(began).Seconds())
		}
	}
	return tell(map[string]any{"seconds": seconds, "bytes": length})
}
