//! `runtimeConfig.bandwidth`: how fast a pod may send and receive (CNI conventions, capability
//! `bandwidth`).

use serde_json::Value;

use super::Error;
use super::fields::{Fields, invalid, is_empty, unsupported};

/// Bursts by which runtimes say that they have no opinion: `math.MaxInt32` (the kubelet's own)
/// and `math.MaxUint32` (containerd, CRI-O). Taken at their word they would let a quarter or half
/// a gigabyte pass before a limit of any rate is felt.
const NO_OPINION: [u64; 2] = [i32::MAX as u64, u32::MAX as u64];

/// What a pod may send and receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// To the pod.
    pub ingress: Option<Limit>,
    /// From the pod.
    pub egress: Option<Limit>,
}

impl Bandwidth {
    /// Whether anything is limited.
    pub fn is_limited(&self) -> bool {
        self.ingress.is_some() || self.egress.is_some()
    }
}

/// A limit of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// `ingressRate`, `egressRate`: bits a second, never 0.
    pub rate: u64,
    /// `ingressBurst`, `egressBurst`: bits that may pass at once; at most 2³² bytes.
    pub burst: Option<u64>,
}

pub(super) fn bandwidth(path: &str, value: &Value) -> Result<Bandwidth, Error> {
    let mut fields = Fields::of_runtime(path, value)?;
    let ingress = limit(&mut fields, "ingressRate", "ingressBurst")?;
    let egress = limit(&mut fields, "egressRate", "egressBurst")?;
    // Such as the subnets that a limit does not hold for: a limit that is another one than was
    // asked for is refused.
    if let Some((field, value)) = fields.unknown().find(|(_, value)| !is_empty(value)) {
        return Err(unsupported(
            &field,
            value,
            "a pod's limits are ingressRate, ingressBurst, egressRate and egressBurst",
        ));
    }
    Ok(Bandwidth { ingress, egress })
}

fn limit<'a>(
    fields: &mut Fields<'a>,
    rate: &'a str,
    burst: &'a str,
) -> Result<Option<Limit>, Error> {
    let asked = fields.take_u64(rate)?.unwrap_or(0);
    let place = fields.path(burst);
    let burst = fields.take_u64(burst)?.filter(|burst| *burst > 0);
    match (asked, burst) {
        (0, None) => Ok(None),
        (0, Some(_)) => Err(invalid(&place, &format!("has no effect without {rate}"))),
        (_, Some(burst)) if burst / 8 > u64::from(u32::MAX) => Err(invalid(
            &place,
            &format!("{burst} bits are more than 4 GiB at once"),
        )),
        (asked, burst) => Ok(Some(Limit {
            rate: asked,
            burst: burst.filter(|burst| !NO_OPINION.contains(burst)),
        })),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Result<Bandwidth, String> {
        bandwidth("runtimeConfig.bandwidth", value).map_err(|error| error.message)
    }

    #[test]
    fn both_directions_are_read_as_the_plugin_bandwidth_does() {
        let both = read(&json!({
            "ingressRate": 10_000_000, "ingressBurst": 800_000, "egressRate": 1000, "egressBurst": 0,
        }));
        let limit = |rate, burst| Some(Limit { rate, burst });
        assert_eq!(
            both,
            Ok(Bandwidth {
                ingress: limit(10_000_000, Some(800_000)),
                egress: limit(1000, None),
            })
        );
        // containerd 1.6.
        let theirs = read(&json!({
            "IngressRate": 10_000_000, "IngressBurst": 800_000, "EgressRate": 1000, "EgressBurst": 0,
        }));
        assert_eq!(theirs, both);
        assert_eq!(read(&json!({})), Ok(Bandwidth::default()));
        let idle = json!({"ingressRate": 0, "ingressBurst": 0, "unshapedSubnets": []});
        assert!(!read(&idle).unwrap().is_limited());
    }

    #[test]
    fn a_runtime_without_an_opinion_asks_for_no_burst() {
        for burst in [2_147_483_647_u64, 4_294_967_295] {
            let limits = read(&json!({"egressRate": 1000, "egressBurst": burst})).unwrap();
            assert_eq!(limits.egress.unwrap().burst, None);
        }
    }

    #[test]
    fn what_can_not_be_is_named() {
        for (value, words) in [
            (
                json!({"ingressBurst": 8}),
                "runtimeConfig.bandwidth.ingressBurst: has no effect without ingressRate",
            ),
            (
                json!({"egressRate": 8, "egressBurst": 34_359_738_368_u64}),
                "runtimeConfig.bandwidth.egressBurst: 34359738368 bits are more than 4 GiB at once",
            ),
            (
                json!({"egressRate": -1}),
                "runtimeConfig.bandwidth.egressRate: must be a whole number, not -1",
            ),
            (
                json!({"ingressRate": 8, "shapedSubnets": ["10.0.0.0/8"]}),
                "runtimeConfig.bandwidth.shapedSubnets: [\"10.0.0.0/8\"] is not supported; a pod's \
                 limits are ingressRate, ingressBurst, egressRate and egressBurst",
            ),
        ] {
            assert_eq!(read(&value), Err(words.to_owned()));
        }
    }
}
