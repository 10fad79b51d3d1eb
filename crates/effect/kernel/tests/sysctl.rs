//! Settings against the kernel, in namespaces of the tests' own.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use weft_kernel::sysctl::{self, ReversePath, Scope, Setting};
use weft_sys::{mount, namespace};

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
        "cannot set the setting net/ipv4/conf/absent0/proxy_arp \
         (the device is gone, or the kernel lacks the feature)"
    );
}

#[test]
fn what_is_mounted_read_only_may_have_the_value_already() {
    const IS_ENCLOSED: &str = "WEFT_TEST_IS_ENCLOSED";
    if std::env::var_os(IS_ENCLOSED).is_none() {
        // Once more, where nobody else sees the mount.
        let name = "what_is_mounted_read_only_may_have_the_value_already";
        let output = Command::new("unshare")
            .arg("--mount")
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(IS_ENCLOSED, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let namespace = namespace::new_net().unwrap();
    let [on, off] = [true, false].map(|on| Setting::ProxyArp(Scope::Link("lo"), on));
    sysctl::set_in(namespace.as_fd(), on).unwrap();
    mount::bind_read_only(Path::new("/proc/sys"), Path::new("/proc/sys")).unwrap();
    assert!(!sysctl::set_in(namespace.as_fd(), on).unwrap());
    let error = sysctl::set_in(namespace.as_fd(), off).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot set the setting net/ipv4/conf/lo/proxy_arp (/proc/sys is mounted read-only here: \
         the agent needs a privileged container)"
    );
}
