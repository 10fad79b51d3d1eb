"""The other kinds: workloads, nodes, volumes, leases, events, secrets."""

from scene import MERGE_PATCH, Scene

CONTAINERS = {"containers": [{"name": "c", "image": "i"}]}


def template(labels=None, **more):
    labels = labels or {"a": "b"}
    return {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": dict(CONTAINERS)}, **more}


def workloads():
    s = Scene("workloads")
    both = {
        "plain": {"spec": template()},
        "no-spec": {},
        "no-selector": {"spec": {"template": {"metadata": {"labels": {"a": "b"}}, "spec": CONTAINERS}}},
        "selector-empty": {"spec": {"selector": {}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": CONTAINERS}}},
        "selector-mismatch": {"spec": {"selector": {"matchLabels": {"a": "c"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": CONTAINERS}}},
        "restart-never": {"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never", **CONTAINERS}}}},
        "negative": {"spec": template(replicas=-1, minReadySeconds=-1)},
        "template-bad": {"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b", "c d": "e"}}, "spec": {"containers": []}}}},
        "deadline": {"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"activeDeadlineSeconds": 5, **CONTAINERS}}}},
    }
    for plural in ("deployments", "replicasets", "daemonsets", "statefulsets"):
        for label, fields in both.items():
            s.create(plural, f"{plural}-{label}", fields)
    for label, strategy in {
        "recreate": {"type": "Recreate"},
        "recreate-rolling": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}},
        "unknown": {"type": "Nonsense"},
        "surge-percent": {"rollingUpdate": {"maxSurge": "50%", "maxUnavailable": "0%"}},
        "both-zero": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}},
        "percent-bad": {"rollingUpdate": {"maxSurge": "x", "maxUnavailable": "150%"}},
        "negative": {"rollingUpdate": {"maxSurge": -1}},
    }.items():
        s.create("deployments", f"strategy-{label}", {"spec": template(strategy=strategy)})
        s.create("daemonsets", f"update-{label}", {"spec": template(updateStrategy=strategy)})
        s.create("statefulsets", f"sts-update-{label}", {"spec": template(serviceName="s", updateStrategy=strategy)})
    s.create("deployments", "progress", {"spec": template(progressDeadlineSeconds=5, minReadySeconds=10)})
    s.create("deployments", "history", {"spec": template(revisionHistoryLimit=-1, paused=True)})
    s.update("replicasets", "selector-changed", "replicasets-plain", {"spec": template({"a": "c"})})
    s.update("daemonsets", "selector-changed-ds", "daemonsets-plain", {"spec": template({"a": "c"})})
    s.patch("statefulsets", "sts-name-changed", "statefulsets-plain", MERGE_PATCH, {"spec": {"serviceName": "other"}})
    s.patch("statefulsets", "sts-scaled", "statefulsets-plain", MERGE_PATCH, {"spec": {"replicas": 3}})
    s.create("statefulsets", "sts-policy", {"spec": template(serviceName="s", podManagementPolicy="Sideways")})
    s.create("statefulsets", "sts-parallel", {"spec": template(serviceName="s", podManagementPolicy="Parallel", ordinals={"start": 1}, minReadySeconds=1)})
    s.create("statefulsets", "sts-claims", {"spec": template(serviceName="s", volumeClaimTemplates=[{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}])})
    s.create("controllerrevisions", "rev", {"revision": 1, "data": {"a": 1}})
    s.create("controllerrevisions", "rev-negative", {"revision": -1, "data": {"a": 1}})
    s.create("controllerrevisions", "rev-no-data", {"revision": 1})
    s.patch("controllerrevisions", "rev-changed", "rev", MERGE_PATCH, {"data": {"a": 2}})
    return s


