"""What a server says to requests it can't serve, and what it says it serves."""

from scene import JSON, Scene

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


def errors():
    s = Scene("errors")
    configmaps = s.path("configmaps")
    s.create("configmaps", "cm", {"data": {"a": "b"}})
    for label, body in {
        "malformed": "{", "empty": "", "text": '"x"', "list": "[]", "null": "null", "not-json": "hello",
        "no-kind": {"metadata": {"name": "a"}}, "no-version": {"kind": "ConfigMap", "metadata": {"name": "no-version"}},
        "no-kind-only": {"apiVersion": "v1", "metadata": {"name": "no-kind-only"}},
        "kind-other": {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}},
        "kind-unknown": {"apiVersion": "v1", "kind": "Nonsense", "metadata": {"name": "a"}},
        "version-other": {"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "a"}},
        "group-other": {"apiVersion": "apps/v1", "kind": "ConfigMap", "metadata": {"name": "a"}},
        "kind-number": {"apiVersion": "v1", "kind": 5, "metadata": {"name": "a"}},
        "metadata-text": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": "x"},
        "name-number": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": 5}},
        "trailing": '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"trailing"}} x',
        "truncated": '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"tr',
        "bad-escape": '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a\\q"}}',
    }.items():
        s.send(f"body-{label}", "POST", configmaps, body)
    s.send("body-yaml", "POST", configmaps, "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yaml\n", content_type="application/yaml")
    s.send("body-yaml-bad", "POST", configmaps, "a: [", content_type="application/yaml")
    s.send("body-type-unknown", "POST", configmaps, s.object("configmaps", "x"), content_type="text/plain")
    s.send("body-type-charset", "POST", configmaps, s.object("configmaps", "charset"), content_type="application/json; charset=utf-8")
    s.send("body-type-xml", "POST", configmaps, "<a/>", content_type="application/xml")
    s.send("body-too-large", "POST", configmaps, s.object("configmaps", "fill", {"data": {"a": "${repeat:3145729}"}}))
    s.send("body-large", "POST", configmaps, s.object("configmaps", "fill", {"data": {"a": "${repeat:1126400}"}}))
    s.send("accept-unknown", "GET", configmaps + "/cm", accept="text/html")
    s.send("accept-any", "GET", configmaps + "/cm", accept="*/*")
    s.send("accept-several", "GET", configmaps + "/cm", accept="text/html, application/json;q=0.5")
    s.send("accept-as-unknown", "GET", configmaps + "/cm", accept="application/json;as=Nonsense;v=v1;g=meta.k8s.io")
    s.send("accept-unknown-create", "POST", configmaps, s.object("configmaps", "accept"), accept="text/html")
    s.send("accept-unknown-missing", "GET", configmaps + "/none", accept="text/html")
    for label, method, path in (
        ("path-unknown", "GET", "/nothing"),
        ("path-api-version", "GET", "/api/v2"),
        ("path-resource", "GET", "/api/v1/nonsense"),
        ("path-resource-namespaced", "GET", "/api/v1/namespaces/errors/nonsense"),
        ("path-group", "GET", "/apis/nonsense.example.com"),
        ("path-group-version", "GET", "/apis/apps/v9"),
        ("path-group-resource", "GET", "/apis/apps/v1/nonsense"),
        ("path-deep", "GET", "/api/v1/namespaces/errors/configmaps/cm/status/deep"),
        ("path-subresource", "GET", "/api/v1/namespaces/errors/configmaps/cm/status"),
        ("path-subresource-unknown", "GET", "/api/v1/namespaces/errors/configmaps/cm/nonsense"),
        ("path-cluster-resource-in-namespace", "GET", "/api/v1/namespaces/errors/nodes"),
        ("path-namespaced-resource-without", "POST", "/api/v1/configmaps"),
        ("path-name-without-namespace", "GET", "/api/v1/configmaps/cm"),
        ("method-post-object", "POST", "/api/v1/namespaces/errors/configmaps/cm"),
        ("method-put-collection", "PUT", "/api/v1/namespaces/errors/configmaps"),
        ("method-patch-collection", "PATCH", "/api/v1/namespaces/errors/configmaps"),
        ("method-unknown", "FROB", "/api/v1/namespaces/errors/configmaps"),
        ("method-delete-namespaces", "DELETE", "/api/v1/namespaces"),
        ("method-delete-status", "DELETE", "/api/v1/namespaces/errors/services/x/status"),
        ("method-get-binding", "GET", "/api/v1/namespaces/errors/pods/x/binding"),
        ("method-post-discovery", "POST", "/api"),
        ("trailing-slash", "GET", "/api/v1/namespaces/errors/configmaps/"),
        ("double-slash", "GET", "/api/v1//namespaces"),
        ("log-missing", "GET", "/api/v1/namespaces/errors/pods/none/log"),
        ("exec-missing", "POST", "/api/v1/namespaces/errors/pods/none/exec?command=true"),
        ("scale-missing", "GET", "/apis/apps/v1/namespaces/errors/deployments/none/scale"),
        ("status-missing", "GET", "/apis/apps/v1/namespaces/errors/deployments/none/status"),
    ):
        s.send(label, method, path)
    for label, query in (("dry-run", "dryRun=Some"), ("manager-long", "fieldManager=" + "x" * 129), ("manager-odd", "fieldManager=a%07"), ("validation", "fieldValidation=Loud"), ("dry-run-empty", "dryRun=")):
        s.create("configmaps", f"query-{label}", {}, query=query)
    s.get("configmaps", "query-unknown", "cm", query="nothing=1")
    return s


