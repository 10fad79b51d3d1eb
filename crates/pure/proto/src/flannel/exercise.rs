//! The body of the fuzz target.

use super::{Holder, NetConf, Subnets, VxlanEnd};

/// Reads `data` as a configuration, and as a lease's key (the first line) and value. Must not
/// panic, whatever `data` is.
///
/// # Panics
/// When a subnet is given out that is none of the pool's, or is taken, or when something is not
/// read again as it is written.
pub fn exercise(data: &[u8]) {
    if let Ok(conf) = NetConf::parse(data) {
        for pool in conf.pools() {
            let mut taken = Vec::new();
            for draw in [0, 7, u64::MAX] {
                let Some(subnet) = pool.free(taken.iter().copied(), draw) else {
                    break;
                };
                assert!(pool.has(subnet), "{subnet} of {pool:?}");
                assert!(!taken.contains(&subnet), "{subnet} twice");
                taken.push(subnet);
            }
        }
    }
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let (key, value) = (parts.next(), parts.next());
    let key = key.and_then(|key| std::str::from_utf8(key).ok());
    if let Some(Ok(subnets)) = key.map(Subnets::parse) {
        assert_eq!(Subnets::parse(&subnets.to_string()), Ok(subnets));
    }
    if let Some(Ok(holder)) = value.map(Holder::parse) {
        assert_eq!(
            Holder::parse(holder.to_json().as_bytes()).as_ref(),
            Ok(&holder)
        );
        let all = [&holder.backend_data, &holder.backend_v6_data];
        for data in all.into_iter().flatten() {
            if let Ok(end) = VxlanEnd::parse("BackendData", data) {
                assert_eq!(VxlanEnd::parse("", &end.to_value()), Ok(end));
            }
        }
    }
}
