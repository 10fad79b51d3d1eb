//! The API server alone, with many clients at once: some that only hold connections, and some that
//! all want the same object.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use weft_kube::k8s_openapi::api::core::v1::ConfigMap;
use weft_kube::kube::api::{ListParams, PostParams};
use weft_kube::kube::{self, Api};
use weft_netlab::process::Spawn;

use crate::durability::{Setting, config_map, connect, runtime, value_of};
use crate::lab::{PATIENCE, eventually, expect, repository};

/// Connections on which nobody says anything; they end when this is dropped, and with the test
/// process in any case.
struct Crowd(Child);

impl Crowd {
    fn new(setting: &Setting, silent: usize, quiet: usize) -> Self {
        let mut child = Command::new("python3")
            .arg(repository("tests/lab/crowd.py"))
            .args([
                setting.port().to_string(),
                silent.to_string(),
                quiet.to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut said).unwrap();
        let crowd = Crowd(child);
        assert_eq!(said, "held\n");
        crowd
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let ended = self.0.wait();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

/// What a process has written to memory, in KiB (proc(5), status): not the pages of the program,
/// of which more are there the more of it has run.
fn written(process: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = line.unwrap().trim().split(' ').next();
    kibibytes.unwrap().parse().unwrap()
}

fn descriptors(process: i32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, what).await;
    done.expect("an answer")
}

/// What a connection may cost, in KiB, whatever its client does not say.
const COST: u64 = 64;

/// What may stay of one that is gone, in KiB, on the average of many. Measured over four crowds:
/// 0.16 KiB.
const LEFT: f64 = 0.5;

/// How much more the second crowd may take than the first has left, in KiB. Measured: 10,600 KiB,
/// all of it free memory that the allocator does not give back because of what lies between: after
/// malloc_trim(3) a server has 12 MiB after one crowd, and 13 after three.
const SETTLING: u64 = 16 << 10;

#[test]
fn a_thousand_idle_connections_are_in_nobodys_way() {
    const IDLE: usize = 1000;
    const CROWDS: usize = 6;
    let folder = tempfile::tempdir().unwrap();
    let setting = Setting::new(folder.path());
    // With one arena (mallopt(3)) what is free is free for every thread. With more of them, which
    // thread has served whom decides how much is held, and a leak of this size would be lost in it:
    // the same crowds leave up to 4 MiB more, now here, now there.
    let one_arena = Spawn::new("/usr/bin/env")
        .arg("MALLOC_ARENA_MAX=1")
        .arg(env!("CARGO_BIN_EXE_weft"));
    let server = setting.start_as(one_arena, &folder.path().join("store.redb"));
    let runtime = runtime();
    let api = runtime.block_on(in_time(connect(&setting.kubeconfig)));
    let create = |name: &str, api: &Api<ConfigMap>| {
        let object = config_map(name, 1);
        let created = runtime.block_on(in_time(api.create(&PostParams::default(), &object)));
        created.unwrap();
    };
    create("before", &api);
    let process = server.id();
    let (memory, files) = (written(process), descriptors(process));
    let mut after = Vec::new();
    for round in 0..CROWDS {
        let crowd = Crowd::new(&setting, IDLE, IDLE);
        eventually("all of them are held", || {
            expect(descriptors(process), |now| *now >= files + 2 * IDLE)
        });
        create(&format!("old-{round}"), &api);
        let another = runtime.block_on(in_time(connect(&setting.kubeconfig)));
        create(&format!("new-{round}"), &another);
        let grown = written(process).saturating_sub(memory);
        assert!(
            grown < 2 * IDLE as u64 * COST,
            "round {round}: {grown} KiB more than {memory}"
        );
        drop((crowd, another));
        eventually("nothing is left of them", || {
            expect(descriptors(process), |now| *now <= files + 8)
        });
        after.push(written(process));
    }
    let grown = |from: usize, to: usize| after[to].saturating_sub(after[from]);
    assert!(
        grown(0, 1) < SETTLING,
        "it does not settle, in KiB: {after:?}"
    );
    let gone = 2 * IDLE * (CROWDS - 2);
    assert!(
        (grown(1, CROWDS - 1) as f64) < LEFT * gone as f64,
        "it grows with each crowd, in KiB: {after:?}"
    );
    server.end();
}

#[test]
fn without_files_to_open_a_server_goes_on_with_who_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let setting = Setting::new(folder.path());
    let limited = Spawn::new("/usr/bin/prlimit")
        .arg("--nofile=64:64")
        .arg(env!("CARGO_BIN_EXE_weft"));
    let server = setting.start_as(limited, &folder.path().join("store.redb"));
    let runtime = runtime();
    let api = runtime.block_on(in_time(connect(&setting.kubeconfig)));
    let create = async |name: &str, api: &Api<ConfigMap>| {
        let object = config_map(name, 1);
        let created = in_time(api.create(&PostParams::default(), &object)).await;
        created.unwrap();
    };
    runtime.block_on(create("before", &api));
    let crowd = Crowd::new(&setting, 200, 0);
    eventually("no more can be accepted", || {
        let log = fs::read_to_string(folder.path().join("log")).unwrap();
        expect(log, |log| log.contains("Too many open files"))
    });
    runtime.block_on(create("meanwhile", &api));
    drop(crowd);
    let another = runtime.block_on(in_time(connect(&setting.kubeconfig)));
    runtime.block_on(create("after", &another));
    server.end();
}

/// Everybody reads a number, counts it up, and writes it with the version read; who comes too late
/// does it again.
#[test]
fn in_a_storm_of_writers_no_change_is_lost() {
    const WRITERS: u64 = 32;
    const CHANGES: u64 = 20;
    let folder = tempfile::tempdir().unwrap();
    let setting = Setting::new(folder.path());
    let server = setting.start();
    runtime().block_on(async {
        let api = in_time(connect(&setting.kubeconfig)).await;
        let counter = config_map("counter", 0);
        api.create(&PostParams::default(), &counter).await.unwrap();
        let mut writers = tokio::task::JoinSet::new();
        for _ in 0..WRITERS {
            let api = connect(&setting.kubeconfig).await;
            writers.spawn(async move {
                let mut conflicts = 0;
                for _ in 0..CHANGES {
                    while !counted_up(&api).await {
                        conflicts += 1;
                    }
                }
                conflicts
            });
        }
        let conflicts: u64 = in_time(writers.join_all()).await.into_iter().sum();
        let list = api.list(&ListParams::default()).await.unwrap();
        let counter = list.items.iter().find_map(value_of);
        assert_eq!(counter, Some(WRITERS * CHANGES));
        assert!(conflicts > 0, "nobody was in anybody's way");
    });
    server.end();
}

/// Whether the change was the next one after what was read.
async fn counted_up(api: &Api<ConfigMap>) -> bool {
    let mut object = api.get("counter").await.unwrap();
    let next = value_of(&object).unwrap() + 1;
    let data = object.data.get_or_insert_default();
    data.insert("value".to_owned(), next.to_string());
    match api
        .replace("counter", &PostParams::default(), &object)
        .await
    {
        Ok(_) => true,
        Err(kube::Error::Api(refused)) => {
            assert_eq!((refused.code, &*refused.reason), (409, "Conflict"));
            false
        }
        Err(error) => panic!("{error}"),
    }
}
