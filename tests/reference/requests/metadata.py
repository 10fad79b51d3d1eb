"""Names, labels, annotations, owners, finalizers; unknown and duplicate fields."""

from scene import APPLY_PATCH, JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, Scene


def syntax():
    s = Scene("metadata")
    for label, metadata in {
        "labels": {"labels": {"app.kubernetes.io/name": "a", "b": "", "C_d.e": "1.2-3_f"}},
        "label-key-space": {"labels": {"a b": "c"}},
        "label-key-prefix": {"labels": {"A_/b": "c"}},
        "label-key-empty-prefix": {"labels": {"/b": "c"}},
        "label-key-slashes": {"labels": {"a/b/c": "d"}},
        "label-key-empty": {"labels": {"": "d"}},
        "label-key-empty-name": {"labels": {"a/": "d"}},
        "label-key-long": {"labels": {"a" * 64: "d"}},
        "label-prefix-long": {"labels": {"a" * 254 + "/b": "d"}},
        "label-value-long": {"labels": {"a": "b" * 64}},
        "label-value-bad": {"labels": {"a": "-b"}},
        "label-value-space": {"labels": {"a": "b c"}},
        "label-value-number": {"labels": {"a": 1}},
        "label-value-null": {"labels": {"a": None}},
        "labels-list": {"labels": ["a"]},
        "annotations": {"annotations": {"A.b/c": "anything\n goes", "x": ""}},
        "annotation-key-bad": {"annotations": {"a b": "c"}},
        "annotation-key-upper-prefix": {"annotations": {"Example.com/a": "c"}},
        "annotations-large": {"annotations": {"a": "${repeat:262145}"}},
        "finalizers": {"finalizers": ["example.com/a"]},
        "finalizers-bad": {"finalizers": ["a", "a b", "example.com/a"]},
        "finalizers-standard": {"finalizers": ["orphan", "foregroundDeletion"]},
        "finalizers-both": {"finalizers": ["orphan"]},
        "owner": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "11111111-2222-3333-4444-555555555555", "controller": True, "blockOwnerDeletion": True}]},
        "owner-bad": {"ownerReferences": [{"apiVersion": "v1"}, {"apiVersion": "", "kind": "", "name": "", "uid": ""}]},
        "owner-two-controllers": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": n, "uid": n, "controller": True} for n in ("a", "b")]},
        "owner-event": {"ownerReferences": [{"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "u"}]},
        "namespace-same": {"namespace": "metadata"},
        "namespace-other": {"namespace": "default"},
        "resource-version": {"resourceVersion": "5"},
        "resource-version-text": {"resourceVersion": "abc"},
        "server-fields": {"uid": "x", "creationTimestamp": "2020-01-01T00:00:00Z", "generation": 7, "selfLink": "/x", "deletionTimestamp": "2020-01-01T00:00:00Z"},
        "creation-bad": {"creationTimestamp": "yesterday"},
        "unknown-metadata": {"nothing": 1},
        "generation-text": {"generation": "7"},
    }.items():
        s.create("configmaps", label, {}, metadata)
    for label, name in {
        "upper": "A", "underscore": "a_b", "dots": "a.b", "dot-dot": "a..b", "long": "a" * 254,
        "longest": "a" * 253, "leading": "-a", "single-dot": ".", "two-dots": "..", "slash": "a/b", "unicode": "ä",
    }.items():
        s.create("configmaps", f"name-{label}", {}, name=name)
    for label, name in {"upper": "A", "dots": "a.b", "long": "a" * 64, "underscore": "a_b"}.items():
        s.send(f"namespace-{label}", "POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    s.send("namespace-missing", "POST", "/api/v1/namespaces/missing/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}})
    s.patch("configmaps", "label-added", "labels", MERGE_PATCH, {"metadata": {"labels": {"x": "y"}}})
    s.patch("configmaps", "label-bad", "labels", MERGE_PATCH, {"metadata": {"labels": {"x": "y z"}}})
    s.patch("configmaps", "name-changed", "labels", MERGE_PATCH, {"metadata": {"name": "x"}})
    s.patch("configmaps", "namespace-changed", "labels", MERGE_PATCH, {"metadata": {"namespace": "x"}})
    s.patch("configmaps", "uid-changed", "labels", MERGE_PATCH, {"metadata": {"uid": "x"}})
    s.patch("configmaps", "generate-name-changed", "labels", MERGE_PATCH, {"metadata": {"generateName": "x"}})
    s.patch("configmaps", "creation-changed", "labels", MERGE_PATCH, {"metadata": {"creationTimestamp": "2020-01-01T00:00:00Z"}})
    return s


