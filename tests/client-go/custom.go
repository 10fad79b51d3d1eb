package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

var customChecks = []check{{"custom-resources", customResources}}

// group is one for each run, so that runs side by side do not meet.
func (c *cluster) group() string { return c.namespace + ".example.com" }

// establish creates the definition of Site, and waits until it is served.
func (c *cluster) establish(ctx context.Context) (func(), error) {
	client, err := apiextensions.NewForConfig(c.config)
	if err != nil {
		return nil, err
	}
	definitions := client.ApiextensionsV1().CustomResourceDefinitions()
	name := "sites." + c.group()
	object := func(properties map[string]apiextensionsv1.JSONSchemaProps, required ...string) apiextensionsv1.JSONSchemaProps {
		return apiextensionsv1.JSONSchemaProps{Type: "object", Properties: properties, Required: required}
	}
	_, err = definitions.Create(ctx, &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: c.group(), Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "sites", Singular: "site", Kind: "Site", ListKind: "SiteList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Subresources: &apiextensionsv1.CustomResourceSubresources{
					Status: &apiextensionsv1.CustomResourceSubresourceStatus{},
					Scale:  &apiextensionsv1.CustomResourceSubresourceScale{SpecReplicasPath: ".spec.replicas", StatusReplicasPath: ".status.ready"},
				},
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: pointer(object(map[string]apiextensionsv1.JSONSchemaProps{
					"spec": object(map[string]apiextensionsv1.JSONSchemaProps{
						"text":     {Type: "string", MaxLength: pointer[int64](20)},
						"replicas": {Type: "integer", Minimum: pointer(0.0), Maximum: pointer(5.0), Default: &apiextensionsv1.JSON{Raw: []byte("2")}},
					}, "text"),
					"status": object(map[string]apiextensionsv1.JSONSchemaProps{"ready": {Type: "integer"}}),
				}, "spec"))},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	remove := func() { _ = definitions.Delete(context.Background(), name, metav1.DeleteOptions{}) }
	err = eventually(ctx, "the definition is established", func() error {
		definition, err := definitions.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range definition.Status.Conditions {
			if condition.Type == apiextensionsv1.Established && condition.Status == apiextensionsv1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("its conditions are %+v", definition.Status.Conditions)
	})
	return remove, err
}

func (c *cluster) site(name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": c.group() + "/v1", "kind": "Site",
		"metadata": map[string]any{"name": name}, "spec": spec,
	}}
}

func customResources(ctx context.Context, c *cluster) error {
	remove, err := c.establish(ctx)
	if err != nil {
		return err
	}
	defer remove()
	client, err := dynamic.NewForConfig(c.config)
	if err != nil {
		return err
	}
	sites := client.Resource(schema.GroupVersionResource{Group: c.group(), Version: "v1", Resource: "sites"}).Namespace(c.namespace)
	events, err := sites.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer events.Stop()
	created, err := sites.Create(ctx, c.site("one", map[string]any{"text": "hello", "unknown": "field"}), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	replicas, _, _ := unstructured.NestedInt64(created.Object, "spec", "replicas")
	_, unknown, _ := unstructured.NestedString(created.Object, "spec", "unknown")
	if err := errors.Join(
		same("the default", replicas, 2),
		same("whether an unknown field is kept", unknown, false),
		same("the generation", created.GetGeneration(), 1),
	); err != nil {
		return err
	}
	if _, err := expectEvent(ctx, events, watch.Added, "one"); err != nil {
		return err
	}
	_, err = sites.Create(ctx, c.site("two", map[string]any{"text": strings.Repeat("x", 21)}), metav1.CreateOptions{})
	if err := is("a text too long", err, apierrors.IsInvalid); err != nil {
		return err
	}
	_, err = sites.Create(ctx, c.site("two", map[string]any{}), metav1.CreateOptions{})
	if err := is("no text", err, apierrors.IsInvalid); err != nil {
		return err
	}
	// The status is written apart from the rest, and does not count as a generation.
	_ = unstructured.SetNestedField(created.Object, int64(1), "status", "ready")
	_ = unstructured.SetNestedField(created.Object, "changed", "spec", "text")
	updated, err := sites.UpdateStatus(ctx, created, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	ready, _, _ := unstructured.NestedInt64(updated.Object, "status", "ready")
	text, _, _ := unstructured.NestedString(updated.Object, "spec", "text")
	if err := errors.Join(same("the status", ready, 1), same("the text", text, "hello"), same("the generation", updated.GetGeneration(), 1)); err != nil {
		return err
	}
	_, err = sites.Patch(ctx, "one", types.StrategicMergePatchType, []byte(`{"spec":{"text":"x"}}`), metav1.PatchOptions{})
	if err := is("a strategic merge patch", err, apierrors.IsUnsupportedMediaType); err != nil {
		return err
	}
	patched, err := sites.Patch(ctx, "one", types.MergePatchType, []byte(`{"spec":{"text":"patched"}}`), metav1.PatchOptions{})
	if err != nil {
		return err
	}
	if err := same("the generation", patched.GetGeneration(), 2); err != nil {
		return err
	}
	applied, err := sites.Apply(ctx, "one", c.site("one", map[string]any{"text": "applied"}), metav1.ApplyOptions{FieldManager: "me", Force: true})
	if err != nil {
		return err
	}
	text, _, _ = unstructured.NestedString(applied.Object, "spec", "text")
	if err := same("the text", text, "applied"); err != nil {
		return err
	}
	scale, err := sites.Get(ctx, "one", metav1.GetOptions{}, "scale")
	if err != nil {
		return err
	}
	replicas, _, _ = unstructured.NestedInt64(scale.Object, "spec", "replicas")
	if err := same("the scale", replicas, 2); err != nil {
		return err
	}
	// With the definition everything of its kind goes.
	remove()
	return eventually(ctx, "the kind is not served any more", func() error {
		_, err := sites.List(ctx, metav1.ListOptions{})
		return is("listing", err, apierrors.IsNotFound)
	})
}
