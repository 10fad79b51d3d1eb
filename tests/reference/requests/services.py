"""Services: defaults and rules of every field, and what may change."""

from fields import service as spec
from fields import service_port as port
from scene import JSON_PATCH, MERGE_PATCH, Scene


def ports():
    s = Scene("service-ports")
    for label, fields in {
        "one": spec(port()),
        "none": {"spec": {}},
        "no-spec": {},
        "null-ports": {"spec": {"ports": None}},
        "headless-without-ports": {"spec": {"clusterIP": "None"}},
        "port-zero": spec(port(0)),
        "port-missing": {"spec": {"ports": [{"name": "a"}]}},
        "port-too-large": spec(port(70000)),
        "port-negative": spec(port(-1)),
        "port-text": spec(port("80")),
        "port-fraction": spec(port(80.5)),
        "port-overflow": spec(port(4294967296)),
        "target-name": spec(port(targetPort="http")),
        "target-number": spec(port(targetPort=8080)),
        "target-too-large": spec(port(targetPort=65536)),
        "target-zero": spec(port(targetPort=0)),
        "target-empty": spec(port(targetPort="")),
        "target-name-upper": spec(port(targetPort="HTTP")),
        "target-name-long": spec(port(targetPort="a-very-long-name")),
        "target-name-digits": spec(port(targetPort="8080")),
        "target-name-hyphens": spec(port(targetPort="a--b-")),
        "target-null": spec(port(targetPort=None)),
        "target-bool": spec(port(targetPort=True)),
        "protocol-udp": spec(port(53, protocol="UDP")),
        "protocol-sctp": spec(port(53, protocol="SCTP")),
        "protocol-lower": spec(port(53, protocol="tcp")),
        "protocol-empty": spec(port(53, protocol="")),
        "protocol-number": spec(port(53, protocol=6)),
        "two-unnamed": spec(port(80), port(81)),
        "two-one-unnamed": spec(port(80, name="a"), port(81)),
        "two-named": spec(port(80, name="a"), port(81, name="b")),
        "same-name": spec(port(80, name="a"), port(81, name="a")),
        "same-port": spec(port(80, name="a"), port(80, name="b")),
        "same-port-protocols": spec(port(53, name="a"), port(53, name="b", protocol="UDP")),
        "name-upper": spec(port(80, name="HTTP")),
        "name-long": spec(port(80, name="a" * 64)),
        "name-dots": spec(port(80, name="a.b")),
        "app-protocol": spec(port(appProtocol="kubernetes.io/h2c")),
        "app-protocol-plain": spec(port(appProtocol="HTTP")),
        "app-protocol-bad": spec(port(appProtocol="a b")),
        "app-protocol-slashes": spec(port(appProtocol="a/b/c")),
        "node-port-on-cluster-ip": spec(port(nodePort=30001)),
        "headless-target": spec(port(targetPort=8080), clusterIP="None"),
        "headless-same-target": spec(port(targetPort=80), clusterIP="None"),
        "many-errors": spec(port(0, protocol="x", targetPort=70000), port(99999, name="B")),
        "selector": spec(selector={"app": "a"}),
        "selector-bad": spec(selector={"a b": "-x"}),
        "selector-null": spec(selector=None),
        "selector-number": spec(selector={"a": 1}),
        "ports-object": {"spec": {"ports": {"port": 80}}},
        "spec-text": {"spec": "x"},
    }.items():
        s.create("services", label, fields)
    return s


