"""A scene: requests that are sent in order, in a namespace of their own."""

KINDS = {
    "namespaces": ("/api/v1", "v1", "Namespace", False),
    "nodes": ("/api/v1", "v1", "Node", False),
    "persistentvolumes": ("/api/v1", "v1", "PersistentVolume", False),
    "persistentvolumeclaims": ("/api/v1", "v1", "PersistentVolumeClaim", True),
    "pods": ("/api/v1", "v1", "Pod", True),
    "services": ("/api/v1", "v1", "Service", True),
    "endpoints": ("/api/v1", "v1", "Endpoints", True),
    "configmaps": ("/api/v1", "v1", "ConfigMap", True),
    "secrets": ("/api/v1", "v1", "Secret", True),
    "serviceaccounts": ("/api/v1", "v1", "ServiceAccount", True),
    "events": ("/api/v1", "v1", "Event", True),
    "deployments": ("/apis/apps/v1", "apps/v1", "Deployment", True),
    "replicasets": ("/apis/apps/v1", "apps/v1", "ReplicaSet", True),
    "daemonsets": ("/apis/apps/v1", "apps/v1", "DaemonSet", True),
    "statefulsets": ("/apis/apps/v1", "apps/v1", "StatefulSet", True),
    "controllerrevisions": ("/apis/apps/v1", "apps/v1", "ControllerRevision", True),
    "leases": ("/apis/coordination.k8s.io/v1", "coordination.k8s.io/v1", "Lease", True),
    "endpointslices": ("/apis/discovery.k8s.io/v1", "discovery.k8s.io/v1", "EndpointSlice", True),
    "ingresses": ("/apis/networking.k8s.io/v1", "networking.k8s.io/v1", "Ingress", True),
    "ingressclasses": ("/apis/networking.k8s.io/v1", "networking.k8s.io/v1", "IngressClass", False),
    "networkpolicies": ("/apis/networking.k8s.io/v1", "networking.k8s.io/v1", "NetworkPolicy", True),
    "storageclasses": ("/apis/storage.k8s.io/v1", "storage.k8s.io/v1", "StorageClass", False),
    "roles": ("/apis/rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io/v1", "Role", True),
    "rolebindings": ("/apis/rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io/v1", "RoleBinding", True),
    "clusterroles": ("/apis/rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io/v1", "ClusterRole", False),
}

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


class Scene:
    """`send` is one request; the rest are shorter ways to write common ones."""

    def __init__(self, name, namespace=True):
        self.name = name
        self.exchanges = []
        if namespace:
            self.send("namespace", "POST", "/api/v1/namespaces", {
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            # Without an account admission refuses pods, and with its token they get a volume.
            self.send("account", "POST", f"/api/v1/namespaces/{name}/serviceaccounts", {
                "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"},
                "automountServiceAccountToken": False})

    def send(self, label, method, path, body=None, keep=None, accept=JSON, content_type=JSON,
             headers=None):
        """`keep` names parts of the answer (JSON pointers) for `${…}` in later requests."""
        labels = [one["label"] for one in self.exchanges]
        assert label not in labels, f"{self.name}/{label} twice"
        request = {"method": method, "path": path, "headers": {"accept": accept}}
        if body is not None:
            request["headers"]["content-type"] = content_type
            request["body"] = body
        request["headers"].update(headers or {})
        exchange = {"label": label, "request": request}
        if keep:
            exchange["keep"] = keep
        self.exchanges.append(exchange)

    def path(self, plural, name="", subresource="", query=""):
        prefix, _, _, namespaced = KINDS[plural]
        parts = [prefix]
        if namespaced:
            parts += ["namespaces", self.name]
        parts += [part for part in (plural, name, subresource) if part]
        return "/".join(parts) + (f"?{query}" if query else "")

    def object(self, plural, name, fields=None, metadata=None):
        _, api_version, kind, _ = KINDS[plural]
        return {"apiVersion": api_version, "kind": kind,
                "metadata": {"name": name, **(metadata or {})}, **(fields or {})}

    def create(self, plural, label, fields=None, metadata=None, name=None, query="", **more):
        body = self.object(plural, name or label, fields, metadata)
        self.send(label, "POST", self.path(plural, query=query), body, **more)

    def update(self, plural, label, name, fields=None, metadata=None, subresource="", query="", **more):
        body = self.object(plural, name, fields, metadata)
        self.send(label, "PUT", self.path(plural, name, subresource, query), body, **more)

    def get(self, plural, label, name="", subresource="", query="", **more):
        self.send(label, "GET", self.path(plural, name, subresource, query), **more)

    def delete(self, plural, label, name="", body=None, query="", **more):
        self.send(label, "DELETE", self.path(plural, name, query=query), body, **more)

    def patch(self, plural, label, name, content_type, body, subresource="", query="", **more):
        self.send(label, "PATCH", self.path(plural, name, subresource, query), body,
                  content_type=content_type, **more)
