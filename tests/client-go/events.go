package main

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/record"
)

var eventChecks = []check{
	{"core-events", coreEvents},
	{"events-k8s-io", newEvents},
}

// The recorder counts what repeats by patching the event.
func coreEvents(ctx context.Context, c *cluster) error {
	about, err := c.client.CoreV1().ConfigMaps(c.namespace).Create(ctx, configMap("about", "1"), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.client.CoreV1().Events("")})
	recorder := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "checker"})
	for range 3 {
		recorder.Event(about, corev1.EventTypeNormal, "Checked", "it is as it should be")
	}
	recorder.Event(about, corev1.EventTypeWarning, "Odd", "it is not")
	return eventually(ctx, "the events are there", func() error {
		list, err := c.client.CoreV1().Events(c.namespace).Search(scheme.Scheme, about)
		if err != nil {
			return err
		}
		counts := map[string]int32{}
		for _, event := range list.Items {
			counts[event.Reason] += event.Count
			if event.Source.Component != "checker" || event.InvolvedObject.UID != about.UID {
				return fmt.Errorf("the event is %+v", event)
			}
		}
		return errors.Join(
			same("the number of events", len(list.Items), 2),
			same("the count of the first", counts["Checked"], 3),
			same("the count of the second", counts["Odd"], 1),
		)
	})
}

// The newer API: another path to the same events, with series instead of counts.
func newEvents(ctx context.Context, c *cluster) error {
	about, err := c.client.CoreV1().ConfigMaps(c.namespace).Create(ctx, configMap("about", "1"), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: c.client.EventsV1()})
	defer broadcaster.Shutdown()
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return err
	}
	recorder := broadcaster.NewRecorder(scheme.Scheme, "example.com/checker")
	tell := func() {
		recorder.Eventf(about, nil, corev1.EventTypeNormal, "Checked", "Checking", "it is as it should be")
	}
	// The recorder writes each from a goroutine of its own: what repeats the first may overtake it.
	tell()
	if err := eventually(ctx, "the first is there", func() error {
		list, err := c.client.EventsV1().Events(c.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		return same("the number of events", len(list.Items), 1)
	}); err != nil {
		return err
	}
	tell()
	tell()
	var event eventsv1.Event
	if err := eventually(ctx, "the event is there", func() error {
		list, err := c.client.EventsV1().Events(c.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(list.Items) != 1 {
			return fmt.Errorf("there are %d events", len(list.Items))
		}
		event = list.Items[0]
		if event.Series == nil {
			return errors.New("it is not a series")
		}
		return nil
	}); err != nil {
		return err
	}
	if err := errors.Join(
		same("the reason", event.Reason, "Checked"),
		same("the action", event.Action, "Checking"),
		same("the note", event.Note, "it is as it should be"),
		same("the controller", event.ReportingController, "example.com/checker"),
		same("what it regards", event.Regarding.Name, "about"),
	); err != nil {
		return err
	}
	// The same object as core/v1 has it.
	old, err := c.client.CoreV1().Events(c.namespace).Get(ctx, event.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	return errors.Join(
		same("the message", old.Message, "it is as it should be"),
		same("the uid", old.UID, event.UID),
		same("the involved object", old.InvolvedObject.Name, "about"),
	)
}