def types():
    s = Scene("service-types")
    for label, fields in {
        "cluster-ip": spec(type="ClusterIP"),
        "type-empty": spec(type=""),
        "type-unknown": spec(type="Nonsense"),
        "type-lower": spec(type="nodeport"),
        "node-port": spec(type="NodePort"),
        "node-port-static": spec(port(nodePort=30010), type="NodePort"),
        "node-port-taken": spec(port(nodePort=30010), type="NodePort"),
        "node-port-outside": spec(port(nodePort=80), type="NodePort"),
        "node-port-above": spec(port(nodePort=32768), type="NodePort"),
        "node-port-negative": spec(port(nodePort=-5), type="NodePort"),
        "node-port-twice": spec(port(80, name="a", nodePort=30011), port(81, name="b", nodePort=30011), type="NodePort"),
        "node-port-two-protocols": spec(port(53, name="a", nodePort=30012), port(53, name="b", protocol="UDP", nodePort=30012), type="NodePort"),
        "node-port-two-protocols-drawn": spec(port(53, name="a"), port(53, name="b", protocol="UDP"), type="NodePort"),
        "node-port-headless": spec(type="NodePort", clusterIP="None"),
        "load-balancer": spec(type="LoadBalancer"),
        "load-balancer-no-node-ports": spec(type="LoadBalancer", allocateLoadBalancerNodePorts=False),
        "load-balancer-static-without": spec(port(nodePort=30013), type="LoadBalancer", allocateLoadBalancerNodePorts=False),
        "allocate-on-node-port": spec(type="NodePort", allocateLoadBalancerNodePorts=False),
        "allocate-on-cluster-ip": spec(allocateLoadBalancerNodePorts=True),
        "load-balancer-headless": spec(type="LoadBalancer", clusterIP="None"),
        "load-balancer-ip": spec(type="LoadBalancer", loadBalancerIP="192.0.2.1"),
        "load-balancer-ip-text": spec(type="LoadBalancer", loadBalancerIP="anything"),
        "class": spec(type="LoadBalancer", loadBalancerClass="example.com/lb"),
        "class-bad": spec(type="LoadBalancer", loadBalancerClass="a b"),
        "class-empty": spec(type="LoadBalancer", loadBalancerClass=""),
        "class-on-cluster-ip": spec(loadBalancerClass="example.com/lb"),
        "source-ranges": spec(type="LoadBalancer", loadBalancerSourceRanges=["192.0.2.0/24", "2001:db8::/32"]),
        "source-ranges-spaces": spec(type="LoadBalancer", loadBalancerSourceRanges=[" 192.0.2.0/24 "]),
        "source-ranges-bad": spec(type="LoadBalancer", loadBalancerSourceRanges=["192.0.2.0", "x"]),
        "source-ranges-on-cluster-ip": spec(loadBalancerSourceRanges=["192.0.2.0/24"]),
        "load-balancer-kubelet-port": spec(port(10250), type="LoadBalancer"),
        "external-name": {"spec": {"type": "ExternalName", "externalName": "example.com"}},
        "external-name-dot": {"spec": {"type": "ExternalName", "externalName": "example.com."}},
        "external-name-missing": {"spec": {"type": "ExternalName"}},
        "external-name-bad": {"spec": {"type": "ExternalName", "externalName": "-a_"}},
        "external-name-upper": {"spec": {"type": "ExternalName", "externalName": "Example.com"}},
        "external-name-address": {"spec": {"type": "ExternalName", "externalName": "192.0.2.1"}},
        "external-name-cluster-ip": {"spec": {"type": "ExternalName", "externalName": "a.b", "clusterIP": "10.96.9.9"}},
        "external-name-headless": {"spec": {"type": "ExternalName", "externalName": "a.b", "clusterIP": "None"}},
        "external-name-families": {"spec": {"type": "ExternalName", "externalName": "a.b", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}},
        "external-name-ports": spec(type="ExternalName", externalName="a.b"),
        "external-name-on-cluster-ip": spec(externalName="a.b"),
    }.items():
        s.create("services", label, fields)
    return s


