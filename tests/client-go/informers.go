package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

var informerChecks = []check{
	{"informer", informerSeesEverything},
	{"informer-survives-a-kill", informerSurvivesAKill},
	{"informer-survives-gone", informerSurvivesGone},
	{"informer-with-selector", informerWithSelector},
}

// spy looks at the requests of an informer, and can make the next watch begin in the past.
type spy struct {
	next      http.RoundTripper
	lists     atomic.Int32
	streamed  atomic.Int32
	watches   atomic.Int32
	fromThere atomic.Pointer[string]
	gone      atomic.Int32
}

func (s *spy) RoundTrip(request *http.Request) (*http.Response, error) {
	query := request.URL.Query()
	switch {
	case query.Get("watch") == "":
		s.lists.Add(1)
	case query.Get("sendInitialEvents") == "true":
		s.streamed.Add(1)
	default:
		s.watches.Add(1)
		if version := s.fromThere.Swap(nil); version != nil {
			query.Set("resourceVersion", *version)
			request = request.Clone(request.Context())
			request.URL.RawQuery = query.Encode()
			s.gone.Add(1)
		}
	}
	return s.next.RoundTrip(request)
}

func (c *cluster) watched() (*spy, kubernetes.Interface, error) {
	spy := &spy{}
	config := rest.CopyConfig(c.config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		spy.next = next
		return spy
	})
	client, err := kubernetes.NewForConfig(config)
	return spy, client, err
}

// follower is an informer of ConfigMaps, and counts of what it was told of "changing".
type follower struct {
	informer cache.SharedIndexInformer
	lister   func(name string) (*corev1.ConfigMap, error)
	all      func() int
	added    atomic.Int32
	deleted  atomic.Int32
}

func follow(ctx context.Context, client kubernetes.Interface, namespace, selector string) (*follower, error) {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) { options.LabelSelector = selector }))
	configMaps := factory.Core().V1().ConfigMaps()
	follower := &follower{informer: configMaps.Informer()}
	follower.lister = func(name string) (*corev1.ConfigMap, error) {
		return configMaps.Lister().ConfigMaps(namespace).Get(name)
	}
	follower.all = func() int {
		list, _ := configMaps.Lister().List(labels.Everything())
		return len(list)
	}
	// Of the others some news may still be on the way to the handlers.
	changing := func(object any) bool {
		key, err := cache.DeletionHandlingObjectToName(object)
		return err == nil && key.Name == "changing"
	}
	_, err := follower.informer.AddEventHandler(cache.FilteringResourceEventHandler{
		FilterFunc: changing,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { follower.added.Add(1) },
			DeleteFunc: func(any) { follower.deleted.Add(1) },
		},
	})
	if err != nil {
		return nil, err
	}
	factory.Start(ctx.Done())
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return nil, fmt.Errorf("the informer of %v did not sync", kind)
		}
	}
	return follower, nil
}

// has waits until the cache has an object with a value; "" is none.
func (f *follower) has(ctx context.Context, name, value string) error {
	return eventually(ctx, fmt.Sprintf("the cache has %s=%q", name, value), func() error {
		object, err := f.lister(name)
		if value == "" {
			if err == nil {
				return errors.New("it is still there")
			}
			return nil
		}
		if err != nil {
			return err
		}
		return same("the value", object.Data["value"], value)
	})
}

func informerSeesEverything(ctx context.Context, c *cluster) error {
	configMaps := c.client.CoreV1().ConfigMaps(c.namespace)
	if _, err := configMaps.Create(ctx, configMap("before", "1"), metav1.CreateOptions{}); err != nil {
		return err
	}
	spy, client, err := c.watched()
	if err != nil {
		return err
	}
	follower, err := follow(ctx, client, c.namespace, "")
	if err != nil {
		return err
	}
	if err := follower.has(ctx, "before", "1"); err != nil {
		return err
	}
	// The feature gate says how an informer gets what is there: as a list, or as a stream.
	streams := os.Getenv("KUBE_FEATURE_WatchListClient") == "true"
	if streams && (spy.streamed.Load() == 0 || spy.lists.Load() > 0) {
		return fmt.Errorf("with WatchListClient it listed %d times, and streamed %d times", spy.lists.Load(), spy.streamed.Load())
	}
	if !streams && (spy.streamed.Load() > 0 || spy.lists.Load() == 0) {
		return fmt.Errorf("without WatchListClient it listed %d times, and streamed %d times", spy.lists.Load(), spy.streamed.Load())
	}
	return c.changesAreSeen(ctx, follower)
}

