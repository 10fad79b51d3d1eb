//! What the pods of a slice are called, in little room.

use serde::{Deserialize, Serialize};

use crate::{Details, Endpoint};

/// The names of the pods behind a slice's endpoints, in their order, for nodes: they need no more
/// of a pod, and there are hundreds of thousands. Pods of one Service nearly always begin alike;
/// what they have in common is kept once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNames(Option<Box<str>>);

/// Before each name: no name has one.
const END: char = '\n';

impl PodNames {
    /// Takes from endpoints what their pods are called. One that is no pod has no name.
    pub fn take(endpoints: &mut [Endpoint]) -> Self {
        let names: Vec<Option<Box<str>>> = endpoints.iter_mut().map(taken).collect();
        let mut known = names.iter().flatten();
        let Some(first) = known.next() else {
            return Self::default();
        };
        let start = known.fold(&**first, |start, name| common(start, name));
        let mut text = start.to_owned();
        for name in &names {
            text.push(END);
            // One that has no name is told from one that is called as all begin.
            match name {
                Some(name) => text.push_str(&name[start.len()..]),
                None => text.push(NOBODY),
            }
        }
        Self(Some(text.into()))
    }

    /// Whether none has a name.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// What the pod of the endpoint at this place is called.
    pub fn get(&self, place: usize) -> Option<String> {
        let (start, names) = self.0.as_deref()?.split_once(END)?;
        let end = names.split(END).nth(place)?;
        (end.chars().ne([NOBODY])).then(|| format!("{start}{end}"))
    }
}

/// Stands for the rest of a name where there is none: no pod's name has it (RFC 1123).
const NOBODY: char = '*';

fn taken(endpoint: &mut Endpoint) -> Option<Box<str>> {
    let mut details = Details::from(std::mem::take(&mut endpoint.details));
    let pod = details.pod.take();
    endpoint.details = details.into();
    pod.map(|pod| (*pod.name).into())
}

/// What both begin with.
fn common<'a>(one: &'a str, other: &str) -> &'a str {
    let same = one.chars().zip(other.chars()).take_while(|(a, b)| a == b);
    let length = same.map(|(a, _)| a.len_utf8()).sum();
    &one[..length]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Addresses, ObjectKey};

    fn named(names: &[Option<&str>]) -> Vec<Endpoint> {
        let endpoint = |name: &Option<&str>| Endpoint {
            addresses: Addresses::from(Vec::new()),
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            details: Details {
                pod: name.map(|name| ObjectKey::new("shop", name)),
                ..Details::default()
            }
            .into(),
        };
        names.iter().map(endpoint).collect()
    }

    #[test]
    fn each_pod_has_the_name_it_had() {
        let cases: [&[Option<&str>]; 6] = [
            &[],
            &[None, None],
            &[Some("web-1"), Some("web-12"), None, Some("web-2")],
            &[Some("web"), Some("web"), None],
            &[Some("a"), Some("b")],
            &[None, Some("only")],
        ];
        for names in cases {
            let mut endpoints = named(names);
            let kept = PodNames::take(&mut endpoints);
            let found: Vec<_> = (0..=names.len()).map(|place| kept.get(place)).collect();
            let mut expected: Vec<_> = names.iter().map(|name| name.map(str::to_owned)).collect();
            expected.push(None);
            assert_eq!(found, expected);
            assert_eq!(endpoints, named(&vec![None; names.len()]));
            assert_eq!(kept.is_empty(), names.iter().all(Option::is_none));
        }
    }
}
