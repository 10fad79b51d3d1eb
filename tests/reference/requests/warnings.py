"""Values that are allowed, and warned of."""

from fields import container
from fields import pod_spec as spec
from scene import MERGE_PATCH, Scene


def ports(*given):
    return spec(container(ports=list(given)))


def terms(key):
    return [{"matchExpressions": [{"key": key, "operator": "Exists"}]}]


TEMPLATES = {
    "node-selector": spec(nodeSelector={"beta.kubernetes.io/os": "linux"}),
    "node-affinity": spec(affinity={"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms("failure-domain.beta.kubernetes.io/zone")},
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": terms("beta.kubernetes.io/arch")[0]}]}}),
    "spread": spec(topologySpreadConstraints=[{"maxSkew": 1, "topologyKey": "failure-domain.beta.kubernetes.io/region", "whenUnsatisfiable": "ScheduleAnyway"}]),
    "pod-affinity": spec(affinity={
        "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "a"}]},
        "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": {"topologyKey": "a"}}]}}),
    "volumes": spec(volumes=[
        {"name": "a", "gitRepo": {"repository": "r"}},
        {"name": "b", "photonPersistentDisk": {"pdID": "p"}},
        {"name": "c", "glusterfs": {"endpoints": "e", "path": "p"}},
        {"name": "d", "cephfs": {"monitors": ["m"]}},
        {"name": "e", "rbd": {"monitors": ["m"], "image": "i"}}]),
    "paths": spec(volumes=[
        {"name": "a", "configMap": {"name": "m", "items": [{"key": "a", "path": "x"}, {"key": "b", "path": "x/y"}]}},
        {"name": "b", "secret": {"secretName": "m", "items": [{"key": "a", "path": "x"}, {"key": "b", "path": "x"}]}},
        {"name": "c", "projected": {"sources": [
            {"configMap": {"name": "m", "items": [{"key": "a", "path": "token"}]}},
            {"serviceAccountToken": {"path": "token"}}]}},
        {"name": "d", "projected": {"sources": [{}]}}]),
    "aliases": spec(hostAliases=[{"ip": "192.0.2.1", "hostnames": ["a"]}, {"ip": "192.0.2.1", "hostnames": ["b"]}]),
    "pull-secrets": spec(imagePullSecrets=[{"name": "a"}, {"name": "a"}, {"name": ""}]),
    "memory": spec(container(resources={"limits": {"memory": "1500m", "ephemeral-storage": "100m"}, "requests": {"memory": "0.5"}})),
    "env": spec(container(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}, {"name": "B", "value": "1"}, {"name": "B", "value": "$(B)2"}])),
    "host-ip": ports({"containerPort": 80, "hostIP": "127.0.0.1"}),
    "same-port": ports({"containerPort": 80}, {"containerPort": 80, "name": "b"}),
    "same-port-protocols": ports({"containerPort": 53}, {"containerPort": 53, "protocol": "UDP"}),
    "overlapping-port": ports({"containerPort": 80}, {"containerPort": 80, "hostPort": 80}),
    "ambiguous-port": ports({"containerPort": 80, "hostPort": 80}, {"containerPort": 80, "hostPort": 80, "hostIP": "127.0.0.1"}),
    "port-of-two": spec(container("a", ports=[{"containerPort": 80}]), container("b", ports=[{"containerPort": 80}]), initContainers=[container("i", ports=[{"containerPort": 80}])]),
    "grace": spec(terminationGracePeriodSeconds=-5),
    "quote": spec(container(env=[{"name": "A\"B", "value": "1"}, {"name": "A\"B", "value": "2"}])),
}

ANNOTATIONS = {
    "critical": "scheduler.alpha.kubernetes.io/critical-pod",
    "sysctls": "security.alpha.kubernetes.io/sysctls",
    "seccomp": "seccomp.security.alpha.kubernetes.io/pod",
    "seccomp-container": "container.seccomp.security.alpha.kubernetes.io/c",
    "apparmor": "container.apparmor.security.beta.kubernetes.io/c",
}


def pods():
    s = Scene("warnings-pods")
    for label, fields in TEMPLATES.items():
        s.create("pods", label, {"spec": fields})
    for label, key in ANNOTATIONS.items():
        s.create("pods", f"annotation-{label}", {"spec": spec()}, {"annotations": {key: "runtime/default"}})
    s.create("pods", "name-dots", {"spec": spec()}, name="a.b")
    s.patch("pods", "updated", "aliases", MERGE_PATCH, {"metadata": {"labels": {"a": "b"}}})
    s.create("pods", "dry", {"spec": TEMPLATES["aliases"]}, query="dryRun=All")
    s.create("pods", "refused", {"spec": {**TEMPLATES["aliases"], "dnsPolicy": "x"}})
    return s


