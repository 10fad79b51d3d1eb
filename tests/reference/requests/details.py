"""Fields of the network's kinds that the other scenes leave alone."""

from fields import WEB as backend
from fields import container
from fields import ingress_rule as rule
from fields import pod as spec
from scene import JSON_PATCH, MERGE_PATCH, Scene


def pods():
    s = Scene("pod-details")
    for label, fields in {
        "fqdn-false": spec(setHostnameAsFQDN=False),
        "fqdn-text": spec(setHostnameAsFQDN="yes"),
        "subdomain-upper": spec(subdomain="B"),
        "subdomain-dots": spec(subdomain="a.b"),
        "subdomain-long": spec(subdomain="a" * 64),
        "hostname-hyphen": spec(hostname="a-"),
        "hostname-digits": spec(hostname="123"),
        "hostname-longest": spec(hostname="a" * 63),
        "hostname-empty": spec(hostname="", subdomain=""),
        "alias-no-names": spec(hostAliases=[{"ip": "192.0.2.1"}]),
        "alias-six": spec(hostAliases=[{"ip": "2001:db8::1", "hostnames": ["a"]}]),
        "alias-zeros": spec(hostAliases=[{"ip": "192.0.2.01", "hostnames": ["a"]}]),
        "alias-no-ip": spec(hostAliases=[{"ip": "", "hostnames": ["a"]}]),
        "alias-name-empty": spec(hostAliases=[{"ip": "192.0.2.1", "hostnames": [""]}]),
        "alias-name-wildcard": spec(hostAliases=[{"ip": "192.0.2.1", "hostnames": ["*.a"]}]),
        "aliases-on-host": spec(hostNetwork=True, hostAliases=[{"ip": "192.0.2.1", "hostnames": ["a"]}]),
        "dns-lower": spec(dnsPolicy="clusterFirst"),
        "dns-first": spec(dnsPolicy="ClusterFirst"),
        "dns-none-three": spec(dnsPolicy="None", dnsConfig={"nameservers": ["192.0.2.1", "2001:db8::1", "192.0.2.3"]}),
        "dns-none-searches-only": spec(dnsPolicy="None", dnsConfig={"searches": ["a"]}),
        "dns-none-null": spec(dnsPolicy="None", dnsConfig=None),
        "dns-server-zeros": spec(dnsConfig={"nameservers": ["192.0.2.01"]}),
        "dns-server-port": spec(dnsConfig={"nameservers": ["192.0.2.1:53"]}),
        "dns-search-dot": spec(dnsConfig={"searches": ["a.example."]}),
        "dns-search-long": spec(dnsConfig={"searches": ["a" * 63 + "." + "b" * 63 + "." + "c" * 63 + "." + "d" * 63]}),
        "dns-search-upper": spec(dnsConfig={"searches": ["A.example"]}),
        "dns-search-total": spec(dnsConfig={"searches": [f"{n:02}" + "a" * 61 + ".example" for n in range(32)]}),
        "dns-option-empty": spec(dnsConfig={"options": [{"name": "", "value": ""}]}),
        "dns-option-odd": spec(dnsConfig={"options": [{"name": "a b:c"}]}),
        "dns-option-twice": spec(dnsConfig={"options": [{"name": "a"}, {"name": "a"}]}),
        "gates-twice": spec(readinessGates=[{"conditionType": "a/b"}, {"conditionType": "a/b"}]),
        "gates-plain": spec(readinessGates=[{"conditionType": "Ready"}]),
        "gates-empty": spec(readinessGates=[{"conditionType": ""}]),
        "gates-missing": spec(readinessGates=[{}]),
        "gates-slashes": spec(readinessGates=[{"conditionType": "a/b/c"}]),
        "port-range": spec(container(ports=[{"containerPort": 65535}, {"containerPort": 1}])),
        "port-negative": spec(container(ports=[{"containerPort": -1, "hostPort": -1}])),
        "port-text": spec(container(ports=[{"containerPort": "80"}])),
        "port-name-empty": spec(container(ports=[{"containerPort": 80, "name": ""}])),
        "port-name-hyphens": spec(container(ports=[{"containerPort": 80, "name": "a--b"}])),
        "port-name-end": spec(container(ports=[{"containerPort": 80, "name": "a-"}])),
        "port-name-underscore": spec(container(ports=[{"containerPort": 80, "name": "a_b"}])),
        "port-name-many": spec(container(ports=[{"containerPort": 80, "name": "-A--_" + "a" * 16}])),
        "port-protocol-empty": spec(container(ports=[{"containerPort": 80, "protocol": ""}])),
        "port-protocol-lower": spec(container(ports=[{"containerPort": 80, "protocol": "tcp"}])),
        "port-host-zero": spec(container(ports=[{"containerPort": 80, "hostPort": 0}])),
        "host-port-init": spec(container(ports=[{"containerPort": 80, "hostPort": 8081}]), initContainers=[container("i", ports=[{"containerPort": 80, "hostPort": 8081}])]),
        "host-port-sidecar": spec(container(ports=[{"containerPort": 80, "hostPort": 8082}]), initContainers=[container("i", restartPolicy="Always", ports=[{"containerPort": 80, "hostPort": 8082}])]),
        "host-network-init": spec(hostNetwork=True, initContainers=[container("i", ports=[{"containerPort": 80}])]),
        "host-network-null": spec(hostNetwork=None),
        "host-network-same": spec(container(ports=[{"containerPort": 80, "hostPort": 80}]), hostNetwork=True),
        "host-all": spec(hostNetwork=True, hostPID=True, hostIPC=True),
        "host-pid-shared": spec(hostPID=True, shareProcessNamespace=True),
        "ephemeral": spec(ephemeralContainers=[container("e")]),
        "account-bad": spec(serviceAccountName="A_"),
        "account-deprecated": spec(serviceAccount="default"),
        "account-both": spec(serviceAccount="a", serviceAccountName="default"),
        "runtime-class": spec(runtimeClassName="A_"),
        "priority-class": spec(priorityClassName="none-such"),
        "priority": spec(priority=5),
        "preemption": spec(preemptionPolicy="Sometimes"),
        "scheduler": spec(schedulerName="A_"),
        "os": spec(os={"name": "linux"}),
        "os-unknown": spec(os={"name": "plan9"}),
        "group-change": spec(securityContext={"fsGroupChangePolicy": "x", "runAsUser": -1, "supplementalGroups": [-1]}),
        "node-affinity": spec(affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}),
        "node-affinity-bad": spec(affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a b", "operator": "In", "values": []}, {"key": "a", "operator": "Gt", "values": ["x"]}], "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a", "b"]}]}]}}}),
        "tolerations-seconds": spec(tolerations=[{"key": "a", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 5}]),
        "spread-many": spec(topologySpreadConstraints=[{"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule", "minDomains": 0, "nodeAffinityPolicy": "x", "labelSelector": {}}] * 2),
        "termination-message": spec(container(terminationMessagePath="")),
        "command": spec(container(command=["a"], args=[""], workingDir="b", stdin=True, tty=True)),
        "mount-bad": spec(container(volumeMounts=[{"name": "v", "mountPath": ""}, {"name": "v", "mountPath": "a:b", "subPath": "../x"}]), volumes=[{"name": "v", "emptyDir": {}}]),
        "mount-twice": spec(container(volumeMounts=[{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}]), volumes=[{"name": "v", "emptyDir": {}}]),
        "volume-name-bad": spec(volumes=[{"name": "A_", "emptyDir": {}}, {"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}]),
        "empty-dir": spec(volumes=[{"name": "a", "emptyDir": {"medium": "Tape", "sizeLimit": "-1"}}]),
        "host-path": spec(volumes=[{"name": "a", "hostPath": {"path": "", "type": "x"}}]),
    }.items():
        s.create("pods", label, fields)
    return s


def pod_changes():
    s = Scene("pod-immutable")
    base = spec(container(ports=[{"containerPort": 80}]), hostname="a", subdomain="b",
                dnsConfig={"nameservers": ["192.0.2.1"]}, hostAliases=[{"ip": "192.0.2.1", "hostnames": ["a"]}],
                readinessGates=[{"conditionType": "a/b"}])
    s.create("pods", "p", base)
    for label, path, value in [
        ("dns-policy", "dnsPolicy", "Default"), ("dns-config", "dnsConfig", {"nameservers": ["192.0.2.2"]}),
        ("dns-config-null", "dnsConfig", None), ("aliases", "hostAliases", []),
        ("hostname", "hostname", "x"), ("subdomain", "subdomain", "x"), ("fqdn", "setHostnameAsFQDN", True),
        ("host-network", "hostNetwork", True), ("gates", "readinessGates", []),
        ("node-name", "nodeName", "node-x"), ("restart-policy", "restartPolicy", "Never"),
        ("service-account", "serviceAccountName", "other"), ("share", "shareProcessNamespace", True),
        ("links", "enableServiceLinks", False), ("grace", "terminationGracePeriodSeconds", 5),
        ("scheduler", "schedulerName", "other"), ("priority", "priority", 5),
        ("node-selector", "nodeSelector", {"a": "b"}), ("runtime", "runtimeClassName", "x"),
        ("ephemeral", "ephemeralContainers", [container("e")]), ("gone", "containers", []),
    ]:
        s.patch("pods", label, "p", MERGE_PATCH, {"spec": {path: value}})
    for label, path, value in [
        ("port", "/spec/containers/0/ports/0/containerPort", 81), ("port-name", "/spec/containers/0/ports/0/name", "x"),
        ("host-port", "/spec/containers/0/ports/0/hostPort", 80), ("port-more", "/spec/containers/0/ports/-", {"containerPort": 82}),
        ("env", "/spec/containers/0/env", [{"name": "A", "value": "b"}]), ("container-name", "/spec/containers/0/name", "x"),
        ("pull-policy", "/spec/containers/0/imagePullPolicy", "Always"),
    ]:
        s.patch("pods", label, "p", JSON_PATCH, [{"op": "add", "path": path, "value": value}])
    s.patch("pods", "ephemeral-added", "p", MERGE_PATCH, {"spec": {"ephemeralContainers": [container("e", terminationMessagePolicy="File")]}}, subresource="ephemeralcontainers")
    s.create("pods", "gated", spec(schedulingGates=[{"name": "a/b"}, {"name": "c/d"}]))
    s.patch("pods", "gate-removed", "gated", MERGE_PATCH, {"spec": {"schedulingGates": [{"name": "c/d"}]}})
    s.patch("pods", "gate-added", "gated", MERGE_PATCH, {"spec": {"schedulingGates": [{"name": "c/d"}, {"name": "e/f"}]}})
    s.patch("pods", "gated-selector", "gated", MERGE_PATCH, {"spec": {"nodeSelector": {"a": "b"}}})
    s.patch("pods", "gated-selector-changed", "gated", MERGE_PATCH, {"spec": {"nodeSelector": {"a": "c"}}})
    s.send("gated-bind", "POST", s.path("pods", "gated", "binding"), {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "gated"}, "target": {"kind": "Node", "name": "node-x"}})
    for label, status in {
        "ips-dual": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
        "ip-only": {"podIP": "10.0.0.2"},
        "ips-only": {"podIPs": [{"ip": "10.0.0.3"}]},
        "ips-mismatch": {"podIP": "10.0.0.4", "podIPs": [{"ip": "10.0.0.5"}]},
        "ips-three": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "10.0.0.2"}]},
        "ips-same": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}]},
        "ips-empty": {"podIP": "", "podIPs": []},
        "host-ips": {"hostIP": "192.0.2.1", "hostIPs": [{"ip": "192.0.2.1"}]},
        "host-ips-mismatch": {"hostIP": "192.0.2.1", "hostIPs": [{"ip": "192.0.2.2"}]},
        "host-ips-text": {"hostIP": "192.0.2.1", "hostIPs": [{"ip": "x"}]},
        "conditions": {"conditions": [{"type": "a/b", "status": "True"}, {"type": "Ready", "status": "Maybe"}]},
        "conditions-bad": {"conditions": [{"type": "a b", "status": "True"}]},
        "nominated": {"nominatedNodeName": "A_"},
        "restarts-negative": {"containerStatuses": [{"name": "c", "ready": True, "restartCount": -1, "image": "", "imageID": ""}]},
        "phase-unknown": {"phase": "Odd"},
    }.items():
        s.patch("pods", f"status-{label}", "p", MERGE_PATCH, {"status": status}, subresource="status")
    return s


