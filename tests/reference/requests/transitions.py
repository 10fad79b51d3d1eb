"""What may become of a Service: types, families, ports."""

from fields import service as spec
from fields import service_port as port
from scene import JSON_PATCH, MERGE_PATCH, Scene


FORMS = {
    "cluster-ip": lambda: spec(type="ClusterIP"),
    "headless": lambda: spec(type="ClusterIP", clusterIP="None"),
    "node-port": lambda: spec(type="NodePort"),
    "load-balancer": lambda: spec(type="LoadBalancer"),
    "external-name": lambda: {"spec": {"type": "ExternalName", "externalName": "a.example", "ports": [port()]}},
}


def types():
    """Every type becomes every other: replaced by what a manifest says, and patched."""
    s = Scene("service-type-changes")
    for old, make in FORMS.items():
        for new, other in FORMS.items():
            name = f"{old}-to-{new}"
            s.create("services", name, make())
            s.update("services", f"{name}-replaced", name, other())
            s.delete("services", f"{name}-deleted", name)
    for old, make in FORMS.items():
        for kind in ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]:
            name = f"{old}-as-{kind.lower()}"
            s.create("services", name, make())
            s.patch("services", f"{name}-patched", name, MERGE_PATCH, {"spec": {"type": kind}})
            s.delete("services", f"{name}-deleted", name)
    name = "with-name"
    s.create("services", name, spec(type="NodePort"))
    s.patch("services", "to-name-with-address", name, MERGE_PATCH, {"spec": {"type": "ExternalName", "externalName": "a.example"}})
    s.patch("services", "to-name-without-address", name, MERGE_PATCH, {"spec": {"type": "ExternalName", "externalName": "a.example", "clusterIP": None, "clusterIPs": None}})
    s.patch("services", "to-name-empty-address", name, MERGE_PATCH, {"spec": {"type": "ExternalName", "externalName": "b.example", "clusterIP": ""}})
    s.patch("services", "back-with-name", name, MERGE_PATCH, {"spec": {"type": "ClusterIP"}})
    s.patch("services", "back-without-name", name, MERGE_PATCH, {"spec": {"type": "ClusterIP", "externalName": None}})
    s.create("services", "affine", spec(type="ExternalName", externalName="a.example", sessionAffinity="ClientIP"))
    s.create("services", "named-node-port", spec(port(nodePort=30046), type="ExternalName", externalName="a.example"))
    s.create("services", "named-families", {"spec": {"type": "ExternalName", "externalName": "a.example", "ipFamilies": ["IPv4"]}})
    s.create("services", "named-policy", {"spec": {"type": "ExternalName", "externalName": "a.example", "ipFamilyPolicy": "SingleStack"}})
    s.create("services", "named-none", {"spec": {"type": "ExternalName", "externalName": "a.example", "clusterIP": "None"}})
    s.create("services", "named-addresses", {"spec": {"type": "ExternalName", "externalName": "a.example", "clusterIPs": ["10.96.9.1"]}})
    s.create("services", "named-external-ips", {"spec": {"type": "ExternalName", "externalName": "a.example", "externalIPs": ["192.0.2.1"]}})
    s.create("services", "named-class", {"spec": {"type": "ExternalName", "externalName": "a.example", "loadBalancerClass": "example.com/a"}})
    s.create("services", "named-allocate", {"spec": {"type": "ExternalName", "externalName": "a.example", "allocateLoadBalancerNodePorts": True}})
    s.create("services", "named-external-policy", {"spec": {"type": "ExternalName", "externalName": "a.example", "externalTrafficPolicy": "Local"}})
    s.create("services", "named-health-check", {"spec": {"type": "ExternalName", "externalName": "a.example", "healthCheckNodePort": 30047}})
    s.create("services", "named-ranges", {"spec": {"type": "ExternalName", "externalName": "a.example", "loadBalancerSourceRanges": ["192.0.2.0/24"]}})
    for label, name in {"empty": "", "dot": "a.example.", "upper": "A.example", "address": "192.0.2.1", "underscore": "a_b.example", "long": "a" * 64 + ".example"}.items():
        s.create("services", f"name-{label}", {"spec": {"type": "ExternalName", "externalName": name}})
    return s


