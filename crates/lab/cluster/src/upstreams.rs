//! Where requests for what runs in pods go: to the kubelet of the pod's node, and through it to
//! pods and Services. The refusals are Kubernetes' own.
//!
//! The API server is on the node network and has no route to pods. So proxies have the node's
//! kubelet make the connection (HTTP CONNECT), as Kubernetes' egress proxies do.

use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use weft_apiserver::{ApiError, Upstream, UpstreamRequest, Upstreams, Way};

use weft_proto::kubelet::encode;

/// The kubelet's port where the Node does not say it (Kubernetes' default).
const KUBELET_PORT: u16 = 10250;
/// The annotation that names a pod's main container, for logs and streams without a name.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The lab's ways to pods.
#[derive(Debug, Clone, Copy, Default)]
pub struct ToKubelets;

impl Upstreams for ToKubelets {
    fn locate(&self, request: &UpstreamRequest<'_>) -> Result<Option<Upstream>, ApiError> {
        match (request.resource.plural.as_str(), request.subresource) {
            ("pods", "log") => logs(request),
            ("pods", "exec") => command(request, "exec").map(Some),
            ("pods", "attach") => command(request, "attach").map(Some),
            ("pods", "portforward") => port_forward(request).map(Some),
            ("pods", "proxy") => pod_proxy(request).map(Some),
            ("services", "proxy") => service_proxy(request).map(Some),
            ("nodes", "proxy") => node_proxy(request).map(Some),
            (plural, other) => Err(ApiError::not_implemented(format!(
                "{plural}/{other} is not served by this API server"
            ))),
        }
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn pod(request: &UpstreamRequest<'_>, name: &str) -> Result<Value, ApiError> {
    request
        .objects
        .get("v1", "Pod", request.namespace, name)
        .ok_or_else(|| request.not_found())
}

/// The node that a pod is on; refused where it has none.
fn host(request: &UpstreamRequest<'_>, pod: &Value) -> Result<SocketAddr, ApiError> {
    let node = text(pod, "/spec/nodeName");
    if node.is_empty() {
        return Err(ApiError::bad_request(format!(
            "pod {} does not have a host assigned",
            request.name
        )));
    }
    kubelet(request, node)
}

/// Where a node's kubelet listens.
fn kubelet(request: &UpstreamRequest<'_>, node: &str) -> Result<SocketAddr, ApiError> {
    let object = request
        .objects
        .get("v1", "Node", "", node)
        .ok_or_else(|| ApiError::internal(format!("nodes \"{node}\" not found")))?;
    kubelet_of(&object).ok_or_else(|| {
        ApiError::internal(format!(
            "no preferred addresses found; node {node} has no InternalIP"
        ))
    })
}

fn kubelet_of(node: &Value) -> Option<SocketAddr> {
    let address = list(node, "/status/addresses")
        .iter()
        .find(|one| text(one, "/type") == "InternalIP")?;
    let address: IpAddr = text(address, "/address").parse().ok()?;
    let port = node
        .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
        .and_then(Value::as_u64)
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or(KUBELET_PORT);
    Some(SocketAddr::new(address, port))
}

fn names(pod: &Value, pointer: &str) -> Vec<String> {
    list(pod, pointer)
        .iter()
        .map(|container| text(container, "/name").to_owned())
        .collect()
}

/// The container a request is about.
fn container(request: &UpstreamRequest<'_>, pod: &Value) -> Result<String, ApiError> {
    let asked = request.parameter("container");
    let (containers, first, debug) = (
        names(pod, "/spec/containers"),
        names(pod, "/spec/initContainers"),
        names(pod, "/spec/ephemeralContainers"),
    );
    if !asked.is_empty() {
        let known = [&containers, &first, &debug]
            .iter()
            .any(|names| names.iter().any(|name| name == asked));
        return if known {
            Ok(asked.to_owned())
        } else {
            Err(ApiError::bad_request(format!(
                "container {asked} is not valid for pod {}",
                request.name
            )))
        };
    }
    let preferred = pod["metadata"]["annotations"][DEFAULT_CONTAINER]
        .as_str()
        .filter(|name| containers.iter().any(|one| one == name));
    match (preferred, containers.as_slice()) {
        (Some(preferred), _) => Ok(preferred.to_owned()),
        (None, [only]) => Ok(only.clone()),
        (None, several) => {
            let mut message = format!(
                "a container name must be specified for pod {}",
                request.name
            );
            if !several.is_empty() {
                message.push_str(&format!(", choose one of: [{}]", several.join(" ")));
                if !first.is_empty() {
                    message.push_str(&format!(
                        " or one of the init containers: [{}]",
                        first.join(" ")
                    ));
                }
                if !debug.is_empty() {
                    message.push_str(&format!(
                        " or one of the ephemeral containers: [{}]",
                        debug.join(" ")
                    ));
                }
            }
            Err(ApiError::bad_request(message))
        }
    }
}

/// The parameters of a log that both API and kubelet know.
const LOG_PARAMETERS: [&str; 8] = [
    "follow",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "timestamps",
    "tailLines",
    "limitBytes",
    "stream",
];

fn logs(request: &UpstreamRequest<'_>) -> Result<Option<Upstream>, ApiError> {
    log_options(request)?;
    let pod = pod(request, request.name)?;
    let container = container(request, &pod)?;
    if text(&pod, "/spec/nodeName").is_empty() {
        return Ok(None);
    }
    let given: Vec<(&str, &str)> = request
        .query
        .iter()
        .filter(|(name, _)| LOG_PARAMETERS.contains(&name.as_str()))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let path = format!(
        "/containerLogs/{}/{}/{container}{}",
        request.namespace,
        request.name,
        encode(&given)
    );
    Ok(Some(Upstream {
        way: Way::Node(host(request, &pod)?),
        path,
        refusals_as_status: true,
    }))
}

/// What Kubernetes refuses of `PodLogOptions`.
fn log_options(request: &UpstreamRequest<'_>) -> Result<(), ApiError> {
    let invalid = |field: &str, message: &str| {
        let mut error = ApiError::bad_request(format!(
            "PodLogOptions \"{}\" is invalid: {field}: Invalid value: {}: {message}",
            request.name,
            request.parameter(field)
        ));
        error.code = 422;
        error.reason = "Invalid";
        error
    };
    for (field, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        match request.parameter(field) {
            "" => {}
            given => match given.parse::<i64>() {
                Ok(number) if number >= least => {}
                Ok(_) if least == 0 => {
                    return Err(invalid(field, "must be greater than or equal to 0"));
                }
                Ok(_) => return Err(invalid(field, "must be greater than 0")),
                Err(_) => {
                    return Err(ApiError::bad_request(format!(
                        "strconv.ParseInt: parsing {given:?}: invalid syntax"
                    )));
                }
            },
        }
    }
    let since = request.parameter("sinceTime");
    if !since.is_empty() && since.parse::<jiff::Timestamp>().is_err() {
        return Err(ApiError::bad_request(format!(
            "sinceTime: {since:?} is not a time as in 2006-01-02T15:04:05Z"
        )));
    }
    if !since.is_empty() && !request.parameter("sinceSeconds").is_empty() {
        return Err(invalid(
            "sinceSeconds",
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        ));
    }
    Ok(())
}

/// Exec and attach: what the kubelet calls their parameters.
fn command(request: &UpstreamRequest<'_>, verb: &str) -> Result<Upstream, ApiError> {
    let on = |name: &str| truth(request.parameter(name));
    let (stdin, stdout, stderr, tty) = (on("stdin"), on("stdout"), on("stderr"), on("tty"));
    let refused = |what: &str| {
        let mut error = ApiError::bad_request(what);
        error.code = 422;
        error.reason = "Invalid";
        error
    };
    if !(stdin || stdout || stderr) {
        return Err(ApiError::bad_request(
            "you must specify at least 1 of stdin, stdout, stderr",
        ));
    }
    if tty && stderr {
        return Err(refused("tty and stderr cannot both be true"));
    }
    let commands = request.query.iter().filter(|(name, _)| name == "command");
    if verb == "exec" && commands.clone().next().is_none() {
        return Err(ApiError::bad_request(
            "you must specify at least one command for the container",
        ));
    }
    let pod = pod(request, request.name)?;
    let container = container(request, &pod)?;
    let mut given: Vec<(&str, &str)> = Vec::new();
    for (name, set) in [
        ("input", stdin),
        ("output", stdout),
        ("error", stderr),
        ("tty", tty),
    ] {
        if set {
            given.push((name, "1"));
        }
    }
    if verb == "exec" {
        given.extend(commands.map(|(_, word)| ("command", word.as_str())));
    }
    Ok(Upstream {
        way: Way::Node(host(request, &pod)?),
        path: format!(
            "/{verb}/{}/{}/{container}{}",
            request.namespace,
            request.name,
            encode(&given)
        ),
        refusals_as_status: false,
    })
}

fn truth(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

fn port_forward(request: &UpstreamRequest<'_>) -> Result<Upstream, ApiError> {
    let pod = pod(request, request.name)?;
    let ports: Vec<(&str, &str)> = request
        .query
        .iter()
        .filter(|(name, _)| name == "ports")
        .map(|(_, value)| ("port", value.as_str()))
        .collect();
    Ok(Upstream {
        way: Way::Node(host(request, &pod)?),
        path: format!(
            "/portForward/{}/{}{}",
            request.namespace,
            request.name,
            encode(&ports)
        ),
        refusals_as_status: false,
    })
}

/// `name`, `name:port`, `scheme:name:port`: a proxy's target, as Kubernetes reads it.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    tls: bool,
    name: &'a str,
    port: &'a str,
}

fn target(text: &str) -> Option<Target<'_>> {
    let parts: Vec<&str> = text.split(':').collect();
    let (tls, name, port) = match parts.as_slice() {
        [name] => (false, *name, ""),
        [name, port] => (false, *name, *port),
        ["" | "http", name, port] => (false, *name, *port),
        ["https", name, port] => (true, *name, *port),
        _ => return None,
    };
    (!name.is_empty()).then_some(Target { tls, name, port })
}

fn wanted<'a>(request: &UpstreamRequest<'a>, what: &str) -> Result<Target<'a>, ApiError> {
    target(request.name)
        .ok_or_else(|| ApiError::bad_request(format!("invalid {what} request {:?}", request.name)))
}

