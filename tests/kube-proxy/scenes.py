#!/usr/bin/env python3
"""Writes the generated scenes anew, each from its own number: scenes/drawn-*.yaml, and
scenes/old-*.yaml with nothing that kube-proxy 1.23 does not know."""

import pathlib
import random

FOLDER = pathlib.Path(__file__).parent / "scenes"
HEADERS = [
    "--node node-1 --cluster-cidr 10.244.0.0/16,fd00:10:244::/56",
    "--node node-1 --cluster-cidr 10.244.0.0/16,fd00:10:244::/56 --localhost-nodeports=false",
    "--node node-1 --cluster-cidr 10.244.0.0/16,fd00:10:244::/56 --masquerade-all",
    "--node node-1 --detect-local none",
    "--node node-1 --detect-local bridge:cni0 --nodeport-addresses 192.168.0.0/24,2001:db8::/64",
    "--node node-1 --detect-local prefix:weft --masquerade-bit 15",
]
OLD_HEADERS = [header for header in HEADERS if "detect" not in header and "localhost" not in header]
NODES = """\
apiVersion: v1
kind: Node
metadata:
  name: node-1
  labels: {kubernetes.io/hostname: node-1, topology.kubernetes.io/zone: zone-a}
status:
  addresses:
  - {type: InternalIP, address: 192.168.0.2}
  - {type: InternalIP, address: "2001:db8::2"}
  - {type: Hostname, address: node-1}
"""
V4, V6 = "IPv4", "IPv6"


def inline(value):
    """A value as YAML in flow style."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(inline(v) for v in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def service(draw, number, old):
    name, namespace = f"s{number}", draw.choice(["default", "shop"])
    kind = draw.choice(["ClusterIP", "ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer"])
    families = draw.choice([[V4], [V4], [V6], [V4, V6], [V6, V4]])
    addresses = {V4: f"10.96.{number}.10", V6: f"fd00:10:96::{number:x}"}
    ports = []
    for index in range(draw.choice([1, 1, 2, 3])):
        port = {"port": 80 + index, "protocol": draw.choice(["TCP", "TCP", "UDP", "SCTP"])}
        port["targetPort"] = 8080 + index
        if kind != "ClusterIP" and draw.random() < 0.85:
            port["nodePort"] = 30000 + number * 10 + index
        ports.append(port)
    for index, port in enumerate(ports):
        if len(ports) > 1 or draw.random() < 0.6:
            port["name"] = f"p{index}"
    cluster_ips = [addresses[family] for family in families]
    spec = {
        "type": kind,
        "clusterIP": cluster_ips[0],
        "clusterIPs": cluster_ips,
        "ipFamilies": families,
        "ipFamilyPolicy": "RequireDualStack" if len(families) == 2 else "SingleStack",
        "ports": ports,
        "internalTrafficPolicy": draw.choice(["Cluster", "Cluster", "Local"]),
    }
    if old and kind != "ClusterIP":
        spec["internalTrafficPolicy"] = "Cluster"
    if kind != "ClusterIP" or (not old and draw.random() < 0.3):
        if draw.random() < 0.5:
            spec["externalIPs"] = draw.sample(
                [f"203.0.113.{number}", f"203.0.113.{number + 100}", f"2001:db8:80::{number:x}"], draw.choice([1, 2, 3]))
    if kind != "ClusterIP" or "externalIPs" in spec:
        spec["externalTrafficPolicy"] = draw.choice(["Cluster", "Local"])
    if draw.random() < 0.3:
        spec["sessionAffinity"] = "ClientIP"
        spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": draw.choice([10800, 90])}}
    status = {}
    if kind == "LoadBalancer":
        if spec["externalTrafficPolicy"] == "Local":
            spec["healthCheckNodePort"] = 32000 + number
        ingress = [{"ip": f"198.51.100.{number}", "ipMode": "VIP"}, {"ip": f"2001:db8:51::{number:x}", "ipMode": "VIP"}]
        if old:
            for entry in ingress:
                del entry["ipMode"]
        elif draw.random() < 0.3:
            ingress[0]["ipMode"] = "Proxy"
        status = {"loadBalancer": {"ingress": ingress[: draw.choice([1, 2])]}}
        if draw.random() < 0.5:
            spec["loadBalancerSourceRanges"] = draw.sample(
                ["10.0.0.0/8", "192.168.0.0/16", "203.0.113.64/26", "2001:db8::/32", "fd00::/8"], 3)
    text = f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
    text += "spec:\n" + "".join(f"  {k}: {inline(v)}\n" for k, v in spec.items())
    if status:
        text += f"status: {inline(status)}\n"
    documents = [text]
    count = draw.choice([0, 1, 2, 3, 5, 12])
    hinted = not old and draw.random() < 0.3
    states = ["ready"] * 5 + (["unready"] if old else ["terminating", "unready"])
    for family in families:
        endpoints = []
        for index in range(count):
            where = draw.choice([1, 2, 3])
            state = draw.choice(states)
            pod = f"10.244.{where}.{number * 12 + index}"
            if family == V6:
                pod = f"fd00:10:244:{where}::{number * 12 + index:x}"
            endpoint = {
                "addresses": [pod],
                "conditions": {
                    "ready": state == "ready",
                    "serving": state != "unready",
                    "terminating": state == "terminating",
                },
                "nodeName": f"node-{where}",
            }
            if hinted:
                zone = "ab"[where % 2]
                endpoint["hints"] = {"forZones": [{"name": f"zone-{zone}"}]}
            endpoints.append(endpoint)
        documents.append(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
            f"metadata: {{name: {name}-{family.lower()}, namespace: {namespace}, "
            f"labels: {{kubernetes.io/service-name: {name}}}}}\n"
            f"addressType: {family}\nports:\n"
            + "".join(
                "- " + inline({
                    "name": port.get("name", ""),
                    "port": port["targetPort"],
                    "protocol": port["protocol"],
                }) + "\n"
                for port in ports)
            + ("endpoints:\n" + "".join(f"- {inline(e)}\n" for e in endpoints) if endpoints else "endpoints: []\n"))
    return documents


def write(name, number, header, old):
    draw = random.Random(number)
    documents = [NODES]
    for index in range(1, 9):
        documents += service(draw, index, old)
    text = "# " + header + "\n" + "---\n".join(documents)
    (FOLDER / f"{name}-{number:02}.yaml").write_text(text)


def main():
    for number in range(12):
        write("drawn", number, HEADERS[number % len(HEADERS)], False)
    for number in range(6):
        write("old", number, OLD_HEADERS[number % len(OLD_HEADERS)], True)


main()
