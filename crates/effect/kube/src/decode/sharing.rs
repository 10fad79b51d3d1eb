//! How a Service's connections are shared among its endpoints: two annotations.

use k8s_openapi::api::core::v1 as core;
use kube::ResourceExt;
use weft_model::{HashOf, Sharing, Weight};

use super::{Decoded, rejection};

/// The annotations of [`Sharing`].
const WEIGHTS: &str = "weft/weights";
const HASH: &str = "weft/hash";
/// Enough for a share of a thousandth.
const LARGEST_WEIGHT: u16 = 1000;
/// Each endpoint is compared with each of them.
const MOST_WEIGHTS: usize = 64;

/// How connections are shared among endpoints, from the annotations.
pub(super) fn read(object: &core::Service) -> Decoded<Sharing> {
    let annotations = object.annotations();
    let field = |name: &str| format!("metadata.annotations[{name}]");
    let hash = match annotations.get(HASH).map(|text| text.trim()) {
        None => None,
        Some("source") => Some(HashOf::Source),
        Some("five-tuple") => Some(HashOf::FiveTuple),
        Some(other) => return Err(rejection(field(HASH), other, "source or five-tuple")),
    };
    let texts = annotations.get(WEIGHTS).into_iter();
    let texts = texts.flat_map(|text| text.split(',').map(str::trim));
    let weights: Vec<Weight> = texts
        .filter(|text| !text.is_empty())
        .map(|text| {
            weight(text).ok_or_else(|| {
                rejection(
                    field(WEIGHTS),
                    text,
                    "ENDPOINT=WEIGHT, with a pod's name, the start of some and \"*\", or an \
                     address, and a number from 0 to 1000",
                )
            })
        })
        .collect::<Decoded<_>>()?;
    if weights.len() > MOST_WEIGHTS {
        return Err(rejection(
            field(WEIGHTS),
            &weights.len().to_string(),
            "at most 64 weights",
        ));
    }
    Ok(Sharing { weights, hash })
}

fn weight(text: &str) -> Option<Weight> {
    let (endpoints, weight) = text.split_once('=')?;
    let endpoints = endpoints.trim();
    let start = endpoints.strip_suffix('*').unwrap_or(endpoints);
    let weight = weight.trim().parse().ok()?;
    let good = !endpoints.is_empty() && !start.contains('*') && weight <= LARGEST_WEIGHT;
    good.then(|| Weight {
        endpoints: endpoints.into(),
        weight,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn annotated(name: &str, text: &str) -> Decoded<Sharing> {
        let object = json!({"metadata": {"annotations": {name: text}}});
        read(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn annotations_say_how_connections_are_shared() {
        assert_eq!(annotated("other", "source"), Ok(Sharing::default()));
        let hash = |text| annotated(HASH, text).map(|it| it.hash);
        assert_eq!(hash("source"), Ok(Some(HashOf::Source)));
        assert_eq!(hash(" five-tuple "), Ok(Some(HashOf::FiveTuple)));
        let weight = |endpoints: &str, weight| Weight {
            endpoints: endpoints.into(),
            weight,
        };
        let weights = annotated(WEIGHTS, "web-v1-*=9, 10.244.1.5 = 0,fd00::1=1000,").unwrap();
        let expected = [
            weight("web-v1-*", 9),
            weight("10.244.1.5", 0),
            weight("fd00::1", 1000),
        ];
        assert_eq!(weights.weights, expected);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let many = vec!["a=1"; 65].join(",");
        for (name, text) in [
            (HASH, "destination"),
            (HASH, ""),
            (WEIGHTS, "web"),
            (WEIGHTS, "=3"),
            (WEIGHTS, "web=1001"),
            (WEIGHTS, "web=-1"),
            (WEIGHTS, "we*b=1"),
            (WEIGHTS, &many),
        ] {
            let rejection = annotated(name, text).unwrap_err();
            assert_eq!(rejection.field, format!("metadata.annotations[{name}]"));
        }
    }
}
