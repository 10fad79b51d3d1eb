//! ADD waits for the agent's word that a pod's policies are in force.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::node::{DUAL, Node, path, pod, run};

impl Node {
    fn gate(&self) -> PathBuf {
        self.root.path().join("gate.sock")
    }

    fn gated(&self, seconds: u32) -> Value {
        let mut config = self.config();
        config["policyGate"] = json!({"socket": self.gate(), "seconds": seconds});
        config
    }
}

#[test]
fn without_an_agent_a_pod_does_not_start_and_it_is_said_why() {
    let node = Node::new(DUAL);
    let pod = pod("pod");
    let config = node.gated(1);
    let (code, message) = node.call("ADD", "c1", &path(&pod), &config).error();
    assert_eq!(code, 11);
    let words = "policyGate: no word from the agent within 1 s that the policies of pod \
                 default/pod-c1 are in force: ";
    assert!(message.starts_with(words), "{message}");
    node.assert_clean();
    // One that takes the question and says nothing.
    let _silent = UnixListener::bind(node.gate()).unwrap();
    let (code, message) = node.call("ADD", "c1", &path(&pod), &config).error();
    assert_eq!(code, 11);
    assert!(message.ends_with("it has not answered"), "{message}");
    node.assert_clean();
    // A pod that started before the gate was there stays, whatever is said when it is asked again.
    node.add("c1", &pod).ok();
    node.call("ADD", "c1", &path(&pod), &config).error();
    assert_eq!(node.reserved().len(), DUAL.len());
    pod.output("ping", ["-c1", "-W5", "172.30.0.11"]).unwrap();
    node.del("c1").ok();
    node.assert_clean();
}

#[test]
fn a_late_word_lets_the_pod_start_and_a_refusal_is_told() {
    let node = Node::new(DUAL);
    let pod = pod("pod");
    let config = node.gated(60);
    std::thread::scope(|scope| {
        let adding = scope.spawn(|| {
            let process = node.command("ADD", "c1", &path(&pod));
            run(process, &config)
        });
        let answer = |listener: &UnixListener, word: &str| -> Value {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            reader.read_line(&mut line).unwrap();
            stream.write_all(word.as_bytes()).unwrap();
            serde_json::from_str(&line).unwrap()
        };
        // The agent comes when the pod has its link already, dies, and comes again.
        crate::enclosure::wait("the pod's link", || {
            let links = pod.output("ip", ["-o", "link"]).unwrap();
            links.contains("eth0").then_some(())
        });
        let listener = UnixListener::bind(node.gate()).unwrap();
        answer(&listener, "");
        drop(listener);
        std::fs::remove_file(node.gate()).unwrap();
        let listener = UnixListener::bind(node.gate()).unwrap();
        let question = answer(&listener, "{}\n");
        let result = adding.join().unwrap().ok();
        assert_eq!(question["container"], "c1");
        assert_eq!(question["pod"], json!(["default", "pod-c1"]));
        assert_eq!(question["link"], result["interfaces"][0]["name"]);
        let address = question["addresses"][0].as_str().unwrap();
        assert_eq!(result["ips"][0]["address"], format!("{address}/32"));
        node.del("c1").ok();

        let adding = scope.spawn(|| run(node.command("ADD", "c2", &path(&pod)), &config));
        answer(&listener, "{\"refused\": \"no room for its rules\"}\n");
        let (code, message) = adding.join().unwrap().error();
        assert_eq!(code, 11);
        assert_eq!(
            message,
            "policyGate: the agent does not let pod default/pod-c2 start: no room for its rules"
        );
    });
    node.assert_clean();
}
