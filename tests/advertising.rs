//! The API server alone: where its own Service leads.

use std::path::Path;

use weft_kube::k8s_openapi::api::core::v1::{Endpoints, Service};
use weft_kube::k8s_openapi::api::discovery::v1::EndpointSlice;
use weft_kube::kube::Api;
use weft_kube::kube::api::ListParams;
use weft_kube::{Access, Client};

use crate::durability::{Setting, runtime};
use crate::lab::PATIENCE;

async fn connect(kubeconfig: &Path) -> Client {
    let access = Access {
        kubeconfig: Some(kubeconfig.to_owned()),
        ..Access::default()
    };
    weft_kube::connect(&access, "test").await.unwrap()
}

/// The addresses and ports of the Service `kubernetes`, by its slices and by its Endpoints, of a
/// server that is started like this.
fn led_to(arguments: &[&str]) -> [Vec<String>; 2] {
    let folder = tempfile::tempdir().unwrap();
    let setting = Setting::new(folder.path());
    let server = setting.start_with(arguments);
    let asked = async {
        let client = connect(&setting.kubeconfig).await;
        let services: Api<Service> = Api::namespaced(client.clone(), "default");
        services.get("kubernetes").await.unwrap();
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
        let slices = slices.list(&ListParams::default()).await.unwrap();
        let endpoints: Api<Endpoints> = Api::namespaced(client, "default");
        let endpoints = endpoints.get_opt("kubernetes").await.unwrap();
        (slices.items, endpoints)
    };
    let asked = async { tokio::time::timeout(PATIENCE, asked).await };
    let (slices, endpoints) = runtime()
        .block_on(asked)
        .unwrap_or_else(|_| panic!("no answer: {}", setting.log()));
    server.end();
    let by_slices = slices.into_iter().flat_map(|slice| {
        let port = slice.ports.unwrap_or_default()[0].port.unwrap();
        let endpoints = slice.endpoints.into_iter();
        endpoints.map(move |endpoint| format!("{} {port}", endpoint.addresses[0]))
    });
    let subsets = endpoints.into_iter().flat_map(|one| one.subsets);
    let by_endpoints = subsets.flatten().flat_map(|subset| {
        let port = subset.ports.unwrap_or_default()[0].port;
        let addresses = subset.addresses.into_iter().flatten();
        addresses.map(move |address| format!("{} {port}", address.ip))
    });
    [by_slices.collect(), by_endpoints.collect()]
}

#[test]
fn a_server_on_loopback_alone_leads_no_pod_anywhere() {
    let nowhere: [Vec<String>; 2] = Default::default();
    assert_eq!(led_to(&["--listen", "127.0.0.1:0"]), nowhere);
}

#[test]
fn a_server_leads_pods_where_it_is_told_to() {
    // No listener of this address is needed: something may stand before the server.
    let arguments = [
        "--listen",
        "127.0.0.1:0",
        "--advertise-address",
        "192.0.2.7",
    ];
    let [by_slices, by_endpoints] = led_to(&arguments);
    assert_eq!(by_slices, by_endpoints);
    let (address, port) = by_slices[0].split_once(' ').unwrap();
    assert_eq!(address, "192.0.2.7");
    assert_ne!(port, "0", "the port that is listened on");
}

#[test]
fn a_server_does_not_lead_pods_to_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let setting = Setting::new(folder.path());
    let server = setting.start_with(&["--advertise-address", "127.0.0.1"]);
    server.wait().unwrap();
    let log = setting.log();
    let told = "the API can't be advertised at 127.0.0.1: it may not be in the loopback range";
    assert!(log.contains(told), "{log}");
}
