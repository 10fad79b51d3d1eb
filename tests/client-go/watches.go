package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

var watchChecks = []check{
	{"watch-with-bookmarks", watchWithBookmarks},
	{"retry-watcher", retryWatcher},
	{"watch-from-a-compacted-version", watchFromCompacted},
	{"until", until},
}

// next is the next event of a watch.
func next(ctx context.Context, events watch.Interface) (watch.Event, error) {
	select {
	case event, open := <-events.ResultChan():
		if !open {
			return event, errors.New("the watch ended")
		}
		return event, nil
	case <-ctx.Done():
		return watch.Event{}, ctx.Err()
	}
}

func expectEvent(ctx context.Context, events watch.Interface, kind watch.EventType, name string) (metav1.Object, error) {
	event, err := next(ctx, events)
	if err != nil {
		return nil, fmt.Errorf("waiting for %s %s: %w", kind, name, err)
	}
	object, isObject := event.Object.(metav1.Object)
	if event.Type != kind || !isObject || object.GetName() != name {
		return nil, fmt.Errorf("the event is %s %v, not %s %s", event.Type, event.Object, kind, name)
	}
	return object, nil
}

func watchWithBookmarks(ctx context.Context, c *cluster) error {
	configMaps := c.client.CoreV1().ConfigMaps(c.namespace)
	list, err := configMaps.List(ctx, metav1.ListOptions{LabelSelector: "app=check"})
	if err != nil {
		return err
	}
	// Longer than a busy machine takes for what is done meanwhile.
	events, err := configMaps.Watch(ctx, metav1.ListOptions{
		ResourceVersion: list.ResourceVersion, AllowWatchBookmarks: true, LabelSelector: "app=check",
		TimeoutSeconds: pointer[int64](20),
	})
	if err != nil {
		return err
	}
	defer events.Stop()
	object, err := configMaps.Create(ctx, configMap("a", "1"), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if _, err := expectEvent(ctx, events, watch.Added, "a"); err != nil {
		return err
	}
	object.Data["value"] = "2"
	if object, err = configMaps.Update(ctx, object, metav1.UpdateOptions{}); err != nil {
		return err
	}
	seen, err := expectEvent(ctx, events, watch.Modified, "a")
	if err != nil {
		return err
	}
	if err := same("the watched version", seen.GetResourceVersion(), object.ResourceVersion); err != nil {
		return err
	}
	if err := configMaps.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		return err
	}
	last, err := expectEvent(ctx, events, watch.Deleted, "a")
	if err != nil {
		return err
	}
	// Before it times out, a watch says how far it is.
	bookmark, err := next(ctx, events)
	if err != nil {
		return fmt.Errorf("waiting for a bookmark: %w", err)
	}
	if bookmark.Type != watch.Bookmark {
		return fmt.Errorf("the event is %s, not a bookmark", bookmark.Type)
	}
	from := bookmark.Object.(metav1.Object).GetResourceVersion()
	if len(from) < len(last.GetResourceVersion()) || from < last.GetResourceVersion() {
		return fmt.Errorf("the bookmark is at %s, before %s", from, last.GetResourceVersion())
	}
	for {
		if _, open := <-events.ResultChan(); !open {
			return nil
		}
	}
}

func (c *cluster) listWatch(ctx context.Context) *cache.ListWatch {
	configMaps := c.client.CoreV1().ConfigMaps(c.namespace)
	return &cache.ListWatch{
		ListFunc: func(options metav1.ListOptions) (runtime.Object, error) {
			return configMaps.List(ctx, options)
		},
		WatchFunc: func(options metav1.ListOptions) (watch.Interface, error) {
			options.LabelSelector = "app=check"
			return configMaps.Watch(ctx, options)
		},
	}
}