// changesAreSeen creates, updates and deletes an object, and finds each in the cache.
func (c *cluster) changesAreSeen(ctx context.Context, follower *follower) error {
	configMaps := c.client.CoreV1().ConfigMaps(c.namespace)
	added, deleted := follower.added.Load(), follower.deleted.Load()
	object, err := configMaps.Create(ctx, configMap("changing", "1"), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if err := follower.has(ctx, "changing", "1"); err != nil {
		return err
	}
	object.Data["value"] = "2"
	if _, err := configMaps.Update(ctx, object, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if err := follower.has(ctx, "changing", "2"); err != nil {
		return err
	}
	if err := configMaps.Delete(ctx, "changing", metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := follower.has(ctx, "changing", ""); err != nil {
		return err
	}
	return eventually(ctx, "the handlers were told", func() error {
		return errors.Join(
			same("the number of additions", follower.added.Load(), added+1),
			same("the number of deletions", follower.deleted.Load(), deleted+1),
		)
	})
}

func informerSurvivesAKill(ctx context.Context, c *cluster) error {
	follower, err := follow(ctx, c.client, c.namespace, "")
	if err != nil {
		return err
	}
	configMaps := c.client.CoreV1().ConfigMaps(c.namespace)
	for round := range 3 {
		name := fmt.Sprintf("round-%d", round)
		if _, err := configMaps.Create(ctx, configMap(name, "1"), metav1.CreateOptions{}); err != nil {
			return err
		}
		if err := killAPIServer(); err != nil {
			return err
		}
		// Deleted while the informer may not be watching: it has to find that out.
		err := eventually(ctx, "the API server answers again", func() error {
			err := configMaps.Delete(ctx, name, metav1.DeleteOptions{})
			// An answer may have been lost.
			if apierrors.IsNotFound(err) {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
		if err := follower.has(ctx, name, ""); err != nil {
			return err
		}
		if err := c.changesAreSeen(ctx, follower); err != nil {
			return err
		}
	}
	return nil
}

// The informer's own watch is broken off, and made to go on from a version that is compacted.
func informerSurvivesGone(ctx context.Context, c *cluster) error {
	configMaps := c.client.CoreV1().ConfigMaps(c.namespace)
	first, err := configMaps.Create(ctx, configMap("first", "1"), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	spy, client, err := c.watched()
	if err != nil {
		return err
	}
	follower, err := follow(ctx, client, c.namespace, "")
	if err != nil {
		return err
	}
	if err := c.outlive(ctx, first.ResourceVersion); err != nil {
		return err
	}
	spy.fromThere.Store(&first.ResourceVersion)
	if err := killAPIServer(); err != nil {
		return err
	}
	if err := eventually(ctx, "the API server answers again", func() error {
		_, err := configMaps.Get(ctx, "first", metav1.GetOptions{})
		return err
	}); err != nil {
		return err
	}
	if err := eventually(ctx, "the watch begins anew in the past", func() error {
		if spy.gone.Load() == 0 {
			return errors.New("not yet")
		}
		return nil
	}); err != nil {
		return err
	}
	if err := follower.has(ctx, "first", "1"); err != nil {
		return err
	}
	return c.changesAreSeen(ctx, follower)
}

func informerWithSelector(ctx context.Context, c *cluster) error {
	configMaps := c.client.CoreV1().ConfigMaps(c.namespace)
	follower, err := follow(ctx, c.client, c.namespace, "app in (check),hidden!=yes")
	if err != nil {
		return err
	}
	object, err := configMaps.Create(ctx, configMap("shown", "1"), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if err := follower.has(ctx, "shown", "1"); err != nil {
		return err
	}
	object.Labels["hidden"] = "yes"
	if object, err = configMaps.Update(ctx, object, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if err := follower.has(ctx, "shown", ""); err != nil {
		return err
	}
	delete(object.Labels, "hidden")
	if _, err = configMaps.Update(ctx, object, metav1.UpdateOptions{}); err != nil {
		return err
	}
	return follower.has(ctx, "shown", "1")
}
