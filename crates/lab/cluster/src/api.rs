//! The lab's API server: the table of kinds on the server's seam.

mod accounts;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use self::accounts::Accounts;
use crate::controllers::storage;
use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use weft_apiserver::{
    Admission, ApiError, ApplyList, Column, CommonRules, Companion, Decoded, DocumentSource,
    FieldError, FieldReason, Operation, PatchList, ProtobufDecoder, Refusal, Registry, Resource,
    Strategy, Subresource, WriteContext,
};
use weft_kinds::{
    AddressObjects, AllocationFailure, ErrorKind, Kind, ListMerge, MergeRule, ProtobufError,
    ServiceAllocator, ServiceRanges, is_of_a_service, restored_address_object,
};

/// All kinds of the lab's API.
pub fn registry() -> Registry {
    Registry::new(weft_kinds::registry().iter().map(resource))
}

/// OpenAPI documents with Kubernetes' own schemas and texts.
pub fn documents() -> DocumentSource {
    Arc::new(weft_kinds::openapi_document)
}

/// Bodies in Kubernetes' protobuf: kubectl's `create` verbs send nothing else.
pub fn protobuf() -> ProtobufDecoder {
    Arc::new(|body: &[u8]| {
        weft_kinds::decode_protobuf(body).map_err(|error| match error {
            ProtobufError::Malformed(_) => ApiError::bad_request(error.to_string()),
            ProtobufError::Kind { .. } => ApiError::unsupported_media_type(error.to_string()),
        })
    })
}

/// What holds for objects of every kind, custom resources included.
pub fn common() -> Arc<dyn CommonRules> {
    Arc::new(Common)
}

/// The namespaces every cluster has, and the lab's storage class.
pub fn bootstrap() -> Vec<Value> {
    let namespaces = ["default", "kube-node-lease", "kube-public", "kube-system"]
        .into_iter()
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    let class = json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": storage::LOCAL_PATH, "annotations": {storage::IS_DEFAULT: "true"}},
        "provisioner": storage::PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    });
    namespaces.chain([class]).collect()
}

/// The ServiceCIDR of the ranges from which Services get their addresses. As on a cluster
/// it can't go while a Service has one, and the `kubernetes` Service always has.
pub fn service_cidr(ranges: &[IpNet]) -> Value {
    let ranges: Vec<String> = ranges
        .iter()
        .map(|range| range.trunc().to_string())
        .collect();
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {
            "name": "kubernetes",
            "finalizers": ["networking.k8s.io/service-cidr-finalizer"],
        },
        "spec": {"cidrs": ranges},
        "status": {"conditions": [{
            "type": "Ready",
            "status": "True",
            "reason": "",
            "message": "Kubernetes default Service CIDR is ready",
            "lastTransitionTime": now,
        }]},
    })
}

/// Allocation of Service addresses and node ports, and what accounts bring their pods.
pub fn admission(ranges: ServiceRanges) -> Box<dyn Admission> {
    // A new start of the server begins its searches elsewhere, so that an address that
    // was just given back is seldom the next one given out.
    let seed = Timestamp::now().as_nanosecond().unsigned_abs() % u128::from(u64::MAX);
    let seed = u64::try_from(seed).unwrap_or_default();
    Box::new(Services {
        allocator: ServiceAllocator::new(ranges),
        accounts: Accounts::new(seed),
        outstanding: Vec::new(),
        seed,
    })
}

fn resource(kind: &'static Kind) -> Resource {
    let texts = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
    let subresources = kind.subresources.iter().map(|one| {
        let (group, version) = one
            .api_version
            .split_once('/')
            .unwrap_or(("", one.api_version));
        Subresource {
            name: one.name.to_owned(),
            group: group.to_owned(),
            version: version.to_owned(),
            kind: one.kind.to_owned(),
            verbs: texts(one.verbs),
        }
    });
    let columns = kind.columns.iter().map(|one| Column {
        name: one.name.to_owned(),
        column_type: one.column_type.to_owned(),
        format: one.format.to_owned(),
        description: one.description.to_owned(),
        priority: one.priority,
    });
    Resource {
        group: kind.group.to_owned(),
        version: kind.version.to_owned(),
        kind: kind.kind.to_owned(),
        list_kind: kind.list_kind.to_owned(),
        plural: kind.plural.to_owned(),
        singular: kind.singular.to_owned(),
        short_names: texts(kind.short_names),
        categories: texts(kind.categories),
        namespaced: kind.namespaced(),
        verbs: texts(kind.verbs),
        subresources: subresources.collect(),
        columns: columns.collect(),
        strategy: Arc::new(Row { kind }),
    }
}

