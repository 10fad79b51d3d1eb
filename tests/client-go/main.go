// Programs as others write them, against the API server of a lab: client-go and
// controller-runtime, as they come.
//
//	client-go [NAME...]   runs these checks, or all
//
// KUBECONFIG says where. One line is printed a check: "ok NAME", or "FAIL NAME: why". A check
// that needs the API server killed prints "kill", and goes on when it reads a line.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// How long anything may take on a busy machine.
const patience = 200 * time.Second

// check is one thing that real programs do.
type check struct {
	name string
	run  func(context.Context, *cluster) error
}

// What is not in this list is not run; the test compares it with its own.
var checks = slices.Concat(
	informerChecks, watchChecks, electionChecks, applyChecks, kindChecks, genericChecks,
	writerChecks, eventChecks, identityChecks, workloadChecks, streamChecks, customChecks,
	managerChecks,
)

// cluster is what a check gets: clients, and a namespace of its own.
type cluster struct {
	config    *rest.Config
	client    kubernetes.Interface
	namespace string
}

// killAPIServer has whoever runs this program kill the API server; it is started anew by the lab.
func killAPIServer() error {
	fmt.Println("kill")
	_, err := stdin.ReadString('\n')
	return err
}

var stdin = bufio.NewReader(os.Stdin)

func main() {
	wanted := os.Args[1:]
	if slices.Equal(wanted, []string{"--list"}) {
		for _, check := range checks {
			fmt.Println(check.name)
		}
		return
	}
	failed := false
	for _, check := range checks {
		if len(wanted) > 0 && !slices.Contains(wanted, check.name) {
			continue
		}
		if err := attempt(check); err != nil {
			failed = true
			fmt.Printf("FAIL %s: %s\n", check.name, strings.ReplaceAll(err.Error(), "\n", "; "))
		} else {
			fmt.Printf("ok %s\n", check.name)
		}
	}
	if failed {
		os.Exit(1)
	}
}

func attempt(check check) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	// Checks want an answer, not a fair share of a busy server.
	config.QPS, config.Burst = 1000, 2000
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	namespace, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: check.name + "-"},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	defer func() {
		background := metav1.DeletePropagationBackground
		_ = client.CoreV1().Namespaces().Delete(context.Background(), namespace.Name,
			metav1.DeleteOptions{PropagationPolicy: &background})
	}()
	result := make(chan error, 1)
	go func() { result <- check.run(ctx, &cluster{config, client, namespace.Name}) }()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		// A check that waits for something which never comes; what it waits for says where.
		select {
		case err := <-result:
			return errors.Join(ctx.Err(), err)
		case <-time.After(5 * time.Second):
			return ctx.Err()
		}
	}
}

// eventually waits until something holds: it is asked again until it returns nil.
func eventually(ctx context.Context, what string, holds func() error) error {
	for {
		err := holds()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; at last: %w", what, ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// same says what is different.
func same[T comparable](what string, found, expected T) error {
	if found != expected {
		return fmt.Errorf("%s is %v, not %v", what, found, expected)
	}
	return nil
}

// is says whether an error is of the expected kind.
func is(what string, err error, kind func(error) bool) error {
	if err == nil {
		return fmt.Errorf("%s was not refused", what)
	}
	if !kind(err) {
		return fmt.Errorf("%s was refused for another reason: %w", what, err)
	}
	return nil
}

func pointer[T any](value T) *T { return &value }

// configMap is an object that nobody else writes to.
func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "check"}},
		Data:       map[string]string{"value": value},
	}
}