def cluster():
    s = Scene("cluster")
    for label, fields in {
        "node-plain": {},
        "node-ranges": {"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"]}},
        "node-range-only": {"spec": {"podCIDR": "10.1.1.0/24"}},
        "node-range-mismatch": {"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.2.0.0/24"]}},
        "node-range-text": {"spec": {"podCIDR": "x"}},
        "node-ranges-one-family": {"spec": {"podCIDRs": ["10.1.0.0/24", "10.2.0.0/24"]}},
        "node-taints": {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}]}},
        "node-taint-bad": {"spec": {"taints": [{"key": "a b", "effect": "Sometimes"}]}},
        "node-status": {"status": {"capacity": {"cpu": "2", "pods": "110"}, "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}},
    }.items():
        s.create("nodes", label, fields)
    s.patch("nodes", "node-range-changed", "node-ranges", MERGE_PATCH, {"spec": {"podCIDR": "10.9.0.0/24", "podCIDRs": ["10.9.0.0/24"]}})
    s.patch("nodes", "node-provider", "node-plain", MERGE_PATCH, {"spec": {"providerID": "a://b", "unschedulable": True}})
    s.patch("nodes", "node-provider-changed", "node-plain", MERGE_PATCH, {"spec": {"providerID": "c://d"}})
    s.patch("nodes", "node-status-set", "node-plain", MERGE_PATCH, {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, subresource="status")
    for label, fields in {
        "lease-full": {"spec": {"holderIdentity": "me", "leaseDurationSeconds": 15, "acquireTime": "2024-01-02T03:04:05.123456Z", "renewTime": "2024-01-02T03:04:05.000000Z", "leaseTransitions": 1}},
        "lease-empty": {"spec": {}},
        "lease-none": {},
        "lease-zero": {"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}},
        "lease-time": {"spec": {"renewTime": "2024-01-02T03:04:05Z"}},
        "lease-time-bad": {"spec": {"renewTime": "x"}},
    }.items():
        s.create("leases", label, fields)
    for label, fields in {
        "secret-opaque": {"data": {"a": "Yg=="}},
        "secret-bad": {"data": {"a": "!"}},
        "secret-key": {"data": {"a b": "Yg=="}},
        "secret-string": {"data": {"a": "Yg=="}, "stringData": {"a": "c", "d": "e"}},
        "secret-tls": {"type": "kubernetes.io/tls", "data": {"tls.crt": "Yg=="}},
        "secret-auth": {"type": "kubernetes.io/basic-auth", "data": {}},
        "secret-docker": {"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "x"}},
        "secret-ssh": {"type": "kubernetes.io/ssh-auth", "data": {}},
        "secret-token": {"type": "kubernetes.io/service-account-token"},
        "secret-fixed": {"immutable": True, "data": {"a": "Yg=="}},
        "secret-large": {"stringData": {"a": "${repeat:1048577}"}},
    }.items():
        s.create("secrets", label, fields)
    for label, fields in {
        "cm-key": {"data": {"a b": "c", "..": "d"}},
        "cm-both": {"data": {"a": "c"}, "binaryData": {"a": "Yg=="}},
    }.items():
        s.create("configmaps", label, fields)
    about = {"kind": "ConfigMap", "namespace": "cluster", "name": "x"}
    for label, fields in {
        "event-full": {"involvedObject": about, "reason": "R", "message": "m", "type": "Warning", "source": {"component": "c"}, "firstTimestamp": "2024-01-02T03:04:05Z", "count": 1},
        "event-other-namespace": {"involvedObject": {**about, "namespace": "other"}},
        "event-no-namespace": {"involvedObject": {"kind": "Node", "name": "x"}},
        "event-empty": {},
        "event-new-style": {"involvedObject": about, "eventTime": "2024-01-02T03:04:05.000000Z", "reportingComponent": "a.b/c", "reportingInstance": "i", "action": "A", "reason": "R", "type": "Normal"},
        "event-new-style-bad": {"involvedObject": about, "eventTime": "2024-01-02T03:04:05.000000Z", "type": "Loud"},
    }.items():
        s.create("events", label, fields)
    s.create("serviceaccounts", "sa", {"secrets": [{"name": "a"}], "imagePullSecrets": [{"name": "b"}]})
    s.create("roles", "role", {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]})
    s.create("roles", "role-bad", {"rules": [{"verbs": []}, {"verbs": ["get"]}, {"verbs": ["get"], "nonResourceURLs": ["/x"]}]})
    s.create("rolebindings", "binding", {"roleRef": {"kind": "Role", "name": "role"}, "subjects": [{"kind": "ServiceAccount", "name": "default"}, {"kind": "User", "name": "u"}, {"kind": "Robot", "name": "r"}]})
    s.create("rolebindings", "binding-good", {"roleRef": {"kind": "Role", "name": "role"}, "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "x"}]})
    s.patch("rolebindings", "binding-changed", "binding-good", MERGE_PATCH, {"roleRef": {"name": "other"}})
    s.patch("namespaces", "namespace-label", "cluster", MERGE_PATCH, {"metadata": {"labels": {"a": "b"}}})
    s.patch("namespaces", "namespace-name-label", "cluster", MERGE_PATCH, {"metadata": {"labels": {"kubernetes.io/metadata.name": "x"}}})
    s.patch("namespaces", "namespace-finalizers", "cluster", MERGE_PATCH, {"spec": {"finalizers": []}})
    return s


def volumes():
    s = Scene("volumes")
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    for label, fields in {
        "pvc-plain": {"spec": claim},
        "pvc-empty": {"spec": {}},
        "pvc-mode": {"spec": {**claim, "accessModes": ["Nonsense"]}},
        "pvc-size": {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "0"}}}},
        "pvc-class": {"spec": {**claim, "storageClassName": "A_"}},
        "pvc-volume-mode": {"spec": {**claim, "volumeMode": "Tape"}},
        "pvc-selector": {"spec": {**claim, "selector": {"matchLabels": {"a": "b"}}, "volumeName": "v"}},
    }.items():
        s.create("persistentvolumeclaims", label, fields)
    s.patch("persistentvolumeclaims", "pvc-changed", "pvc-plain", MERGE_PATCH, {"spec": {"storageClassName": "y", "volumeMode": "Block"}})
    volume = {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"}}
    for label, fields in {
        "pv-plain": {"spec": volume},
        "pv-empty": {"spec": {}},
        "pv-no-source": {"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}},
        "pv-reclaim": {"spec": {**volume, "persistentVolumeReclaimPolicy": "Burn"}},
        "pv-mode": {"spec": {**volume, "accessModes": ["x"], "volumeMode": "Tape"}},
        "pv-path": {"spec": {**volume, "hostPath": {"path": "../x"}}},
        "pv-local": {"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "local": {"path": "/x"}}},
    }.items():
        s.create("persistentvolumes", label, fields)
    for label, fields in {
        "sc-plain": {"provisioner": "example.com/p"},
        "sc-empty": {},
        "sc-full": {"provisioner": "example.com/p", "reclaimPolicy": "Retain", "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": True, "parameters": {"a": "b"}},
        "sc-bad": {"provisioner": "a b", "reclaimPolicy": "Recycle", "volumeBindingMode": "x"},
    }.items():
        s.create("storageclasses", label, fields)
    s.patch("storageclasses", "sc-changed", "sc-plain", MERGE_PATCH, {"provisioner": "example.com/q"})
    return s


SCENES = [workloads, cluster, volumes]
