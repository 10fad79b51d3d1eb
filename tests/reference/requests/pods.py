"""Pods: what concerns the network, containers and probes."""

from fields import IMAGE, container
from fields import pod as spec
from scene import JSON_PATCH, MERGE_PATCH, Scene


def ports(*given):
    return spec(container(ports=list(given)))


def probe(**fields):
    return spec(container(livenessProbe=fields))


def network():
    s = Scene("pod-network")
    for label, fields in {
        "plain": spec(),
        "no-containers": {"spec": {}},
        "no-spec": {},
        "host-network": spec(container(ports=[{"containerPort": 80}]), hostNetwork=True),
        "host-network-other-port": spec(container(ports=[{"containerPort": 80, "hostPort": 81}]), hostNetwork=True),
        "host-network-text": spec(hostNetwork="true"),
        "host-port": ports({"containerPort": 80, "hostPort": 8080}),
        "host-port-large": ports({"containerPort": 80, "hostPort": 70000}),
        "host-port-twice": ports({"containerPort": 80, "hostPort": 8080}, {"containerPort": 81, "hostPort": 8080}),
        "host-port-two-containers": spec(container("a", ports=[{"containerPort": 80, "hostPort": 8080}]), container("b", ports=[{"containerPort": 80, "hostPort": 8080}])),
        "host-port-protocols": ports({"containerPort": 53, "hostPort": 53}, {"containerPort": 53, "hostPort": 53, "protocol": "UDP"}),
        "host-port-addresses": ports({"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"}, {"containerPort": 81, "hostPort": 8080, "hostIP": "127.0.0.2"}),
        "host-ip-text": ports({"containerPort": 80, "hostPort": 8080, "hostIP": "x"}),
        "port-missing": ports({"name": "a"}),
        "port-zero": ports({"containerPort": 0}),
        "port-large": ports({"containerPort": 65536}),
        "port-name-long": ports({"containerPort": 80, "name": "a" * 16}),
        "port-name-upper": ports({"containerPort": 80, "name": "HTTP"}),
        "port-name-digits": ports({"containerPort": 80, "name": "80"}),
        "port-name-twice": ports({"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}),
        "port-name-two-containers": spec(container("a", ports=[{"containerPort": 80, "name": "http"}]), container("b", ports=[{"containerPort": 81, "name": "http"}])),
        "port-protocol": ports({"containerPort": 80, "protocol": "ICMP"}),
        "port-sctp": ports({"containerPort": 80, "protocol": "SCTP"}),
        "same-port": ports({"containerPort": 80}, {"containerPort": 80}),
        "dns-default": spec(dnsPolicy="Default"),
        "dns-host": spec(dnsPolicy="ClusterFirstWithHostNet", hostNetwork=True),
        "dns-unknown": spec(dnsPolicy="Nonsense"),
        "dns-empty": spec(dnsPolicy=""),
        "dns-none": spec(dnsPolicy="None"),
        "dns-none-empty": spec(dnsPolicy="None", dnsConfig={}),
        "dns-none-servers": spec(dnsPolicy="None", dnsConfig={"nameservers": ["192.0.2.1"], "searches": ["a.example", "_tcp.example.com", "example.com."], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}),
        "dns-servers-many": spec(dnsConfig={"nameservers": ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]}),
        "dns-servers-text": spec(dnsConfig={"nameservers": ["x"]}),
        "dns-searches-bad": spec(dnsConfig={"searches": ["a b", "", "."]}),
        "dns-searches-many": spec(dnsConfig={"searches": [f"s{n}" for n in range(33)]}),
        "dns-options-nameless": spec(dnsConfig={"options": [{"value": "1"}]}),
        "aliases": spec(hostAliases=[{"ip": "192.0.2.1", "hostnames": ["a", "b.example"]}]),
        "aliases-bad": spec(hostAliases=[{"ip": "x", "hostnames": ["A", "a_b"]}, {"hostnames": ["a"]}]),
        "hostname": spec(hostname="a", subdomain="b"),
        "hostname-dots": spec(hostname="a.b"),
        "hostname-upper": spec(hostname="A"),
        "hostname-long": spec(hostname="a" * 64),
        "subdomain-bad": spec(subdomain="a_b"),
        "fqdn": spec(hostname="a", subdomain="b", setHostnameAsFQDN=True),
        "node-name-bad": spec(nodeName="A_b"),
        "restart-unknown": spec(restartPolicy="Sometimes"),
        "service-links": spec(enableServiceLinks=False),
        "share-process": spec(shareProcessNamespace=True),
        "sysctls": spec(securityContext={"sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "1024 65535"}]}),
        "sysctls-bad": spec(securityContext={"sysctls": [{"name": "a b", "value": "1"}, {"name": "net.core.somaxconn", "value": "1"}, {"name": "net.core.somaxconn", "value": "2"}]}),
        "sysctls-host-network": spec(hostNetwork=True, securityContext={"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}),
        "readiness-gates": spec(readinessGates=[{"conditionType": "example.com/lb"}]),
        "readiness-gates-bad": spec(readinessGates=[{"conditionType": "a b"}]),
        "host-users": spec(hostUsers=False, hostNetwork=True),
        "overhead-time": spec(terminationGracePeriodSeconds=0),
        "grace-negative": spec(terminationGracePeriodSeconds=-1),
        "deadline": spec(activeDeadlineSeconds=0),
        "selector-bad": spec(nodeSelector={"a b": "c"}),
        "tolerations": spec(tolerations=[{"key": "a", "operator": "Exists"}, {"operator": "Equal"}, {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]),
        "tolerations-good": spec(tolerations=[{"operator": "Exists"}]),
        "status-ignored": {**spec(), "status": {"phase": "Running", "podIP": "10.0.0.1"}},
    }.items():
        s.create("pods", label, fields)
    return s


def containers():
    s = Scene("pod-containers")
    for label, fields in {
        "init": spec(container(), initContainers=[container("i")]),
        "init-same-name": spec(container("a"), initContainers=[container("a")]),
        "sidecar": spec(initContainers=[container("i", restartPolicy="Always", readinessProbe={"tcpSocket": {"port": 80}})]),
        "init-probe": spec(initContainers=[container("i", readinessProbe={"tcpSocket": {"port": 80}})]),
        "same-name": spec(container("a"), container("a")),
        "name-missing": {"spec": {"containers": [{"image": IMAGE}]}},
        "name-bad": spec(container("A_b")),
        "image-missing": {"spec": {"containers": [{"name": "a"}]}},
        "image-spaces": spec({"name": "a", "image": " a "}),
        "image-latest": spec({"name": "a", "image": "app"}),
        "image-digest": spec({"name": "a", "image": "app@sha256:" + "0" * 64}),
        "pull-unknown": spec(container(imagePullPolicy="Maybe")),
        "termination-policy": spec(container(terminationMessagePolicy="Nonsense")),
        "env": spec(container(env=[{"name": "A", "value": "b"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}])),
        "env-field-bad": spec(container(env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nothing"}}}])),
        "env-name-bad": spec(container(env=[{"name": "A=", "value": "b"}, {"name": ""}])),
        "env-both": spec(container(env=[{"name": "A", "value": "b", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}])),
        "env-from": spec(container(envFrom=[{"configMapRef": {"name": "a"}}, {"prefix": "x", "secretRef": {"name": "b"}}])),
        "resources": spec(container(resources={"requests": {"cpu": "100m", "memory": "1Mi"}, "limits": {"cpu": 1}})),
        "resources-over": spec(container(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})),
        "resources-bad": spec(container(resources={"requests": {"cpu": "x"}})),
        "resources-negative": spec(container(resources={"requests": {"cpu": "-1"}})),
        "resources-guaranteed": spec(container(resources={"limits": {"cpu": "0.5", "memory": "1024Ki"}})),
        "capabilities": spec(container(securityContext={"capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}})),
        "privileged-escalation": spec(container(securityContext={"privileged": True, "allowPrivilegeEscalation": False})),
        "mounts": spec(container(volumeMounts=[{"name": "v", "mountPath": "/v"}]), volumes=[{"name": "v", "emptyDir": {}}]),
        "mounts-missing": spec(container(volumeMounts=[{"name": "v", "mountPath": "/v"}])),
        "volumes-two-sources": spec(volumes=[{"name": "v", "emptyDir": {}, "configMap": {"name": "a"}}]),
        "volumes-none": spec(volumes=[{"name": "v"}]),
        "volumes-config": spec(volumes=[{"name": "v", "configMap": {"name": "a"}}, {"name": "w", "secret": {"secretName": "b"}}, {"name": "x", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}, {"name": "y", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}, {"name": "z", "hostPath": {"path": "/run"}}]),
        "lifecycle": spec(container(lifecycle={"preStop": {"sleep": {"seconds": 1}}, "postStart": {"httpGet": {"port": 80}}})),
        "lifecycle-empty": spec(container(lifecycle={"preStop": {}})),
        "affinity": spec(affinity={"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}}]}}),
        "affinity-bad": spec(affinity={"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}]}}),
        "spread": spec(topologySpreadConstraints=[{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"a": "b"}}}]),
        "spread-bad": spec(topologySpreadConstraints=[{"maxSkew": 0, "whenUnsatisfiable": "x"}]),
        "gates": spec(schedulingGates=[{"name": "example.com/wait"}]),
        "unknown-field": spec(container(nothing=1)),
        "probe-http": probe(httpGet={"port": 80}),
        "probe-http-full": probe(httpGet={"port": "http", "path": "/ok", "scheme": "HTTPS", "host": "a", "httpHeaders": [{"name": "X-A", "value": "b"}]}),
        "probe-http-path": probe(httpGet={"port": 80, "path": "ok"}),
        "probe-http-scheme": probe(httpGet={"port": 80, "scheme": "GOPHER"}),
        "probe-http-header": probe(httpGet={"port": 80, "httpHeaders": [{"name": "a b", "value": ""}]}),
        "probe-http-port": probe(httpGet={"port": 0}),
        "probe-http-no-port": probe(httpGet={}),
        "probe-http-port-name": probe(httpGet={"port": "HTTP_"}),
        "probe-tcp": probe(tcpSocket={"port": 80}),
        "probe-tcp-port": probe(tcpSocket={"port": 70000}),
        "probe-grpc": probe(grpc={"port": 80}),
        "probe-grpc-service": probe(grpc={"port": 80, "service": "a"}),
        "probe-grpc-port": probe(grpc={"port": 0}),
        "probe-exec": probe(exec={"command": ["true"]}),
        "probe-exec-empty": probe(exec={"command": []}),
        "probe-none": probe(),
        "probe-two": probe(tcpSocket={"port": 80}, exec={"command": ["true"]}),
        "probe-negative": probe(tcpSocket={"port": 80}, initialDelaySeconds=-1, timeoutSeconds=-1, periodSeconds=-1, successThreshold=-1, failureThreshold=-1),
        "probe-success-liveness": probe(tcpSocket={"port": 80}, successThreshold=2),
        "probe-grace": probe(tcpSocket={"port": 80}, terminationGracePeriodSeconds=0),
        "probe-readiness": spec(container(readinessProbe={"httpGet": {"port": 80}, "successThreshold": 3})),
        "probe-readiness-grace": spec(container(readinessProbe={"tcpSocket": {"port": 80}, "terminationGracePeriodSeconds": 5})),
        "probe-startup": spec(container(startupProbe={"tcpSocket": {"port": 80}})),
        "probe-startup-success": spec(container(startupProbe={"tcpSocket": {"port": 80}, "successThreshold": 2})),
    }.items():
        s.create("pods", label, fields)
    return s


def changes():
    s = Scene("pod-changes")
    s.create("pods", "a", spec(container("c", ports=[{"containerPort": 80}])))
    s.patch("pods", "image", "a", MERGE_PATCH, {"spec": {"containers": [container("c", image="registry.example/app:2")]}})
    s.patch("pods", "image-json", "a", JSON_PATCH, [{"op": "replace", "path": "/spec/containers/0/image", "value": "app:3"}])
    s.patch("pods", "image-empty", "a", JSON_PATCH, [{"op": "replace", "path": "/spec/containers/0/image", "value": ""}])
    s.patch("pods", "host-network", "a", JSON_PATCH, [{"op": "add", "path": "/spec/hostNetwork", "value": True}])
    s.patch("pods", "hostname", "a", JSON_PATCH, [{"op": "add", "path": "/spec/hostname", "value": "x"}])
    s.patch("pods", "deadline", "a", JSON_PATCH, [{"op": "add", "path": "/spec/activeDeadlineSeconds", "value": 60}])
    s.patch("pods", "deadline-longer", "a", JSON_PATCH, [{"op": "add", "path": "/spec/activeDeadlineSeconds", "value": 90}])
    s.patch("pods", "toleration", "a", JSON_PATCH, [{"op": "add", "path": "/spec/tolerations/-", "value": {"key": "x", "operator": "Exists"}}])
    s.patch("pods", "toleration-removed", "a", JSON_PATCH, [{"op": "remove", "path": "/spec/tolerations/0"}])
    s.patch("pods", "container-added", "a", JSON_PATCH, [{"op": "add", "path": "/spec/containers/-", "value": container("d")}])
    s.patch("pods", "labels", "a", MERGE_PATCH, {"metadata": {"labels": {"x": "y"}}})
    s.patch("pods", "status", "a", MERGE_PATCH, {"status": {"phase": "Running", "podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}], "conditions": [{"type": "Ready", "status": "True"}]}}, subresource="status")
    s.patch("pods", "status-ips", "a", MERGE_PATCH, {"status": {"podIPs": [{"ip": "10.1.2.3"}, {"ip": "10.1.2.4"}]}}, subresource="status")
    s.patch("pods", "status-ip-text", "a", MERGE_PATCH, {"status": {"podIPs": [{"ip": "x"}]}}, subresource="status")
    s.patch("pods", "status-spec-ignored", "a", MERGE_PATCH, {"spec": {"hostname": "x"}, "status": {"message": "m"}}, subresource="status")
    s.send("bind", "POST", s.path("pods", "a", "binding"), {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {"kind": "Node", "name": "node-x"}})
    s.send("bind-again", "POST", s.path("pods", "a", "binding"), {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {"kind": "Node", "name": "node-y"}})
    s.send("bind-nothing", "POST", s.path("pods", "a", "binding"), {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {"kind": "Node", "name": ""}})
    s.send("bind-missing", "POST", s.path("pods", "b", "binding"), {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "b"}, "target": {"kind": "Node", "name": "node-y"}})
    s.get("pods", "bound", "a")
    s.send("evict-missing", "POST", s.path("pods", "b", "eviction"), {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "b"}})
    s.delete("pods", "graceful", "a", query="gracePeriodSeconds=5")
    s.get("pods", "ending", "a")
    s.delete("pods", "shorter", "a", query="gracePeriodSeconds=2")
    s.delete("pods", "at-once", "a", query="gracePeriodSeconds=0")
    s.get("pods", "gone", "a")
    s.create("pods", "unbound", spec())
    s.delete("pods", "unbound-deleted", "unbound")
    s.create("pods", "evicted", spec())
    s.send("evict", "POST", s.path("pods", "evicted", "eviction"), {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "evicted"}})
    return s


SCENES = [network, containers, changes]
