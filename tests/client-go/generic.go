package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/pager"
)

var genericChecks = []check{
	{"discovery", discoverAll},
	{"rest-mapper", restMapper},
	{"dynamic-client", dynamicClient},
	{"metadata-client", metadataClient},
	{"paging", paging},
	{"delete-collection", deleteCollection},
	{"openapi-v3", openAPI},
	{"dry-run", dryRun},
}

var configMapResource = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

func discoverAll(_ context.Context, c *cluster) error {
	aggregated, legacy := c.client.Discovery(), c.client.Discovery()
	groups, resources, err := aggregated.ServerGroupsAndResources()
	if err != nil {
		return err
	}
	for _, expected := range []string{"", "apps", "networking.k8s.io", "discovery.k8s.io", "coordination.k8s.io",
		"storage.k8s.io", "apiextensions.k8s.io", "authentication.k8s.io", "authorization.k8s.io"} {
		if !slices.ContainsFunc(groups, func(group *metav1.APIGroup) bool { return group.Name == expected }) {
			return fmt.Errorf("no group %q", expected)
		}
	}
	// The legacy lists say the same as the aggregated documents.
	legacyClient, err := discovery.NewDiscoveryClientForConfig(c.config)
	if err != nil {
		return err
	}
	legacyClient.UseLegacyDiscovery = true
	legacy = legacyClient
	_, old, err := legacy.ServerGroupsAndResources()
	if err != nil {
		return err
	}
	names := func(lists []*metav1.APIResourceList) []string {
		var all []string
		for _, list := range lists {
			for _, resource := range list.APIResources {
				slices.Sort(resource.Verbs)
				all = append(all, fmt.Sprint(list.GroupVersion, " ", resource.Name, " ", resource.Kind, " ",
					resource.Namespaced, " ", resource.Verbs, resource.ShortNames, resource.Categories))
			}
		}
		slices.Sort(all)
		return all
	}
	newNames, oldNames := names(resources), names(old)
	if !slices.Equal(newNames, oldNames) {
		return fmt.Errorf("the two forms of discovery differ:\n%v\n%v", newNames, oldNames)
	}
	preferred, err := c.client.Discovery().ServerPreferredResources()
	if err != nil {
		return err
	}
	if len(preferred) == 0 {
		return errors.New("no preferred resources")
	}
	version, err := c.client.Discovery().ServerVersion()
	if err != nil {
		return err
	}
	return same("the major version", version.Major, "1")
}

func (c *cluster) mapper() (*restmapper.DeferredDiscoveryRESTMapper, error) {
	client, err := discovery.NewDiscoveryClientForConfig(c.config)
	if err != nil {
		return nil, err
	}
	return restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client)), nil
}

func restMapper(_ context.Context, c *cluster) error {
	mapper, err := c.mapper()
	if err != nil {
		return err
	}
	mapping, err := mapper.RESTMapping(schema.GroupKind{Group: "apps", Kind: "Deployment"})
	if err != nil {
		return err
	}
	if err := same("the resource", mapping.Resource.String(), "apps/v1, Resource=deployments"); err != nil {
		return err
	}
	if err := same("the scope", string(mapping.Scope.Name()), "namespace"); err != nil {
		return err
	}
	expander := restmapper.NewShortcutExpander(mapper, c.client.Discovery(), nil)
	resource, err := expander.ResourceFor(schema.GroupVersionResource{Resource: "svc"})
	if err != nil {
		return err
	}
	if err := same("svc", resource.Resource, "services"); err != nil {
		return err
	}
	// Two groups have events; the core one comes first.
	kind, err := mapper.KindFor(schema.GroupVersionResource{Resource: "events"})
	if err != nil {
		return err
	}
	return same("events", kind.Group, "")
}

