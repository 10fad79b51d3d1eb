//! How fast a pod may send and receive, with errors in the plugin's words.

use weft_compile::attachment;
use weft_desired::{PodBandwidth, PodLink, Shape};
use weft_kernel::bandwidth::{self, Names};
use weft_nodestate::{Attachments, digest};
use weft_proto::cni::{Attach, AttachmentKey, Bandwidth, Code, Error, Limit};
use weft_sys::rtnl::Conversation;

use super::{chain, note, record_error};

/// Bytes that pass at once where nobody asked for a burst: what the rate gives in a twentieth of
/// a second, and no less than a few full segments.
const SMALLEST_BURST: u64 = 64 << 10;

/// Makes the limits those that were asked for. `is_new`: the link can't have any yet.
pub(super) fn set(
    node: &mut Conversation,
    request: &Attach,
    link: &PodLink,
    is_new: bool,
) -> Result<(), Error> {
    let limits = compiled(&request.bandwidth);
    if is_new && !request.bandwidth.is_limited() {
        return Ok(());
    }
    let device = device(&request.key);
    let names = names(link, &device);
    let failed = |error: bandwidth::Error| failed(&request.key, &error);
    if !is_new
        || node
            .find_link(&device)
            .map_err(|e| failed(e.into()))?
            .is_some()
    {
        bandwidth::release(node, names.link, names.device).map_err(failed)?;
    }
    bandwidth::limit(node, names, limits).map_err(|error| {
        if let bandwidth::Error::Missing { .. } = error {
            let asked = &request.bandwidth;
            Error::new(
                Code::UnsupportedField,
                format!(
                    "runtimeConfig.bandwidth: {} can't be kept: {error}",
                    shown(asked)
                ),
            )
            .with_details("or start the pod without limits")
        } else {
            failed(error)
        }
    })
}

/// Removes what the link does not take along.
pub(super) fn remove(node: &mut Conversation, key: &AttachmentKey) -> Result<(), Error> {
    bandwidth::remove_device(node, &device(key)).map_err(|error| failed(key, &error))
}

/// What differs, in words.
pub(super) fn verify(request: &Attach, link: &PodLink) -> Result<Vec<String>, Error> {
    if !request.bandwidth.is_limited() {
        return Ok(Vec::new());
    }
    let device = device(&request.key);
    let limits = compiled(&request.bandwidth);
    let mut node = conversation(&request.key)?;
    bandwidth::deviations(&mut node, names(link, &device), limits)
        .map_err(|error| failed(&request.key, &error))
}

/// Removes devices whose attachment has neither a record nor a link. What looks dead is looked at
/// again before it goes.
pub(super) fn sweep(records: &Attachments) -> Result<(), Error> {
    let failed = |error: &dyn std::error::Error| {
        Error::new(
            Code::Kernel,
            format!(
                "cannot look for devices of pods that are gone: {}",
                chain(error)
            ),
        )
    };
    let mut node = Conversation::open().map_err(|error| failed(&error))?;
    let mut dead = bandwidth::devices(&mut node).map_err(|error| failed(&error))?;
    for _look in 0..2 {
        if dead.is_empty() {
            return Ok(());
        }
        let recorded = records.list().map_err(|error| record_error(&error))?;
        for record in recorded.iter().flatten() {
            let living = device(&record.key);
            dead.retain(|device| device.name != living);
        }
        let links = node.links().map_err(|error| failed(&error))?;
        dead.retain(|device| {
            let is_its_link = |name: &str| attachment::device_of(name) == device.name;
            !links.iter().any(|link| is_its_link(&link.name))
        });
    }
    for device in dead {
        bandwidth::remove_device(&mut node, &device.name).map_err(|error| failed(&error))?;
        note(&format_args!(
            "device {} of a pod that is gone is gone",
            device.name
        ));
    }
    Ok(())
}

fn names<'a>(link: &'a PodLink, device: &'a str) -> Names<'a> {
    Names {
        link: &link.host_name,
        device,
        alias: &link.alias,
    }
}

fn device(key: &AttachmentKey) -> String {
    attachment::device_of(&attachment::host_name(&digest(key)))
}

fn compiled(asked: &Bandwidth) -> PodBandwidth {
    PodBandwidth {
        to_pod: asked.ingress.map(shape),
        from_pod: asked.egress.map(shape),
    }
}

/// Bits to bytes.
fn shape(limit: Limit) -> Shape {
    let rate = limit.rate.div_ceil(8);
    let burst = match limit.burst {
        Some(bits) => bits / 8,
        None => SMALLEST_BURST.max(rate / 20),
    };
    Shape {
        rate,
        burst: u32::try_from(burst).unwrap_or(u32::MAX),
    }
}

fn shown(asked: &Bandwidth) -> String {
    let directions = [("ingressRate", asked.ingress), ("egressRate", asked.egress)];
    let limits = directions
        .into_iter()
        .filter_map(|(name, limit)| Some(format!("{name} {}", limit?.rate)));
    limits.collect::<Vec<String>>().join(", ")
}

fn conversation(key: &AttachmentKey) -> Result<Conversation, Error> {
    Conversation::open().map_err(|error| failed(key, &error))
}

fn failed(key: &AttachmentKey, error: &dyn std::error::Error) -> Error {
    Error::new(
        Code::Kernel,
        format!("cannot limit the bandwidth of {key}: {}", chain(error)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_become_bytes_and_a_burst_is_chosen_where_none_is_asked_for() {
        let shape = |rate, burst| {
            let shape = shape(Limit { rate, burst });
            (shape.rate, shape.burst)
        };
        assert_eq!(shape(10_000_000, Some(800_000)), (1_250_000, 100_000));
        assert_eq!(shape(10_000_000, None), (1_250_000, 65_536));
        assert_eq!(shape(1_000_000_000, None), (125_000_000, 6_250_000));
        assert_eq!(shape(1, None).0, 1);
    }
}