def slices():
    s = Scene("slice-details")

    def slice_of(*endpoints, family="IPv4", ports=({"port": 80},), **more):
        return {"addressType": family, "endpoints": list(endpoints), "ports": list(ports), **more}

    a = {"addresses": ["192.0.2.1"]}
    for label, fields in {
        "name-empty": slice_of(a, ports=[{"port": 80, "name": ""}]),
        "name-dots": slice_of(a, ports=[{"port": 80, "name": "a.b"}]),
        "name-null": slice_of(a, ports=[{"port": 80, "name": None, "protocol": None, "appProtocol": None}]),
        "protocol-empty": slice_of(a, ports=[{"port": 80, "protocol": ""}]),
        "protocol-lower": slice_of(a, ports=[{"port": 80, "protocol": "tcp"}]),
        "port-missing": slice_of(a, ports=[{"name": "a"}]),
        "port-negative": slice_of(a, ports=[{"port": -1}]),
        "app-protocol-empty": slice_of(a, ports=[{"port": 80, "appProtocol": ""}]),
        "app-protocol-slashes": slice_of(a, ports=[{"port": 80, "appProtocol": "a/b/c"}]),
        "hostname-empty": slice_of({"addresses": ["192.0.2.1"], "hostname": ""}),
        "hostname-upper": slice_of({"addresses": ["192.0.2.1"], "hostname": "A"}),
        "hostname-long": slice_of({"addresses": ["192.0.2.1"], "hostname": "a" * 64}),
        "node-name-empty": slice_of({"addresses": ["192.0.2.1"], "nodeName": ""}),
        "zone-odd": slice_of({"addresses": ["192.0.2.1"], "zone": "a b"}),
        "hints-null": slice_of({"addresses": ["192.0.2.1"], "hints": None}),
        "hints-empty": slice_of({"addresses": ["192.0.2.1"], "hints": {}}),
        "hints-name-empty": slice_of({"addresses": ["192.0.2.1"], "hints": {"forZones": [{"name": ""}]}}),
        "hints-nodes": slice_of({"addresses": ["192.0.2.1"], "hints": {"forNodes": [{"name": "n"}]}}),
        "conditions-null": slice_of({"addresses": ["192.0.2.1"], "conditions": {"ready": None}}),
        "address-empty": slice_of({"addresses": [""]}),
        "address-range": slice_of({"addresses": ["192.0.2.0/24"]}),
        "address-mapped": slice_of({"addresses": ["::ffff:192.0.2.1"]}, family="IPv6"),
        "address-mapped-four": slice_of({"addresses": ["::ffff:192.0.2.1"]}),
        "address-zone": slice_of({"addresses": ["fe80::1%eth0"]}, family="IPv6"),
        "six-special": slice_of({"addresses": ["::1"]}, {"addresses": ["fe80::1"]}, {"addresses": ["ff02::1"]}, {"addresses": ["::"]}, family="IPv6"),
        "fqdn-dot": slice_of({"addresses": ["a.example."]}, family="FQDN"),
        "fqdn-address": slice_of({"addresses": ["192.0.2.1"]}, family="FQDN"),
        "target-empty": slice_of({"addresses": ["192.0.2.1"], "targetRef": {}}),
        "type-lower": slice_of(a, family="ipv4"),
        "type-empty": slice_of(a, family=""),
    }.items():
        s.create("endpointslices", label, fields)
    s.create("endpointslices", "many", slice_of(*[{"addresses": [f"10.{n // 250}.{n % 250}.1"]} for n in range(1000)]))
    s.send("too-many", "PATCH", s.path("endpointslices", "many"), [{"op": "add", "path": "/endpoints/-", "value": {"addresses": ["192.0.2.1"]}}], content_type=JSON_PATCH)
    s.create("endpointslices", "name-bad", slice_of(a), name="A_b")
    s.create("endpointslices", "name-dotted", slice_of(a), name="a.b")
    s.create("endpoints", "points-name", {"subsets": []}, name="A_b")

    def subset(address, **port):
        return {"subsets": [{"addresses": [address], "ports": [{"port": 80, **port}]}]}

    for label, fields in {
        "ep-target-empty": subset({"ip": "192.0.2.1", "targetRef": {}}),
        "ep-zeros": subset({"ip": "192.0.2.01"}),
        "ep-mapped": subset({"ip": "::ffff:192.0.2.1"}),
        "ep-empty": subset({"ip": ""}),
        "ep-port-missing": {"subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{}]}]},
        "ep-port-name-dots": subset({"ip": "192.0.2.1"}, name="a.b"),
        "ep-port-name-long": subset({"ip": "192.0.2.1"}, name="a" * 64),
        "ep-port-same-name": {"subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}]},
        "ep-protocol-empty": subset({"ip": "192.0.2.1"}, protocol=""),
        "ep-app-protocol-empty": subset({"ip": "192.0.2.1"}, appProtocol=""),
        "ep-hostname-empty": subset({"ip": "192.0.2.1", "hostname": ""}),
        "ep-node-empty": subset({"ip": "192.0.2.1", "nodeName": ""}),
        "ep-address-twice": {"subsets": [{"addresses": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.1"}], "ports": [{"port": 80}]}]},
        "ep-null": {"subsets": [{"addresses": None, "notReadyAddresses": None, "ports": None}]},
    }.items():
        s.create("endpoints", label, fields)
    s.update("endpoints", "ep-node-set", "ep-node-empty", subset({"ip": "192.0.2.1", "nodeName": "n"}))
    s.update("endpoints", "ep-node-moved", "ep-node-empty", subset({"ip": "192.0.2.1", "nodeName": "m"}))
    s.update("endpoints", "ep-node-gone", "ep-node-empty", subset({"ip": "192.0.2.1"}))
    return s


def routes():
    """Ingresses and policies: what the scenes named after them leave out, and updates."""
    s = Scene("route-details")
    for label, fields in {
        "host-empty": rule(host=""),
        "host-dot": rule(host="a.example."),
        "host-underscore": rule(host="a_b.example"),
        "host-wildcard-upper": rule(host="*.Example.com"),
        "host-wildcard-two": rule(host="*.*.com"),
        "host-six": rule(host="2001:db8::1"),
        "host-long": rule(host="a" * 64 + ".example"),
        "path-null": {"spec": {"rules": [{"http": {"paths": [{"pathType": "ImplementationSpecific", "backend": backend}]}}]}},
        "path-percent": rule("/a%5cb"),
        "path-percent-upper": rule("/a%2Fb", "Exact"),
        "path-query": rule("/a?b=c"),
        "path-ends-slash": rule("/a/"),
        "path-ends-dot": rule("/a/."),
        "path-space": rule("/a b"),
        "path-type-empty": rule(path_type=""),
        "path-type-null": rule(path_type=None),
        "http-null": {"spec": {"rules": [{"host": "a.example", "http": None}]}},
        "rules-empty": {"spec": {"rules": []}},
        "rules-one-empty": {"spec": {"rules": [{}]}},
        "default-empty": {"spec": {"defaultBackend": {}}},
        "default-no-port": {"spec": {"defaultBackend": {"service": {"name": "a", "port": {}}}}},
        "default-port-zero": {"spec": {"defaultBackend": {"service": {"name": "a", "port": {"number": 0}}}}},
        "default-port-negative": {"spec": {"defaultBackend": {"service": {"name": "a", "port": {"number": -1}}}}},
        "default-port-name-long": {"spec": {"defaultBackend": {"service": {"name": "a", "port": {"name": "a" * 16}}}}},
        "default-resource": {"spec": {"defaultBackend": {"resource": {"kind": "K", "name": "n"}}}},
        "default-both": {"spec": {"defaultBackend": {"resource": {"kind": "K", "name": "n"}, **backend}}},
        "tls-empty": {"spec": {"defaultBackend": backend, "tls": [{}]}},
        "tls-wildcard-bad": {"spec": {"defaultBackend": backend, "tls": [{"hosts": ["*.A", "*"]}]}},
        "tls-host-empty": {"spec": {"defaultBackend": backend, "tls": [{"hosts": [""], "secretName": ""}]}},
        "two-errors": {"spec": {"ingressClassName": "A_", "rules": [{"host": "A_", "http": {"paths": [{"path": "x", "pathType": "Exact", "backend": {"service": {"name": "", "port": {}}}}]}}], "tls": [{"hosts": ["B_"]}]}},
    }.items():
        s.create("ingresses", label, fields)
    s.create("ingresses", "name-bad", rule(), name="A_b")
    s.create("ingresses", "annotation-bad", {"spec": {"defaultBackend": backend}}, {"annotations": {"kubernetes.io/ingress.class": "A b"}})
    s.create("ingresses", "base", rule(host="a.example"))
    s.patch("ingresses", "host-changed", "base", JSON_PATCH, [{"op": "replace", "path": "/spec/rules/0/host", "value": "B_"}])
    s.patch("ingresses", "type-changed", "base", JSON_PATCH, [{"op": "replace", "path": "/spec/rules/0/http/paths/0/pathType", "value": "Odd"}])
    s.patch("ingresses", "path-changed", "base", JSON_PATCH, [{"op": "replace", "path": "/spec/rules/0/http/paths/0/path", "value": "x"}])
    s.patch("ingresses", "class-set", "base", MERGE_PATCH, {"spec": {"ingressClassName": "a"}})
    s.patch("ingresses", "class-annotated", "base", MERGE_PATCH, {"metadata": {"annotations": {"kubernetes.io/ingress.class": "b"}}})
    s.patch("ingresses", "class-gone", "base", MERGE_PATCH, {"spec": {"ingressClassName": None}})
    s.patch("ingresses", "nothing-left", "base", MERGE_PATCH, {"spec": {"rules": None}})
    s.patch("ingresses", "status-null", "base", MERGE_PATCH, {"status": {"loadBalancer": {"ingress": None}}}, subresource="status")
    s.patch("ingresses", "status-both", "base", MERGE_PATCH, {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "hostname": "a.example", "ports": [{"port": 70000, "protocol": "TCP", "error": "a b"}]}]}}}, subresource="status")
    s.create("ingressclasses", "detail-class", {"spec": {"controller": "example.com/a", "parameters": {"kind": "C", "name": "c"}}})
    s.patch("ingressclasses", "class-parameters", "detail-class", MERGE_PATCH, {"spec": {"parameters": {"name": "d"}}})
    s.patch("ingressclasses", "class-controller", "detail-class", MERGE_PATCH, {"spec": {"controller": "example.com/b"}})
    s.patch("ingressclasses", "class-controller-gone", "detail-class", MERGE_PATCH, {"spec": {"controller": None}})
    s.create("ingressclasses", "detail-name", {"spec": {"controller": "example.com/a"}}, name="A_b")
    s.create("ingressclasses", "detail-parameters", {"spec": {"controller": "example.com/a/b", "parameters": {"apiGroup": "A_", "kind": "a/b", "name": "c/d", "scope": "Namespace", "namespace": "A_"}}})
    s.create("ingressclasses", "detail-parameters-empty", {"spec": {"controller": "example.com/a", "parameters": {"kind": "", "name": "", "scope": "", "namespace": ""}}})

    def policy(**fields):
        return {"spec": {"podSelector": {}, **fields}}

    for label, fields in {
        "np-type-lower": policy(policyTypes=["ingress"]),
        "np-egress-only-types": policy(policyTypes=["Egress"], ingress=[{}]),
        "np-null": policy(ingress=None, egress=None, policyTypes=None),
        "np-rule-null": policy(ingress=[{"from": None, "ports": None}]),
        "np-ports-empty": policy(egress=[{"to": [], "ports": []}]),
        "np-port-null": policy(ingress=[{"ports": [{"port": None, "protocol": None}]}]),
        "np-port-name-empty": policy(ingress=[{"ports": [{"port": ""}]}]),
        "np-port-name-long": policy(ingress=[{"ports": [{"port": "a" * 16}]}]),
        "np-port-name-digits": policy(ingress=[{"ports": [{"port": "80"}]}]),
        "np-port-protocol-empty": policy(ingress=[{"ports": [{"port": 80, "protocol": ""}]}]),
        "np-range-same": policy(egress=[{"ports": [{"port": 80, "endPort": 80}]}]),
        "np-range-zero": policy(egress=[{"ports": [{"port": 80, "endPort": 0}]}]),
        "np-range-udp": policy(egress=[{"ports": [{"port": 80, "endPort": 81, "protocol": "UDP"}]}]),
        "np-block-and-namespaces": policy(egress=[{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}, "namespaceSelector": {}}]}]),
        "np-block-zeros": policy(egress=[{"to": [{"ipBlock": {"cidr": "192.0.02.0/24"}}]}]),
        "np-block-length": policy(egress=[{"to": [{"ipBlock": {"cidr": "192.0.2.0/33"}}]}]),
        "np-block-six-host": policy(egress=[{"to": [{"ipBlock": {"cidr": "2001:db8::1/64"}}]}]),
        "np-block-mapped": policy(egress=[{"to": [{"ipBlock": {"cidr": "::ffff:192.0.2.0/120"}}]}]),
        "np-except-empty": policy(egress=[{"to": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": []}}]}]),
        "np-except-text": policy(egress=[{"to": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": [""]}}]}]),
        "np-except-twice": policy(egress=[{"to": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/28", "192.0.2.0/28"]}}]}]),
        "np-except-host-bits": policy(egress=[{"to": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.5/28"]}}]}]),
        "np-expression": policy(ingress=[{"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b c"]}, {"key": "a", "operator": "DoesNotExist", "values": ["x"]}]}}]}]),
        "np-selector-null": {"spec": {"podSelector": None}},
    }.items():
        s.create("networkpolicies", label, fields)
    s.patch("networkpolicies", "np-changed", "np-null", MERGE_PATCH, {"spec": {"egress": [{"to": [{"ipBlock": {"cidr": "x"}}]}]}})
    s.patch("networkpolicies", "np-egress", "np-null", MERGE_PATCH, {"spec": {"egress": [{}]}})
    s.patch("networkpolicies", "np-types-null", "np-null", MERGE_PATCH, {"spec": {"policyTypes": None}})
    s.create("networkpolicies", "np-name", policy(), name="A_b")
    return s


SCENES = [pods, pod_changes, slices, routes]
