//! A power cut between any two writes of the plugin.
//!
//! What the plugin writes to where addresses are is recorded by strace. For every prefix of it
//! the disk is put into the states that a power cut may leave: what was synced is there, and of
//! the rest nothing, all, all but one, one alone, or the names without their content; records,
//! which are in memory, are gone. Then the machine starts, addresses are given out, and nobody
//! whose ADD had answered may lose theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::IpAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use weft_nodestate::{Attachments, Held, Pool};
use weft_proto::cni::{AttachmentKey, Ipam, NetworkName, Range, RangeSet};

use crate::node::{Node, address, path, plugin, pod, prepare, run};

const RANGES: [&str; 2] = ["10.244.1.0/29", "fd00:10:244:1::/64"];
/// So many of the latest writes that are not synced are dropped or kept one by one.
const ONE_BY_ONE: usize = 10;

#[derive(Clone, Debug)]
enum Write {
    MakeDirectory(PathBuf),
    /// A name for an inode: of a new file, or one more.
    Name(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    Unname(PathBuf),
    Content(usize, u64, Vec<u8>),
    Length(usize, u64),
    Sync(usize),
    SyncDirectory(PathBuf),
}

impl Write {
    /// Whether a later sync makes this write survive.
    fn is_covered_by(&self, sync: &Write) -> bool {
        match (self, sync) {
            (Write::Content(inode, ..) | Write::Length(inode, _), Write::Sync(synced)) => {
                inode == synced
            }
            (
                Write::MakeDirectory(path) | Write::Name(path, _) | Write::Unname(path),
                Write::SyncDirectory(directory),
            )
            | (Write::Rename(_, path, _), Write::SyncDirectory(directory)) => {
                path.parent() == Some(directory.as_path())
            }
            _ => false,
        }
    }

    fn is_sync(&self) -> bool {
        matches!(self, Write::Sync(_) | Write::SyncDirectory(_))
    }

    fn is_content(&self) -> bool {
        matches!(self, Write::Content(..) | Write::Length(..))
    }
}

/// What was written, and whose addresses were promised after how many writes.
#[derive(Default)]
struct Recording {
    writes: Vec<Write>,
    inodes: BTreeMap<PathBuf, usize>,
    lengths: BTreeMap<usize, u64>,
    /// Container, addresses, from when to when.
    promises: Vec<(String, Vec<IpAddr>, usize, usize)>,
}

impl Recording {
    fn read(&mut self, trace: &str, root: &Path) {
        // Calls during which another thread's came are printed in two parts.
        let mut begun: BTreeMap<&str, &str> = BTreeMap::new();
        for line in trace.lines() {
            let Some((thread, rest)) = line.split_once(' ') else {
                continue;
            };
            let rest = rest.trim_start();
            if let Some(first) = rest.strip_suffix(" <unfinished ...>") {
                begun.insert(thread, first);
                continue;
            }
            let whole = match rest.split_once(" resumed>") {
                Some((_, second)) => format!("{}{second}", begun[thread]),
                None => rest.to_owned(),
            };
            let Some((call, arguments)) = whole.split_once('(') else {
                continue;
            };
            let Some((arguments, result)) = arguments.rsplit_once(" = ") else {
                continue;
            };
            if result.starts_with('-') || result.starts_with('?') {
                continue;
            }
            self.call(call, arguments, root);
        }
    }

    fn call(&mut self, call: &str, arguments: &str, root: &Path) {
        let strings = strings(arguments);
        let at = |index: usize| PathBuf::from(OsString::from_vec(strings[index].clone()));
        let number = |from_end: usize| -> u64 {
            let digits = arguments.trim_end().trim_end_matches(')');
            let text = digits.rsplit(", ").nth(from_end).unwrap();
            text.parse().unwrap()
        };
        let place = match call {
            "openat" | "linkat" => at(1),
            _ => at(0),
        };
        if !place.starts_with(root) {
            return;
        }
        match call {
            "open" | "openat" => {
                let is_new = !self.inodes.contains_key(&place);
                if arguments.contains("O_CREAT") && is_new {
                    let inode = self.writes.len();
                    self.inodes.insert(place.clone(), inode);
                    self.writes.push(Write::Name(place, inode));
                }
            }
            "mkdir" => self.writes.push(Write::MakeDirectory(place)),
            "linkat" => {
                let inode = self.inodes[&place];
                self.inodes.insert(at(3), inode);
                self.writes.push(Write::Name(at(3), inode));
            }
            "rename" => {
                let inode = self.inodes.remove(&place).unwrap();
                self.inodes.insert(at(1), inode);
                self.writes.push(Write::Rename(place, at(1), inode));
            }
            "unlink" => {
                self.inodes.remove(&place);
                self.writes.push(Write::Unname(place));
            }
            "write" => {
                let inode = self.inodes[&place];
                let length = self.lengths.entry(inode).or_default();
                let offset = *length;
                *length += strings[1].len() as u64;
                self.writes
                    .push(Write::Content(inode, offset, strings[1].clone()));
            }
            "pwrite64" => {
                let (inode, offset) = (self.inodes[&place], number(0));
                let end = offset + strings[1].len() as u64;
                let length = self.lengths.entry(inode).or_default();
                *length = end.max(*length);
                self.writes
                    .push(Write::Content(inode, offset, strings[1].clone()));
            }
            "ftruncate" => {
                let (inode, length) = (self.inodes[&place], number(0));
                self.lengths.insert(inode, length);
                self.writes.push(Write::Length(inode, length));
            }
            "fdatasync" | "fsync" => self.writes.push(match self.inodes.get(&place) {
                Some(inode) => Write::Sync(*inode),
                None => Write::SyncDirectory(place),
            }),
            other => panic!("{other} is not expected"),
        }
    }