def families():
    """Upgrades to two stacks, downgrades to one."""
    s = Scene("service-families")
    starts = {
        "four": spec(ipFamilyPolicy="SingleStack", ipFamilies=["IPv4"]),
        "six": spec(ipFamilyPolicy="SingleStack", ipFamilies=["IPv6"]),
        "prefer": spec(ipFamilyPolicy="PreferDualStack"),
        "require-six-first": spec(ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv6", "IPv4"]),
        "quiet-four": spec(clusterIP="None", selector={"a": "b"}, ipFamilyPolicy="SingleStack"),
        "quiet-dual": spec(clusterIP="None", selector={"a": "b"}, ipFamilyPolicy="RequireDualStack"),
        "quiet-free": spec(clusterIP="None"),
        "nodes": spec(type="NodePort", ipFamilyPolicy="PreferDualStack"),
    }
    changes = {
        "single": {"ipFamilyPolicy": "SingleStack"},
        "prefer": {"ipFamilyPolicy": "PreferDualStack"},
        "require": {"ipFamilyPolicy": "RequireDualStack"},
        "no-policy": {"ipFamilyPolicy": None},
        "single-one-family": {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]},
        "single-other-family": {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"]},
        "families-both": {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]},
        "families-both-six": {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]},
        "families-only-both": {"ipFamilies": ["IPv4", "IPv6"]},
        "families-removed": {"ipFamilies": None},
        "secondary-removed": {"clusterIPs": None},
    }
    for start, fields in starts.items():
        for label, change in changes.items():
            name = f"{start}-{label}"
            s.create("services", name, fields)
            s.patch("services", f"{name}-patched", name, MERGE_PATCH, {"spec": change})
    for start, fields in starts.items():
        name = f"{start}-put"
        s.create("services", name, fields)
        s.update("services", f"{name}-same", name, fields)
        s.update("services", f"{name}-bare", name, spec(**({"clusterIP": "None"} if "quiet" in start else {})))
        s.update("services", f"{name}-single", name, spec(ipFamilyPolicy="SingleStack", **({"clusterIP": "None"} if "quiet" in start else {})))
        s.update("services", f"{name}-require", name, spec(ipFamilyPolicy="RequireDualStack", **({"clusterIP": "None"} if "quiet" in start else {})))
    s.create("services", "static", spec(clusterIP="10.96.9.20", ipFamilyPolicy="SingleStack"))
    s.patch("services", "static-second", "static", MERGE_PATCH, {"spec": {"ipFamilyPolicy": "RequireDualStack", "clusterIPs": ["10.96.9.20", "fd00:10:96::a0"]}})
    s.patch("services", "static-second-moved", "static", MERGE_PATCH, {"spec": {"clusterIPs": ["10.96.9.20", "fd00:10:96::a1"]}})
    s.patch("services", "static-swapped", "static", MERGE_PATCH, {"spec": {"clusterIPs": ["fd00:10:96::a0", "10.96.9.20"], "clusterIP": "fd00:10:96::a0"}})
    s.patch("services", "static-first-only", "static", MERGE_PATCH, {"spec": {"clusterIPs": ["10.96.9.20"]}})
    s.patch("services", "static-first-gone", "static", MERGE_PATCH, {"spec": {"clusterIP": "", "clusterIPs": []}})
    s.patch("services", "static-down", "static", MERGE_PATCH, {"spec": {"ipFamilyPolicy": "SingleStack", "clusterIPs": ["10.96.9.20"], "ipFamilies": ["IPv4"]}})
    s.create("services", "static-second-free", spec(clusterIP="fd00:10:96::a0"))
    s.patch("services", "static-up-taken", "static", MERGE_PATCH, {"spec": {"ipFamilyPolicy": "RequireDualStack", "clusterIPs": ["10.96.9.20", "fd00:10:96::a0"]}})
    s.patch("services", "static-up-outside", "static", MERGE_PATCH, {"spec": {"ipFamilyPolicy": "RequireDualStack", "clusterIPs": ["10.96.9.20", "2001:db8::1"]}})
    s.patch("services", "static-mismatch", "static", MERGE_PATCH, {"spec": {"clusterIP": "10.96.9.21"}})
    s.patch("services", "static-list-mismatch", "static", MERGE_PATCH, {"spec": {"clusterIPs": ["10.96.9.21"]}})
    s.patch("services", "static-to-none", "static", MERGE_PATCH, {"spec": {"clusterIP": "None", "clusterIPs": ["None"]}})
    return s