def fields():
    s = Scene("field-validation")
    unknown = {"spec": {"ports": [{"port": 80, "wrong": 1}], "nothing": {"a": 1}}, "other": True}
    for mode in ("Strict", "Warn", "Ignore"):
        s.create("services", f"unknown-{mode.lower()}", unknown, query=f"fieldValidation={mode}")
    s.create("services", "unknown-default", unknown)
    s.create("services", "mode-unknown", unknown, query="fieldValidation=Loud")
    for mode in ("Strict", "Warn", "Ignore"):
        low = mode.lower()
        s.send(f"duplicate-{low}", "POST", s.path("configmaps", query=f"fieldValidation={mode}"),
               '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"duplicate-' + low + '"},"data":{"a":"1","a":"2"}}')
        s.send(f"duplicate-metadata-{low}", "POST", s.path("configmaps", query=f"fieldValidation={mode}"),
               '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","name":"duplicate-metadata-' + low + '"},"wrong":1}')
        s.send(f"duplicate-yaml-{low}", "POST", s.path("configmaps", query=f"fieldValidation={mode}"),
               f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: duplicate-yaml-{low}\ndata:\n  a: one\n  a: two\n", content_type="application/yaml")
        s.send(f"case-{low}", "POST", s.path("configmaps", query=f"fieldValidation={mode}"),
               {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"case-{low}"}, "Data": {"a": "b"}})
        s.patch("services", f"merge-{low}", "unknown-ignore", MERGE_PATCH, {"spec": {"wrong": 1}}, query=f"fieldValidation={mode}")
        s.patch("services", f"json-{low}", "unknown-ignore", JSON_PATCH, [{"op": "add", "path": "/spec/wrong", "value": 1}], query=f"fieldValidation={mode}")
        s.patch("services", f"json-extra-{low}", "unknown-ignore", JSON_PATCH, [{"op": "add", "path": "/metadata/labels", "value": {"a": low}, "wrong": 1}], query=f"fieldValidation={mode}")
        s.patch("services", f"strategic-{low}", "unknown-ignore", STRATEGIC_PATCH, {"spec": {"wrong": 1, "ports": [{"port": 80, "odd": 2}]}}, query=f"fieldValidation={mode}")
        s.patch("services", f"apply-{low}", "unknown-ignore", APPLY_PATCH, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "unknown-ignore"}, "spec": {"wrong": 1}}, query=f"fieldValidation={mode}&fieldManager=me")
        s.update("services", f"update-{low}", "unknown-ignore", unknown, query=f"fieldValidation={mode}")
    s.create("services", "several", {"spec": {"a": 1, "b": 2, "ports": [{"port": 80, "c": 1}, {"port": 81, "name": "x", "c": 1}]}, "z": 1, "metadatas": {}}, query="fieldValidation=Strict")
    s.create("configmaps", "type-text", {"data": {"a": 1}})
    s.create("configmaps", "type-list", {"data": ["a"]})
    s.create("configmaps", "type-binary", {"binaryData": {"a": "not base64!"}})
    s.create("configmaps", "immutable-text", {"immutable": "yes"})
    s.create("services", "port-object", {"spec": {"ports": [{"port": {}}]}})
    s.create("services", "port-huge", {"spec": {"ports": [{"port": 1e20}]}})
    s.create("services", "port-float", {"spec": {"ports": [{"port": 80.0}]}})
    s.create("services", "target-list", {"spec": {"ports": [{"port": 80, "targetPort": [1]}]}})
    s.create("services", "target-fraction", {"spec": {"ports": [{"port": 80, "targetPort": 1.5}]}})
    s.create("services", "target-huge", {"spec": {"ports": [{"port": 80, "targetPort": 4294967296}]}})
    s.create("services", "bool-number", {"spec": {"ports": [{"port": 80}], "publishNotReadyAddresses": 1}})
    s.create("services", "selector-list", {"spec": {"ports": [{"port": 80}], "selector": ["a"]}})
    return s


SCENES = [syntax, fields]
