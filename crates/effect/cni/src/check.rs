//! CHECK.

use std::os::fd::AsFd;
use std::path::Path;

use weft_desired::PodLink;
use weft_nodestate::{Attachments, Pool, RecordError};
use weft_proto::cni::{AddResult, Attach, Code, Error, Link};

use super::add::result;
use super::{
    bandwidth, chained, compiled, host_port, link, open_namespace, pod_rules, pool_error,
    record_error, sysctl,
};

/// Compares the attachment with its record, and what ADD answered with both. All
/// differences are found before any is reported.
pub(super) fn check(request: &Attach) -> Result<(), Error> {
    let namespace = open_namespace(&request.netns)?;
    if request.link == Link::Absent {
        let differences = chained::verify(request, namespace.as_fd())?;
        return match differences.is_empty() {
            true => Ok(()),
            false => Err(failed(request, &differences)),
        };
    }
    let records = Attachments::under(Path::new(&request.config.state_dir));
    let record = match records.read(&request.key) {
        Ok(Some(record)) => record,
        Ok(None) => return Err(failed(request, &["there is no record of it".to_owned()])),
        Err(RecordError::Damaged(damaged)) => return Err(failed(request, &[damaged.to_string()])),
        Err(error) => return Err(record_error(&error)),
    };
    let link = compiled(&record);
    let mut differences = Vec::new();
    if let Some(previous) = &request.previous {
        compare_result(previous, request, &link, &mut differences);
    }
    let pool = Pool::under(&record.data_dir, &record.network, &records);
    for address in &record.addresses {
        if !pool
            .is_held_by(&record.key, *address)
            .map_err(|error| pool_error(&error))?
        {
            differences.push(format!("address {address} is not reserved for it"));
        }
    }
    let node = &request.node_addresses;
    let ports = host_port::compiled(&request.mappings, node, &record.addresses);
    if !ports.is_empty() {
        differences.extend(host_port::verify(&record.key, &ports)?);
    }
    differences.extend(pod_rules::verify(&records, &record, namespace.as_fd())?);
    differences.extend(bandwidth::verify(request, &link)?);
    differences.extend(sysctl::verify(request, namespace.as_fd())?);
    differences.extend(link::verify(&record.key, namespace.as_fd(), &link)?);
    if differences.is_empty() {
        Ok(())
    } else {
        Err(failed(request, &differences))
    }
}

/// `prevResult` is the answer of the whole chain: what we made must be in it, and there
/// may be more.
fn compare_result(
    previous: &AddResult,
    request: &Attach,
    link: &PodLink,
    differences: &mut Vec<String>,
) {
    let own = result(request, link);
    for wanted in &own.interfaces {
        let found = previous
            .interfaces
            .iter()
            .any(|there| there.name == wanted.name && there.sandbox == wanted.sandbox);
        if !found {
            let place = wanted.sandbox.as_deref().unwrap_or("the node");
            differences.push(format!(
                "prevResult.interfaces: {} in {place} is missing",
                wanted.name
            ));
        }
    }
    for wanted in &own.ips {
        if !previous
            .ips
            .iter()
            .any(|there| there.address == wanted.address)
        {
            differences.push(format!("prevResult.ips: {} is missing", wanted.address));
        }
    }
}

fn failed(request: &Attach, differences: &[String]) -> Error {
    Error::new(
        Code::CheckFailed,
        format!(
            "attachment {} is not as ADD left it: {}",
            request.key,
            differences.join("; ")
        ),
    )
}
