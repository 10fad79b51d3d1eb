//! Field numbers of the messages that clients send as protobuf: what `kubectl create`
//! makes itself, and the small requests of its other verbs. Source: the numbers in
//! Kubernetes' `generated.proto` files, by message.

pub(super) type Fields = &'static [(u32, &'static str)];

/// The fields of a message, by its Go name, or by its name in OpenAPI where Go has two of
/// the same name.
pub(super) fn fields(message: &str) -> Option<Fields> {
    MESSAGES
        .iter()
        .find(|(name, _)| *name == message)
        .map(|(_, fields)| *fields)
}

/// Fields that are pointers in Go, of which 0 and false say something.
pub(super) const MAY_BE_ZERO: &[&str] = &[
    "activeDeadlineSeconds",
    "allowVolumeExpansion",
    "allocateLoadBalancerNodePorts",
    "automountServiceAccountToken",
    "blockOwnerDeletion",
    "controller",
    "enableServiceLinks",
    "gracePeriodSeconds",
    "immutable",
    "maxSurge",
    "maxUnavailable",
    "optional",
    "orphanDependents",
    "progressDeadlineSeconds",
    "replicas",
    "revisionHistoryLimit",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
];

/// Messages that say something even when they are empty.
pub(super) const MAY_BE_EMPTY: &[&str] =
    &["emptyDir", "namespaceSelector", "podSelector", "selector"];

/// Begins the name of a message whose fields JSON shows among those of the message that
/// holds it (Go's embedded types).
pub(super) const INLINE: &str = "@";

