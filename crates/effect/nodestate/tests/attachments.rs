//! Attachment records on a real file system.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;
use weft_nodestate::{Attachment, Attachments, Listing, Pod, RecordError};
use weft_proto::cni::{AttachmentKey, NetworkName};

fn key(container: &str, interface: &str) -> AttachmentKey {
    AttachmentKey {
        container: container.try_into().unwrap(),
        interface: interface.try_into().unwrap(),
    }
}

fn record(key: AttachmentKey) -> Attachment {
    Attachment {
        key,
        network: NetworkName::try_from("weft").unwrap(),
        data_dir: PathBuf::from("/var/lib/cni/networks"),
        netns: PathBuf::from("/run/netns/c1"),
        netns_inode: Some(4_026_532_000),
        host_link: "weft0123456789".to_owned(),
        mtu: 1500,
        addresses: vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
        node_addresses: vec!["172.30.0.11".parse().unwrap()],
        mac: None,
        routes: None,
        bridge: None,
        anti_spoofing: true,
        other_addresses: Vec::new(),
        masquerade_beyond: None,
        pod: Some(Pod {
            namespace: "default".to_owned(),
            name: "web-0".to_owned(),
            uid: "u1".to_owned(),
        }),
    }
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let root = TempDir::new().unwrap();
    let records = Attachments::under(root.path());
    let wanted = record(key("c1", "eth0"));
    assert_eq!(records.read(&wanted.key).unwrap(), None);
    assert!(records.list().unwrap().is_empty());
    for _again in 0..2 {
        records.write(&wanted).unwrap();
        assert_eq!(records.read(&wanted.key).unwrap(), Some(wanted.clone()));
    }
    assert!(records.directory().join("c1-eth0.json").is_file());
    assert_eq!(records.list().unwrap(), [Ok(wanted.clone())]);
    assert!(records.remove(&wanted.key).unwrap());
    assert!(!records.remove(&wanted.key).unwrap());
    assert_eq!(fs::read_dir(records.directory()).unwrap().count(), 0);
    assert!(records.list().unwrap().is_empty());
}

#[test]
fn what_writers_left_that_died_is_swept() {
    let root = TempDir::new().unwrap();
    let records = Attachments::under(root.path());
    records.sweep().unwrap();
    let wanted = record(key("c1", "eth0"));
    records.write(&wanted).unwrap();
    // No process has a higher id than PID_MAX_LIMIT.
    let dead = ".4194305.c1-eth0.json".to_owned();
    let lives = format!(".{}.c2-eth0.json", std::process::id());
    for name in [&dead, &lives] {
        fs::write(records.directory().join(name), "{").unwrap();
    }
    records.sweep().unwrap();
    assert!(!records.directory().join(dead).exists());
    assert!(records.directory().join(lives).exists());
    assert_eq!(records.list().unwrap(), [Ok(wanted)]);
}

#[test]
fn names_that_look_alike_do_not_meet() {
    let root = TempDir::new().unwrap();
    let records = Attachments::under(root.path());
    let keys = [
        key("a-b", "c"),
        key("a", "b-c"),
        key("a", "b%2Dc"),
        key("a", "b%252Dc"),
    ];
    for key in &keys {
        records.write(&record(key.clone())).unwrap();
    }
    assert_eq!(records.list().unwrap().len(), keys.len());
    for key in keys {
        assert_eq!(records.read(&key).unwrap().unwrap().key, key);
    }
}

#[test]
fn damaged_files_are_listed_with_a_reason() {
    let root = TempDir::new().unwrap();
    let records = Attachments::under(root.path());
    let good = record(key("good", "eth0"));
    records.write(&good).unwrap();
    let text = fs::read_to_string(records.directory().join("good-eth0.json")).unwrap();
    for (name, content, reason) in [
        ("a-eth0.json", "", "it is empty"),
        ("b-eth0.json", &text[..40], "EOF"),
        (
            "c-eth0.json",
            &text.replace("\"format\": 1", "\"format\": 9"),
            "format 9",
        ),
        ("d-eth0.json", &text, "it is the record of good/eth0"),
        (
            "e-eth0.json",
            &text.replace("10.0.0.5", "10.0.0"),
            "invalid IP address",
        ),
        ("f-eth0.json", &"x".repeat(70_000), "70000 bytes"),
        ("strange.json", &text, "its name is not that of a record"),
    ] {
        let path = records.directory().join(name);
        fs::write(&path, content).unwrap();
        let listed = records.list().unwrap();
        let damaged: Vec<String> = listed
            .iter()
            .filter_map(|item| item.as_ref().err())
            .map(ToString::to_string)
            .collect();
        assert_eq!(listed.len(), 2, "{name}");
        assert_eq!(damaged.len(), 1, "{name}");
        assert!(
            damaged[0].contains(name) && damaged[0].contains(reason),
            "{}",
            damaged[0]
        );
        fs::remove_file(&path).unwrap();
    }
    let nowhere = Attachment {
        addresses: Vec::new(),
        ..record(key("nowhere", "eth0"))
    };
    records.write(&nowhere).unwrap();
    let error = records.read(&nowhere.key).unwrap_err();
    assert!(error.to_string().ends_with("it has no address"), "{error}");
    let broken = key("x", "eth0");
    fs::write(records.directory().join("x-eth0.json"), "{").unwrap();
    assert!(matches!(
        records.read(&broken),
        Err(RecordError::Damaged(_))
    ));
    records.write(&record(broken.clone())).unwrap();
    assert!(records.read(&broken).unwrap().is_some());
}

#[test]
fn a_listing_follows_the_directory() {
    let root = TempDir::new().unwrap();
    let records = Attachments::under(root.path());
    let mut listing = Listing::new(records.clone());
    assert!(!listing.refresh().unwrap());
    let mut first = record(key("c1", "eth0"));
    records.write(&first).unwrap();
    fs::write(records.directory().join("c3-eth0.json"), "").unwrap();
    assert!(listing.refresh().unwrap());
    assert!(!listing.refresh().unwrap());
    assert_eq!(
        listing.attachments().keys().copied().collect::<Vec<_>>(),
        [&first.key]
    );
    assert_eq!(listing.damaged().len(), 1);

    first.mtu = 1400;
    records.write(&first).unwrap();
    assert!(listing.refresh().unwrap());
    assert_eq!(listing.attachments()[&first.key].mtu, 1400);
    records.remove(&first.key).unwrap();
    assert!(listing.refresh().unwrap());
    assert!(listing.attachments().is_empty());
}

#[test]
fn the_digest_is_that_of_container_and_interface() {
    // echo -n c1/eth0 | sha256sum
    assert_eq!(
        weft_nodestate::digest(&key("c1", "eth0"))[..4],
        [0xd7, 0x2e, 0x03, 0x2f]
    );
}