    /// Puts the disk into the state after a power cut behind `cut` writes, where `keeps` says
    /// of a write that was not synced whether it got there.
    fn restore(&self, root: &Path, cut: usize, keeps: &dyn Fn(usize) -> bool) {
        let mut contents: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        let mut names: BTreeMap<&Path, usize> = BTreeMap::new();
        let mut directories = BTreeSet::from([root]);
        let safe = |place: usize| {
            self.writes[place + 1..cut]
                .iter()
                .any(|later| self.writes[place].is_covered_by(later))
        };
        for (place, write) in self.writes[..cut].iter().enumerate() {
            if !safe(place) && !keeps(place) {
                continue;
            }
            let stands = |path: &Path| {
                path.parent()
                    .is_some_and(|parent| directories.contains(parent))
            };
            match write {
                Write::MakeDirectory(path) if stands(path) => {
                    directories.insert(path);
                }
                Write::Name(path, inode) if stands(path) => {
                    names.insert(path, *inode);
                }
                Write::Rename(from, to, inode) if stands(to) => {
                    names.remove(from.as_path());
                    names.insert(to, *inode);
                }
                Write::Unname(path) => {
                    names.remove(path.as_path());
                }
                Write::Content(inode, offset, bytes) => {
                    let content = contents.entry(*inode).or_default();
                    let (start, end) = (*offset as usize, *offset as usize + bytes.len());
                    content.resize(content.len().max(end), 0);
                    content[start..end].copy_from_slice(bytes);
                }
                Write::Length(inode, length) => {
                    contents
                        .entry(*inode)
                        .or_default()
                        .resize(*length as usize, 0);
                }
                Write::MakeDirectory(_)
                | Write::Name(..)
                | Write::Rename(..)
                | Write::Sync(_)
                | Write::SyncDirectory(_) => {}
            }
        }
        for entry in fs::read_dir(root).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap();
            }
        }
        for directory in directories {
            fs::create_dir_all(directory).unwrap();
        }
        let mut first: BTreeMap<usize, &Path> = BTreeMap::new();
        for (path, inode) in names {
            match first.get(&inode) {
                Some(other) => fs::hard_link(other, path).unwrap(),
                None => {
                    let nothing = Vec::new();
                    fs::write(path, contents.get(&inode).unwrap_or(&nothing)).unwrap();
                    first.insert(inode, path);
                }
            }
        }
    }
}

/// What strace printed in quotes and angle brackets, every byte as `\xHH`.
fn strings(arguments: &str) -> Vec<Vec<u8>> {
    arguments
        .split(['"', '<', '>'])
        .filter(|text| text.starts_with("\\x"))
        .map(|text| {
            text.split("\\x")
                .skip(1)
                .map(|byte| u8::from_str_radix(byte, 16).unwrap())
                .collect()
        })
        .collect()
}

fn key(container: &str) -> AttachmentKey {
    AttachmentKey {
        container: container.try_into().unwrap(),
        interface: "eth0".try_into().unwrap(),
    }
}