/// Path and query at the target.
fn onward(request: &UpstreamRequest<'_>) -> String {
    let tail = if request.tail.is_empty() {
        "/"
    } else {
        request.tail
    };
    if request.raw_query.is_empty() {
        tail.to_owned()
    } else {
        format!("{tail}?{}", request.raw_query)
    }
}

fn pod_proxy(request: &UpstreamRequest<'_>) -> Result<Upstream, ApiError> {
    let target = wanted(request, "pod")?;
    let pod = pod(request, target.name)?;
    let port = if target.port.is_empty() {
        // The first port that the pod says it has, if it says any (Pod's ResourceLocation).
        list(&pod, "/spec/containers")
            .iter()
            .flat_map(|container| list(container, "/ports"))
            .find_map(|port| u16::try_from(port["containerPort"].as_u64()?).ok())
            .unwrap_or(if target.tls { 443 } else { 80 })
    } else {
        target
            .port
            .parse()
            .map_err(|_| ApiError::bad_request(format!("invalid port {:?}", target.port)))?
    };
    let node = host(request, &pod)?;
    let ip = text(&pod, "/status/podIP")
        .parse()
        .map_err(|_| ApiError::bad_request("address not allowed"))?;
    Ok(Upstream {
        way: Way::Through {
            node,
            address: SocketAddr::new(ip, port),
            tls: target.tls,
        },
        path: onward(request),
        refusals_as_status: false,
    })
}