/// A row of the table of kinds as the server's strategy.
struct Row {
    kind: &'static Kind,
}

fn field_error(error: weft_kinds::FieldError) -> FieldError {
    let reason = match error.kind {
        ErrorKind::Required => FieldReason::Required,
        ErrorKind::Duplicate => FieldReason::Duplicate,
        ErrorKind::Invalid => FieldReason::Invalid,
        ErrorKind::NotSupported => FieldReason::NotSupported,
        ErrorKind::Forbidden => FieldReason::Forbidden,
        ErrorKind::TooLong => FieldReason::TooLong,
        ErrorKind::TooMany => FieldReason::TooMany,
        ErrorKind::NotFound => FieldReason::NotFound,
        ErrorKind::Internal => FieldReason::Internal,
    };
    FieldError {
        path: error.path.as_str().to_owned(),
        reason,
        message: error.body(),
    }
}

fn field_errors(errors: Vec<weft_kinds::FieldError>) -> Vec<FieldError> {
    errors.into_iter().map(field_error).collect()
}

/// When a request is answered, as the API writes times.
fn time(context: WriteContext<'_>) -> String {
    context.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Strategy for Row {
    fn decode(&self, object: &mut Value) -> Decoded {
        let decoded = self.kind.decode(object);
        self.kind.prune(object);
        Decoded {
            unknown: decoded.unknown_field_messages(),
            mismatches: decoded.mismatches.iter().map(ToString::to_string).collect(),
        }
    }

    fn default(&self, object: &mut Value) {
        self.kind.set_defaults(object);
    }

    fn prepare_create(&self, object: &mut Value, context: WriteContext<'_>) {
        self.kind.prepare_create(object);
        self.kind.tell_transition(object, None, &time(context));
    }

    fn prepare_update(
        &self,
        object: &mut Value,
        old: &Value,
        subresource: Option<&str>,
        context: WriteContext<'_>,
    ) {
        self.kind.prepare_update(object, old, subresource);
        self.kind.tell_transition(object, Some(old), &time(context));
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        field_errors(self.kind.validate_create(object))
    }

    fn validate_update(
        &self,
        object: &Value,
        old: &Value,
        subresource: Option<&str>,
    ) -> Vec<FieldError> {
        field_errors(self.kind.validate_update(object, old, subresource))
    }

    fn patch_list(&self, path: &[&str]) -> Option<PatchList> {
        Some(match self.kind.merge_rule(path) {
            MergeRule::Replace => PatchList::Replace,
            MergeRule::ByKey(key) => PatchList::ByKey(key.to_owned()),
            MergeRule::Set => PatchList::Set,
        })
    }

    fn apply_list(&self, path: &[&str]) -> ApplyList {
        match self.kind.list_merge(path) {
            ListMerge::Atomic => ApplyList::Atomic,
            ListMerge::Set => ApplyList::Set,
            ListMerge::Map(keys) => {
                ApplyList::Map(keys.iter().map(|key| (*key).to_owned()).collect())
            }
        }
    }

    fn apply_map_is_atomic(&self, path: &[&str]) -> bool {
        self.kind.map_is_atomic(path)
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        self.kind.warnings(object, old)
    }

    fn written(&self, object: &Value) -> Value {
        self.kind.written(object)
    }

    fn outside_status(&self) -> &'static [&'static [&'static str]] {
        self.kind.outside_status()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        self.kind.cells(object, now)
    }

    fn row_conditions(&self, object: &Value) -> Vec<Value> {
        self.kind.row_conditions(object)
    }

    fn field_names(&self) -> Cow<'_, [&str]> {
        Cow::Borrowed(self.kind.field_selectors())
    }

    fn field_value(&self, object: &Value, field: &str) -> String {
        self.kind.field_value(object, field).unwrap_or_default()
    }

    fn creates_on_update(&self) -> bool {
        self.kind.creates_on_update()
    }

    fn shows_deleted(&self) -> bool {
        self.kind.shows_deleted()
    }

    fn stored_group(&self) -> Option<&str> {
        (!self.kind.reads_as_stored()).then(|| self.kind.stored_group())
    }

    fn reads_as_stored(&self, _: &[u8], _: u64) -> bool {
        self.kind.reads_as_stored()
    }

    fn read_stored(&self, object: &mut Value) {
        self.kind.read_stored(object);
    }

    fn store(&self, object: &mut Value) {
        self.kind.store(object);
    }

    fn forbids_deletion(&self, name: &str) -> Option<&'static str> {
        self.kind.forbids_deletion(name)
    }

    fn grace_period(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        self.kind.grace_period(object, requested)
    }

    fn collects_dependents(&self) -> bool {
        self.kind.collects_dependents()
    }

    fn begin_delete(&self, object: &mut Value) {
        self.kind.begin_delete(object);
    }

    fn holds_deletion(&self, object: &Value) -> bool {
        self.kind.holds_deletion(object)
    }
}

