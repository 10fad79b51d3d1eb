//! Settings against the kernel, in namespaces of the tests' own.

use std::os::fd::AsFd;

use weft_kernel::sysctl::{self, ReversePath, Scope, Setting};
use weft_sys::namespace;

#[test]
fn settings_are_written_once_and_only_in_their_namespace() {
    let namespace = namespace::new_net().unwrap();
    let other = namespace::new_net().unwrap();
    for setting in [
        Setting::Ipv4Forwarding(true),
        Setting::Ipv6Forwarding(Scope::All, true),
        Setting::Ipv6Disabled(Scope::Default, true),
        Setting::ReversePathFilter(Scope::Link("lo"), ReversePath::Loose),
        Setting::RouteLocalnet(Scope::Default, true),
        Setting::ProxyArp(Scope::Link("lo"), true),
        Setting::ProxyNdp(Scope::Link("lo"), true),
        Setting::AcceptRouterAdvertisements(Scope::Link("lo"), 2),
    ] {
        assert!(
            sysctl::set_in(namespace.as_fd(), setting).unwrap(),
            "{setting:?}"
        );
        assert!(
            !sysctl::set_in(namespace.as_fd(), setting).unwrap(),
            "{setting:?}"
        );
        let there = namespace::in_net(other.as_fd(), || sysctl::holds(setting)).unwrap();
        assert!(!there.unwrap(), "{setting:?}");
    }
}

#[test]
fn an_error_names_the_setting() {
    let namespace = namespace::new_net().unwrap();
    let setting = Setting::ProxyArp(Scope::Link("absent0"), true);
    let error = sysctl::set_in(namespace.as_fd(), setting).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read the setting net/ipv4/conf/absent0/proxy_arp \
         (the device is gone, or the kernel lacks the feature)"
    );
}
