//! `kill -9` at every system call of a plugin that changes something.
//!
//! strace kills the plugin when it enters the n-th call of a kind. Which calls there are is
//! taken from a run that is left alone, so that no step can be forgotten here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;

use serde_json::{Value, json};
use weft_netlab::Namespace;

use crate::node::{Answer, DUAL, Node, address, end, path, plugin, pod, prepare, run};

/// What changes files or the kernel. A file is made by `openat` with `O_CREAT`, or
/// by `open` (musl).
const CHANGES: &str = "open,openat,write,pwrite64,pwritev2,ftruncate,fdatasync,fsync,rename,linkat,unlink,mkdir,\
                       sendto";

/// The n-th call of a kind, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Point {
    call: String,
    nth: usize,
}

/// The calls that change something. strace counts each thread's by themselves.
fn points(trace: &str) -> Vec<Point> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut points = Vec::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((call, arguments)) = rest.trim_start().split_once('(') else {
            continue;
        };
        if call.starts_with(['+', '-', '<']) {
            continue;
        }
        let nth = counts.entry((thread, call)).or_default();
        *nth += 1;
        let point = Point {
            call: call.to_owned(),
            nth: *nth,
        };
        let changes = !call.starts_with("open") || arguments.contains("O_CREAT");
        if changes && !points.contains(&point) {
            points.push(point);
        }
    }
    points
}

impl Node {
    pub(crate) fn traced(
        &self,
        verb: &str,
        container: &str,
        netns: &str,
        arguments: &[&str],
    ) -> Answer {
        let mut process = self.namespace.command("strace").unwrap();
        prepare(&mut process, verb, container, netns);
        let trace = format!("trace={CHANGES}");
        process
            .env(
                "PATH",
                std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/bin")),
            )
            .args(["-qq", "-e", &trace])
            .args(arguments)
            .arg(plugin());
        run(process, &self.config_for(verb))
    }

    /// The bridge and its rules go, so that the next ADD makes them.
    fn forget_bridge(&self) {
        for (program, arguments) in [
            ("ip", "link del cni0"),
            ("nft", "delete table inet weft-bridges"),
        ] {
            // Not there: the ADD before died before it made it.
            let _ = self.namespace.output(program, arguments.split(' '));
        }
    }

    fn config_for(&self, verb: &str) -> Value {
        let mut config = self.config();
        config["runtimeConfig"] = json!({
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
            "bandwidth": {"ingressRate": 10_000_000, "egressRate": 10_000_000},
        });
        config["ipMasq"] = json!(true);
        if verb == "GC" {
            config["cni.dev/valid-attachments"] =
                json!([{"containerID": "living", "ifname": "eth0"}]);
        }
        config
    }

    /// The points of a run that is left alone.
    fn points_of(&self, verb: &str, netns: &str) -> Vec<Point> {
        let file = self.root.path().join("trace");
        self.traced(verb, "dying", netns, &["-f", "-o", file.to_str().unwrap()])
            .ok();
        let points = points(&fs::read_to_string(file).unwrap());
        assert!(points.len() > 5, "{verb}: {points:?}");
        points
    }

    /// Runs the verb and kills it at a point. It may answer before that: not every run takes
    /// the same path.
    fn killed(&self, verb: &str, netns: &str, point: &Point) {
        let inject = format!("inject={}:signal=KILL:when={}", point.call, point.nth);
        let answer = self.traced(
            verb,
            "dying",
            netns,
            &["-f", "-o", "/dev/null", "-e", &inject],
        );
        assert!(
            answer.code.is_none() || answer.code == Some(0),
            "{verb} killed at {point:?}: {answer:?}"
        );
    }

    fn verb(&self, verb: &str, container: &str, netns: &str) -> Answer {
        self.call(verb, container, netns, &self.config_for(verb))
    }
}

/// What happens after the kill.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// The runtime tries ADD again, and later DEL.
    Add,
    /// The runtime calls DEL.
    Del,
    /// The container is gone, and the runtime calls GC.
    Gc,
}

const THEN: [Then; 3] = [Then::Add, Then::Del, Then::Gc];

/// The link of the pod that dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Routed,
    /// On a bridge that it is the first to need.
    Bridge,
}

/// A node with a pod that lives through all of it.
struct Scene {
    node: Node,
    kind: Kind,
    living: Namespace,
    result: Value,
}

impl Scene {
    fn new(kind: Kind) -> Self {
        let mut node = Node::new(DUAL);
        let living = pod("living");
        let result = node.add("living", &living).ok();
        if kind == Kind::Bridge {
            // The living has the first address.
            let mut ipam = node.config()["ipam"].clone();
            ipam["ranges"] = json!([
                {"subnet": "10.244.1.0/24", "gateway": "10.244.1.254"},
                {"subnet": "fd00:10:244:1::/64", "gateway": "fd00:10:244:1::fe"},
            ]);
            node.fields = json!({"link": "bridge", "ingressPolicy": "same-bridge", "ipam": ipam});
        }
        Scene {
            node,
            kind,
            living,
            result,
        }
    }

