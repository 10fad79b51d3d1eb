// Prints how Kubernetes' Go types are written as protobuf, for
// crates/pure/kinds/src/protobuf/messages.txt: `go run . > ../../crates/pure/kinds/src/protobuf/messages.txt`.
//
// The types say all of it in their tags: a field's number, its name in JSON, whether it is a
// pointer (of which zero says something too), and whether JSON leaves its zero out.
package main

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	networkingv1beta1 "k8s.io/api/networking/v1beta1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// What has a form of its own as protobuf, and what that is called in the table.
var special = map[string]string{
	"meta/v1.Time":                                  "time",
	"meta/v1.MicroTime":                             "micro",
	"meta/v1.FieldsV1":                              "raw",
	"api/resource.Quantity":                         "quantity",
	"util/intstr.IntOrString":                       "int-or-text",
	"pkg/runtime.RawExtension":                      "raw",
	"apiextensions/v1.JSON":                         "raw",
	"apiextensions/v1.JSONSchemaPropsOrArray":       "schema-or-list",
	"apiextensions/v1.JSONSchemaPropsOrBool":        "schema-or-bool",
	"apiextensions/v1.JSONSchemaPropsOrStringArray": "schema-or-texts",
	"authentication/v1.ExtraValue":                  "texts",
	"authorization/v1.ExtraValue":                   "texts",
}

func main() {
	scheme := runtime.NewScheme()
	groups := []schema.GroupVersion{}
	for _, add := range []struct {
		group schema.GroupVersion
		types func(*runtime.Scheme) error
	}{
		{corev1.SchemeGroupVersion, corev1.AddToScheme},
		{appsv1.SchemeGroupVersion, appsv1.AddToScheme},
		{authenticationv1.SchemeGroupVersion, authenticationv1.AddToScheme},
		{authorizationv1.SchemeGroupVersion, authorizationv1.AddToScheme},
		{autoscalingv1.SchemeGroupVersion, autoscalingv1.AddToScheme},
		{coordinationv1.SchemeGroupVersion, coordinationv1.AddToScheme},
		{discoveryv1.SchemeGroupVersion, discoveryv1.AddToScheme},
		{eventsv1.SchemeGroupVersion, eventsv1.AddToScheme},
		{networkingv1.SchemeGroupVersion, networkingv1.AddToScheme},
		{networkingv1beta1.SchemeGroupVersion, networkingv1beta1.AddToScheme},
		{policyv1.SchemeGroupVersion, policyv1.AddToScheme},
		{rbacv1.SchemeGroupVersion, rbacv1.AddToScheme},
		{storagev1.SchemeGroupVersion, storagev1.AddToScheme},
		{apiextensionsv1.SchemeGroupVersion, apiextensionsv1.AddToScheme},
	} {
		if err := add.types(scheme); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		groups = append(groups, add.group)
	}
	table := &table{messages: map[string][]string{}}
	var roots []string
	for _, group := range groups {
		for kind, kindType := range scheme.KnownTypes(group) {
			// Lists and options of requests come in no body; how a watch is encoded neither.
			if strings.HasSuffix(kind, "List") || strings.HasSuffix(kind, "Options") && kind != "DeleteOptions" || kind == "WatchEvent" {
				continue
			}
			roots = append(roots, fmt.Sprintf("= %s %s %s", group, kind, table.add(kindType)))
		}
	}
	slices.Sort(roots)
	fmt.Println("# Written by scripts/protobuf from the tags of Kubernetes' Go types; not by hand.")
	for _, root := range roots {
		fmt.Println(root)
	}
	names := []string{}
	for name := range table.messages {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Println(":", name)
		for _, field := range table.messages[name] {
			fmt.Println(field)
		}
	}
}

type table struct{ messages map[string][]string }

// name is the last two parts of a type's path, and its own name: core/v1.Pod.
func name(of reflect.Type) string {
	path := strings.Split(of.PkgPath(), "/")
	return strings.Join(path[max(0, len(path)-2):], "/") + "." + of.Name()
}

func (t *table) add(message reflect.Type) string {
	name := name(message)
	if _, known := t.messages[name]; known {
		return name
	}
	t.messages[name] = nil
	for index := range message.NumField() {
		field := message.Field(index)
		tag := strings.Split(field.Tag.Get("protobuf"), ",")
		if len(tag) < 2 {
			continue
		}
		jsonName, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		line := tag[1] + " "
		switch {
		case strings.Contains(options, "inline"):
			line += "@"
		case strings.Contains(options, "omit"):
			line += jsonName
		default:
			line += "!" + jsonName
		}
		t.messages[name] = append(t.messages[name], line+" "+t.typeOf(field.Type))
	}
	return name
}

func (t *table) typeOf(of reflect.Type) string {
	if form, is := special[name(of)]; is && of.Name() != "" {
		return form
	}
	switch of.Kind() {
	case reflect.Pointer:
		return "*" + t.typeOf(of.Elem())
	case reflect.Slice:
		if of.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
		return "[]" + t.typeOf(of.Elem())
	case reflect.Map:
		return "{}" + t.typeOf(of.Elem())
	case reflect.Struct:
		return t.add(of)
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "bool"
	case reflect.Int32, reflect.Int64:
		return "int"
	case reflect.Float64:
		return "double"
	}
	fmt.Fprintln(os.Stderr, "no form is known for", of)
	os.Exit(1)
	return ""
}
