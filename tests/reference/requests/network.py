"""Endpoints, EndpointSlices, NetworkPolicies, Ingresses and their classes."""

from fields import WEB as backend
from fields import ingress_rule as rule
from scene import MERGE_PATCH, Scene


def endpoints():
    s = Scene("endpoints")

    def subset(*addresses, ports=({"port": 80},), **more):
        return {"subsets": [{"addresses": list(addresses), "ports": list(ports), **more}]}

    a = {"ip": "192.0.2.1"}
    for label, fields in {
        "one": subset(a),
        "empty": {},
        "subsets-null": {"subsets": None},
        "subset-empty": {"subsets": [{}]},
        "no-ports": {"subsets": [{"addresses": [a]}]},
        "not-ready": {"subsets": [{"notReadyAddresses": [a], "ports": [{"port": 80}]}]},
        "no-addresses": {"subsets": [{"ports": [{"port": 80}]}]},
        "ip-text": subset({"ip": "x"}),
        "ip-missing": subset({"hostname": "a"}),
        "ip-loopback": subset({"ip": "127.0.0.1"}),
        "ip-zero": subset({"ip": "0.0.0.0"}),
        "ip-link-local": subset({"ip": "169.254.1.1"}),
        "ip-link-local-multicast": subset({"ip": "224.0.0.1"}),
        "ip-multicast": subset({"ip": "239.1.1.1"}),
        "ip-six": subset({"ip": "2001:db8::1"}),
        "ip-six-special": subset({"ip": "::1"}, {"ip": "fe80::1"}, {"ip": "ff02::1"}, {"ip": "::"}),
        "hostname": subset({"ip": "192.0.2.1", "hostname": "a"}),
        "hostname-bad": subset({"ip": "192.0.2.1", "hostname": "a.b"}),
        "node-name": subset({"ip": "192.0.2.1", "nodeName": "n"}),
        "node-name-bad": subset({"ip": "192.0.2.1", "nodeName": "N_"}),
        "target": subset({"ip": "192.0.2.1", "targetRef": {"kind": "Pod", "name": "p", "namespace": "endpoints"}}),
        "port-zero": subset(a, ports=[{"port": 0}]),
        "port-large": subset(a, ports=[{"port": 70000}]),
        "protocol": subset(a, ports=[{"port": 80, "protocol": "ICMP"}]),
        "names": subset(a, ports=[{"port": 80, "name": "a"}, {"port": 81, "name": "b", "protocol": "UDP", "appProtocol": "http"}]),
        "names-missing": subset(a, ports=[{"port": 80}, {"port": 81}]),
        "name-bad": subset(a, ports=[{"port": 80, "name": "A_"}]),
        "app-protocol-bad": subset(a, ports=[{"port": 80, "appProtocol": "a b"}]),
        "order": {"subsets": [{"addresses": [{"ip": "192.0.2.2"}, {"ip": "192.0.2.1"}], "ports": [{"port": 81, "name": "b"}, {"port": 80, "name": "a"}]}]},
        "repack": {"subsets": [{"addresses": [a], "ports": [{"port": 80, "name": "a"}]}, {"addresses": [a], "ports": [{"port": 81, "name": "b"}]}]},
        "both-ready-and-not": {"subsets": [{"addresses": [a], "notReadyAddresses": [a], "ports": [{"port": 80}]}]},
    }.items():
        s.create("endpoints", label, fields)
    s.update("endpoints", "replaced", "one", subset({"ip": "192.0.2.9"}))
    s.update("endpoints", "node-moved", "node-name", subset({"ip": "192.0.2.1", "nodeName": "m"}))
    s.update("endpoints", "created-by-update", "new", subset(a))
    return s


