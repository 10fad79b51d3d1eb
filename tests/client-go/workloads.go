package main

import (
	"context"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/util/retry"
)

var workloadChecks = []check{
	{"scale-client", scaleClient},
	{"eviction", eviction},
	{"rollback", rollback},
	{"finalizers-and-owners", finalizersAndOwners},
}

var appLabels = map[string]string{"app": "workload"}

func (c *cluster) pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: appLabels},
		Spec: corev1.PodSpec{
			Containers:                    []corev1.Container{{Name: "main", Image: "busybox", Command: []string{"sleep", "1000000"}}},
			TerminationGracePeriodSeconds: pointer[int64](0),
		},
	}
}

func (c *cluster) podRuns(ctx context.Context, name string) error {
	return eventually(ctx, "the pod runs", func() error {
		pod, err := c.client.CoreV1().Pods(c.namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		return same("the phase", pod.Status.Phase, corev1.PodRunning)
	})
}

func (c *cluster) deploy(ctx context.Context, replicas int32) (*appsv1.Deployment, error) {
	pod := c.pod("")
	return c.client.AppsV1().Deployments(c.namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "workload"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: appLabels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: appLabels}, Spec: pod.Spec},
		},
	}, metav1.CreateOptions{})
}

func (c *cluster) available(ctx context.Context, replicas int32) error {
	return eventually(ctx, fmt.Sprint(replicas, " pods are available"), func() error {
		deployment, err := c.client.AppsV1().Deployments(c.namespace).Get(ctx, "workload", metav1.GetOptions{})
		if err != nil {
			return err
		}
		return errors.Join(
			same("the observed generation", deployment.Status.ObservedGeneration, deployment.Generation),
			same("the available pods", deployment.Status.AvailableReplicas, replicas),
			same("the updated pods", deployment.Status.UpdatedReplicas, replicas),
			same("the pods", deployment.Status.Replicas, replicas),
		)
	})
}

func scaleClient(ctx context.Context, c *cluster) error {
	if _, err := c.deploy(ctx, 1); err != nil {
		return err
	}
	if err := c.available(ctx, 1); err != nil {
		return err
	}
	mapper, err := c.mapper()
	if err != nil {
		return err
	}
	scales, err := scale.NewForConfig(c.config, mapper, dynamic.LegacyAPIPathResolverFunc,
		scale.NewDiscoveryScaleKindResolver(c.client.Discovery()))
	if err != nil {
		return err
	}
	deployments := schema.GroupResource{Group: "apps", Resource: "deployments"}
	var found *autoscalingv1.Scale
	// The controller may write the status between the two.
	if err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		found, err = scales.Scales(c.namespace).Get(ctx, deployments, "workload", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if err := errors.Join(same("the replicas", found.Spec.Replicas, 1), same("the selector", found.Status.Selector, "app=workload")); err != nil {
			return err
		}
		found.Spec.Replicas = 3
		_, err = scales.Scales(c.namespace).Update(ctx, deployments, found, metav1.UpdateOptions{})
		return err
	}); err != nil {
		return err
	}
	_, err = scales.Scales(c.namespace).Update(ctx, deployments, found, metav1.UpdateOptions{})
	if err := is("the stale scale", err, apierrors.IsConflict); err != nil {
		return err
	}
	if err := c.available(ctx, 3); err != nil {
		return err
	}
	patch := []byte(`{"spec":{"replicas":0}}`)
	if _, err := scales.Scales(c.namespace).Patch(ctx, deployments.WithVersion("v1"), "workload", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return err
	}
	if err := c.available(ctx, 0); err != nil {
		return err
	}
	var typed *autoscalingv1.Scale
	if typed, err = c.client.AppsV1().Deployments(c.namespace).GetScale(ctx, "workload", metav1.GetOptions{}); err != nil {
		return err
	}
	return same("the replicas", typed.Spec.Replicas, 0)
}

