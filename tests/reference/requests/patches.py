"""The four patch types, conflicts, and server-side apply."""

from scene import APPLY_PATCH, JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, Scene


def patches():
    s = Scene("patches")
    s.create("configmaps", "a", {"data": {"a": "1", "b": "2"}}, keep={"version": "/metadata/resourceVersion", "uid": "/metadata/uid"})

    def merge(label, body, name="a", **more):
        s.patch("configmaps", f"merge-{label}", name, MERGE_PATCH, body, **more)

    merge("set", {"data": {"c": "3", "b": None}})
    merge("nothing", {})
    merge("same", {"data": {"c": "3"}})
    merge("version", {"metadata": {"resourceVersion": "${version}"}, "data": {"c": "4"}})
    merge("version-text", {"metadata": {"resourceVersion": "x"}, "data": {"c": "4"}})
    merge("list", [1])
    merge("text", '"x"')
    merge("malformed", "{")
    merge("type", {"data": "x"})
    merge("kind", {"kind": "Secret"})
    merge("version-other", {"apiVersion": "v2"})
    merge("missing", {"data": {}}, "missing")
    merge("dry", {"data": {"dry": "1"}}, query="dryRun=All")
    merge("dry-bad", {"data": {"dry": "1"}}, query="dryRun=Some")
    merge("force", {"data": {"dry": "1"}}, query="force=true")
    merge("manager", {"data": {"m": "1"}}, query="fieldManager=someone")
    merge("manager-long", {"data": {"m": "1"}}, query="fieldManager=" + "x" * 129)
    merge("manager-odd", {"data": {"m": "1"}}, query="fieldManager=a%07b")
    merge("null", "null")

    def json(label, body, **more):
        s.patch("configmaps", f"json-{label}", "a", JSON_PATCH, body, **more)

    json("add", [{"op": "add", "path": "/data/x~1y", "value": "1"}])
    json("test", [{"op": "test", "path": "/data/a", "value": "1"}, {"op": "replace", "path": "/data/a", "value": "9"}])
    json("test-fails", [{"op": "test", "path": "/data/a", "value": "1"}])
    json("test-missing", [{"op": "test", "path": "/data/none", "value": "1"}])
    json("remove", [{"op": "remove", "path": "/data/a"}])
    json("remove-missing", [{"op": "remove", "path": "/data/none"}])
    json("replace-missing", [{"op": "replace", "path": "/data/none", "value": "1"}])
    json("add-deep", [{"op": "add", "path": "/none/deep", "value": "1"}])
    json("move", [{"op": "move", "from": "/data/m", "path": "/data/n"}])
    json("copy", [{"op": "copy", "from": "/data/n", "path": "/data/o"}])
    json("move-missing", [{"op": "move", "from": "/data/none", "path": "/data/n"}])
    json("op-unknown", [{"op": "shuffle", "path": "/data/a"}])
    json("op-missing", [{"path": "/data/a"}])
    json("object", {"op": "add"})
    json("malformed", "[")
    json("empty", [])
    json("no-value", [{"op": "add", "path": "/data/q"}])
    json("pointer", [{"op": "add", "path": "data/q", "value": "1"}])

    s.create("pods", "p", {"spec": {"containers": [{"name": "c", "image": "a:1", "env": [{"name": "A", "value": "1"}]}]}})

    def strategic(label, body, plural="pods", name="p", **more):
        s.patch(plural, f"strategic-{label}", name, STRATEGIC_PATCH, body, **more)

    strategic("image", {"spec": {"containers": [{"name": "c", "image": "a:2"}]}})
    strategic("no-key", {"spec": {"containers": [{"image": "a:2"}]}})
    strategic("toleration", {"spec": {"tolerations": [{"key": "x", "operator": "Exists"}]}})
    strategic("labels", {"metadata": {"labels": {"a": "b", "c": None}}})
    strategic("directive-bad", {"metadata": {"labels": {"$patch": "shuffle"}}})
    strategic("replace", {"metadata": {"labels": {"$patch": "replace", "z": "1"}}})
    strategic("list", [1])
    strategic("malformed", "{")
    s.create("services", "web", {"spec": {"clusterIP": "10.96.8.90", "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}})
    strategic("ports-merge", {"spec": {"ports": [{"port": 80, "targetPort": 8080}]}}, "services", "web")
    strategic("ports-delete", {"spec": {"ports": [{"port": 81, "$patch": "delete"}]}}, "services", "web")
    strategic("ports-add", {"spec": {"ports": [{"port": 82, "name": "c"}]}}, "services", "web")
    strategic("ports-order", {"spec": {"$setElementOrder/ports": [{"port": 82}, {"port": 80}], "ports": [{"port": 82, "targetPort": 9}]}}, "services", "web")
    strategic("ports-replace", {"spec": {"ports": [{"$patch": "replace"}, {"port": 90}]}}, "services", "web")
    strategic("finalizers", {"metadata": {"finalizers": ["example.com/a"]}}, "services", "web")
    strategic("finalizers-more", {"metadata": {"finalizers": ["example.com/b"]}}, "services", "web")
    strategic("finalizers-delete", {"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/a"]}}, "services", "web")
    strategic("retain", {"spec": {"selector": {"$retainKeys": ["a"], "a": "b"}}}, "services", "web")
    s.send("type-unknown", "PATCH", s.path("configmaps", "a"), {}, content_type="application/json")
    s.send("type-none", "PATCH", s.path("configmaps", "a"), {}, content_type="text/plain")
    return s


def conflicts():
    s = Scene("conflicts")
    s.create("configmaps", "a", {"data": {"a": "1"}}, keep={"old": "/metadata/resourceVersion", "uid": "/metadata/uid"})
    s.update("configmaps", "changed", "a", {"data": {"a": "2"}}, keep={"new": "/metadata/resourceVersion"})
    s.update("configmaps", "stale", "a", {"data": {"a": "3"}}, {"resourceVersion": "${old}"})
    s.update("configmaps", "fresh", "a", {"data": {"a": "3"}}, {"resourceVersion": "${new}"})
    s.update("configmaps", "version-text", "a", {"data": {"a": "3"}}, {"resourceVersion": "x"})
    s.update("configmaps", "version-zero", "a", {"data": {"a": "4"}}, {"resourceVersion": "0"})
    s.update("configmaps", "uid-other", "a", {"data": {"a": "3"}}, {"uid": "11111111-2222-3333-4444-555555555555"})
    s.update("configmaps", "uid-same", "a", {"data": {"a": "5"}}, {"uid": "${uid}"})
    s.update("configmaps", "missing", "b", {"data": {}})
    s.update("configmaps", "missing-version", "b", {"data": {}}, {"resourceVersion": "5"})
    s.update("services", "service-by-update", "web", {"spec": {"ports": [{"port": 80}]}})
    s.update("leases", "lease-by-update", "l", {"spec": {"holderIdentity": "me"}})
    s.create("configmaps", "same-name", {}, name="a")
    s.send("name-missing", "PUT", s.path("configmaps", "a"), {"apiVersion": "v1", "kind": "ConfigMap"})
    s.send("name-other", "PUT", s.path("configmaps", "a"), s.object("configmaps", "b"))
    s.send("namespace-other", "PUT", s.path("configmaps", "a"), s.object("configmaps", "a", metadata={"namespace": "default"}))
    s.update("configmaps", "dry", "a", {"data": {"dry": "1"}}, query="dryRun=All")
    s.get("configmaps", "unchanged", "a")
    s.create("configmaps", "fixed", {"data": {"a": "1"}, "immutable": True})
    s.update("configmaps", "fixed-data", "fixed", {"data": {"a": "2"}, "immutable": True})
    s.update("configmaps", "fixed-flag", "fixed", {"data": {"a": "1"}})
    s.create("secrets", "secret", {"stringData": {"a": "b"}, "type": "Opaque"})
    s.update("secrets", "secret-type", "secret", {"type": "other"})
    return s


def applies():
    s = Scene("applies")

    def apply(label, name, fields, manager="one", metadata=None, query="", plural="configmaps", **more):
        body = s.object(plural, name, fields, metadata)
        s.patch(plural, label, name, APPLY_PATCH, body, query=f"fieldManager={manager}{query}", **more)

    apply("create", "a", {"data": {"a": "1", "b": "1"}})
    apply("same", "a", {"data": {"a": "1", "b": "1"}})
    apply("other", "a", {"data": {"c": "1"}}, "two")
    apply("conflict", "a", {"data": {"a": "2"}}, "two")
    apply("conflicts", "a", {"data": {"a": "2", "b": "2"}}, "two")
    apply("shared", "a", {"data": {"a": "1"}}, "two")
    apply("forced", "a", {"data": {"a": "2"}}, "two", query="&force=true")
    apply("given-up", "a", {"data": {"b": "1"}})
    apply("removed", "a", {"data": {}})
    s.get("configmaps", "after", "a")
    s.patch("configmaps", "no-manager", "a", APPLY_PATCH, s.object("configmaps", "a"))
    s.patch("configmaps", "yaml", "y", APPLY_PATCH, "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\ndata:\n  a: b\n", query="fieldManager=one")
    s.patch("configmaps", "yaml-bad", "y", APPLY_PATCH, "a: [", query="fieldManager=one")
    s.patch("configmaps", "kindless", "a", APPLY_PATCH, {"metadata": {"name": "a"}}, query="fieldManager=one")
    s.patch("configmaps", "kind-other", "a", APPLY_PATCH, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}, query="fieldManager=one")
    s.patch("configmaps", "name-other", "a", APPLY_PATCH, s.object("configmaps", "b"), query="fieldManager=one")
    apply("managed-fields", "a", {"data": {}}, metadata={"managedFields": [{"manager": "x"}]})
    apply("uid-new", "new", {"data": {}}, metadata={"uid": "11111111-2222-3333-4444-555555555555"})
    apply("version-new", "new2", {"data": {}}, metadata={"resourceVersion": "1"})
    apply("dry", "dry", {"data": {}}, query="&dryRun=All")
    s.update("configmaps", "update-takes", "a", {"data": {"a": "u"}}, query="fieldManager=updater")
    apply("after-update", "a", {"data": {"a": "9"}}, "two")
    apply("service", "web", {"spec": {"clusterIP": "10.96.8.95", "ports": [{"port": 80, "name": "a"}], "selector": {"a": "b"}}}, plural="services")
    apply("service-port", "web", {"spec": {"ports": [{"port": 81, "name": "b"}]}}, "two", plural="services")
    apply("service-port-conflict", "web", {"spec": {"ports": [{"port": 80, "name": "z"}]}}, "two", plural="services")
    apply("service-port-gone", "web", {"spec": {"selector": {"a": "b"}}}, plural="services")
    apply("service-bad", "web", {"spec": {"ports": [{"port": 70000}]}}, plural="services")
    apply("duplicate-key", "web", {"spec": {"ports": [{"port": 80}, {"port": 80}]}}, plural="services")
    apply("deployment", "d", {"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}}}}, plural="deployments")
    apply("deployment-replicas", "d", {"spec": {"replicas": 3}}, "scaler", plural="deployments")
    apply("deployment-status", "d", {"status": {"replicas": 3}}, "controller", plural="deployments", subresource="status")
    s.patch("deployments", "reset-managers", "d", MERGE_PATCH, {"metadata": {"managedFields": [{}]}})
    return s


SCENES = [patches, conflicts, applies]