def addresses():
    s = Scene("service-addresses")
    for label, fields in {
        "static": spec(clusterIP="10.96.8.1"),
        "static-list": spec(clusterIPs=["10.96.8.2"]),
        "static-both": spec(clusterIP="10.96.8.3", clusterIPs=["10.96.8.3"]),
        "static-mismatch": spec(clusterIP="10.96.8.4", clusterIPs=["10.96.8.5"]),
        "static-taken": spec(clusterIP="10.96.8.1"),
        "static-outside": spec(clusterIP="10.0.0.1"),
        "static-network": spec(clusterIP="10.96.0.0"),
        "static-text": spec(clusterIP="x"),
        "static-zeros": spec(clusterIP="010.96.8.6"),
        "static-empty": spec(clusterIP=""),
        "headless": spec(clusterIP="None"),
        "headless-lower": spec(clusterIP="none"),
        "headless-list": spec(clusterIPs=["None"]),
        "headless-and-address": spec(clusterIPs=["None", "10.96.8.7"]),
        "headless-no-selector": {"spec": {"clusterIP": "None", "ports": [port()]}},
        "headless-selector": spec(clusterIP="None", selector={"a": "b"}),
        "six": spec(clusterIP="fd00:10:96::81"),
        "six-family": spec(ipFamilies=["IPv6"]),
        "six-mismatch": spec(clusterIP="10.96.8.8", ipFamilies=["IPv6"]),
        "dual-prefer": spec(ipFamilyPolicy="PreferDualStack"),
        "dual-require": spec(ipFamilyPolicy="RequireDualStack"),
        "dual-six-first": spec(ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv6", "IPv4"]),
        "dual-static": spec(ipFamilyPolicy="RequireDualStack", clusterIPs=["10.96.8.9", "fd00:10:96::89"]),
        "dual-static-half": spec(ipFamilyPolicy="PreferDualStack", clusterIP="10.96.8.10"),
        "dual-static-single": spec(ipFamilyPolicy="SingleStack", clusterIPs=["10.96.8.11", "fd00:10:96::8b"]),
        "dual-static-no-policy": spec(clusterIPs=["10.96.8.12", "fd00:10:96::8c"]),
        "dual-families-no-policy": spec(ipFamilies=["IPv4", "IPv6"]),
        "dual-families-single": spec(ipFamilyPolicy="SingleStack", ipFamilies=["IPv4", "IPv6"]),
        "dual-same-family": spec(ipFamilyPolicy="RequireDualStack", clusterIPs=["10.96.8.13", "10.96.8.14"]),
        "families-twice": spec(ipFamilies=["IPv4", "IPv4"]),
        "families-three": spec(ipFamilies=["IPv4", "IPv6", "IPv4"]),
        "families-unknown": spec(ipFamilies=["IPv5"]),
        "families-empty-text": spec(ipFamilies=[""]),
        "addresses-three": spec(clusterIPs=["10.96.8.15", "fd00:10:96::8f", "10.96.8.16"]),
        "address-then-none": spec(clusterIPs=["10.96.8.17", "None"]),
        "address-then-text": spec(clusterIPs=["10.96.8.18", "x"]),
        "policy-unknown": spec(ipFamilyPolicy="Nonsense"),
        "policy-empty": spec(ipFamilyPolicy=""),
        "headless-selector-dual": spec(clusterIP="None", selector={"a": "b"}, ipFamilyPolicy="RequireDualStack"),
        "headless-selectorless-families": spec(clusterIP="None", ipFamilies=["IPv6"]),
        "external-ips": spec(externalIPs=["192.0.2.1", "2001:db8::1"]),
        "external-ips-text": spec(externalIPs=["x", ""]),
        "external-ips-special": spec(externalIPs=["127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1", "::1", "fe80::1"]),
        "external-ips-null": spec(externalIPs=None),
    }.items():
        s.create("services", label, fields)
    return s


def policies():
    s = Scene("service-policies")
    for label, fields in {
        "affinity-client-ip": spec(sessionAffinity="ClientIP"),
        "affinity-unknown": spec(sessionAffinity="Cookie"),
        "affinity-none-config": spec(sessionAffinity="None", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 5}}),
        "affinity-timeout": spec(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}}),
        "affinity-timeout-zero": spec(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 0}}),
        "affinity-timeout-long": spec(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 86401}}),
        "affinity-config-empty": spec(sessionAffinity="ClientIP", sessionAffinityConfig={}),
        "affinity-config-client-empty": spec(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {}}),
        "affinity-headless": spec(sessionAffinity="ClientIP", clusterIP="None"),
        "external-local": spec(type="NodePort", externalTrafficPolicy="Local"),
        "external-unknown": spec(type="NodePort", externalTrafficPolicy="Near"),
        "external-empty": spec(type="NodePort", externalTrafficPolicy=""),
        "external-on-cluster-ip": spec(externalTrafficPolicy="Local"),
        "external-with-ips": spec(externalTrafficPolicy="Local", externalIPs=["192.0.2.7"]),
        "external-ips-default": spec(externalIPs=["192.0.2.8"]),
        "local-load-balancer": spec(type="LoadBalancer", externalTrafficPolicy="Local"),
        "health-check": spec(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=30020),
        "health-check-taken": spec(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=30020),
        "health-check-cluster": spec(type="LoadBalancer", healthCheckNodePort=30021),
        "health-check-node-port": spec(type="NodePort", externalTrafficPolicy="Local", healthCheckNodePort=30022),
        "health-check-outside": spec(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=80),
        "health-check-negative": spec(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=-1),
        "internal-local": spec(internalTrafficPolicy="Local"),
        "internal-unknown": spec(internalTrafficPolicy="Near"),
        "internal-empty": spec(internalTrafficPolicy=""),
        "internal-headless": spec(internalTrafficPolicy="Local", clusterIP="None"),
        "internal-external-name": {"spec": {"type": "ExternalName", "externalName": "a.b", "internalTrafficPolicy": "Local"}},
        "distribution": spec(trafficDistribution="PreferClose"),
        "distribution-unknown": spec(trafficDistribution="Nonsense"),
        "distribution-empty": spec(trafficDistribution=""),
        "distribution-external-name": {"spec": {"type": "ExternalName", "externalName": "a.b", "trafficDistribution": "PreferClose"}},
        "publish-not-ready": spec(publishNotReadyAddresses=True),
        "publish-text": spec(publishNotReadyAddresses="yes"),
        "everything": {
            "spec": {
                "type": "LoadBalancer", "selector": {"app": "web"}, "clusterIP": "10.96.8.40",
                "ports": [port(80, name="http", targetPort="http", nodePort=30025, appProtocol="http"),
                          port(443, name="https", targetPort=8443, nodePort=30026)],
                "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local",
                "internalTrafficPolicy": "Local", "healthCheckNodePort": 30027,
                "externalIPs": ["192.0.2.9"], "loadBalancerIP": "192.0.2.10",
                "loadBalancerSourceRanges": ["192.0.2.0/24"], "loadBalancerClass": "example.com/lb",
                "allocateLoadBalancerNodePorts": True, "publishNotReadyAddresses": True,
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}]}},
        },
    }.items():
        s.create("services", label, fields)
    s.create("services", "annotated-ranges", spec(type="LoadBalancer"),
             {"annotations": {"service.beta.kubernetes.io/load-balancer-source-ranges": "192.0.2.0/24, 198.51.100.0/24"}})
    s.create("services", "annotated-ranges-bad", spec(type="LoadBalancer"),
             {"annotations": {"service.beta.kubernetes.io/load-balancer-source-ranges": "x"}})
    s.create("services", "annotated-topology", spec(),
             {"annotations": {"service.kubernetes.io/topology-mode": "Auto"}})
    return s


