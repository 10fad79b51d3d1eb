package main

import (
	"context"
	"fmt"
	"reflect"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

var kindChecks = []check{
	{"typed-json", func(ctx context.Context, c *cluster) error { return c.everyKind(ctx, "") }},
	{"typed-protobuf", func(ctx context.Context, c *cluster) error {
		return c.everyKind(ctx, "application/vnd.kubernetes.protobuf")
	}},
}

// object is a pointer to one of the API's types.
type object[T any] interface {
	*T
	metav1.Object
}

// writer is what every typed client has.
type writer[P any] interface {
	Create(context.Context, P, metav1.CreateOptions) (P, error)
	Update(context.Context, P, metav1.UpdateOptions) (P, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
	Get(context.Context, string, metav1.GetOptions) (P, error)
	Patch(context.Context, string, types.PatchType, []byte, metav1.PatchOptions, ...string) (P, error)
}

// cycle creates an object, reads, updates and patches it, and deletes it.
func cycle[T any, P object[T]](ctx context.Context, kind writer[P], what P) error {
	created, err := kind.Create(ctx, what, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("creating: %w", err)
	}
	name := created.GetName()
	since := created.GetCreationTimestamp()
	if created.GetUID() == "" || created.GetResourceVersion() == "" || since.IsZero() {
		return fmt.Errorf("what was created has no identity: %+v", created)
	}
	if _, err := kind.Create(ctx, what, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("created again: %w", err)
	}
	got, err := kind.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	if err := same("the uid", got.GetUID(), created.GetUID()); err != nil {
		return err
	}
	// Controllers write too: the loop that every client has.
	for {
		got.SetLabels(map[string]string{"updated": "yes"})
		updated, err := kind.Update(ctx, got, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) {
			if got, err = kind.Get(ctx, name, metav1.GetOptions{}); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("updating: %w", err)
		}
		if err := same("the label", updated.GetLabels()["updated"], "yes"); err != nil {
			return err
		}
		break
	}
	for kindOfPatch, patch := range map[types.PatchType]string{
		types.MergePatchType:          `{"metadata":{"annotations":{"patched/merge":"yes"}}}`,
		types.StrategicMergePatchType: `{"metadata":{"annotations":{"patched/strategic":"yes"}}}`,
		types.JSONPatchType:           `[{"op":"add","path":"/metadata/labels/json","value":"yes"}]`,
	} {
		if got, err = kind.Patch(ctx, name, kindOfPatch, []byte(patch), metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("patching with %s: %w", kindOfPatch, err)
		}
	}
	if err := same("the labels", got.GetLabels()["updated"], "yes"); err != nil {
		return err
	}
	if err := kind.Delete(ctx, name, metav1.DeleteOptions{
		GracePeriodSeconds: pointer[int64](0), Preconditions: &metav1.Preconditions{UID: pointer(created.GetUID())},
	}); err != nil {
		return fmt.Errorf("deleting: %w", err)
	}
	return eventually(ctx, "it is gone", func() error {
		left, err := kind.Get(ctx, name, metav1.GetOptions{})
		if err == nil && left.GetUID() != created.GetUID() {
			return nil
		}
		return is("reading what was deleted", err, apierrors.IsNotFound)
	})
}

func (c *cluster) everyKind(ctx context.Context, contentType string) error {
	config := rest.CopyConfig(c.config)
	config.ContentType = contentType
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	labels := map[string]string{"app": "cycle"}
	meta := func() metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: "cycle", Annotations: map[string]string{"a": "b"}}
	}
	// Cluster-wide names, which must not meet those of another run of this program.
	wide := func() metav1.ObjectMeta { return metav1.ObjectMeta{Name: c.namespace + "-wide"} }
	selector := &metav1.LabelSelector{MatchLabels: labels}
	pod := corev1.PodSpec{
		Containers: []corev1.Container{{
			Name: "main", Image: "pause", Command: []string{"/pause"},
			Env: []corev1.EnvVar{
				{Name: "A", Value: "1"},
				{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
			},
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80, Protocol: corev1.ProtocolTCP}},
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Mi")},
				Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")},
			},
			ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
				TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("http")}}},
			VolumeMounts: []corev1.VolumeMount{{Name: "empty", MountPath: "/empty"}},
		}},
		Volumes:                       []corev1.Volume{{Name: "empty", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
		TerminationGracePeriodSeconds: pointer[int64](1),
		Tolerations:                   []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}},
		NodeSelector:                  map[string]string{"nowhere": "yes"},
	}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod}
	pathType := networkingv1.PathTypePrefix
	peers := []networkingv1.NetworkPolicyPeer{
		{PodSelector: selector, NamespaceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "kubernetes.io/metadata.name", Operator: metav1.LabelSelectorOpExists}}}},
		{IPBlock: &networkingv1.IPBlock{CIDR: "192.0.2.0/24", Except: []string{"192.0.2.1/32"}}},
	}
	core, apps, ns := client.CoreV1(), client.AppsV1(), c.namespace
	now := metav1.NowMicro()
	kinds := []struct {
		what string
		run  func() error
	}{
		{"Namespace", func() error {
			return cycle(ctx, core.Namespaces(), &corev1.Namespace{ObjectMeta: wide()})
		}},
		{"Node", func() error {
			return cycle(ctx, core.Nodes(), &corev1.Node{ObjectMeta: wide(), Spec: corev1.NodeSpec{
				Unschedulable: true, Taints: []corev1.Taint{{Key: "a", Value: "b", Effect: corev1.TaintEffectNoExecute}}}})
		}},
		{"Pod", func() error {
			return cycle(ctx, core.Pods(ns), &corev1.Pod{ObjectMeta: meta(), Spec: pod})
		}},
		{"Service", func() error {
			return cycle(ctx, core.Services(ns), &corev1.Service{ObjectMeta: meta(), Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeNodePort, Selector: labels, SessionAffinity: corev1.ServiceAffinityClientIP,
				Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http"), Protocol: corev1.ProtocolTCP}},
			}})
		}},
		{"Endpoints", func() error {
			// Those of the Service above have its name, and are not ours.
			apart := meta()
			apart.Name = "apart"
			return cycle(ctx, core.Endpoints(ns), &corev1.Endpoints{ObjectMeta: apart, Subsets: []corev1.EndpointSubset{{
				Addresses: []corev1.EndpointAddress{{IP: "192.0.2.1"}}, Ports: []corev1.EndpointPort{{Name: "http", Port: 80}}}}})
		}},
		{"ConfigMap", func() error {
			return cycle(ctx, core.ConfigMaps(ns), &corev1.ConfigMap{ObjectMeta: meta(),
				Data: map[string]string{"a": "b", "empty": ""}, BinaryData: map[string][]byte{"bytes": {0, 255}}})
		}},
		{"Secret", func() error {
			return cycle(ctx, core.Secrets(ns), &corev1.Secret{ObjectMeta: meta(), Type: corev1.SecretTypeOpaque,
				Data: map[string][]byte{"a": {1, 2, 3}}, StringData: map[string]string{"b": "c"}})
		}},
		{"ServiceAccount", func() error {
			return cycle(ctx, core.ServiceAccounts(ns), &corev1.ServiceAccount{ObjectMeta: meta(),
				AutomountServiceAccountToken: pointer(false), ImagePullSecrets: []corev1.LocalObjectReference{{Name: "x"}}})
		}},
		{"PersistentVolume", func() error {
			return cycle(ctx, core.PersistentVolumes(), &corev1.PersistentVolume{ObjectMeta: wide(), Spec: corev1.PersistentVolumeSpec{
				Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
				AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}},
				StorageClassName:       "none",
			}})
		}},
		{"PersistentVolumeClaim", func() error {
			return cycle(ctx, core.PersistentVolumeClaims(ns), &corev1.PersistentVolumeClaim{ObjectMeta: meta(), Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
			}})
		}},
		{"StorageClass", func() error {
			return cycle(ctx, client.StorageV1().StorageClasses(), &storagev1.StorageClass{ObjectMeta: wide(),
				Provisioner: "example.com/none", Parameters: map[string]string{"a": "b"}, AllowVolumeExpansion: pointer(true)})
		}},
		{"Deployment", func() error {
			return cycle(ctx, apps.Deployments(ns), &appsv1.Deployment{ObjectMeta: meta(), Spec: appsv1.DeploymentSpec{
				Replicas: pointer[int32](0), Selector: selector, Template: template,
				Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
					MaxSurge: pointer(intstr.FromString("10%")), MaxUnavailable: pointer(intstr.FromInt32(1))}},
			}})
		}},
		{"ReplicaSet", func() error {
			return cycle(ctx, apps.ReplicaSets(ns), &appsv1.ReplicaSet{ObjectMeta: meta(), Spec: appsv1.ReplicaSetSpec{
				Replicas: pointer[int32](0), Selector: selector, Template: template}})
		}},
		{"DaemonSet", func() error {
			return cycle(ctx, apps.DaemonSets(ns), &appsv1.DaemonSet{ObjectMeta: meta(), Spec: appsv1.DaemonSetSpec{
				Selector: selector, Template: template}})
		}},
		{"StatefulSet", func() error {
			return cycle(ctx, apps.StatefulSets(ns), &appsv1.StatefulSet{ObjectMeta: meta(), Spec: appsv1.StatefulSetSpec{
				Replicas: pointer[int32](0), Selector: selector, Template: template, ServiceName: "cycle"}})
		}},
		{"ControllerRevision", func() error {
			revision := &appsv1.ControllerRevision{ObjectMeta: meta(), Revision: 1}
			revision.Data.Raw = []byte(`{"spec":{"a":"b"}}`)
			return cycle(ctx, apps.ControllerRevisions(ns), revision)
		}},
		{"EndpointSlice", func() error {
			return cycle(ctx, client.DiscoveryV1().EndpointSlices(ns), &discoveryv1.EndpointSlice{ObjectMeta: meta(),
				AddressType: discoveryv1.AddressTypeIPv4,
				Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.1"}, NodeName: pointer("node-1"), Zone: pointer("a"),
					Conditions: discoveryv1.EndpointConditions{Ready: pointer(true), Serving: pointer(true), Terminating: pointer(false)},
					Hints:      &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a"}}}}},
				Ports: []discoveryv1.EndpointPort{{Name: pointer("http"), Port: pointer[int32](80), Protocol: pointer(corev1.ProtocolTCP)}}})
		}},
		{"Ingress", func() error {
			return cycle(ctx, client.NetworkingV1().Ingresses(ns), &networkingv1.Ingress{ObjectMeta: meta(), Spec: networkingv1.IngressSpec{
				IngressClassName: pointer("none"),
				TLS:              []networkingv1.IngressTLS{{Hosts: []string{"example.com"}, SecretName: "x"}},
				Rules: []networkingv1.IngressRule{{Host: "example.com", IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
					Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: &pathType, Backend: networkingv1.IngressBackend{
						Service: &networkingv1.IngressServiceBackend{Name: "x", Port: networkingv1.ServiceBackendPort{Number: 80}}}}}}}}},
			}})
		}},
		{"IngressClass", func() error {
			return cycle(ctx, client.NetworkingV1().IngressClasses(), &networkingv1.IngressClass{ObjectMeta: wide(),
				Spec: networkingv1.IngressClassSpec{Controller: "example.com/none"}})
		}},
		{"NetworkPolicy", func() error {
			return cycle(ctx, client.NetworkingV1().NetworkPolicies(ns), &networkingv1.NetworkPolicy{ObjectMeta: meta(), Spec: networkingv1.NetworkPolicySpec{
				PodSelector: *selector, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
				Ingress: []networkingv1.NetworkPolicyIngressRule{{From: peers[:1], Ports: []networkingv1.NetworkPolicyPort{
					{Protocol: pointer(corev1.ProtocolTCP), Port: pointer(intstr.FromInt32(80)), EndPort: pointer[int32](90)}}}},
				Egress: []networkingv1.NetworkPolicyEgressRule{{To: peers[1:]}},
			}})
		}},
		{"Lease", func() error {
			return cycle(ctx, client.CoordinationV1().Leases(ns), &coordinationv1.Lease{ObjectMeta: meta(), Spec: coordinationv1.LeaseSpec{
				HolderIdentity: pointer("me"), LeaseDurationSeconds: pointer[int32](10), RenewTime: &now, AcquireTime: &now}})
		}},
		{"Role", func() error {
			return cycle(ctx, client.RbacV1().Roles(ns), &rbacv1.Role{ObjectMeta: meta(), Rules: []rbacv1.PolicyRule{
				{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}}}})
		}},
		{"RoleBinding", func() error {
			return cycle(ctx, client.RbacV1().RoleBindings(ns), &rbacv1.RoleBinding{ObjectMeta: meta(),
				RoleRef:  rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: "x"},
				Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "x", Namespace: ns}}})
		}},
		{"ClusterRole", func() error {
			return cycle(ctx, client.RbacV1().ClusterRoles(), &rbacv1.ClusterRole{ObjectMeta: wide(), Rules: []rbacv1.PolicyRule{
				{NonResourceURLs: []string{"/healthz"}, Verbs: []string{"get"}}}})
		}},
	}
	for _, kind := range kinds {
		if err := kind.run(); err != nil {
			return fmt.Errorf("%s: %w", kind.what, err)
		}
	}
	return c.survivesTheTrip(ctx, client, template)
}

