package main

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	metrics "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/scheme"
)

var managerChecks = []check{{"controller-runtime", controllerRuntime}}

// Site is a kind of one's own: a text, served by as many pods as asked for.
type Site struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              SiteSpec   `json:"spec"`
	Status            SiteStatus `json:"status,omitempty"`
}

type SiteSpec struct {
	Text     string `json:"text"`
	Replicas int32  `json:"replicas,omitempty"`
}

type SiteStatus struct {
	Ready int32 `json:"ready,omitempty"`
}

func (s *Site) DeepCopyObject() runtime.Object {
	copied := *s
	copied.ObjectMeta = *s.ObjectMeta.DeepCopy()
	return &copied
}

type SiteList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Site `json:"items"`
}

func (l *SiteList) DeepCopyObject() runtime.Object {
	copied := *l
	copied.Items = nil
	for _, site := range l.Items {
		copied.Items = append(copied.Items, *site.DeepCopyObject().(*Site))
	}
	return &copied
}

const siteFinalizer = "example.com/site"

// reconciler keeps a ConfigMap and a Deployment for each Site, as such operators do.
type reconciler struct {
	client.Client
	cleaned chan types.NamespacedName
}

func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var site Site
	if err := r.Get(ctx, request.NamespacedName, &site); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if site.DeletionTimestamp != nil {
		if controllerutil.RemoveFinalizer(&site, siteFinalizer) {
			r.cleaned <- request.NamespacedName
			return ctrl.Result{}, r.Update(ctx, &site)
		}
		return ctrl.Result{}, nil
	}
	if controllerutil.AddFinalizer(&site, siteFinalizer) {
		return ctrl.Result{}, r.Update(ctx, &site)
	}
	meta := metav1.ObjectMeta{Name: site.Name, Namespace: site.Namespace}
	text := &corev1.ConfigMap{ObjectMeta: meta}
	if _, err := controllerutil.CreateOrUpdate(ctx, r.Client, text, func() error {
		text.Data = map[string]string{"text": site.Spec.Text}
		return controllerutil.SetControllerReference(&site, text, r.Scheme())
	}); err != nil {
		return ctrl.Result{}, err
	}
	pods := &appsv1.Deployment{ObjectMeta: meta}
	if _, err := controllerutil.CreateOrPatch(ctx, r.Client, pods, func() error {
		labels := map[string]string{"site": site.Name}
		pods.Spec.Replicas = &site.Spec.Replicas
		pods.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
		pods.Spec.Template.Labels = maps.Clone(labels)
		pods.Spec.Template.Annotations = map[string]string{"text": site.Spec.Text}
		if len(pods.Spec.Template.Spec.Containers) == 0 {
			pods.Spec.Template.Spec.Containers = []corev1.Container{{Name: "main", Image: "pause"}}
		}
		return controllerutil.SetControllerReference(&site, pods, r.Scheme())
	}); err != nil {
		return ctrl.Result{}, err
	}
	if site.Status.Ready != pods.Status.ReadyReplicas {
		before := site.DeepCopyObject().(*Site)
		site.Status.Ready = pods.Status.ReadyReplicas
		return ctrl.Result{}, r.Status().Patch(ctx, &site, client.MergeFrom(before))
	}
	return ctrl.Result{}, nil
}

// A manager as operators have one: leader election, caches, a finalizer, owned objects, a status.
func controllerRuntime(ctx context.Context, c *cluster) error {
	ctrl.SetLogger(logr.Discard())
	remove, err := c.establish(ctx)
	if err != nil {
		return err
	}
	defer remove()
	kinds := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(kinds); err != nil {
		return err
	}
	builder := &scheme.Builder{GroupVersion: schema.GroupVersion{Group: c.group(), Version: "v1"}}
	if err := builder.Register(&Site{}, &SiteList{}).AddToScheme(kinds); err != nil {
		return err
	}
	manager, err := ctrl.NewManager(c.config, ctrl.Options{
		Scheme:  kinds,
		Metrics: metrics.Options{BindAddress: "0"},
		Cache:   cache.Options{DefaultNamespaces: map[string]cache.Config{c.namespace: {}}},

		LeaderElection: true, LeaderElectionID: "sites", LeaderElectionNamespace: c.namespace,
	})
	if err != nil {
		return err
	}
	reconciler := &reconciler{manager.GetClient(), make(chan types.NamespacedName, 10)}
	if err := ctrl.NewControllerManagedBy(manager).For(&Site{}).Owns(&appsv1.Deployment{}).Owns(&corev1.ConfigMap{}).Complete(reconciler); err != nil {
		return err
	}
	life, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- manager.Start(life) }()
	defer stop()
	if err := c.sitesAreKept(ctx, manager.GetClient(), reconciler.cleaned); err != nil {
		return err
	}
	stop()
	return <-ended
}

func (c *cluster) sitesAreKept(ctx context.Context, objects client.Client, cleaned <-chan types.NamespacedName) error {
	site := &Site{ObjectMeta: metav1.ObjectMeta{Name: "home", Namespace: c.namespace}, Spec: SiteSpec{Text: "hello"}}
	if err := objects.Create(ctx, site); err != nil {
		return err
	}
	if err := same("the default", site.Spec.Replicas, 2); err != nil {
		return err
	}
	key := client.ObjectKeyFromObject(site)
	ready := func(count int32, text string) error {
		return eventually(ctx, fmt.Sprint(count, " pods of it are ready"), func() error {
			var deployment appsv1.Deployment
			if err := errors.Join(objects.Get(ctx, key, site), objects.Get(ctx, key, &deployment)); err != nil {
				return err
			}
			return errors.Join(
				same("the status", site.Status.Ready, count),
				same("the text", deployment.Spec.Template.Annotations["text"], text),
			)
		})
	}
	if err := ready(2, "hello"); err != nil {
		return err
	}
	// A change, and somebody who undoes what the controller did.
	patch := client.MergeFrom(site.DeepCopyObject().(*Site))
	site.Spec.Text, site.Spec.Replicas = "other", 1
	if err := objects.Patch(ctx, site, patch); err != nil {
		return err
	}
	if err := objects.Delete(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "home", Namespace: c.namespace}}); err != nil {
		return err
	}
	if err := ready(1, "other"); err != nil {
		return err
	}
	if err := eventually(ctx, "the ConfigMap is there again", func() error {
		var text corev1.ConfigMap
		if err := objects.Get(ctx, key, &text); err != nil {
			return err
		}
		return same("the text", text.Data["text"], "other")
	}); err != nil {
		return err
	}
	if err := objects.Delete(ctx, site); err != nil {
		return err
	}
	select {
	case <-cleaned:
	case <-ctx.Done():
		return errors.New("the finalizer was not seen")
	}
	return eventually(ctx, "everything of it is gone", func() error {
		for what, object := range map[string]client.Object{"Site": &Site{}, "Deployment": &appsv1.Deployment{}, "ConfigMap": &corev1.ConfigMap{}} {
			if err := is("reading the "+what, objects.Get(ctx, key, object), apierrors.IsNotFound); err != nil {
				return err
			}
		}
		return nil
	})
}