// A watch that goes on by itself, over the end of the API server.
func retryWatcher(ctx context.Context, c *cluster) error {
	configMaps := c.client.CoreV1().ConfigMaps(c.namespace)
	list, err := configMaps.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	watcher, err := watchtools.NewRetryWatcher(list.ResourceVersion, c.listWatch(ctx))
	if err != nil {
		return err
	}
	defer watcher.Stop()
	for round := range 3 {
		name := fmt.Sprintf("round-%d", round)
		if _, err := configMaps.Create(ctx, configMap(name, "1"), metav1.CreateOptions{}); err != nil {
			return err
		}
		if _, err := expectEvent(ctx, watcher, watch.Added, name); err != nil {
			return err
		}
	}
	if err := killAPIServer(); err != nil {
		return err
	}
	if err := eventually(ctx, "the API server answers again", func() error {
		_, err := configMaps.Create(ctx, configMap("later", "1"), metav1.CreateOptions{})
		// An answer may have been lost.
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	}); err != nil {
		return err
	}
	event, err := next(ctx, watcher)
	if err != nil {
		return err
	}
	if event.Type == watch.Added {
		return same("what was added", event.Object.(metav1.Object).GetName(), "later")
	}
	// A server that has just started may not know what was before: it says so, as kube-apiserver.
	return is("a watch from before the restart", apierrors.FromObject(event.Object), apierrors.IsResourceExpired)
}

// outlive writes until the server has forgotten a version.
func (c *cluster) outlive(ctx context.Context, version string) error {
	configMaps := c.client.CoreV1().ConfigMaps(c.namespace)
	object, err := configMaps.Create(ctx, configMap("growing", ""), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	for round := 0; ; round++ {
		object.Data["value"] = fmt.Sprint(round, strings.Repeat("x", 256<<10))
		if object, err = configMaps.Update(ctx, object, metav1.UpdateOptions{}); err != nil {
			return err
		}
		if round%50 != 0 {
			continue
		}
		gone, err := c.isGone(ctx, version)
		if err != nil {
			return err
		}
		if gone {
			return configMaps.Delete(ctx, "growing", metav1.DeleteOptions{})
		}
	}
}

func (c *cluster) isGone(ctx context.Context, version string) (bool, error) {
	events, err := c.client.CoreV1().ConfigMaps(c.namespace).Watch(ctx, metav1.ListOptions{
		ResourceVersion: version, TimeoutSeconds: pointer[int64](1),
	})
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer events.Stop()
	event, open := <-events.ResultChan()
	if !open || event.Type != watch.Error {
		return false, nil
	}
	err = apierrors.FromObject(event.Object)
	if !apierrors.IsResourceExpired(err) {
		return false, fmt.Errorf("a compacted version is answered with %w", err)
	}
	return true, nil
}

func watchFromCompacted(ctx context.Context, c *cluster) error {
	configMaps := c.client.CoreV1().ConfigMaps(c.namespace)
	first, err := configMaps.Create(ctx, configMap("first", "1"), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if err := c.outlive(ctx, first.ResourceVersion); err != nil {
		return err
	}
	// What retries by itself gives up, and says why.
	watcher, err := watchtools.NewRetryWatcher(first.ResourceVersion, c.listWatch(ctx))
	if err != nil {
		return err
	}
	defer watcher.Stop()
	event, err := next(ctx, watcher)
	if err != nil {
		return err
	}
	if event.Type != watch.Error {
		return fmt.Errorf("the event is %s, not an error", event.Type)
	}
	return is("a watch from a compacted version", apierrors.FromObject(event.Object), func(err error) bool {
		return apierrors.IsResourceExpired(err) || apierrors.IsGone(err)
	})
}

// UntilWithSync is what waits for a condition in many programs.
func until(ctx context.Context, c *cluster) error {
	configMaps := c.client.CoreV1().ConfigMaps(c.namespace)
	go func() {
		for round := range 5 {
			_, _ = configMaps.Create(ctx, configMap(fmt.Sprint("part-", round), "1"), metav1.CreateOptions{})
		}
	}()
	names := map[string]bool{}
	_, err := watchtools.UntilWithSync(ctx, c.listWatch(ctx), &corev1.ConfigMap{}, nil, func(event watch.Event) (bool, error) {
		if name := event.Object.(metav1.Object).GetName(); strings.HasPrefix(name, "part-") {
			names[name] = true
		}
		return len(names) == 5, nil
	})
	return err
}
