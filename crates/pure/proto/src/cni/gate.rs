//! `policyGate`: whom ADD asks whether a pod's policies are in force, and in what words.
//!
//! On a Unix stream socket the plugin writes one line, a [`Question`], and reads one, a
//! [`Word`]. Whoever answers may take the time that it needs: until then the pod does not start.
//! STATUS asks whether pods are let start at all, which is answered at once.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::{Fields, invalid, missing};
use super::ranges::absolute;
use super::{AttachmentKey, Error, NetworkName, Remark};

/// The longest path of a Unix socket (`sun_path` in unix(7), with a zero behind it).
const LONGEST_SOCKET: usize = 107;
/// Seconds; the kubelet gives a sandbox two minutes (`runtimeRequestTimeout`).
const DEFAULT_SECONDS: u32 = 15;
const MOST_SECONDS: u32 = 90;

/// The section `policyGate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// `socket`: where the agent listens.
    pub socket: String,
    /// `seconds`: how long ADD waits.
    pub seconds: u32,
}

/// What the plugin asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Question {
    /// ADD: may this pod start?
    Pod(PodQuestion),
    /// STATUS: may pods start?
    Node(NodeQuestion),
}

/// What STATUS asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeQuestion {
    /// The pods' network.
    pub network: NetworkName,
}

/// What ADD asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodQuestion {
    /// Which container, which interface.
    #[serde(flatten)]
    pub key: AttachmentKey,
    /// The pod's namespace and name, if the runtime said them.
    pub pod: Option<(String, String)>,
    /// The pod's addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// The name of the link's end on the node.
    pub link: String,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Word {
    /// Why the pod may not start now; absent: it may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// The body of a fuzz target: reads `data` as the section, as a question and as a word. Must not
/// panic, whatever `data` is; what was read is read again as it is written.
///
/// # Panics
/// When it is not.
pub fn exercise_gate(data: &[u8]) {
    if let Ok(section) = serde_json::from_slice(data) {
        let _ = gate(Some(&section), &mut Vec::new());
    }
    if let Ok(question) = serde_json::from_slice::<Question>(data) {
        let written = serde_json::to_vec(&question).unwrap_or_default();
        assert_eq!(serde_json::from_slice(&written).ok(), Some(question));
    }
    if let Ok(word) = serde_json::from_slice::<Word>(data) {
        let written = serde_json::to_vec(&word).unwrap_or_default();
        assert_eq!(serde_json::from_slice(&written).ok(), Some(word));
    }
}

pub(super) fn gate(
    section: Option<&Value>,
    remarks: &mut Vec<Remark>,
) -> Result<Option<Gate>, Error> {
    let Some(section) = section else {
        return Ok(None);
    };
    let mut fields = Fields::of("policyGate", section)?;
    let place = fields.path("socket");
    let socket = absolute(&mut fields, "socket", "")?;
    if socket.is_empty() {
        return Err(missing(&place));
    }
    if socket.len() > LONGEST_SOCKET {
        let complaint = format!("{socket:?} has more than {LONGEST_SOCKET} bytes");
        return Err(invalid(&place, &complaint));
    }
    let place = fields.path("seconds");
    let seconds = fields.take_u32("seconds")?.unwrap_or(DEFAULT_SECONDS);
    if !(1..=MOST_SECONDS).contains(&seconds) {
        let complaint = format!("{seconds} is not between 1 and {MOST_SECONDS}");
        return Err(invalid(&place, &complaint));
    }
    fields.finish(remarks);
    Ok(Some(Gate { socket, seconds }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(section: &Value) -> Result<Option<Gate>, String> {
        gate(Some(section), &mut Vec::new()).map_err(|error| error.message)
    }

    #[test]
    fn the_section_is_read_and_its_errors_name_the_field() {
        assert_eq!(gate(None, &mut Vec::new()), Ok(None));
        let socket = "/run/weft/gate.sock".to_owned();
        let expected = Gate { socket, seconds: 3 };
        let given = json!({"socket": "/run/weft/gate.sock", "seconds": 3});
        assert_eq!(read(&given), Ok(Some(expected)));
        for (section, words) in [
            (json!({}), "policyGate.socket: is missing"),
            (
                json!({"socket": "run"}),
                "policyGate.socket: \"run\" is not an absolute path",
            ),
            (
                json!({"socket": "/x", "seconds": 0}),
                "policyGate.seconds: 0 is not between 1 and 90",
            ),
        ] {
            assert_eq!(read(&section), Err(words.to_owned()));
        }
        let long = format!("/{}", "x".repeat(LONGEST_SOCKET));
        assert!(read(&json!({"socket": long})).unwrap_err().contains("107"));
    }

    #[test]
    fn the_two_questions_are_told_apart() {
        let of_pod = json!({
            "container": "c1", "interface": "eth0", "pod": ["default", "web"],
            "addresses": ["10.244.1.5"], "link": "weft1",
        });
        let of_node = json!({"network": "weft"});
        for line in [&of_pod, &of_node] {
            let question: Question = serde_json::from_value(line.clone()).unwrap();
            assert_eq!(matches!(question, Question::Pod(_)), line == &of_pod);
            assert_eq!(serde_json::to_value(&question).unwrap(), *line);
        }
        for wrong in [
            json!({}),
            json!({"network": "../up"}),
            json!({"container": "c1"}),
        ] {
            serde_json::from_value::<Question>(wrong).unwrap_err();
        }
    }

    #[test]
    fn a_word_is_a_line() {
        let yes = Word { refused: None };
        assert_eq!(serde_json::to_string(&yes).unwrap(), "{}");
        let no: Word = serde_json::from_str(r#"{"refused":"full"}"#).unwrap();
        assert_eq!(no.refused.as_deref(), Some("full"));
    }
}