def slices():
    s = Scene("slices")

    def slice_of(*endpoints, family="IPv4", ports=({"port": 80},), **more):
        return {"addressType": family, "endpoints": list(endpoints), "ports": list(ports), **more}

    a = {"addresses": ["192.0.2.1"]}
    for label, fields in {
        "one": slice_of(a),
        "no-type": {"endpoints": [a], "ports": []},
        "type-unknown": slice_of(a, family="IPv5"),
        "no-endpoints": {"addressType": "IPv4"},
        "endpoints-null": {"addressType": "IPv4", "endpoints": None, "ports": None},
        "no-addresses": slice_of({"addresses": []}),
        "addresses-missing": slice_of({}),
        "address-text": slice_of({"addresses": ["x"]}),
        "address-six-in-four": slice_of({"addresses": ["2001:db8::1"]}),
        "address-four-in-six": slice_of(a, family="IPv6"),
        "six": slice_of({"addresses": ["2001:db8::1"]}, family="IPv6"),
        "six-long-form": slice_of({"addresses": ["2001:0db8:0::1"]}, family="IPv6"),
        "four-zeros": slice_of({"addresses": ["192.0.02.1"]}),
        "special": slice_of({"addresses": ["127.0.0.1"]}, {"addresses": ["169.254.1.1"]}, {"addresses": ["224.0.0.1"]}, {"addresses": ["0.0.0.0"]}),
        "two-addresses": slice_of({"addresses": ["192.0.2.1", "192.0.2.2"]}),
        "same-address-twice": slice_of({"addresses": ["192.0.2.1", "192.0.2.1"]}),
        "addresses-101": slice_of({"addresses": [f"192.0.2.{n}" for n in range(1, 102)]}),
        "fqdn": slice_of({"addresses": ["a.example.com"]}, family="FQDN"),
        "fqdn-bad": slice_of({"addresses": ["A_b"]}, family="FQDN"),
        "fqdn-single": slice_of({"addresses": ["a"]}, family="FQDN"),
        "conditions": slice_of({"addresses": ["192.0.2.1"], "conditions": {"ready": True, "serving": False, "terminating": True}}),
        "hostname": slice_of({"addresses": ["192.0.2.1"], "hostname": "a"}),
        "hostname-bad": slice_of({"addresses": ["192.0.2.1"], "hostname": "a.b"}),
        "node-name": slice_of({"addresses": ["192.0.2.1"], "nodeName": "n", "zone": "z", "targetRef": {"kind": "Pod", "name": "p"}}),
        "node-name-bad": slice_of({"addresses": ["192.0.2.1"], "nodeName": "N_"}),
        "hints": slice_of({"addresses": ["192.0.2.1"], "hints": {"forZones": [{"name": "a"}, {"name": "b"}]}}),
        "hints-bad": slice_of({"addresses": ["192.0.2.1"], "hints": {"forZones": [{"name": "a"}, {"name": "a"}, {"name": "a b"}]}}),
        "hints-many": slice_of({"addresses": ["192.0.2.1"], "hints": {"forZones": [{"name": f"z{n}"} for n in range(9)]}}),
        "topology": slice_of({"addresses": ["192.0.2.1"], "deprecatedTopology": {"a b": "c"}}),
        "topology-hostname": slice_of({"addresses": ["192.0.2.1"], "deprecatedTopology": {"kubernetes.io/hostname": "c"}}),
        "port-null": slice_of(a, ports=[{}]),
        "port-zero": slice_of(a, ports=[{"port": 0}]),
        "port-large": slice_of(a, ports=[{"port": 70000}]),
        "port-names": slice_of(a, ports=[{"port": 80, "name": "a"}, {"port": 81, "name": "b", "protocol": "UDP"}]),
        "port-same-name": slice_of(a, ports=[{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]),
        "port-unnamed-twice": slice_of(a, ports=[{"port": 80}, {"port": 81}]),
        "port-name-bad": slice_of(a, ports=[{"port": 80, "name": "A_"}]),
        "port-name-long": slice_of(a, ports=[{"port": 80, "name": "a" * 64}]),
        "port-protocol": slice_of(a, ports=[{"port": 80, "protocol": "ICMP"}]),
        "port-app-protocol": slice_of(a, ports=[{"port": 80, "appProtocol": "kubernetes.io/h2c"}]),
        "port-app-protocol-bad": slice_of(a, ports=[{"port": 80, "appProtocol": "a b"}]),
        "ports-many": slice_of(a, ports=[{"port": n, "name": f"p{n}"} for n in range(1, 20002)][:101]),
    }.items():
        s.create("endpointslices", label, fields)
    s.create("endpointslices", "labelled", slice_of(a), {"labels": {"kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "me"}})
    s.create("endpointslices", "label-bad", slice_of(a), {"labels": {"kubernetes.io/service-name": "a b"}})
    s.update("endpointslices", "type-changed", "one", slice_of({"addresses": ["2001:db8::1"]}, family="IPv6"))
    s.update("endpointslices", "replaced", "one", slice_of({"addresses": ["192.0.2.3"]}))
    s.update("endpointslices", "replaced-same", "one", slice_of({"addresses": ["192.0.2.3"]}))
    s.update("endpointslices", "labels-only", "one", slice_of({"addresses": ["192.0.2.3"]}), {"labels": {"a": "b"}})
    s.patch("endpointslices", "patched", "one", MERGE_PATCH, {"ports": [{"port": 99}]})
    return s


def policies():
    s = Scene("network-policies")

    def ingress(*peers, ports=None):
        rule = {"from": list(peers)}
        if ports is not None:
            rule["ports"] = ports
        return {"spec": {"podSelector": {}, "ingress": [rule]}}

    for label, fields in {
        "empty": {"spec": {"podSelector": {}}},
        "no-spec": {},
        "no-selector": {"spec": {"policyTypes": ["Ingress"]}},
        "deny-all": {"spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}},
        "egress-default-types": {"spec": {"podSelector": {}, "egress": [{}]}},
        "egress-empty": {"spec": {"podSelector": {}, "egress": []}},
        "types-unknown": {"spec": {"podSelector": {}, "policyTypes": ["Sideways"]}},
        "types-twice": {"spec": {"podSelector": {}, "policyTypes": ["Ingress", "Ingress"]}},
        "types-three": {"spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress", "Ingress"]}},
        "types-empty": {"spec": {"podSelector": {}, "policyTypes": []}},
        "selector": {"spec": {"podSelector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["d"]}]}}},
        "selector-bad": {"spec": {"podSelector": {"matchLabels": {"a b": "-"}}}},
        "selector-expression": {"spec": {"podSelector": {"matchExpressions": [{"key": "c", "operator": "In"}, {"key": "c", "operator": "Exists", "values": ["x"]}, {"key": "", "operator": "Near"}]}}},
        "peer-empty": ingress({}),
        "peer-pods": ingress({"podSelector": {}}),
        "peer-namespaces": ingress({"namespaceSelector": {"matchLabels": {"a": "b"}}, "podSelector": {}}),
        "peer-selector-bad": ingress({"namespaceSelector": {"matchLabels": {"a": "b c"}}}),
        "peer-block": ingress({"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/28"]}}),
        "peer-block-six": ingress({"ipBlock": {"cidr": "2001:db8::/32", "except": ["2001:db8:1::/48"]}}),
        "peer-block-and-pods": ingress({"ipBlock": {"cidr": "192.0.2.0/24"}, "podSelector": {}}),
        "peer-block-missing": ingress({"ipBlock": {}}),
        "peer-block-text": ingress({"ipBlock": {"cidr": "x"}}),
        "peer-block-address": ingress({"ipBlock": {"cidr": "192.0.2.1"}}),
        "peer-block-host-bits": ingress({"ipBlock": {"cidr": "192.0.2.5/24"}}),
        "peer-block-except-outside": ingress({"ipBlock": {"cidr": "192.0.2.0/24", "except": ["198.51.100.0/24"]}}),
        "peer-block-except-same": ingress({"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/24"]}}),
        "peer-block-except-text": ingress({"ipBlock": {"cidr": "192.0.2.0/24", "except": ["x"]}}),
        "peer-block-except-wider": ingress({"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.0.0/16"]}}),
        "peer-block-except-other-family": ingress({"ipBlock": {"cidr": "192.0.2.0/24", "except": ["2001:db8::/32"]}}),
        "port": ingress(ports=[{"port": 80}]),
        "port-name": ingress(ports=[{"port": "http", "protocol": "TCP"}]),
        "port-name-bad": ingress(ports=[{"port": "HTTP_"}]),
        "port-zero": ingress(ports=[{"port": 0}]),
        "port-large": ingress(ports=[{"port": 70000}]),
        "port-range": ingress(ports=[{"port": 80, "endPort": 90}]),
        "port-range-reversed": ingress(ports=[{"port": 80, "endPort": 70}]),
        "port-range-large": ingress(ports=[{"port": 80, "endPort": 70000}]),
        "port-range-no-port": ingress(ports=[{"endPort": 90}]),
        "port-range-name": ingress(ports=[{"port": "http", "endPort": 90}]),
        "port-protocol": ingress(ports=[{"port": 80, "protocol": "ICMP"}]),
        "port-sctp": ingress(ports=[{"protocol": "SCTP"}]),
        "port-empty": ingress(ports=[{}]),
        "egress": {"spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 53, "protocol": "UDP"}]}]}},
        "egress-bad": {"spec": {"podSelector": {}, "egress": [{"to": [{}], "ports": [{"port": -1, "protocol": "x"}]}]}},
        "unknown-field": {"spec": {"podSelector": {}, "nothing": 1}},
    }.items():
        s.create("networkpolicies", label, fields)
    s.update("networkpolicies", "changed", "empty", {"spec": {"podSelector": {"matchLabels": {"x": "y"}}, "policyTypes": ["Egress"]}})
    s.update("networkpolicies", "changed-bad", "empty", {"spec": {"podSelector": {}, "policyTypes": ["x"]}})
    s.get("networkpolicies", "list")
    return s


