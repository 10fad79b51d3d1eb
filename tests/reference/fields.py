"""What objects of the scenes consist of."""

IMAGE = "registry.example/app:1"
WEB = {"service": {"name": "web", "port": {"number": 80}}}


def container(name="c", **more):
    return {"name": name, "image": IMAGE, **more}


def pod_spec(*containers, **fields):
    return {"containers": list(containers) or [container()], **fields}


def pod(*containers, **fields):
    return {"spec": pod_spec(*containers, **fields)}


def service_port(number=80, **fields):
    return {"port": number, **fields}


def service(*ports, **fields):
    return {"spec": {"ports": list(ports) or [service_port()], **fields}}


def ingress_rule(path="/", path_type="Prefix", host=None, back=None):
    one = {"http": {"paths": [{"path": path, "pathType": path_type, "backend": back or WEB}]}}
    if host is not None:
        one["host"] = host
    return {"spec": {"rules": [one]}}