def discovery():
    s = Scene("discovery", namespace=False)
    s.send("healthz", "GET", "/healthz", accept="*/*")
    s.send("livez", "GET", "/livez", accept="*/*")
    s.send("readyz", "GET", "/readyz", accept="*/*")
    for label, path in {
        "core": "/api/v1", "apps": "/apis/apps", "apps-v1": "/apis/apps/v1",
        "networking": "/apis/networking.k8s.io", "networking-v1": "/apis/networking.k8s.io/v1",
        "discovery": "/apis/discovery.k8s.io", "discovery-v1": "/apis/discovery.k8s.io/v1",
        "coordination": "/apis/coordination.k8s.io", "coordination-v1": "/apis/coordination.k8s.io/v1",
        "rbac-v1": "/apis/rbac.authorization.k8s.io/v1", "storage-v1": "/apis/storage.k8s.io/v1",
        "events-v1": "/apis/events.k8s.io/v1", "apiextensions-v1": "/apis/apiextensions.k8s.io/v1",
        "authentication-v1": "/apis/authentication.k8s.io/v1", "authorization-v1": "/apis/authorization.k8s.io/v1",
    }.items():
        s.send(label, "GET", path)
    s.send("groups", "GET", "/apis")
    s.send("aggregated-api", "GET", "/api", accept=f"{AGGREGATED},{JSON}")
    s.send("aggregated-apis", "GET", "/apis", accept=f"{AGGREGATED},{JSON}")
    return s


def subresources():
    s = Scene("subresources")
    template = {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}
    s.create("deployments", "d", {"spec": {"replicas": 2, **template}})
    s.get("deployments", "scale", "d", "scale")
    scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}}
    put = lambda label, body: s.send(label, "PUT", s.path("deployments", "d", "scale"), body)
    put("scale-put", {**scale, "spec": {"replicas": 5}})
    put("scale-negative", {**scale, "spec": {"replicas": -1}})
    put("scale-no-spec", scale)
    put("scale-name", {**scale, "metadata": {"name": "x"}, "spec": {"replicas": 1}})
    put("scale-kind", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "d"}})
    put("scale-version", {**scale, "metadata": {"name": "d", "resourceVersion": "1"}, "spec": {"replicas": 1}})
    s.send("scale-patch", "PATCH", s.path("deployments", "d", "scale"), {"spec": {"replicas": 4}}, content_type="application/merge-patch+json")
    s.send("scale-patch-json", "PATCH", s.path("deployments", "d", "scale"), [{"op": "replace", "path": "/spec/replicas", "value": 6}], content_type="application/json-patch+json")
    s.get("deployments", "scaled", "d")
    s.update("deployments", "status", "d", {"spec": {"replicas": 9, **template}, "status": {"replicas": 3, "readyReplicas": 2, "observedGeneration": 1}}, subresource="status")
    s.update("deployments", "status-bad", "d", {"spec": {"replicas": 9, **template}, "status": {"replicas": -1}}, subresource="status")
    s.get("deployments", "status-get", "d", "status")
    s.update("deployments", "selector-changed", "d", {"spec": {"selector": {"matchLabels": {"a": "c"}}, "template": {"metadata": {"labels": {"a": "c"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    s.update("deployments", "selector-mismatch", "d", {"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "c"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    s.send("token", "POST", s.path("serviceaccounts", "none", "token"), {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["a"]}})
    s.send("token-short", "POST", s.path("serviceaccounts", "default", "token"), {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 5}})
    s.send("review", "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}})
    s.send("review-nothing", "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {}})
    s.send("token-review", "POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "nonsense"}})
    s.send("token-review-empty", "POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {}})
    s.send("namespace-finalize", "PUT", "/api/v1/namespaces/subresources/finalize", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "subresources"}, "spec": {"finalizers": ["kubernetes", "example.com/a"]}})
    return s


SCENES = [errors, discovery, subresources]