    fn round(&self, verb: &str, point: &Point, then: Then) {
        let node = &self.node;
        node.forget_bridge();
        let dying = pod("dying");
        let netns = path(&dying);
        match verb {
            "ADD" => node.killed("ADD", &netns, point),
            "DEL" => {
                node.verb("ADD", "dying", &netns).ok();
                node.killed("DEL", &netns, point);
            }
            _ => {
                node.verb("ADD", "dying", &netns).ok();
                let _gone = end(dying);
                node.wait_for_links(1);
                node.killed("GC", "", point);
                self.collect();
                return self.assert_only_the_living(&format!("{verb} {point:?}"));
            }
        }
        let _gone = match then {
            Then::Add => {
                let result = node.verb("ADD", "dying", &netns).ok();
                assert_ne!(address(&result, 0), address(&self.result, 0));
                let mut config = node.config_for("CHECK");
                config["prevResult"] = result;
                node.call("CHECK", "dying", &netns, &config).ok();
                node.verb("DEL", "dying", &netns).ok();
                None
            }
            Then::Del => {
                node.verb("DEL", "dying", &netns).ok();
                None
            }
            Then::Gc => {
                let gone = end(dying);
                node.wait_for_links(1);
                Some(gone)
            }
        };
        // What only a kill leaves, a file that never got its name, waits for GC.
        self.collect();
        self.assert_only_the_living(&format!("{verb} {point:?}, then {then:?}"));
    }

    /// GC, until nothing but the living has addresses.
    fn collect(&self) {
        self.node.collect(&self.node.config_for("GC"), 2);
    }

    fn assert_only_the_living(&self, round: &str) {
        let node = &self.node;
        node.check("living", &self.living, &self.result).ok();
        assert_eq!(node.reserved().len(), 2, "{round}");
        for (folder, expected) in [("networks/weft", "."), ("state/attachments", ".")] {
            let names: Vec<String> = fs::read_dir(node.root.path().join(folder))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| name.starts_with(expected) || name.contains("dying"))
                .collect();
            assert_eq!(names, [] as [String; 0], "{round}: {folder}");
        }
        let links = node.namespace.output("ip", ["link"]).unwrap();
        for of_pods in [": weft", "alias weft:default/"] {
            assert_eq!(links.matches(of_pods).count(), 1, "{round}: {links}");
        }
        // Of the rules about what pods send: the living's link and address, twice.
        let rules = node.namespace.output("nft", ["list", "ruleset"]).unwrap();
        assert!(!rules.contains("8080"), "{round}: {rules}");
        assert!(!rules.contains("pod-dying"), "{round}: {rules}");
        assert_eq!(rules.matches("pod-living").count(), 4, "{round}: {rules}");
        assert!(!links.contains("master cni0"), "{round}: {links}");
    }
}

/// Every point of a verb once, or as many rounds as asked for.
fn every_point(verb: &str, kind: Kind, rounds: Option<usize>) {
    let scene = Scene::new(kind);
    let sample = pod("dying");
    let points = match verb {
        "ADD" => scene.node.points_of("ADD", &path(&sample)),
        _ => {
            let netns = path(&sample);
            scene.node.verb("ADD", "dying", &netns).ok();
            let _gone = end(sample);
            if verb == "GC" {
                scene.node.wait_for_links(1);
            }
            scene.node.points_of(verb, &netns)
        }
    };
    scene.node.verb("DEL", "dying", "").ok();
    if scene.kind == Kind::Bridge && verb == "ADD" {
        let trace = fs::read_to_string(scene.node.root.path().join("trace")).unwrap();
        // The bridge was made in the run that was traced, and its rules were written.
        assert!(trace.contains("cni0"), "{trace}");
    }
    let rounds = rounds.unwrap_or(points.len());
    for round in 0..rounds {
        let point = &points[round % points.len()];
        // Each point meets each continuation in the course of three passes.
        let then = THEN[(round + round / points.len()) % THEN.len()];
        scene.round(verb, point, then);
    }
}

#[test]
fn addresses_are_on_the_disk_before_the_kernel_hears_of_them() {
    let node = Node::new(DUAL);
    let pod = pod("dying");
    // The first one makes the folders, and syncs those.
    node.add("dying", &pod).ok();
    node.del("dying").ok();
    let points = node.points_of("ADD", &path(&pod));
    let last = |call: &str| points.iter().rposition(|point| point.call == call).unwrap();
    let kernel = points.iter().position(|point| point.call == "sendto");
    let (content, name) = (last("fdatasync"), last("fsync"));
    assert!(content.max(name) < kernel.unwrap(), "{points:?}");
}

#[test]
fn an_add_may_die_anywhere() {
    every_point("ADD", Kind::Routed, None);
}

#[test]
fn an_add_may_die_anywhere_while_it_makes_a_bridge() {
    every_point("ADD", Kind::Bridge, None);
}

#[test]
fn a_del_may_die_anywhere() {
    every_point("DEL", Kind::Routed, None);
    every_point("DEL", Kind::Bridge, None);
}

#[test]
fn a_gc_may_die_anywhere() {
    every_point("GC", Kind::Routed, None);
    every_point("GC", Kind::Bridge, None);
}

#[test]
#[ignore = "soak: 1,000 rounds"]
fn plugins_die_a_thousand_times() {
    let percent: usize = std::env::var("WEFT_SOAK")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(100);
    let rounds = |full: usize| Some((full * percent).div_ceil(100));
    std::thread::scope(|scope| {
        for (verb, full) in [("ADD", 300), ("DEL", 150), ("GC", 50)] {
            for kind in [Kind::Routed, Kind::Bridge] {
                scope.spawn(move || every_point(verb, kind, rounds(full)));
            }
        }
    });
}