// What was sent comes back, every field of it: a codec that loses one would not be noticed else.
func (c *cluster) survivesTheTrip(ctx context.Context, client kubernetes.Interface, template corev1.PodTemplateSpec) error {
	sent := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "trip"}, Spec: template.Spec}
	got, err := client.CoreV1().Pods(c.namespace).Create(ctx, sent, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return err
	}
	sentMain, gotMain := sent.Spec.Containers[0], got.Spec.Containers[0]
	for what, pair := range map[string][2]any{
		"env":         {sentMain.Env[0], gotMain.Env[0]},
		"ports":       {sentMain.Ports, gotMain.Ports},
		"probe":       {sentMain.ReadinessProbe.ProbeHandler, gotMain.ReadinessProbe.ProbeHandler},
		"mounts":      {sentMain.VolumeMounts[0], gotMain.VolumeMounts[0]},
		"grace":       {sent.Spec.TerminationGracePeriodSeconds, got.Spec.TerminationGracePeriodSeconds},
		"tolerations": {sent.Spec.Tolerations[0], got.Spec.Tolerations[0]},
		"memory":      {sentMain.Resources.Limits.Memory().String(), gotMain.Resources.Limits.Memory().String()},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			return fmt.Errorf("%s were sent as %+v and came back as %+v", what, pair[0], pair[1])
		}
	}
	return nil
}