def node_ports():
    """Node ports and what goes with load balancers, from one version to the next."""
    s = Scene("service-port-changes")

    def change(label, name, fields):
        s.patch("services", label, name, MERGE_PATCH, {"spec": fields})

    two = [port(80, name="a", nodePort=30056), port(81, name="b", nodePort=30057)]
    s.create("services", "nodes", spec(*two, type="NodePort"))
    s.create("services", "other", spec(port(nodePort=30058), type="NodePort"))
    change("swapped", "nodes", {"ports": [port(80, name="a", nodePort=30057), port(81, name="b", nodePort=30056)]})
    change("taken", "nodes", {"ports": [port(80, name="a", nodePort=30058), port(81, name="b", nodePort=30057)]})
    change("same-twice", "nodes", {"ports": [port(80, name="a", nodePort=30059), port(81, name="b", nodePort=30059)]})
    change("outside", "nodes", {"ports": [port(80, name="a", nodePort=80), port(81, name="b", nodePort=30057)]})
    change("moved", "nodes", {"ports": [port(80, name="a", nodePort=30060), port(81, name="b", nodePort=30057)]})
    s.create("services", "moved-frees", spec(port(nodePort=30056), type="NodePort"))
    change("unsaid", "nodes", {"ports": [port(80, name="a"), port(81, name="b")]})
    change("renamed", "nodes", {"ports": [port(80, name="x"), port(81, name="y")]})
    change("removed", "nodes", {"ports": [port(80, name="x", nodePort=30057)]})
    change("added", "nodes", {"ports": [port(80, name="x", nodePort=30057), port(443, name="z")]})
    change("other-protocol", "nodes", {"ports": [port(80, name="x", nodePort=30057, protocol="UDP")]})
    change("both-protocols", "nodes", {"ports": [port(53, name="t", nodePort=30061), port(53, name="u", nodePort=30061, protocol="UDP")]})
    change("zero", "nodes", {"ports": [port(53, name="t", nodePort=0)]})
    change("negative", "nodes", {"ports": [port(53, name="t", nodePort=-1)]})
    change("no-ports", "nodes", {"ports": []})
    change("ports-null", "nodes", {"ports": None})
    change("unnamed-two", "nodes", {"ports": [port(80), port(81)]})
    change("same-port-twice", "nodes", {"ports": [port(80, name="a"), port(80, name="b")]})
    change("local", "nodes", {"externalTrafficPolicy": "Local", "ports": [port(80, name="a")]})
    change("health-check-on-nodes", "nodes", {"healthCheckNodePort": 30062})
    change("cluster-ip-keeps-policy", "nodes", {"type": "ClusterIP"})
    change("cluster-ip-keeps-port", "other", {"type": "ClusterIP", "ports": [port(nodePort=30058)]})
    change("cluster-ip-other-port", "other", {"type": "ClusterIP", "ports": [port(nodePort=30064)]})
    change("cluster-ip-then-port", "other", {"ports": [port(nodePort=30063)]})

    s.create("services", "balanced", spec(port(nodePort=30066), type="LoadBalancer"))
    change("no-node-ports", "balanced", {"allocateLoadBalancerNodePorts": False})
    change("no-node-ports-released", "balanced", {"ports": [port(nodePort=0)]})
    change("node-ports-again", "balanced", {"allocateLoadBalancerNodePorts": True})
    change("balanced-local", "balanced", {"externalTrafficPolicy": "Local"})
    change("balanced-health-check", "balanced", {"healthCheckNodePort": 30067})
    change("balanced-health-check-none", "balanced", {"healthCheckNodePort": 0})
    change("balanced-cluster", "balanced", {"externalTrafficPolicy": "Cluster"})
    change("balanced-cluster-without", "balanced", {"externalTrafficPolicy": "Cluster", "healthCheckNodePort": 0})
    change("balanced-local-static", "balanced", {"externalTrafficPolicy": "Local", "healthCheckNodePort": 30068})
    change("balanced-to-nodes", "balanced", {"type": "NodePort"})
    s.create("services", "health-check-free", spec(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=30068))
    change("balanced-again", "balanced", {"type": "LoadBalancer"})
    change("balanced-class-late", "balanced", {"loadBalancerClass": "example.com/a"})
    change("balanced-ip", "balanced", {"loadBalancerIP": "192.0.2.9"})
    change("balanced-ip-text", "balanced", {"loadBalancerIP": "x"})
    change("balanced-ranges", "balanced", {"loadBalancerSourceRanges": ["192.0.2.0/24", " 198.51.100.0/24 "]})
    change("balanced-ranges-text", "balanced", {"loadBalancerSourceRanges": ["x", "192.0.2.1"]})
    change("balanced-ranges-then-cluster-ip", "balanced", {"type": "ClusterIP"})
    change("ranges-on-cluster-ip", "balanced", {"type": "ClusterIP", "loadBalancerSourceRanges": ["192.0.2.0/24"]})
    s.create("services", "classed", spec(type="LoadBalancer", loadBalancerClass="example.com/a"))
    change("classed-to-nodes", "classed", {"type": "NodePort"})
    s.create("services", "classed-cluster", spec(type="LoadBalancer", loadBalancerClass="example.com/a"))
    change("classed-cluster-with-class", "classed-cluster", {"type": "ClusterIP", "loadBalancerClass": "example.com/a"})
    for label, name in {"bare": "internal", "upper": "Example.com/A", "empty": "", "space": "a b", "two": "a/b/c"}.items():
        s.create("services", f"class-{label}", spec(type="LoadBalancer", loadBalancerClass=name))

    s.create("services", "plain", spec(selector={"a": "b"}))
    change("affinity", "plain", {"sessionAffinity": "ClientIP"})
    change("affinity-timeout", "plain", {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}}})
    change("affinity-none-keeps-config", "plain", {"sessionAffinity": "None"})
    change("affinity-none", "plain", {"sessionAffinity": "None", "sessionAffinityConfig": None})
    change("affinity-null", "plain", {"sessionAffinity": None})
    change("selector", "plain", {"selector": {"c": "d"}})
    change("selector-none", "plain", {"selector": None})
    change("external-ips", "plain", {"externalIPs": ["192.0.2.1", "192.0.2.1"]})
    change("external-policy-with-ips", "plain", {"externalTrafficPolicy": "Local"})
    change("external-ips-none", "plain", {"externalIPs": []})
    change("internal-policy", "plain", {"internalTrafficPolicy": "Local"})
    change("internal-policy-null", "plain", {"internalTrafficPolicy": None})
    change("distribution", "plain", {"trafficDistribution": "PreferClose"})
    change("distribution-null", "plain", {"trafficDistribution": None})
    change("publish", "plain", {"publishNotReadyAddresses": True})
    change("target", "plain", {"ports": [port(80, targetPort="http")]})
    change("target-null", "plain", {"ports": [port(80, targetPort=None)]})
    change("target-zero", "plain", {"ports": [port(80, targetPort=0)]})
    s.patch("services", "type-removed", "plain", JSON_PATCH, [{"op": "remove", "path": "/spec/type"}])
    s.patch("services", "spec-removed", "plain", JSON_PATCH, [{"op": "remove", "path": "/spec"}])
    s.create("services", "quiet", spec(port(targetPort=8080), clusterIP="None", selector={"a": "b"}))
    change("quiet-target", "quiet", {"ports": [port(80, targetPort=81)]})
    change("quiet-no-ports", "quiet", {"ports": []})
    change("quiet-node-port", "quiet", {"ports": [port(80, nodePort=30075)]})
    change("quiet-affinity", "quiet", {"sessionAffinity": "ClientIP"})
    change("quiet-selector-none", "quiet", {"selector": None})
    change("quiet-to-nodes", "quiet", {"type": "NodePort"})
    return s


SCENES = [types, families, node_ports]