const MESSAGES: &[(&str, Fields)] = &[
    // apimachinery/pkg/apis/meta/v1
    (
        "ObjectMeta",
        &[
            (1, "name"),
            (2, "generateName"),
            (3, "namespace"),
            (4, "selfLink"),
            (5, "uid"),
            (6, "resourceVersion"),
            (7, "generation"),
            (8, "creationTimestamp"),
            (9, "deletionTimestamp"),
            (10, "deletionGracePeriodSeconds"),
            (11, "labels"),
            (12, "annotations"),
            (13, "ownerReferences"),
            (14, "finalizers"),
            (17, "managedFields"),
        ],
    ),
    (
        "OwnerReference",
        &[
            (1, "kind"),
            (3, "name"),
            (4, "uid"),
            (5, "apiVersion"),
            (6, "controller"),
            (7, "blockOwnerDeletion"),
        ],
    ),
    (
        "LabelSelector",
        &[(1, "matchLabels"), (2, "matchExpressions")],
    ),
    (
        "LabelSelectorRequirement",
        &[(1, "key"), (2, "operator"), (3, "values")],
    ),
    (
        "DeleteOptions",
        &[
            (1, "gracePeriodSeconds"),
            (2, "preconditions"),
            (3, "orphanDependents"),
            (4, "propagationPolicy"),
            (5, "dryRun"),
        ],
    ),
    (
        "Condition",
        &[
            (1, "type"),
            (2, "status"),
            (3, "observedGeneration"),
            (4, "lastTransitionTime"),
            (5, "reason"),
            (6, "message"),
        ],
    ),
    ("Preconditions", &[(1, "uid"), (2, "resourceVersion")]),
    // core/v1
    ("Namespace", &[(1, "metadata"), (2, "spec"), (3, "status")]),
    ("NamespaceSpec", &[(1, "finalizers")]),
    ("NamespaceStatus", &[(1, "phase")]),
    (
        "ServiceAccount",
        &[
            (1, "metadata"),
            (2, "secrets"),
            (3, "imagePullSecrets"),
            (4, "automountServiceAccountToken"),
        ],
    ),
    (
        "ObjectReference",
        &[
            (1, "kind"),
            (2, "namespace"),
            (3, "name"),
            (4, "uid"),
            (5, "apiVersion"),
            (6, "resourceVersion"),
            (7, "fieldPath"),
        ],
    ),
    ("LocalObjectReference", &[(1, "name")]),
    (
        "ConfigMap",
        &[
            (1, "metadata"),
            (2, "data"),
            (3, "binaryData"),
            (4, "immutable"),
        ],
    ),
    (
        "Secret",
        &[
            (1, "metadata"),
            (2, "data"),
            (3, "type"),
            (4, "stringData"),
            (5, "immutable"),
        ],
    ),
    ("Service", &[(1, "metadata"), (2, "spec"), (3, "status")]),
    (
        "ServiceSpec",
        &[
            (1, "ports"),
            (2, "selector"),
            (3, "clusterIP"),
            (4, "type"),
            (5, "externalIPs"),
            (7, "sessionAffinity"),
            (8, "loadBalancerIP"),
            (9, "loadBalancerSourceRanges"),
            (10, "externalName"),
            (11, "externalTrafficPolicy"),
            (12, "healthCheckNodePort"),
            (13, "publishNotReadyAddresses"),
            (14, "sessionAffinityConfig"),
            (17, "ipFamilyPolicy"),
            (18, "clusterIPs"),
            (19, "ipFamilies"),
            (20, "allocateLoadBalancerNodePorts"),
            (21, "loadBalancerClass"),
            (22, "internalTrafficPolicy"),
            (23, "trafficDistribution"),
        ],
    ),
    (
        "ServicePort",
        &[
            (1, "name"),
            (2, "protocol"),
            (3, "port"),
            (4, "targetPort"),
            (5, "nodePort"),
            (6, "appProtocol"),
        ],
    ),
    ("SessionAffinityConfig", &[(1, "clientIP")]),
    ("ClientIPConfig", &[(1, "timeoutSeconds")]),
    ("ServiceStatus", &[(1, "loadBalancer"), (2, "conditions")]),
    ("PodTemplateSpec", &[(1, "metadata"), (2, "spec")]),
    (
        "PodSpec",
        &[
            (1, "volumes"),
            (2, "containers"),
            (3, "restartPolicy"),
            (4, "terminationGracePeriodSeconds"),
            (5, "activeDeadlineSeconds"),
            (6, "dnsPolicy"),
            (7, "nodeSelector"),
            (8, "serviceAccountName"),
            (9, "serviceAccount"),
            (10, "nodeName"),
            (11, "hostNetwork"),
            (12, "hostPID"),
            (13, "hostIPC"),
            (14, "securityContext"),
            (15, "imagePullSecrets"),
            (16, "hostname"),
            (17, "subdomain"),
            (19, "schedulerName"),
            (20, "initContainers"),
            (21, "automountServiceAccountToken"),
            (24, "priorityClassName"),
            (25, "priority"),
        ],
    ),
    (
        "Container",
        &[
            (1, "name"),
            (2, "image"),
            (3, "command"),
            (4, "args"),
            (5, "workingDir"),
            (6, "ports"),
            (7, "env"),
            (8, "resources"),
            (9, "volumeMounts"),
            (13, "terminationMessagePath"),
            (14, "imagePullPolicy"),
            (16, "stdin"),
            (17, "stdinOnce"),
            (18, "tty"),
            (20, "terminationMessagePolicy"),
        ],
    ),
    (
        "ContainerPort",
        &[
            (1, "name"),
            (2, "hostPort"),
            (3, "containerPort"),
            (4, "protocol"),
            (5, "hostIP"),
        ],
    ),
    ("EnvVar", &[(1, "name"), (2, "value")]),
    ("ResourceRequirements", &[(1, "limits"), (2, "requests")]),
    // apps/v1
    ("Deployment", &[(1, "metadata"), (2, "spec"), (3, "status")]),
    (
        "DeploymentSpec",
        &[
            (1, "replicas"),
            (2, "selector"),
            (3, "template"),
            (4, "strategy"),
            (5, "minReadySeconds"),
            (6, "revisionHistoryLimit"),
            (7, "paused"),
            (9, "progressDeadlineSeconds"),
        ],
    ),
    ("DeploymentStrategy", &[(1, "type"), (2, "rollingUpdate")]),
    (
        "RollingUpdateDeployment",
        &[(1, "maxUnavailable"), (2, "maxSurge")],
    ),
    (
        "DeploymentStatus",
        &[
            (1, "observedGeneration"),
            (2, "replicas"),
            (3, "updatedReplicas"),
            (4, "availableReplicas"),
            (5, "unavailableReplicas"),
            (7, "readyReplicas"),
            (8, "collisionCount"),
        ],
    ),
    ("Endpoints", &[(1, "metadata"), (2, "subsets")]),
    (
        "EndpointSubset",
        &[(1, "addresses"), (2, "notReadyAddresses"), (3, "ports")],
    ),
    (
        "EndpointAddress",
        &[
            (1, "ip"),
            (2, "targetRef"),
            (3, "hostname"),
            (4, "nodeName"),
        ],
    ),
    (
        "io.k8s.api.core.v1.EndpointPort",
        &[
            (1, "name"),
            (2, "port"),
            (3, "protocol"),
            (4, "appProtocol"),
        ],
    ),
    (
        "TypedLocalObjectReference",
        &[(1, "apiGroup"), (2, "kind"), (3, "name")],
    ),
    (
        "io.k8s.api.core.v1.Event",
        &[
            (1, "metadata"),
            (2, "involvedObject"),
            (3, "reason"),
            (4, "message"),
            (5, "source"),
            (6, "firstTimestamp"),
            (7, "lastTimestamp"),
            (8, "count"),
            (9, "type"),
            (10, "eventTime"),
            (11, "series"),
            (12, "action"),
            (13, "related"),
            (14, "reportingComponent"),
            (15, "reportingInstance"),
        ],
    ),
    ("EventSource", &[(1, "component"), (2, "host")]),
    ("EventSeries", &[(1, "count"), (2, "lastObservedTime")]),
    // events/v1
    (
        "io.k8s.api.events.v1.Event",
        &[
            (1, "metadata"),
            (2, "eventTime"),
            (3, "series"),
            (4, "reportingController"),
            (5, "reportingInstance"),
            (6, "action"),
            (7, "reason"),
            (8, "regarding"),
            (9, "related"),
            (10, "note"),
            (11, "type"),
            (12, "deprecatedSource"),
            (13, "deprecatedFirstTimestamp"),
            (14, "deprecatedLastTimestamp"),
            (15, "deprecatedCount"),
        ],
    ),
    // networking/v1
    ("Ingress", &[(1, "metadata"), (2, "spec"), (3, "status")]),
    (
        "IngressSpec",
        &[
            (1, "defaultBackend"),
            (2, "tls"),
            (3, "rules"),
            (4, "ingressClassName"),
        ],
    ),
    ("IngressTLS", &[(1, "hosts"), (2, "secretName")]),
    ("IngressRule", &[(1, "host"), (2, "@IngressRuleValue")]),
    ("IngressRuleValue", &[(1, "http")]),
    ("HTTPIngressRuleValue", &[(1, "paths")]),
    (
        "HTTPIngressPath",
        &[(1, "path"), (2, "backend"), (3, "pathType")],
    ),
    ("IngressBackend", &[(3, "resource"), (4, "service")]),
    ("IngressServiceBackend", &[(1, "name"), (2, "port")]),
    ("ServiceBackendPort", &[(1, "name"), (2, "number")]),
    ("IngressStatus", &[(1, "loadBalancer")]),
    ("IngressLoadBalancerStatus", &[(1, "ingress")]),
    (
        "IngressLoadBalancerIngress",
        &[(1, "ip"), (2, "hostname"), (4, "ports")],
    ),
    (
        "IngressPortStatus",
        &[(1, "port"), (2, "protocol"), (3, "error")],
    ),
    ("IngressClass", &[(1, "metadata"), (2, "spec")]),
    ("IngressClassSpec", &[(1, "controller"), (2, "parameters")]),
    (
        "IngressClassParametersReference",
        &[
            (1, "apiGroup"),
            (2, "kind"),
            (3, "name"),
            (4, "scope"),
            (5, "namespace"),
        ],
    ),
    ("NetworkPolicy", &[(1, "metadata"), (2, "spec")]),
    (
        "NetworkPolicySpec",
        &[
            (1, "podSelector"),
            (2, "ingress"),
            (3, "egress"),
            (4, "policyTypes"),
        ],
    ),
    ("NetworkPolicyIngressRule", &[(1, "ports"), (2, "from")]),
    ("NetworkPolicyEgressRule", &[(1, "ports"), (2, "to")]),
    (
        "NetworkPolicyPort",
        &[(1, "protocol"), (2, "port"), (3, "endPort")],
    ),
    (
        "NetworkPolicyPeer",
        &[(1, "podSelector"), (2, "namespaceSelector"), (3, "ipBlock")],
    ),
    ("IPBlock", &[(1, "cidr"), (2, "except")]),
    (
        "ServiceCIDR",
        &[(1, "metadata"), (2, "spec"), (3, "status")],
    ),
    ("ServiceCIDRSpec", &[(1, "cidrs")]),
    ("ServiceCIDRStatus", &[(1, "conditions")]),
    ("IPAddress", &[(1, "metadata"), (2, "spec")]),
    ("IPAddressSpec", &[(1, "parentRef")]),
    (
        "ParentReference",
        &[(1, "group"), (2, "resource"), (3, "namespace"), (4, "name")],
    ),
    // rbac/v1
    (
        "ClusterRole",
        &[(1, "metadata"), (2, "rules"), (3, "aggregationRule")],
    ),
    ("AggregationRule", &[(1, "clusterRoleSelectors")]),
    ("Role", &[(1, "metadata"), (2, "rules")]),
    (
        "PolicyRule",
        &[
            (1, "verbs"),
            (2, "apiGroups"),
            (3, "resources"),
            (4, "resourceNames"),
            (5, "nonResourceURLs"),
        ],
    ),
    (
        "ClusterRoleBinding",
        &[(1, "metadata"), (2, "subjects"), (3, "roleRef")],
    ),
    (
        "RoleBinding",
        &[(1, "metadata"), (2, "subjects"), (3, "roleRef")],
    ),
    ("RoleRef", &[(1, "apiGroup"), (2, "kind"), (3, "name")]),
    (
        "Subject",
        &[(1, "kind"), (2, "apiGroup"), (3, "name"), (4, "namespace")],
    ),
    // authentication/v1, authorization/v1, policy/v1
    (
        "TokenRequest",
        &[(1, "metadata"), (2, "spec"), (3, "status")],
    ),
    (
        "TokenRequestSpec",
        &[
            (1, "audiences"),
            (3, "boundObjectRef"),
            (4, "expirationSeconds"),
        ],
    ),
    (
        "TokenRequestStatus",
        &[(1, "token"), (2, "expirationTimestamp")],
    ),
    (
        "BoundObjectReference",
        &[(1, "kind"), (2, "apiVersion"), (3, "name"), (4, "uid")],
    ),
    ("SelfSubjectReview", &[(1, "metadata"), (2, "status")]),
    ("SelfSubjectReviewStatus", &[(1, "userInfo")]),
    ("UserInfo", &[(1, "username"), (2, "uid"), (3, "groups")]),
    (
        "SelfSubjectAccessReview",
        &[(1, "metadata"), (2, "spec"), (3, "status")],
    ),
    (
        "SelfSubjectAccessReviewSpec",
        &[(1, "resourceAttributes"), (2, "nonResourceAttributes")],
    ),
    (
        "ResourceAttributes",
        &[
            (1, "namespace"),
            (2, "verb"),
            (3, "group"),
            (4, "version"),
            (5, "resource"),
            (6, "subresource"),
            (7, "name"),
        ],
    ),
    ("NonResourceAttributes", &[(1, "path"), (2, "verb")]),
    (
        "SubjectAccessReviewStatus",
        &[
            (1, "allowed"),
            (2, "reason"),
            (3, "evaluationError"),
            (4, "denied"),
        ],
    ),
    (
        "SelfSubjectRulesReview",
        &[(1, "metadata"), (2, "spec"), (3, "status")],
    ),
    ("SelfSubjectRulesReviewSpec", &[(1, "namespace")]),
    (
        "SubjectRulesReviewStatus",
        &[
            (1, "resourceRules"),
            (2, "nonResourceRules"),
            (3, "incomplete"),
            (4, "evaluationError"),
        ],
    ),
    ("Eviction", &[(1, "metadata"), (2, "deleteOptions")]),
];

#[cfg(test)]
pub(super) fn all() -> &'static [(&'static str, Fields)] {
    MESSAGES
}