def workloads():
    s = Scene("warnings-workloads")
    labels = {"a": "b"}

    def of(template, annotations=None, **more):
        metadata = {"labels": labels, **({"annotations": annotations} if annotations else {})}
        return {"spec": {"selector": {"matchLabels": labels}, "template": {"metadata": metadata, "spec": template}, **more}}

    for label in ["node-selector", "spread", "pod-affinity", "aliases", "memory", "env", "same-port", "overlapping-port", "port-of-two"]:
        s.create("deployments", label, of(TEMPLATES[label]))
    for label, key in ANNOTATIONS.items():
        s.create("deployments", f"annotation-{label}", of(spec(), {key: "runtime/default"}))
    s.patch("deployments", "scaled", "aliases", MERGE_PATCH, {"spec": {"replicas": 3}})
    s.patch("deployments", "labelled", "aliases", MERGE_PATCH, {"metadata": {"labels": {"x": "y"}}})
    for plural in ["deployments", "replicasets", "daemonsets", "statefulsets"]:
        more = {"serviceName": "s"} if plural == "statefulsets" else {}
        s.create(plural, f"{plural}-name", of(spec(), **more), name="a.b")
        s.create(plural, f"{plural}-ports", of(TEMPLATES["same-port"], **more), name="ports")
        s.patch(plural, f"{plural}-ports-updated", "ports", MERGE_PATCH, {"spec": {"template": {"metadata": {"annotations": {"x": "y"}}}}})
        s.patch(plural, f"{plural}-ports-labelled", "ports", MERGE_PATCH, {"metadata": {"labels": {"x": "y"}}})
    return s


def others():
    s = Scene("warnings-others")

    def service(label, metadata=None, **fields):
        s.create("services", label, {"spec": {"ports": [{"port": 80}], **fields}}, metadata)

    service("topology", {"annotations": {"service.kubernetes.io/topology-aware-hints": "auto"}})
    service("six-long", clusterIP="fd00:10:96:0::b0", ipFamilies=["IPv6"])
    service("six-upper", clusterIP="FD00:10:96::B1")
    service("external-zeros", externalIPs=["192.0.2.01", "2001:DB8::1", "::ffff:192.0.2.1", "192.0.2.1"])
    service("balancer-ip-zeros", type="LoadBalancer", loadBalancerIP="192.000.002.001")
    service("balancer-ip-six", type="LoadBalancer", loadBalancerIP="2001:db8:0::1")
    service("balancer-ranges", type="LoadBalancer", loadBalancerSourceRanges=["192.0.02.0/24", "2001:DB8::/32", "192.0.2.5/24", "192.0.2.0/24"])
    service("name-ignored", externalName="a.example")
    service("external-ips-ignored", type="ExternalName", externalName="a.example", externalIPs=["192.0.2.1"])
    service("affinity-headless", clusterIP="None", sessionAffinity="ClientIP")
    s.patch("services", "patched", "name-ignored", MERGE_PATCH, {"metadata": {"labels": {"a": "b"}}})
    s.patch("services", "patched-status", "name-ignored", MERGE_PATCH, {"status": {"loadBalancer": {}}}, subresource="status")
    s.create("ingresses", "class-annotation", {"spec": {"defaultBackend": {"service": {"name": "a", "port": {"number": 80}}}}}, {"annotations": {"kubernetes.io/ingress.class": "a"}})
    s.patch("ingresses", "class-annotation-patched", "class-annotation", MERGE_PATCH, {"metadata": {"labels": {"a": "b"}}})
    s.create("endpointslices", "names", {"addressType": "FQDN", "endpoints": [{"addresses": ["a.example"]}], "ports": []})
    s.create("nodes", "warned-node", {"spec": {"externalID": "x", "configSource": {"configMap": {"name": "a", "namespace": "b", "kubeletConfigKey": "c"}}}})
    s.create("persistentvolumes", "warned-pv", {"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}, "persistentVolumeReclaimPolicy": "Recycle"}}, {"annotations": {"volume.beta.kubernetes.io/storage-class": "a", "volume.beta.kubernetes.io/mount-options": "ro"}})
    s.create("persistentvolumeclaims", "claim", {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1500m"}}}}, {"annotations": {"volume.beta.kubernetes.io/storage-class": "a"}})
    s.create("storageclasses", "warned-class", {"provisioner": "example.com/p", "allowedTopologies": [{"matchLabelExpressions": [{"key": "failure-domain.beta.kubernetes.io/zone", "values": ["a"]}]}]})
    s.create("serviceaccounts", "mountable", {}, {"annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}})
    s.create("secrets", "certificate", {"type": "kubernetes.io/tls", "stringData": {"tls.crt": "a", "tls.key": "b"}})
    s.create("namespaces", "warned-namespace", {}, {"labels": {"pod-security.kubernetes.io/enforce": "nonsense"}})
    return s


SCENES = [pods, workloads, others]