func eviction(ctx context.Context, c *cluster) error {
	pods := c.client.CoreV1().Pods(c.namespace)
	if _, err := pods.Create(ctx, c.pod("victim"), metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := c.podRuns(ctx, "victim"); err != nil {
		return err
	}
	victim := &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Name: "victim", Namespace: c.namespace},
		DeleteOptions: &metav1.DeleteOptions{GracePeriodSeconds: pointer[int64](0)},
	}
	if err := pods.EvictV1(ctx, victim); err != nil {
		return err
	}
	return eventually(ctx, "it is gone", func() error {
		_, err := pods.Get(ctx, "victim", metav1.GetOptions{})
		return is("reading it", err, apierrors.IsNotFound)
	})
}

// The revisions of a Deployment, as `kubectl rollout` reads them.
func rollback(ctx context.Context, c *cluster) error {
	deployments := c.client.AppsV1().Deployments(c.namespace)
	if _, err := c.deploy(ctx, 1); err != nil {
		return err
	}
	if err := c.available(ctx, 1); err != nil {
		return err
	}
	for _, colour := range []string{"blue", "red"} {
		patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"colour":%q}}}}}`, colour)
		if _, err := deployments.Patch(ctx, "workload", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			return err
		}
		if err := c.available(ctx, 1); err != nil {
			return err
		}
	}
	revisions := func() (map[string]string, error) {
		sets, err := c.client.AppsV1().ReplicaSets(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=workload"})
		found := map[string]string{}
		for _, set := range sets.Items {
			found[set.Annotations["deployment.kubernetes.io/revision"]] = set.Spec.Template.Annotations["colour"]
		}
		return found, err
	}
	found, err := revisions()
	if err != nil {
		return err
	}
	if len(found) != 3 || found["1"] != "" || found["2"] != "blue" || found["3"] != "red" {
		return fmt.Errorf("the revisions are %v", found)
	}
	back := `{"spec":{"template":{"metadata":{"annotations":{"colour":"blue"}}}}}`
	if _, err := deployments.Patch(ctx, "workload", types.StrategicMergePatchType, []byte(back), metav1.PatchOptions{}); err != nil {
		return err
	}
	return eventually(ctx, "the second revision is the fourth", func() error {
		found, err := revisions()
		if err != nil {
			return err
		}
		deployment, err := deployments.Get(ctx, "workload", metav1.GetOptions{})
		if err != nil {
			return err
		}
		return errors.Join(
			same("the number of revisions", len(found), 3),
			same("the fourth", found["4"], "blue"),
			same("the Deployment's", deployment.Annotations["deployment.kubernetes.io/revision"], "4"),
		)
	})
}

func finalizersAndOwners(ctx context.Context, c *cluster) error {
	configMaps := c.client.CoreV1().ConfigMaps(c.namespace)
	owner := configMap("owner", "1")
	owner.Finalizers = []string{"example.com/kept"}
	owner, err := configMaps.Create(ctx, owner, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	owned := configMap("owned", "1")
	owned.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, corev1.SchemeGroupVersion.WithKind("ConfigMap"))}
	if _, err := configMaps.Create(ctx, owned, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := configMaps.Delete(ctx, "owner", metav1.DeleteOptions{}); err != nil {
		return err
	}
	owner, err = configMaps.Get(ctx, "owner", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if owner.DeletionTimestamp == nil {
		return errors.New("what has a finalizer was not marked as deleted")
	}
	owner.Finalizers = nil
	if _, err := configMaps.Update(ctx, owner, metav1.UpdateOptions{}); err != nil {
		return err
	}
	return eventually(ctx, "both are gone", func() error {
		for _, name := range []string{"owner", "owned"} {
			_, err := configMaps.Get(ctx, name, metav1.GetOptions{})
			if err := is("reading "+name, err, apierrors.IsNotFound); err != nil {
				return err
			}
		}
		return nil
	})
}