struct Common;

impl CommonRules for Common {
    fn decode(&self, object: &mut Value) -> Decoded {
        let decoded = weft_kinds::decode_metadata(object);
        Decoded {
            unknown: decoded.unknown_field_messages(),
            mismatches: decoded.mismatches.iter().map(ToString::to_string).collect(),
        }
    }

    fn validate(&self, object: &Value, namespaced: bool) -> Vec<FieldError> {
        field_errors(weft_kinds::validate_metadata(object, namespaced))
    }

    fn validate_update(&self, object: &Value, old: &Value, namespaced: bool) -> Vec<FieldError> {
        field_errors(weft_kinds::validate_metadata_update(
            object, old, namespaced,
        ))
    }

    fn dns_label(&self, text: &str) -> Vec<String> {
        weft_kinds::is_dns1035_label(text)
    }

    fn dns_subdomain(&self, text: &str) -> Vec<String> {
        weft_kinds::is_dns1123_subdomain(text)
    }

    fn age(&self, since: Timestamp, now: Timestamp) -> String {
        weft_kinds::human_duration(now.as_second() - since.as_second())
    }

    fn metadata_schemas(&self) -> (Map<String, Value>, String) {
        let schemas = weft_kinds::metadata_schemas();
        (schemas, weft_kinds::OBJECT_META.to_owned())
    }
}

/// The allocator of Services as the server's admission.
struct Services {
    allocator: ServiceAllocator,
    accounts: Accounts,
    /// IPAddress objects that must be made or removed after a repair.
    outstanding: Vec<Companion>,
    seed: u64,
}

fn is_service(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.kind == "Service"
}

const NETWORKING: &str = "networking.k8s.io";

fn is_address(resource: &Resource) -> bool {
    resource.group == NETWORKING && resource.kind == "IPAddress"
}

/// The address that an IPAddress object is about: its name.
fn address_of(object: &Value) -> Option<IpAddr> {
    object["metadata"]["name"].as_str()?.parse().ok()
}

/// What a repair looks at of an IPAddress object.
struct AddressObject {
    address: IpAddr,
    of_a_service: bool,
}

impl AddressObject {
    fn of(object: &Value) -> Option<Self> {
        Some(Self {
            address: address_of(object)?,
            of_a_service: is_of_a_service(object),
        })
    }
}

fn address_object_ended(name: String) -> Companion {
    Companion::Ended {
        api_version: format!("{NETWORKING}/v1"),
        kind: "IPAddress".to_owned(),
        name,
    }
}

impl Services {
    /// An IPAddress that is not a Service's keeps its address from them.
    fn admit_address(&mut self, operation: &Operation<'_>) {
        match operation {
            Operation::Create { object } => {
                if let Some(address) = address_of(object) {
                    self.allocator.reserve(address);
                }
            }
            Operation::Delete { old } => {
                if let Some(address) = address_of(old) {
                    self.allocator.unreserve(address);
                }
            }
            Operation::Update { .. } => {}
        }
    }

    /// Compares the IPAddress objects there are with the addresses of the Services.
    fn check_addresses(&mut self, services: &[Value], addresses: &[AddressObject]) {
        let there: BTreeSet<IpAddr> = addresses.iter().map(|object| object.address).collect();
        let needed = services
            .iter()
            .flat_map(|service| AddressObjects::lacking(service, &there));
        self.outstanding = needed.map(Companion::Needed).collect();
        for object in addresses {
            if self.allocator.serves(object.address) {
                continue;
            }
            if object.of_a_service {
                self.outstanding
                    .push(address_object_ended(object.address.to_string()));
            } else {
                self.allocator.reserve(object.address);
            }
        }
        self.allocator.commit();
    }
}

impl Admission for Services {
    fn repair(&mut self, objects: &mut dyn Iterator<Item = (&Resource, Value)>) {
        let (mut services, mut addresses) = (Vec::new(), Vec::new());
        let mut accounts = Vec::new();
        for (resource, object) in objects {
            if is_service(resource) {
                services.push(object);
            } else if is_address(resource) {
                addresses.extend(AddressObject::of(&object));
            } else if accounts::is_account(resource) {
                accounts.push(object);
            }
        }
        self.accounts.repair(&accounts);
        for complaint in self.allocator.repair(&services) {
            tracing::warn!(complaint, "a Service's allocation could not be repaired");
        }
        self.check_addresses(&services, &addresses);
    }

