package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"
)

var writerChecks = []check{
	{"concurrent-writers", concurrentWriters},
	{"concurrent-appliers", concurrentAppliers},
}

// Twenty writers count up one number: each increment is there in the end.
func concurrentWriters(ctx context.Context, c *cluster) error {
	configMaps := c.client.CoreV1().ConfigMaps(c.namespace)
	const writers, increments = 20, 10
	if _, err := configMaps.Create(ctx, configMap("counter", "0"), metav1.CreateOptions{}); err != nil {
		return err
	}
	var conflicts atomic.Int32
	patient := wait.Backoff{Steps: 1000, Duration: 1e6, Factor: 1.1, Jitter: 1, Cap: 100e6}
	increment := func() error {
		return retry.RetryOnConflict(patient, func() error {
			object, err := configMaps.Get(ctx, "counter", metav1.GetOptions{})
			if err != nil {
				return err
			}
			number, err := strconv.Atoi(object.Data["value"])
			if err != nil {
				return err
			}
			object.Data["value"] = strconv.Itoa(number + 1)
			_, err = configMaps.Update(ctx, object, metav1.UpdateOptions{})
			if apierrors.IsConflict(err) {
				conflicts.Add(1)
			}
			return err
		})
	}
	failures := atEachOther(writers, func(int) error {
		for range increments {
			if err := increment(); err != nil {
				return err
			}
		}
		return nil
	})
	if failures != nil {
		return failures
	}
	object, err := configMaps.Get(ctx, "counter", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if conflicts.Load() == 0 {
		return errors.New("the writers never met")
	}
	return same("the counter", object.Data["value"], strconv.Itoa(writers*increments))
}

// Twenty patch one object without saying a version: nothing of it is a conflict or gets lost.
func concurrentAppliers(ctx context.Context, c *cluster) error {
	configMaps := c.client.CoreV1().ConfigMaps(c.namespace)
	const writers = 20
	if _, err := configMaps.Create(ctx, configMap("shared", "0"), metav1.CreateOptions{}); err != nil {
		return err
	}
	failures := atEachOther(writers, func(number int) error {
		patch := fmt.Sprintf(`{"data":{"from-%d":"yes"}}`, number)
		_, err := configMaps.Patch(ctx, "shared", "application/merge-patch+json", []byte(patch), metav1.PatchOptions{})
		return err
	})
	if failures != nil {
		return failures
	}
	object, err := configMaps.Get(ctx, "shared", metav1.GetOptions{})
	if err != nil {
		return err
	}
	return same("the number of fields", len(object.Data), writers+1)
}

func atEachOther(count int, work func(number int) error) error {
	failures := make([]error, count)
	var all sync.WaitGroup
	for number := range count {
		all.Add(1)
		go func() {
			defer all.Done()
			failures[number] = work(number)
		}()
	}
	all.Wait()
	return errors.Join(failures...)
}
