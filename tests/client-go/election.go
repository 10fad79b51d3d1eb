package main

import (
	"context"
	"errors"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

var electionChecks = []check{{"leader-election", leaderElection}}

// stage is who leads, as the candidates themselves see it.
type stage struct {
	sync.Mutex
	leaders map[string]bool
	both    bool
}

func (s *stage) set(name string, leads bool) {
	s.Lock()
	defer s.Unlock()
	s.leaders[name] = leads
	s.both = s.both || s.leaders["first"] && s.leaders["second"]
}

func (s *stage) leads(name string) func() error {
	return func() error {
		s.Lock()
		defer s.Unlock()
		if !s.leaders[name] {
			return errors.New(name + " does not lead")
		}
		return nil
	}
}

func (c *cluster) runFor(ctx context.Context, name string, stage *stage) error {
	lock := &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Name: "leader", Namespace: c.namespace},
		Client:     c.client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: name},
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock,
		// client-go's own: a busy machine may hold up a renewal for seconds.
		LeaseDuration: 15 * time.Second,
		RenewDeadline: 10 * time.Second,
		RetryPeriod:   200 * time.Millisecond,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { stage.set(name, true) },
			OnStoppedLeading: func() { stage.set(name, false) },
		},
	})
	if err != nil {
		return err
	}
	go elector.Run(ctx)
	return nil
}

func leaderElection(ctx context.Context, c *cluster) error {
	stage := &stage{leaders: map[string]bool{}}
	life, die := context.WithCancel(ctx)
	defer die()
	if err := c.runFor(life, "first", stage); err != nil {
		return err
	}
	if err := eventually(ctx, "the first leads", stage.leads("first")); err != nil {
		return err
	}
	if err := c.runFor(ctx, "second", stage); err != nil {
		return err
	}
	lease, err := c.client.CoordinationV1().Leases(c.namespace).Get(ctx, "leader", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if err := same("the holder", *lease.Spec.HolderIdentity, "first"); err != nil {
		return err
	}
	// It dies without giving the lease back.
	die()
	if err := eventually(ctx, "the second takes over", stage.leads("second")); err != nil {
		return err
	}
	lease, err = c.client.CoordinationV1().Leases(c.namespace).Get(ctx, "leader", metav1.GetOptions{})
	if err != nil {
		return err
	}
	stage.Lock()
	defer stage.Unlock()
	return errors.Join(
		same("two at once", stage.both, false),
		same("the holder", *lease.Spec.HolderIdentity, "second"),
		same("the transitions", *lease.Spec.LeaseTransitions, 1),
	)
}