fn record(node: &Node, verbs: &[(&str, &str)]) -> Recording {
    let mut recording = Recording::default();
    let mut pods = BTreeMap::new();
    let (root, trace) = (node.networks(), node.root.path().join("trace"));
    for (verb, container) in verbs {
        let space = pods.entry(*container).or_insert_with(|| pod(container));
        let mut process = node.namespace.command("strace").unwrap();
        prepare(&mut process, verb, container, &path(space));
        process
            .env(
                "PATH",
                std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/bin")),
            )
            .args(["-f", "-qq", "-y", "-xx", "-s", "1000000", "-e"])
            .arg("trace=open,openat,write,pwrite64,ftruncate,fdatasync,fsync,rename,linkat,unlink,mkdir")
            .arg("-o")
            .arg(&trace)
            .arg(plugin());
        if *verb == "DEL" {
            let now = recording.writes.len();
            let promise = recording
                .promises
                .iter_mut()
                .rfind(|(name, ..)| name == container);
            promise.unwrap().3 = now;
        }
        let result = run(process, &node.config()).ok();
        recording.read(&fs::read_to_string(&trace).unwrap(), &root);
        if *verb == "ADD" {
            let addresses = vec![address(&result, 0), address(&result, 1)];
            let now = recording.writes.len();
            recording
                .promises
                .push(((*container).to_owned(), addresses, now, usize::MAX));
        }
    }
    recording
}

/// Starts the machine on what is left, and gives out everything.
fn assert_promises(root: &Path, promises: &[(&String, &Vec<IpAddr>)], state: &str) {
    let records = Attachments::under(&root.join("no-state"));
    let network = NetworkName::try_from("weft").unwrap();
    let pool = Pool::under(root, &network, &records).in_boot("after");
    let ipam = Ipam {
        sets: RANGES
            .iter()
            .map(|range| RangeSet {
                ranges: vec![Range::of(range.parse().unwrap())],
            })
            .collect(),
        reserved: BTreeSet::new(),
        excluded: BTreeSet::new(),
        asked: Vec::new(),
        routes: None,
    };
    let mut given = Vec::new();
    for number in 0.. {
        let owner = key(&format!("new-{number}"));
        match pool.allocate(&owner, &ipam, Held::Nothing, |given| Ok(given.to_vec())) {
            Ok(addresses) => given.extend(addresses),
            Err(error) if error.is_exhausted() => break,
            Err(error) => panic!("{state}: {error}"),
        }
    }
    for reservation in pool.list().unwrap() {
        assert!(reservation.owner.is_ok(), "{state}: {reservation:?}");
    }
    let distinct: BTreeSet<&IpAddr> = given.iter().collect();
    assert_eq!(distinct.len(), given.len(), "{state}");
    for (container, addresses) in promises {
        for address in *addresses {
            assert!(!given.contains(address), "{state}: {address} twice");
            assert!(
                pool.is_held_by(&key(container), *address).unwrap(),
                "{state}"
            );
        }
    }
}

#[test]
fn no_prefix_of_the_writes_loses_an_address_or_gives_it_out_twice() {
    // Thousands of states are written: on no disk.
    let node = Node::in_memory(&RANGES);
    let verbs = [
        ("ADD", "a"),
        ("ADD", "b"),
        ("DEL", "a"),
        ("ADD", "c"),
        ("DEL", "b"),
        ("ADD", "d"),
        // Again, while it stands.
        ("ADD", "d"),
        ("DEL", "c"),
        ("ADD", "e"),
        ("ADD", "f"),
        // From here on what came back.
        ("ADD", "g"),
        ("DEL", "e"),
        ("ADD", "h"),
    ];
    let recording = record(&node, &verbs);
    let root = &*node.networks();
    let writes = &recording.writes;
    assert!(writes.len() > 40, "{}", writes.len());
    assert!(writes.iter().any(Write::is_sync));
    for cut in 0..=writes.len() {
        let promises: Vec<(&String, &Vec<IpAddr>)> = recording
            .promises
            .iter()
            .filter(|(_, _, from, to)| (*from..*to).contains(&cut))
            .map(|(container, addresses, ..)| (container, addresses))
            .collect();
        let latest: Vec<usize> = (0..cut)
            .rev()
            .filter(|place| !writes[*place].is_sync())
            .take(ONE_BY_ONE)
            .collect();
        let check = |what: &str, keeps: &dyn Fn(usize) -> bool| {
            recording.restore(root, cut, keeps);
            let state = format!("cut at {cut}, {what}");
            assert_promises(root, &promises, &state);
        };
        check("nothing that was not synced", &|_| false);
        check("everything", &|_| true);
        check("names without content", &|place| {
            !writes[place].is_content()
        });
        for one in latest {
            check(&format!("all but {:?}", writes[one]), &|place| place != one);
            check(&format!("only {:?}", writes[one]), &|place| place == one);
        }
    }
}

#[test]
fn what_strace_prints_is_read() {
    let line = r#"4<\x2f\x61>, "\x68\x69\x00", 3, 17)"#;
    assert_eq!(strings(line), [b"/a".to_vec(), b"hi\0".to_vec()]);
    let path = PathBuf::from(OsStr::from_bytes(&strings(line)[0]));
    assert_eq!(path, Path::new("/a"));
}