def changes():
    s = Scene("service-changes")
    s.create("services", "web", spec(clusterIP="10.96.8.50", selector={"a": "b"}))

    def replace(label, fields, name="web", **more):
        s.update("services", label, name, fields, **more)

    replace("same", spec(clusterIP="10.96.8.50", selector={"a": "b"}))
    replace("without-address", spec(selector={"a": "b"}))
    replace("other-address", spec(clusterIP="10.96.8.51"))
    replace("no-ports", {"spec": {"clusterIP": "10.96.8.50"}})
    replace("to-headless", spec(clusterIP="None"))
    replace("families", spec(ipFamilies=["IPv6"]))
    replace("to-node-port", spec(port(nodePort=30030), type="NodePort"))
    replace("node-port-kept", spec(type="NodePort"))
    replace("node-port-moved", spec(port(nodePort=30031), type="NodePort"))
    replace("to-load-balancer", spec(port(nodePort=30031), type="LoadBalancer"))
    replace("class-added", spec(type="LoadBalancer", loadBalancerClass="example.com/lb"))
    replace("local", spec(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=30032))
    replace("health-check-moved", spec(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=30033))
    replace("to-cluster-ip", spec())
    replace("to-dual", spec(ipFamilyPolicy="PreferDualStack"))
    replace("dual-secondary-changed", spec(ipFamilyPolicy="PreferDualStack", clusterIPs=["10.96.8.50", "fd00:10:96::5050"]))
    replace("to-single", spec(ipFamilyPolicy="SingleStack"))
    replace("to-single-lists", spec(ipFamilyPolicy="SingleStack", clusterIPs=["10.96.8.50"], ipFamilies=["IPv4"]))
    replace("to-external-name", {"spec": {"type": "ExternalName", "externalName": "a.b"}})
    replace("from-external-name", spec(clusterIP="10.96.8.52"))
    replace("to-external-name-address", spec(type="ExternalName", externalName="a.b", clusterIP="10.96.8.52"))
    s.patch("services", "patch-type", "web", MERGE_PATCH, {"spec": {"type": "NodePort", "ports": [port(nodePort=30034)]}})
    s.patch("services", "patch-back", "web", MERGE_PATCH, {"spec": {"type": "ClusterIP"}})
    s.patch("services", "patch-remove-address", "web", JSON_PATCH, [{"op": "remove", "path": "/spec/clusterIP"}])
    s.patch("services", "patch-port", "web", JSON_PATCH, [{"op": "replace", "path": "/spec/ports/0/port", "value": 70000}])
    s.create("services", "classed", spec(port(nodePort=30040), type="LoadBalancer", loadBalancerClass="example.com/a"))
    replace("class-changed", spec(type="LoadBalancer", loadBalancerClass="example.com/b"), "classed")
    replace("class-removed", spec(type="LoadBalancer"), "classed")
    replace("class-gone-with-type", spec(), "classed")
    s.create("services", "quiet", spec(clusterIP="None"))
    replace("headless-to-address", spec(clusterIP="10.96.8.60"), "quiet")
    replace("headless-families", spec(clusterIP="None", ipFamilyPolicy="RequireDualStack"), "quiet")
    s.create("services", "alias", {"spec": {"type": "ExternalName", "externalName": "a.b"}})
    replace("alias-to-headless", spec(clusterIP="None"), "alias")
    replace("missing", spec(), "missing")
    s.send("wrong-name", "PUT", s.path("services", "web"), s.object("services", "other", spec()))
    s.update("services", "status", "web", {"spec": {"ports": [port(1)]}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}, subresource="status")
    s.patch("services", "status-load-balancer", "classed", MERGE_PATCH, {"spec": {"type": "LoadBalancer", "ports": [port(nodePort=30041)]}})
    for label, ingress in {
        "ip": {"ip": "192.0.2.1"},
        "mode": {"ip": "192.0.2.1", "ipMode": "Proxy"},
        "mode-unknown": {"ip": "192.0.2.1", "ipMode": "Near"},
        "mode-without-ip": {"hostname": "a.b", "ipMode": "VIP"},
        "hostname": {"hostname": "a.example.com"},
        "hostname-bad": {"hostname": "a b"},
        "hostname-address": {"hostname": "192.0.2.1"},
        "ip-text": {"ip": "x"},
        "ports": {"ip": "192.0.2.1", "ports": [{"port": 80, "protocol": "TCP"}]},
        "ports-bad": {"ip": "192.0.2.1", "ports": [{"port": 80, "protocol": "TCP", "error": "a b"}]},
    }.items():
        s.patch("services", f"ingress-{label}", "classed", MERGE_PATCH, {"status": {"loadBalancer": {"ingress": [ingress]}}}, subresource="status")
    s.patch("services", "condition", "classed", MERGE_PATCH, {"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Yes", "message": "", "lastTransitionTime": "2024-01-02T03:04:05Z"}]}}, subresource="status")
    s.patch("services", "condition-bad", "classed", MERGE_PATCH, {"status": {"conditions": [{"type": "", "status": "Maybe", "reason": "a b", "message": "x"}]}}, subresource="status")
    return s