def ingresses():
    s = Scene("ingresses")
    for label, fields in {
        "default-backend": {"spec": {"defaultBackend": backend}},
        "nothing": {"spec": {}},
        "no-spec": {},
        "rule": rule(),
        "host": rule(host="a.example.com"),
        "host-wildcard": rule(host="*.example.com"),
        "host-wildcard-inner": rule(host="a.*.com"),
        "host-star": rule(host="*"),
        "host-address": rule(host="192.0.2.1"),
        "host-port": rule(host="a.example.com:80"),
        "host-upper": rule(host="A.example.com"),
        "path-type-missing": {"spec": {"rules": [{"http": {"paths": [{"path": "/", "backend": backend}]}}]}},
        "path-type-unknown": rule(path_type="Regex"),
        "path-exact": rule("/a", "Exact"),
        "path-exact-empty": rule("", "Exact"),
        "path-relative": rule("a"),
        "path-empty-prefix": rule(""),
        "path-implementation": rule("", "ImplementationSpecific"),
        "path-implementation-odd": rule("a.*", "ImplementationSpecific"),
        "path-double-slash": rule("/a//b"),
        "path-dots": rule("/a/../b"),
        "path-dot": rule("/a/./b"),
        "path-encoded": rule("/a%2fb"),
        "path-ends-dots": rule("/a/.."),
        "no-paths": {"spec": {"rules": [{"http": {"paths": []}}]}},
        "no-http": {"spec": {"rules": [{"host": "a.example.com"}]}},
        "backend-missing": {"spec": {"rules": [{"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {}}]}}]}},
        "backend-name": rule(back={"service": {"name": "web", "port": {"name": "http"}}}),
        "backend-name-and-number": rule(back={"service": {"name": "web", "port": {"name": "http", "number": 80}}}),
        "backend-no-port": rule(back={"service": {"name": "web"}}),
        "backend-port-large": rule(back={"service": {"name": "web", "port": {"number": 70000}}}),
        "backend-port-name-bad": rule(back={"service": {"name": "web", "port": {"name": "HTTP_"}}}),
        "backend-service-nameless": rule(back={"service": {"port": {"number": 80}}}),
        "backend-service-bad": rule(back={"service": {"name": "a.b", "port": {"number": 80}}}),
        "backend-resource": rule(back={"resource": {"apiGroup": "example.com", "kind": "Bucket", "name": "b"}}),
        "backend-resource-bad": rule(back={"resource": {"kind": "", "name": "a/b"}}),
        "backend-both": rule(back={"resource": {"kind": "Bucket", "name": "b"}, **backend}),
        "tls": {"spec": {"defaultBackend": backend, "tls": [{"hosts": ["a.example.com", "*.example.com"], "secretName": "cert"}]}},
        "tls-bad": {"spec": {"defaultBackend": backend, "tls": [{"hosts": ["A_"], "secretName": "A_"}]}},
        "class": {"spec": {"defaultBackend": backend, "ingressClassName": "nginx"}},
        "class-bad": {"spec": {"defaultBackend": backend, "ingressClassName": "A_"}},
        "class-empty": {"spec": {"defaultBackend": backend, "ingressClassName": ""}},
    }.items():
        s.create("ingresses", label, fields)
    s.create("ingresses", "annotated-class", {"spec": {"defaultBackend": backend}}, {"annotations": {"kubernetes.io/ingress.class": "nginx"}})
    s.create("ingresses", "annotated-and-class", {"spec": {"defaultBackend": backend, "ingressClassName": "nginx"}}, {"annotations": {"kubernetes.io/ingress.class": "nginx"}})
    s.update("ingresses", "changed", "rule", {"spec": {"defaultBackend": backend}})
    for label, address in {
        "ip": {"ip": "192.0.2.1", "ports": [{"port": 80, "protocol": "TCP"}]},
        "ip-text": {"ip": "x"}, "hostname": {"hostname": "a.example.com"}, "hostname-bad": {"hostname": "192.0.2.1"},
        "port-bad": {"ip": "192.0.2.1", "ports": [{"port": 0, "protocol": "x"}]},
    }.items():
        s.patch("ingresses", f"status-{label}", "rule", MERGE_PATCH, {"status": {"loadBalancer": {"ingress": [address]}}}, subresource="status")
    for label, fields in {
        "ic-plain": {"spec": {"controller": "example.com/ingress"}},
        "ic-empty": {"spec": {}},
        "ic-no-spec": {},
        "ic-bad": {"spec": {"controller": "a b"}},
        "ic-no-domain": {"spec": {"controller": "ingress"}},
        "ic-long": {"spec": {"controller": "example.com/" + "a" * 250}},
        "ic-parameters": {"spec": {"controller": "example.com/ingress", "parameters": {"kind": "Config", "name": "c", "apiGroup": "example.com"}}},
        "ic-parameters-namespace": {"spec": {"controller": "example.com/ingress", "parameters": {"kind": "Config", "name": "c", "scope": "Namespace", "namespace": "n"}}},
        "ic-parameters-cluster-namespace": {"spec": {"controller": "example.com/ingress", "parameters": {"kind": "Config", "name": "c", "scope": "Cluster", "namespace": "n"}}},
        "ic-parameters-no-namespace": {"spec": {"controller": "example.com/ingress", "parameters": {"kind": "Config", "name": "c", "scope": "Namespace"}}},
        "ic-parameters-scope": {"spec": {"controller": "example.com/ingress", "parameters": {"kind": "Config", "name": "c", "scope": "World"}}},
        "ic-parameters-empty": {"spec": {"controller": "example.com/ingress", "parameters": {}}},
    }.items():
        s.create("ingressclasses", label, fields)
    s.update("ingressclasses", "ic-changed", "ic-plain", {"spec": {"controller": "example.com/other"}})
    return s


SCENES = [endpoints, slices, policies, ingresses]