fn service_proxy(request: &UpstreamRequest<'_>) -> Result<Upstream, ApiError> {
    let target = wanted(request, "service")?;
    let service = request
        .objects
        .get("v1", "Service", request.namespace, target.name)
        .ok_or_else(|| request.not_found())?;
    let name = port_name(&service, target.port);
    let choices = endpoints(request, target.name, name.as_deref().unwrap_or(target.port));
    let none = || {
        ApiError::service_unavailable(format!(
            "no endpoints available for service {:?}",
            request.name
        ))
    };
    // Kubernetes draws one at random, too; a clock's last digits are as good as that.
    let draw = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.subsec_micros());
    let index = usize::try_from(draw).unwrap_or_default() % choices.len().max(1);
    let (address, node) = choices.into_iter().nth(index).ok_or_else(none)?;
    let node = match node {
        Some(node) => kubelet(request, &node)?,
        None => any_node(request).ok_or_else(none)?,
    };
    Ok(Upstream {
        way: Way::Through {
            node,
            address,
            tls: target.tls,
        },
        path: onward(request),
        refusals_as_status: false,
    })
}

/// The name of the port that a number means; `None` where the text is a name already.
fn port_name(service: &Value, port: &str) -> Option<String> {
    let number: u64 = port.parse().ok()?;
    list(service, "/spec/ports")
        .iter()
        .find(|one| one["port"].as_u64() == Some(number))
        .map(|one| text(one, "/name").to_owned())
}