func dynamicClient(ctx context.Context, c *cluster) error {
	client, err := dynamic.NewForConfig(c.config)
	if err != nil {
		return err
	}
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(client, 0, c.namespace, nil)
	informer := factory.ForResource(configMapResource)
	lister := informer.Lister().ByNamespace(c.namespace)
	informer.Informer()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())

	objects := client.Resource(configMapResource).Namespace(c.namespace)
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": "dynamic"},
		"data":     map[string]any{"value": "1"},
	}}
	created, err := objects.Create(ctx, object, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_ = unstructured.SetNestedField(created.Object, "2", "data", "value")
	if _, err = objects.Update(ctx, created, metav1.UpdateOptions{}); err != nil {
		return err
	}
	// The first version is a stale one now.
	_, err = objects.Update(ctx, created, metav1.UpdateOptions{})
	if err := is("the stale update", err, apierrors.IsConflict); err != nil {
		return err
	}
	if _, err = objects.Patch(ctx, "dynamic", types.MergePatchType, []byte(`{"data":{"other":"3"}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	applied, err := objects.Apply(ctx, "dynamic", &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "dynamic"},
		"data": map[string]any{"applied": "4"},
	}}, metav1.ApplyOptions{FieldManager: "dynamic"})
	if err != nil {
		return err
	}
	data, _, _ := unstructured.NestedStringMap(applied.Object, "data")
	if len(data) != 3 {
		return fmt.Errorf("the data is %v", data)
	}
	return eventually(ctx, "the informer has it", func() error {
		seen, err := lister.Get("dynamic")
		if err != nil {
			return err
		}
		return same("the version", seen.(*unstructured.Unstructured).GetResourceVersion(), applied.GetResourceVersion())
	})
}

func metadataClient(ctx context.Context, c *cluster) error {
	client, err := metadata.NewForConfig(c.config)
	if err != nil {
		return err
	}
	factory := metadatainformer.NewFilteredSharedInformerFactory(client, 0, c.namespace, nil)
	informer := factory.ForResource(configMapResource)
	informer.Informer()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	if _, err := c.client.CoreV1().ConfigMaps(c.namespace).Create(ctx, configMap("meta", "1"), metav1.CreateOptions{}); err != nil {
		return err
	}
	objects := client.Resource(configMapResource).Namespace(c.namespace)
	object, err := objects.Get(ctx, "meta", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if err := same("the label", object.Labels["app"], "check"); err != nil {
		return err
	}
	list, err := objects.List(ctx, metav1.ListOptions{LabelSelector: "app=check"})
	if err != nil {
		return err
	}
	if err := same("the number of objects", len(list.Items), 1); err != nil {
		return err
	}
	if _, err := objects.Patch(ctx, "meta", types.MergePatchType, []byte(`{"metadata":{"labels":{"x":"y"}}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	return eventually(ctx, "the informer of metadata has it", func() error {
		seen, err := informer.Lister().ByNamespace(c.namespace).Get("meta")
		if err != nil {
			return err
		}
		return same("the label", seen.(*metav1.PartialObjectMetadata).Labels["x"], "y")
	})
}

func paging(ctx context.Context, c *cluster) error {
	configMaps := c.client.CoreV1().ConfigMaps(c.namespace)
	const many = 57
	for number := range many {
		if _, err := configMaps.Create(ctx, configMap(fmt.Sprintf("page-%03d", number), "1"), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	pages := 0
	lister := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		pages++
		options.LabelSelector = "app=check"
		return configMaps.List(ctx, options)
	})
	lister.PageSize = 10
	var names []string
	err := lister.EachListItem(ctx, metav1.ListOptions{}, func(object runtime.Object) error {
		names = append(names, object.(*corev1.ConfigMap).Name)
		return nil
	})
	if err != nil {
		return err
	}
	if err := errors.Join(same("the number of objects", len(names), many), same("the number of pages", pages, 6)); err != nil {
		return err
	}
	if !slices.IsSorted(names) {
		return fmt.Errorf("the pages are not in order: %v", names)
	}
	first, err := configMaps.List(ctx, metav1.ListOptions{Limit: 5})
	if err != nil {
		return err
	}
	// kube-root-ca.crt is the one more.
	if first.RemainingItemCount == nil || *first.RemainingItemCount < many-5 {
		return fmt.Errorf("the number of remaining objects is %v", first.RemainingItemCount)
	}
	// What is written between the pages of a list is not in it.
	if _, err := configMaps.Create(ctx, configMap("page-999", "1"), metav1.CreateOptions{}); err != nil {
		return err
	}
	second, err := configMaps.List(ctx, metav1.ListOptions{Limit: 500, Continue: first.Continue})
	if err != nil {
		return err
	}
	if err := same("the version of the second page", second.ResourceVersion, first.ResourceVersion); err != nil {
		return err
	}
	for _, object := range second.Items {
		if object.Name == "page-999" {
			return errors.New("a later object is in an older list")
		}
	}
	_, err = configMaps.List(ctx, metav1.ListOptions{Limit: 5, Continue: "nonsense"})
	return is("a wrong continue token", err, apierrors.IsBadRequest)
}

func deleteCollection(ctx context.Context, c *cluster) error {
	configMaps := c.client.CoreV1().ConfigMaps(c.namespace)
	for number := range 10 {
		object := configMap(fmt.Sprint("some-", number), "1")
		object.Labels["odd"] = fmt.Sprint(number%2 == 1)
		if _, err := configMaps.Create(ctx, object, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	if err := configMaps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "odd=true"}); err != nil {
		return err
	}
	list, err := configMaps.List(ctx, metav1.ListOptions{LabelSelector: "app=check"})
	if err != nil {
		return err
	}
	return same("the number of those left", len(list.Items), 5)
}

func openAPI(_ context.Context, c *cluster) error {
	root := openapi3.NewRoot(c.client.Discovery().OpenAPIV3())
	versions, err := root.GroupVersions()
	if err != nil {
		return err
	}
	for _, version := range versions {
		document, err := root.GVSpec(version)
		if err != nil {
			return fmt.Errorf("%v: %w", version, err)
		}
		if len(document.Paths.Paths) == 0 {
			return fmt.Errorf("%v has no paths", version)
		}
	}
	if !slices.Contains(versions, schema.GroupVersion{Group: "apps", Version: "v1"}) {
		return fmt.Errorf("apps/v1 is not among %v", versions)
	}
	return nil
}

func dryRun(ctx context.Context, c *cluster) error {
	configMaps := c.client.CoreV1().ConfigMaps(c.namespace)
	all := []string{metav1.DryRunAll}
	created, err := configMaps.Create(ctx, configMap("dry", "1"), metav1.CreateOptions{DryRun: all})
	if err != nil {
		return err
	}
	if created.UID == "" {
		return errors.New("a dry run does not say what would be created")
	}
	_, err = configMaps.Get(ctx, "dry", metav1.GetOptions{})
	if err := is("reading it", err, apierrors.IsNotFound); err != nil {
		return err
	}
	if _, err := configMaps.Create(ctx, configMap("dry", "1"), metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := configMaps.Delete(ctx, "dry", metav1.DeleteOptions{DryRun: all}); err != nil {
		return err
	}
	_, err = configMaps.Get(ctx, "dry", metav1.GetOptions{})
	return err
}
