//! The kinds of networking.k8s.io.

use k8s_openapi::api::networking::v1::{
    IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR,
};
use k8s_openapi::api::networking::v1beta1;

use super::{BASE, schema_of, status};
use crate::kind::View;
use crate::syntax::name_ip;
use crate::{Kind, Scope, defaults, prepare, print, validate, view};

const GROUP: &str = "networking.k8s.io";
const API_VERSION: &str = "networking.k8s.io/v1";

pub(super) const KINDS: &[Kind] = &[
    Kind {
        group: GROUP,
        kind: "Ingress",
        list_kind: "IngressList",
        plural: "ingresses",
        singular: "ingress",
        short_names: &["ing"],
        subresources: &[status(API_VERSION, "Ingress")],
        columns: print::INGRESS,
        cells: print::ingress,
        schema: schema_of::<Ingress>,
        definition: "io.k8s.api.networking.v1.Ingress",
        create: prepare::balanced_create,
        update: prepare::keep_status,
        validate: validate::ingress,
        validate_new: validate::ingress_create,
        validate_status: validate::ingress_status,
        counts_generation: true,
        ..BASE
    },
    Kind {
        group: GROUP,
        kind: "IngressClass",
        list_kind: "IngressClassList",
        plural: "ingressclasses",
        singular: "ingressclass",
        scope: Scope::Cluster,
        columns: print::INGRESS_CLASS,
        cells: print::ingress_class,
        schema: schema_of::<IngressClass>,
        definition: "io.k8s.api.networking.v1.IngressClass",
        defaults: defaults::ingress_class,
        validate: validate::ingress_class,
        validate_update: validate::ingress_class_update,
        counts_generation: true,
        ..BASE
    },
    IP_ADDRESS,
    Kind {
        group: GROUP,
        kind: "NetworkPolicy",
        list_kind: "NetworkPolicyList",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short_names: &["netpol"],
        columns: print::NETWORK_POLICY,
        cells: print::network_policy,
        schema: schema_of::<NetworkPolicy>,
        definition: "io.k8s.api.networking.v1.NetworkPolicy",
        defaults: defaults::network_policy,
        validate: validate::network_policy,
        validate_update: validate::network_policy_update,
        counts_generation: true,
        ..BASE
    },
    SERVICE_CIDR,
    // kubectl before 1.33 describes them in this version.
    Kind {
        version: "v1beta1",
        schema: schema_of::<v1beta1::IPAddress>,
        definition: "io.k8s.api.networking.v1beta1.IPAddress",
        view: Some(V1BETA1),
        ..IP_ADDRESS
    },
    Kind {
        version: "v1beta1",
        subresources: &[status("networking.k8s.io/v1beta1", "ServiceCIDR")],
        schema: schema_of::<v1beta1::ServiceCIDR>,
        definition: "io.k8s.api.networking.v1beta1.ServiceCIDR",
        view: Some(V1BETA1),
        ..SERVICE_CIDR
    },
];

const IP_ADDRESS: Kind = Kind {
    group: GROUP,
    kind: "IPAddress",
    list_kind: "IPAddressList",
    plural: "ipaddresses",
    singular: "ipaddress",
    short_names: &["ip"],
    scope: Scope::Cluster,
    columns: print::IP_ADDRESS,
    cells: print::ip_address,
    schema: schema_of::<IPAddress>,
    definition: "io.k8s.api.networking.v1.IPAddress",
    validate_new: validate::ip_address,
    validate_update: validate::ip_address_update,
    name_syntax: name_ip,
    ..BASE
};

const SERVICE_CIDR: Kind = Kind {
    group: GROUP,
    kind: "ServiceCIDR",
    list_kind: "ServiceCIDRList",
    plural: "servicecidrs",
    singular: "servicecidr",
    scope: Scope::Cluster,
    subresources: &[status(API_VERSION, "ServiceCIDR")],
    columns: print::SERVICE_CIDR,
    cells: print::service_cidr,
    schema: schema_of::<ServiceCIDR>,
    definition: "io.k8s.api.networking.v1.ServiceCIDR",
    create: prepare::drop_status,
    update: prepare::keep_status,
    validate_new: validate::service_cidr,
    validate_update: validate::service_cidr_update,
    ..BASE
};

/// The same fields under another version.
const V1BETA1: View = View {
    group: GROUP,
    read: view::read_networking_beta,
    store: view::store_networking,
};
