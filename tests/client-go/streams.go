package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
)

var streamChecks = []check{
	{"exec", execs},
	{"exec-terminal", execTerminal},
	{"attach", attach},
	{"logs", logs},
	{"port-forward", portForward},
}

func (c *cluster) stream(ctx context.Context, pod, verb string, options any, streams remotecommand.StreamOptions) error {
	request := c.client.CoreV1().RESTClient().Post().Namespace(c.namespace).Resource("pods").Name(pod).SubResource(verb)
	switch options := options.(type) {
	case *corev1.PodExecOptions:
		request = request.VersionedParams(options, scheme.ParameterCodec)
	case *corev1.PodAttachOptions:
		request = request.VersionedParams(options, scheme.ParameterCodec)
	}
	executor, err := remotecommand.NewWebSocketExecutor(c.config, http.MethodGet, request.URL().String())
	if err != nil {
		return err
	}
	return executor.StreamWithContext(ctx, streams)
}

func execs(ctx context.Context, c *cluster) error {
	if _, err := c.client.CoreV1().Pods(c.namespace).Create(ctx, c.pod("shell"), metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := c.podRuns(ctx, "shell"); err != nil {
		return err
	}
	var out, complaints bytes.Buffer
	// More than any buffer on the way holds, and its end is seen.
	sent := strings.Repeat("0123456789abcdef", 128<<10)
	err := c.stream(ctx, "shell", "exec", &corev1.PodExecOptions{
		Command: []string{"sh", "-c", "cat; echo done >&2"}, Stdin: true, Stdout: true, Stderr: true,
	}, remotecommand.StreamOptions{Stdin: strings.NewReader(sent), Stdout: &out, Stderr: &complaints})
	if err != nil {
		return err
	}
	if out.String() != sent {
		return fmt.Errorf("%d bytes were sent, and %d others came back", len(sent), out.Len())
	}
	if err := same("stderr", complaints.String(), "done\n"); err != nil {
		return err
	}
	err = c.stream(ctx, "shell", "exec", &corev1.PodExecOptions{
		Command: []string{"sh", "-c", "exit 7"}, Stdout: true,
	}, remotecommand.StreamOptions{Stdout: io.Discard})
	var code exec.CodeExitError
	if !errors.As(err, &code) {
		return fmt.Errorf("the exit code came as %w", errors.Join(err))
	}
	return same("the exit code", code.Code, 7)
}

// sizes is a terminal that changes its size once.
type sizes struct{ left []remotecommand.TerminalSize }

func (s *sizes) Next() *remotecommand.TerminalSize {
	if len(s.left) == 0 {
		return nil
	}
	next := s.left[0]
	s.left = s.left[1:]
	return &next
}

func execTerminal(ctx context.Context, c *cluster) error {
	if _, err := c.client.CoreV1().Pods(c.namespace).Create(ctx, c.pod("shell"), metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := c.podRuns(ctx, "shell"); err != nil {
		return err
	}
	var out bytes.Buffer
	err := c.stream(ctx, "shell", "exec", &corev1.PodExecOptions{
		Command: []string{"sh", "-c", "until [ \"$(stty size)\" = '33 77' ]; do :; done; stty size; tty"},
		Stdin:   true, Stdout: true, TTY: true,
	}, remotecommand.StreamOptions{
		Stdin: strings.NewReader(""), Stdout: &out, Tty: true,
		TerminalSizeQueue: &sizes{[]remotecommand.TerminalSize{{Width: 77, Height: 33}}},
	})
	if err != nil {
		return err
	}
	if !strings.Contains(out.String(), "33 77\r\n") || !strings.Contains(out.String(), "/dev/pts/") {
		return fmt.Errorf("the terminal said %q", out.String())
	}
	return nil
}

func attach(ctx context.Context, c *cluster) error {
	pod := c.pod("reader")
	pod.Spec.Containers[0].Command = []string{"sh", "-c", "read line; echo \"read: $line\"; sleep 1000000"}
	pod.Spec.Containers[0].Stdin = true
	if _, err := c.client.CoreV1().Pods(c.namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := c.podRuns(ctx, "reader"); err != nil {
		return err
	}
	life, end := context.WithCancel(ctx)
	defer end()
	heard, says := io.Pipe()
	result := make(chan error, 1)
	go func() {
		result <- c.stream(life, "reader", "attach", &corev1.PodAttachOptions{Stdin: true, Stdout: true},
			remotecommand.StreamOptions{Stdin: strings.NewReader("hello\n"), Stdout: says})
		_ = says.Close()
	}()
	line := make([]byte, len("read: hello\n"))
	if _, err := io.ReadFull(heard, line); err != nil {
		return errors.Join(err, <-result)
	}
	return same("what was read", string(line), "read: hello\n")
}

func logs(ctx context.Context, c *cluster) error {
	pod := c.pod("writer")
	pod.Spec.Containers[0].Command = []string{"sh", "-c", "for i in 1 2 3 4 5; do echo line $i; done; sleep 1000000"}
	pods := c.client.CoreV1().Pods(c.namespace)
	if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := c.podRuns(ctx, "writer"); err != nil {
		return err
	}
	stream, err := pods.GetLogs("writer", &corev1.PodLogOptions{Follow: true}).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	expected := "line 1\nline 2\nline 3\nline 4\nline 5\n"
	found := make([]byte, len(expected))
	if _, err := io.ReadFull(stream, found); err != nil {
		return err
	}
	if err := same("the log", string(found), expected); err != nil {
		return err
	}
	tail, err := pods.GetLogs("writer", &corev1.PodLogOptions{TailLines: pointer[int64](2), Timestamps: true}).DoRaw(ctx)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(tail)), "\n")
	if err := same("the lines of the tail", len(lines), 2); err != nil {
		return err
	}
	stamp, text, _ := strings.Cut(lines[0], " ")
	if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil {
		return err
	}
	return same("the line", text, "line 4")
}

func portForward(ctx context.Context, c *cluster) error {
	pod := c.pod("server")
	pod.Spec.Containers[0].Image = "weft/echo"
	pod.Spec.Containers[0].Command = nil
	pod.Spec.Containers[0].Args = nil
	pods := c.client.CoreV1().Pods(c.namespace)
	if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := c.podRuns(ctx, "server"); err != nil {
		return err
	}
	url := c.client.CoreV1().RESTClient().Post().Namespace(c.namespace).Resource("pods").Name("server").SubResource("portforward").URL()
	dialer, err := portforward.NewSPDYOverWebsocketDialer(url, c.config)
	if err != nil {
		return err
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	defer close(stop)
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		return fmt.Errorf("forwarding ended: %w", err)
	case <-ctx.Done():
		return ctx.Err()
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	return eventually(ctx, "the server answers", func() error {
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", ports[0].Local))
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			return err
		}
		if !strings.Contains(string(body), "pod: server") {
			return fmt.Errorf("the answer is %q", body)
		}
		return nil
	})
}