/// The ready endpoints of a Service's port, with their nodes. Without a port's name all ports are
/// meant when there is but one.
fn endpoints(
    request: &UpstreamRequest<'_>,
    service: &str,
    port: &str,
) -> Vec<(SocketAddr, Option<String>)> {
    let slices = request
        .objects
        .list("discovery.k8s.io/v1", "EndpointSlice", request.namespace);
    let mut found = Vec::new();
    for slice in slices
        .iter()
        .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service)
    {
        let ports = list(slice, "/ports");
        let number = ports
            .iter()
            .find(|one| text(one, "/name") == port || (port.is_empty() && ports.len() == 1))
            .and_then(|one| u16::try_from(one["port"].as_u64()?).ok());
        let Some(number) = number else { continue };
        for endpoint in list(slice, "/endpoints") {
            if endpoint["conditions"]["ready"].as_bool() == Some(false) {
                continue;
            }
            let node = endpoint["nodeName"].as_str().map(str::to_owned);
            let addresses = list(endpoint, "/addresses").iter();
            found.extend(
                addresses
                    .filter_map(|address| address.as_str()?.parse::<IpAddr>().ok())
                    .map(|address| (SocketAddr::new(address, number), node.clone())),
            );
        }
    }
    found
}

/// A node that is ready: every node can reach what a Service leads to.
fn any_node(request: &UpstreamRequest<'_>) -> Option<SocketAddr> {
    request
        .objects
        .list("v1", "Node", "")
        .iter()
        .filter(|node| {
            list(node, "/status/conditions").iter().any(|condition| {
                text(condition, "/type") == "Ready" && text(condition, "/status") == "True"
            })
        })
        .find_map(kubelet_of)
}

fn node_proxy(request: &UpstreamRequest<'_>) -> Result<Upstream, ApiError> {
    let target = wanted(request, "node")?;
    request
        .objects
        .get("v1", "Node", "", target.name)
        .ok_or_else(|| request.not_found())?;
    Ok(Upstream {
        way: Way::Node(kubelet(request, target.name)?),
        path: onward(request),
        refusals_as_status: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_s_target_is_read_as_kubernetes_does() {
        let plain = |name, port| {
            Some(Target {
                tls: false,
                name,
                port,
            })
        };
        assert_eq!(target("web"), plain("web", ""));
        assert_eq!(target("web:80"), plain("web", "80"));
        assert_eq!(target("http:web:metrics"), plain("web", "metrics"));
        assert_eq!(target(":web:"), plain("web", ""));
        assert_eq!(
            target("https:web:443"),
            Some(Target {
                tls: true,
                name: "web",
                port: "443"
            })
        );
        assert_eq!(target("ftp:web:21"), None);
        assert_eq!(target("https::443"), None);
        assert_eq!(target("a:b:c:d"), None);
    }
}
