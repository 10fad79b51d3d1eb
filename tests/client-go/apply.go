package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	appsapply "k8s.io/client-go/applyconfigurations/apps/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
)

var applyChecks = []check{
	{"apply-conflicts", applyConflicts},
	{"apply-lists", applyLists},
	{"apply-extracted", applyExtracted},
	{"apply-status", applyStatus},
}

func applyConflicts(ctx context.Context, c *cluster) error {
	configMaps := c.client.CoreV1().ConfigMaps(c.namespace)
	wanted := func(data map[string]string) *coreapply.ConfigMapApplyConfiguration {
		return coreapply.ConfigMap("shared", c.namespace).WithData(data)
	}
	if _, err := configMaps.Apply(ctx, wanted(map[string]string{"a": "1", "b": "1"}), metav1.ApplyOptions{FieldManager: "one"}); err != nil {
		return err
	}
	// The same value is shared, another one is a conflict that names field and manager.
	if _, err := configMaps.Apply(ctx, wanted(map[string]string{"a": "1"}), metav1.ApplyOptions{FieldManager: "two"}); err != nil {
		return err
	}
	_, err := configMaps.Apply(ctx, wanted(map[string]string{"a": "2"}), metav1.ApplyOptions{FieldManager: "two"})
	if err := is("the other value", err, apierrors.IsConflict); err != nil {
		return err
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil || len(status.Status().Details.Causes) != 1 {
		return fmt.Errorf("the conflict has no cause: %#v", err)
	}
	cause := status.Status().Details.Causes[0]
	if cause.Type != metav1.CauseTypeFieldManagerConflict || cause.Field != ".data.a" || cause.Message != `conflict with "one"` {
		return fmt.Errorf("the conflict's cause is %+v", cause)
	}
	object, err := configMaps.Apply(ctx, wanted(map[string]string{"a": "2"}), metav1.ApplyOptions{FieldManager: "two", Force: true})
	if err != nil {
		return err
	}
	if err := same("a", object.Data["a"], "2"); err != nil {
		return err
	}
	// What a manager no longer applies goes, unless another one has it.
	object, err = configMaps.Apply(ctx, wanted(map[string]string{}), metav1.ApplyOptions{FieldManager: "one"})
	if err != nil {
		return err
	}
	if _, there := object.Data["b"]; there {
		return errors.New("b was not removed with its only manager")
	}
	return same("a", object.Data["a"], "2")
}

func deployment(namespace string) *appsapply.DeploymentApplyConfiguration {
	labels := map[string]string{"app": "applied"}
	return appsapply.Deployment("applied", namespace).WithSpec(appsapply.DeploymentSpec().
		WithReplicas(0).
		WithSelector(metaapply.LabelSelector().WithMatchLabels(labels)).
		WithTemplate(coreapply.PodTemplateSpec().WithLabels(labels).WithSpec(coreapply.PodSpec().WithContainers(
			coreapply.Container().WithName("main").WithImage("pause").
				WithPorts(coreapply.ContainerPort().WithName("http").WithContainerPort(80).WithProtocol(corev1.ProtocolTCP)).
				WithEnv(coreapply.EnvVar().WithName("A").WithValue("1")),
		))))
}

// Lists are merged by their keys: each manager has its own items.
func applyLists(ctx context.Context, c *cluster) error {
	deployments := c.client.AppsV1().Deployments(c.namespace)
	if _, err := deployments.Apply(ctx, deployment(c.namespace), metav1.ApplyOptions{FieldManager: "owner"}); err != nil {
		return err
	}
	sidecar := appsapply.Deployment("applied", c.namespace).WithSpec(appsapply.DeploymentSpec().
		WithTemplate(coreapply.PodTemplateSpec().WithSpec(coreapply.PodSpec().WithContainers(
			coreapply.Container().WithName("main").WithEnv(coreapply.EnvVar().WithName("B").WithValue("2")),
			coreapply.Container().WithName("sidecar").WithImage("pause"),
		))))
	object, err := deployments.Apply(ctx, sidecar, metav1.ApplyOptions{FieldManager: "injector"})
	if err != nil {
		return err
	}
	containers := object.Spec.Template.Spec.Containers
	if len(containers) != 2 || len(containers[0].Env) != 2 || containers[0].Image != "pause" {
		return fmt.Errorf("the lists were not merged: %+v", containers)
	}
	object, err = deployments.Apply(ctx, deployment(c.namespace), metav1.ApplyOptions{FieldManager: "owner"})
	if err != nil {
		return err
	}
	if len(object.Spec.Template.Spec.Containers) != 2 {
		return errors.New("applying again removed what another manager has")
	}
	// The injector's items go when it applies nothing any more.
	object, err = deployments.Apply(ctx, appsapply.Deployment("applied", c.namespace), metav1.ApplyOptions{FieldManager: "injector"})
	if err != nil {
		return err
	}
	containers = object.Spec.Template.Spec.Containers
	if len(containers) != 1 || len(containers[0].Env) != 1 {
		return fmt.Errorf("the injector's items are still there: %+v", containers)
	}
	return nil
}

// Read, extract what is one's own, change it, apply it: managedFields have to be right for it.
func applyExtracted(ctx context.Context, c *cluster) error {
	deployments := c.client.AppsV1().Deployments(c.namespace)
	object, err := deployments.Apply(ctx, deployment(c.namespace), metav1.ApplyOptions{FieldManager: "owner"})
	if err != nil {
		return err
	}
	extracted, err := appsapply.ExtractDeployment(object, "owner")
	if err != nil {
		return err
	}
	found, err := json.Marshal(extracted)
	if err != nil {
		return err
	}
	expected, err := json.Marshal(deployment(c.namespace))
	if err != nil {
		return err
	}
	if err := same("what was extracted", string(found), string(expected)); err != nil {
		return err
	}
	object, err = deployments.Apply(ctx, extracted.WithLabels(map[string]string{"x": "y"}), metav1.ApplyOptions{FieldManager: "owner"})
	if err != nil {
		return err
	}
	return same("the label", object.Labels["x"], "y")
}

func applyStatus(ctx context.Context, c *cluster) error {
	services := c.client.CoreV1().Services(c.namespace)
	service := coreapply.Service("applied", c.namespace).WithSpec(coreapply.ServiceSpec().
		WithType(corev1.ServiceTypeLoadBalancer).
		WithPorts(coreapply.ServicePort().WithPort(80)))
	if _, err := services.Apply(ctx, service, metav1.ApplyOptions{FieldManager: "user"}); err != nil {
		return err
	}
	status := coreapply.Service("applied", c.namespace).WithStatus(coreapply.ServiceStatus().
		WithLoadBalancer(coreapply.LoadBalancerStatus().WithIngress(
			coreapply.LoadBalancerIngress().WithIP("192.0.2.1"))))
	object, err := services.ApplyStatus(ctx, status, metav1.ApplyOptions{FieldManager: "balancer"})
	if err != nil {
		return err
	}
	if len(object.Status.LoadBalancer.Ingress) != 1 || len(object.Spec.Ports) != 1 {
		return fmt.Errorf("the status was not applied: %+v", object)
	}
	for _, entry := range object.ManagedFields {
		if entry.Manager == "balancer" && entry.Subresource == "status" && entry.Operation == metav1.ManagedFieldsOperationApply {
			return nil
		}
	}
	return fmt.Errorf("no managedFields of the status: %+v", object.ManagedFields)
}
