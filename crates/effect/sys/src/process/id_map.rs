//! The ids of a new user namespace.
//!
//! Source: user_namespaces(7), newuidmap(1), subuid(5).

use std::path::Path;
use std::process::Command;
use std::{fs, io};

use super::Error;

/// One line of a user namespace's id map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The ids of a new user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    /// User ids.
    pub users: Vec<IdRange>,
    /// Group ids.
    pub groups: Vec<IdRange>,
}

impl IdMap {
    /// Root inside is the caller outside, and there is nobody else: what every user may do.
    /// `chown` to another id then fails.
    #[must_use]
    pub fn only_self() -> Self {
        let one = |outside| {
            vec![IdRange {
                inside: 0,
                outside,
                count: 1,
            }]
        };
        IdMap {
            users: one(rustix::process::geteuid().as_raw()),
            groups: one(rustix::process::getegid().as_raw()),
        }
    }

    /// Root inside is the caller, and the ids that `/etc/subuid` and `/etc/subgid` grant follow
    /// from 1 on. `None` when nothing is granted or newuidmap(1) or newgidmap(1) is missing.
    #[must_use]
    pub fn granted(user: &str) -> Option<Self> {
        let installed = |program: &str| {
            ["/usr/bin", "/bin", "/usr/local/bin"]
                .iter()
                .any(|dir| Path::new(dir).join(program).exists())
        };
        if !installed("newuidmap") || !installed("newgidmap") {
            return None;
        }
        let id = rustix::process::geteuid().as_raw().to_string();
        let extend = |file: &str, ranges: &mut Vec<IdRange>| {
            let table = fs::read_to_string(file).ok()?;
            let mut inside = 1;
            for (first, count) in subordinate_ids(&table, user, &id) {
                ranges.push(IdRange {
                    inside,
                    outside: first,
                    count,
                });
                inside += count;
            }
            (inside > 1).then_some(())
        };
        let mut map = IdMap::only_self();
        extend("/etc/subuid", &mut map.users)?;
        extend("/etc/subgid", &mut map.groups)?;
        Some(map)
    }

    /// Whether a single id is mapped, so that `chown` to any other fails.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.users.iter().map(|range| range.count).sum::<u32>() == 1
    }

    pub(super) fn write(&self, pid: i32) -> Result<(), Error> {
        if self.users.len() == 1 && self.is_single() {
            // A process without privileges may map its group only after giving up setgroups(2).
            write_proc(pid, "setgroups", "deny")?;
            write_proc(pid, "uid_map", &lines(&self.users))?;
            write_proc(pid, "gid_map", &lines(&self.groups))
        } else {
            map_with("newuidmap", pid, &self.users)?;
            map_with("newgidmap", pid, &self.groups)
        }
    }
}

fn lines(ranges: &[IdRange]) -> String {
    ranges
        .iter()
        .map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count))
        .collect()
}

fn write_proc(pid: i32, file: &str, text: &str) -> Result<(), Error> {
    let path = format!("/proc/{pid}/{file}");
    fs::write(&path, text).map_err(|source| Error::IdMap {
        what: format!("writing {path}"),
        source,
    })
}

fn map_with(program: &str, pid: i32, ranges: &[IdRange]) -> Result<(), Error> {
    let numbers = ranges
        .iter()
        .flat_map(|range| [range.inside, range.outside, range.count])
        .map(|number| number.to_string());
    let failed = |source| Error::IdMap {
        what: format!("running {program}"),
        source,
    };
    let output = Command::new(program)
        .arg(pid.to_string())
        .args(numbers)
        .output()
        .map_err(failed)?;
    if output.status.success() {
        Ok(())
    } else {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(failed(io::Error::other(said)))
    }
}

/// The ranges that a table in the format of subuid(5) grants to a user, by name or by number.
fn subordinate_ids(table: &str, user: &str, id: &str) -> Vec<(u32, u32)> {
    table
        .lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            let first = fields.next()?.parse().ok()?;
            let count = fields.next()?.parse().ok()?;
            (!owner.is_empty() && (owner == user || owner == id) && count > 0)
                .then_some((first, count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ids_are_found_by_name_and_number() {
        let table = "root:1:2\nanna:100000:65536\n1000:300000:10\n:5:5\nanna:x:1\n";
        assert_eq!(
            subordinate_ids(table, "anna", "1000"),
            [(100_000, 65_536), (300_000, 10)]
        );
        assert!(subordinate_ids("\n", "", "0").is_empty());
    }
}
