//! What nodes were given, and the watch does not tell yet.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{Masks, free_parts};

/// The ranges that nodes were given. What a node was given is its own from that moment on:
/// the watch tells it only later, and would have the next node given the same.
#[derive(Clone, Debug, Default)]
pub struct Given {
    by_node: BTreeMap<String, Vec<IpNet>>,
}

impl Given {
    /// A node's ranges: those it was given before, or of each range the wanted part or the first
    /// free one.
    ///
    /// # Errors
    /// The range that has none left.
    pub fn give(
        &mut self,
        node: &str,
        ranges: &[IpNet],
        masks: Masks,
        wanted: &[IpNet],
        mut taken: Vec<IpNet>,
    ) -> Result<Vec<IpNet>, IpNet> {
        if let Some(given) = self.by_node.get(node) {
            return Ok(given.clone());
        }
        taken.extend(self.by_node.values().flatten());
        let given: Vec<IpNet> = ranges
            .iter()
            .map(|range| {
                let wanted = wanted.iter().find(|part| range.contains(*part)).copied();
                wanted
                    .or_else(|| free_parts(*range, masks, &taken).next())
                    .ok_or(*range)
            })
            .collect::<Result<_, _>>()?;
        self.by_node.insert(node.to_owned(), given.clone());
        Ok(given)
    }

    /// Whether the node was given something.
    pub fn contains(&self, node: &str) -> bool {
        self.by_node.contains_key(node)
    }

    /// The node is gone, or the watch tells what it has: nothing is kept for it any more.
    pub fn take_back(&mut self, node: &str) {
        self.by_node.remove(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_range_is_given_twice_before_the_watch_tells_of_it() {
        let ranges: Vec<IpNet> = ["10.244.0.0/23", "fd00::/56"]
            .map(|range| range.parse().unwrap())
            .into();
        let mut given = Given::default();
        let mut give = |node: &str| {
            let of_node = given.give(node, &ranges, Masks::default(), &[], Vec::new())?;
            Ok::<_, IpNet>(of_node.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let first = give("node-1").unwrap();
        assert_eq!(first, ["10.244.0.0/24", "fd00::/64"]);
        assert_eq!(
            give("node-2").unwrap(),
            ["10.244.1.0/24", "fd00:0:0:1::/64"]
        );
        // Asked again, after a write whose outcome is not known.
        assert_eq!(give("node-1").unwrap(), first);
        assert_eq!(give("node-3"), Err(ranges[0]));
        given.take_back("node-1");
        let third = given.give("node-3", &ranges, Masks::default(), &[], Vec::new());
        assert_eq!(third.unwrap()[0].to_string(), first[0]);
        given.take_back("node-2");
        let wanted = "10.244.1.128/25".parse().unwrap();
        let fourth = given.give("node-4", &ranges, Masks::default(), &[wanted], Vec::new());
        assert_eq!(fourth.unwrap()[0], wanted);
    }
}