def names():
    s = Scene("service-names")
    for label, name in {
        "digit": "1a", "dots": "a.b", "upper": "A", "long": "a" * 64, "longest": "a" * 63,
        "hyphen": "a-", "slash": "a/b", "percent": "a%b", "space": "a b", "underscore": "a_b",
    }.items():
        s.create("services", f"name-{label}", spec(clusterIP="None"), name=name)
    s.send("generated", "POST", s.path("services"),
           {"apiVersion": "v1", "kind": "Service", "metadata": {"generateName": "gen-"}, **spec(clusterIP="None")},
           keep={"generated": "/metadata/name"})
    s.send("generated-bad", "POST", s.path("services"),
           {"apiVersion": "v1", "kind": "Service", "metadata": {"generateName": "Gen-"}, **spec(clusterIP="None")},
           keep={"generated2": "/details/name"})
    s.send("nameless", "POST", s.path("services"), {"apiVersion": "v1", "kind": "Service", "metadata": {}, **spec()})
    s.create("services", "twice", spec(clusterIP="None"))
    s.create("services", "twice-again", spec(clusterIP="None"), name="twice")
    s.create("services", "dry", spec(clusterIP="10.96.8.70"), query="dryRun=All")
    s.get("services", "dry-is-gone", "dry")
    s.create("services", "dry-address-free", spec(clusterIP="10.96.8.70"))
    s.delete("services", "deleted", "dry-address-free")
    s.create("services", "address-free-again", spec(clusterIP="10.96.8.70"))
    return s


SCENES = [ports, types, addresses, policies, changes, names]
