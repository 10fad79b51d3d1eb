"""Who owns which fields after creates, updates, patches and applies."""

from fields import container
from scene import APPLY_PATCH, JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, Scene


def ownership():
    s = Scene("ownership")

    def apply(label, plural, name, fields, manager="one", metadata=None, query="", **more):
        s.patch(plural, label, name, APPLY_PATCH, s.object(plural, name, fields, metadata),
                query=f"fieldManager={manager}{query}", **more)

    by = "fieldManager=creator"
    s.create("services", "service", {"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}}, {"labels": {"x": "y"}, "annotations": {"n": "1"}}, name="web", query=by)
    s.patch("services", "service-port", "web", STRATEGIC_PATCH, {"spec": {"ports": [{"port": 81, "name": "b"}, {"port": 80, "name": "a"}]}}, query="fieldManager=patcher")
    s.patch("services", "service-type", "web", MERGE_PATCH, {"spec": {"type": "NodePort"}}, query="fieldManager=typer")
    s.patch("services", "service-selector", "web", JSON_PATCH, [{"op": "add", "path": "/spec/selector/c", "value": "d"}], query="fieldManager=adder")
    s.patch("services", "service-selector-gone", "web", JSON_PATCH, [{"op": "remove", "path": "/spec/selector"}], query="fieldManager=remover")
    s.patch("services", "service-status", "web", MERGE_PATCH, {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}, "conditions": [{"type": "A", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2024-01-02T03:04:05Z"}]}}, subresource="status", query="fieldManager=status")
    s.patch("services", "service-labels", "web", MERGE_PATCH, {"metadata": {"labels": {"x": None, "z": "1"}, "annotations": None, "finalizers": ["example.com/a"]}}, query="fieldManager=labels")
    s.patch("services", "service-finalizer-gone", "web", MERGE_PATCH, {"metadata": {"finalizers": None}}, query="fieldManager=labels")
    s.create("pods", "pod", {"spec": {"containers": [container(ports=[{"containerPort": 80}], env=[{"name": "A", "value": "1"}], volumeMounts=[{"name": "v", "mountPath": "/v"}], resources={"limits": {"cpu": "1"}}, livenessProbe={"httpGet": {"port": 80}})], "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"operator": "Exists"}], "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["a"]}], "nodeSelector": {"a": "b"}, "dnsConfig": {"nameservers": ["192.0.2.1"]}}}, query=by)
    s.patch("pods", "pod-status", "pod", STRATEGIC_PATCH, {"status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [{"name": "c", "ready": True, "restartCount": 0, "image": "i", "imageID": "x"}]}}, subresource="status", query="fieldManager=kubelet")
    s.patch("pods", "pod-image", "pod", STRATEGIC_PATCH, {"spec": {"containers": [{"name": "c", "image": "registry.example/app:2"}]}}, query="fieldManager=imager")
    s.create("configmaps", "empty-data", {"data": {}}, query=by)
    s.create("configmaps", "data", {"data": {"a": "1"}, "binaryData": {"b": "eA=="}}, {"finalizers": ["example.com/a"], "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "11111111-2222-3333-4444-555555555555"}]}, query=by)
    s.patch("configmaps", "data-same", "data", MERGE_PATCH, {"data": {"a": "1"}}, query="fieldManager=nobody")
    s.patch("configmaps", "data-emptied", "data", MERGE_PATCH, {"data": {"a": None}}, query="fieldManager=emptier")
    s.patch("configmaps", "data-filled", "data", MERGE_PATCH, {"data": {"c": "1"}}, query="fieldManager=filler")
    s.patch("configmaps", "data-null", "data", MERGE_PATCH, {"data": None}, query="fieldManager=emptier")
    s.create("secrets", "secret", {"stringData": {"a": "b"}, "data": {"c": "eA=="}}, query=by)
    s.patch("secrets", "secret-more", "secret", MERGE_PATCH, {"stringData": {"d": "e"}}, query="fieldManager=more")
    s.create("endpointslices", "slice", {"addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {}}], "ports": [{"port": 80}]}, query=by)
    s.create("endpoints", "points", {"subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}]}, query=by)
    s.create("networkpolicies", "policy", {"spec": {"podSelector": {}, "ingress": [{}], "egress": []}}, query=by)
    s.create("ingresses", "ingress", {"spec": {"rules": [{"host": "a.example", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "a", "port": {"number": 80}}}}]}}], "tls": [{"hosts": ["a.example"]}]}}, query=by)
    s.create("deployments", "deployment", {"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container(ports=[{"containerPort": 80, "name": "http"}], env=[])]}}}}, query=by)
    s.patch("deployments", "deployment-scaled", "deployment", MERGE_PATCH, {"spec": {"replicas": 2}}, subresource="scale", query="fieldManager=scaler")
    s.create("leases", "lease", {"spec": {"holderIdentity": "a"}}, query=by)
    s.create("nodes", "owned-node", {"spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]}, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}], "capacity": {"cpu": "1"}}}, query=by)
    s.create("namespaces", "owned-namespace", {}, query=by)
    s.create("serviceaccounts", "owned-account", {"secrets": [{"name": "a"}], "imagePullSecrets": [{"name": "b"}]}, query=by)
    s.create("persistentvolumeclaims", "claim", {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "x"}}, query=by)

    apply("apply-service", "services", "applied", {"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}}, metadata={"labels": {"x": "y"}})
    apply("apply-service-same", "services", "applied", {"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}}, metadata={"labels": {"x": "y"}})
    apply("apply-service-second", "services", "applied", {"spec": {"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]}}, "two")
    apply("apply-service-selector", "services", "applied", {"spec": {"selector": {}}}, "three")
    apply("apply-service-other-selector", "services", "applied", {"spec": {"selector": {"c": "d"}}}, "three")
    apply("apply-service-force", "services", "applied", {"spec": {"selector": {"c": "d"}}}, "three", query="&force=true")
    apply("apply-service-less", "services", "applied", {"spec": {"ports": [{"port": 80}]}})
    apply("apply-service-type", "services", "applied", {"spec": {"ports": [{"port": 80}], "type": "NodePort"}})
    apply("apply-service-status", "services", "applied", {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}, "status", subresource="status")
    apply("apply-deployment", "deployments", "applied", {"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container(ports=[{"containerPort": 80}], env=[{"name": "A", "value": "1"}])], "tolerations": [{"operator": "Exists"}]}}}})
    apply("apply-deployment-container", "deployments", "applied", {"spec": {"template": {"spec": {"containers": [container("side")]}}}}, "two")
    apply("apply-deployment-env", "deployments", "applied", {"spec": {"template": {"spec": {"containers": [{"name": "c", "env": [{"name": "B", "value": "2"}]}]}}}}, "three")
    apply("apply-deployment-container-gone", "deployments", "applied", {"spec": {}}, "two")
    s.patch("deployments", "apply-deployment-patched", "applied", STRATEGIC_PATCH, {"spec": {"template": {"spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "9"}]}]}}}}, query="fieldManager=patcher")
    apply("apply-deployment-conflict", "deployments", "applied", {"spec": {"template": {"spec": {"containers": [container(env=[{"name": "A", "value": "1"}])]}}}}, "four")
    apply("apply-map", "configmaps", "applied", {"data": {"a": "1"}})
    apply("apply-map-empty", "configmaps", "applied", {"data": {}})
    apply("apply-map-nothing", "configmaps", "applied", {})
    apply("apply-map-null", "configmaps", "applied", {"data": None})
    apply("apply-map-again", "configmaps", "applied", {"data": {"a": "1", "b": "1"}})
    s.update("configmaps", "apply-map-updated", "applied", {"data": {"a": "2"}}, query="fieldManager=updater")
    apply("apply-map-two", "configmaps", "applied", {"data": {"a": "2"}}, "two")
    apply("apply-map-whole", "configmaps", "applied", {"immutable": True}, "two")
    s.create("configmaps", "unapplied", {"data": {"a": "1"}}, {"managedFields": []}, query=by)
    apply("apply-unapplied", "configmaps", "unapplied", {"data": {"a": "2"}})
    apply("apply-unapplied-forced", "configmaps", "unapplied", {"data": {"a": "2"}}, query="&force=true")
    apply("apply-secret", "secrets", "applied", {"stringData": {"a": "b"}})
    apply("apply-secret-again", "secrets", "applied", {"stringData": {"a": "c"}})
    apply("apply-secret-data", "secrets", "applied", {"data": {"a": "eA=="}}, "two")
    apply("apply-finalizers", "configmaps", "finalized", {}, metadata={"finalizers": ["example.com/a"]})
    apply("apply-finalizers-two", "configmaps", "finalized", {}, "two", metadata={"finalizers": ["example.com/b"]})
    apply("apply-finalizers-gone", "configmaps", "finalized", {})
    apply("apply-policy", "networkpolicies", "applied", {"spec": {"podSelector": {"matchLabels": {"a": "b"}}, "ingress": [{"from": [{"podSelector": {}}]}]}})
    apply("apply-policy-two", "networkpolicies", "applied", {"spec": {"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": ["Ingress"]}}, "two")
    apply("apply-policy-selector", "networkpolicies", "applied", {"spec": {"podSelector": {"matchLabels": {"c": "d"}}}}, "two")
    return s


SCENES = [ownership]