    fn concerns(&self, resource: &Resource) -> bool {
        is_service(resource) || is_address(resource) || accounts::is_account(resource)
    }

    fn admit(&mut self, resource: &Resource, mut operation: Operation<'_>) -> Result<(), Refusal> {
        self.accounts.admit(resource, &mut operation)?;
        if is_address(resource) {
            self.admit_address(&operation);
        }
        if !is_service(resource) {
            return Ok(());
        }
        self.seed = self.seed.wrapping_add(1);
        let allocated = match operation {
            Operation::Create { object } => self.allocator.allocate_create(object, self.seed),
            Operation::Update { object, old } => {
                self.allocator.allocate_update(object, old, self.seed)
            }
            Operation::Delete { old } => {
                self.allocator.release(old);
                Ok(())
            }
        };
        allocated.map_err(|failure| match failure {
            AllocationFailure::Invalid(errors) => Refusal::Invalid(field_errors(errors)),
            AllocationFailure::Exhausted(why) => Refusal::Exhausted(why),
        })
    }

    fn commit(&mut self) {
        self.allocator.commit();
        self.accounts.commit();
    }

    fn rollback(&mut self) {
        self.allocator.rollback();
        self.accounts.rollback();
    }

    fn has_companions(&self, resource: &Resource) -> bool {
        is_service(resource) || is_address(resource)
    }

    fn companions(
        &mut self,
        resource: &Resource,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Vec<Companion> {
        if is_service(resource) {
            let AddressObjects { needed, ended } = AddressObjects::of_change(old, new);
            let ended = ended.iter().map(ToString::to_string);
            return needed
                .into_iter()
                .map(Companion::Needed)
                .chain(ended.map(address_object_ended))
                .collect();
        }
        // Somebody removes the object of an address that a Service has: it comes back.
        let removed = old.filter(|_| new.is_none());
        let served = removed.and_then(|object| {
            let address = address_of(object).filter(|one| self.allocator.serves(*one))?;
            Some(Companion::Needed(restored_address_object(address, object)))
        });
        served.into_iter().collect()
    }

    fn outstanding(&mut self) -> Vec<Companion> {
        std::mem::take(&mut self.outstanding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, address: &str) -> Value {
        json!({"metadata": {"namespace": "default", "name": name},
            "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address]}})
    }

    fn address(name: &str, manager: &str) -> Value {
        json!({"metadata": {"name": name,
            "labels": {"ipaddress.kubernetes.io/managed-by": manager}},
            "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "x"}}})
    }

    fn name(companion: &Companion) -> String {
        match companion {
            Companion::Needed(object) => {
                format!("+{}", object["metadata"]["name"].as_str().unwrap())
            }
            Companion::Ended { name, .. } => format!("-{name}"),
        }
    }

    /// A store of an older version has no IPAddress objects, or some that are left over.
    #[test]
    fn a_repair_completes_addresses_and_reserves_those_of_others() {
        let registry = registry();
        let of = |group: &str, plural: &str| registry.find(group, "v1", plural).unwrap().clone();
        let (services, addresses) = (of("", "services"), of(NETWORKING, "ipaddresses"));
        let mut admission = Services {
            allocator: ServiceAllocator::new(ServiceRanges {
                addresses: vec!["10.96.0.0/12".parse().unwrap()],
                node_ports: 30000..=32767,
            }),
            accounts: Accounts::default(),
            outstanding: Vec::new(),
            seed: 0,
        };
        let objects: Vec<(&Resource, Value)> = vec![
            (&*services, service("a", "10.96.0.1")),
            (&*services, service("b", "10.96.0.2")),
            (&*addresses, address("10.96.0.2", "ipallocator.k8s.io")),
            (&*addresses, address("10.96.0.3", "ipallocator.k8s.io")),
            (&*addresses, address("10.96.0.4", "somebody.example.com")),
        ];
        admission.repair(&mut objects.into_iter());
        let outstanding: Vec<String> = admission.outstanding().iter().map(name).collect();
        assert_eq!(outstanding, ["+10.96.0.1", "-10.96.0.3"]);
        assert!(admission.outstanding().is_empty());
        let free = |address: &str| admission.allocator.is_free(address.parse().unwrap());
        assert!(free("10.96.0.3"));
        assert!(!free("10.96.0.4"), "somebody else has it");

        let gone = address("10.96.0.2", "");
        let back = admission.companions(&addresses, Some(&gone), None);
        assert_eq!(back.iter().map(name).collect::<Vec<_>>(), ["+10.96.0.2"]);
        let other = address("10.96.0.4", "somebody.example.com");
        assert_eq!(admission.companions(&addresses, Some(&other), None), []);
    }
}
