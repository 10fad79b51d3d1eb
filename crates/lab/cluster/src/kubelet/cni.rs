//! The runtime's side of the Container Network Interface: plugins are programs, called with the
//! configuration on their input and the rest in their environment.
//!
//! Source: the CNI specification 1.1, sections 2 to 5.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

/// Where agents put network configurations.
pub const CONFIG_FOLDER: &str = "/etc/cni/net.d";
/// Where plugins lie.
pub const PLUGIN_FOLDER: &str = "/opt/cni/bin";
/// The name of a pod's first device.
const INTERFACE: &str = "eth0";
/// The versions of the specification, oldest first.
const VERSIONS: [&str; 6] = ["0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// A plugin that has not answered after this long is killed.
const PATIENCE: Duration = Duration::from_secs(60);

/// What can go wrong with a pod's network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no configuration yet.
    #[error("no networks found in {}", folder.display())]
    None {
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A configuration file that is none.
    #[error("network configuration {}: {reason}", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A plugin could not be run.
    #[error("plugin type={plugin:?} failed ({verb}): cannot run {}", path.display())]
    Run {
        /// The plugin's type.
        plugin: String,
        /// The verb.
        verb: &'static str,
        /// The program.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A plugin took too long.
    #[error("plugin type={plugin:?} failed ({verb}): no answer after {} s", PATIENCE.as_secs())]
    Late {
        /// The plugin's type.
        plugin: String,
        /// The verb.
        verb: &'static str,
    },
    /// A plugin reported an error.
    #[error("plugin type={plugin:?} failed ({verb}): {message} (code {code})")]
    Plugin {
        /// The plugin's type.
        plugin: String,
        /// The verb.
        verb: &'static str,
        /// The CNI error code, or the exit code of a plugin that said nothing readable.
        code: i64,
        /// Its message and details.
        message: String,
    },
    /// A result without addresses, or one that is not a result.
    #[error("plugin type={plugin:?}: the result cannot be used: {reason}")]
    Result {
        /// The plugin's type.
        plugin: String,
        /// What is wrong.
        reason: String,
    },
}

/// A network: a list of plugins that are called in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The version of the specification that its configuration follows.
    pub version: String,
    /// One configuration per plugin.
    pub plugins: Vec<Value>,
    /// Where the plugins lie.
    pub programs: PathBuf,
}

/// Which pod is attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The sandbox's id.
    pub container: String,
    /// The network namespace's file; empty in a DEL after it is gone.
    pub namespace_path: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
    /// `hostPort`s, in the form of the portMappings capability.
    pub port_mappings: Vec<Value>,
    /// How fast it may send and receive, in the form of the bandwidth capability.
    #[serde(default)]
    pub bandwidth: Option<Value>,
}

/// What an ADD gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The pod's addresses, in the plugin's order.
    pub addresses: Vec<IpAddr>,
    /// The last plugin's result, which CHECK and DEL are given.
    pub result: Value,
}

/// Reads the network of a folder: the first valid file by name.
///
/// # Errors
/// [`Error::None`] when there is no file, else what is wrong with the last one.
pub fn load(folder: &Path, programs: &Path) -> Result<Network, Error> {
    let none = || Error::None {
        folder: folder.to_owned(),
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(|_| none())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            matches!(extension, Some("conflist" | "conf" | "json"))
        })
        .collect();
    files.sort();
    let mut last = none();
    for path in files {
        match read(&path, programs) {
            Ok(network) => return Ok(network),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn read(path: &Path, programs: &Path) -> Result<Network, Error> {
    let wrong = |reason: String| Error::Configuration {
        path: path.to_owned(),
        reason,
    };
    let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let document: Value =
        serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    let text = |name: &str| document[name].as_str().filter(|text| !text.is_empty());
    let name = text("name").ok_or_else(|| wrong("it has no name".to_owned()))?;
    let plugins = if let Some(plugins) = document["plugins"].as_array() {
        plugins.clone()
    } else if document["type"].is_string() {
        // A single plugin's configuration is a list of one.
        vec![document.clone()]
    } else {
        return Err(wrong("it has no plugins".to_owned()));
    };
    if plugins.is_empty() || plugins.iter().any(|plugin| !plugin["type"].is_string()) {
        return Err(wrong(
            "every plugin needs a type, and there must be one".to_owned(),
        ));
    }
    Ok(Network {
        name: name.to_owned(),
        version: version(&document),
        plugins,
        programs: programs.to_owned(),
    })
}

/// The newest version that is spoken here among those the configuration is written for
/// (specification, "Network configuration lists").
fn version(document: &Value) -> String {
    let several = document["cniVersions"].as_array();
    let all = several
        .into_iter()
        .flatten()
        .chain([&document["cniVersion"]]);
    let said = all.filter_map(Value::as_str);
    let newest = said.max_by_key(|said| VERSIONS.iter().position(|known| known == said));
    newest.unwrap_or("0.2.0").to_owned()
}

impl Network {
    /// Attaches a pod: ADD of every plugin in order, each given the result of the one before.
    /// When one fails, DEL of all is called.
    ///
    /// # Errors
    /// The first plugin's that failed.
    pub async fn add(&self, attachment: &Attachment) -> Result<Attached, Error> {
        match self.add_all(attachment).await {
            Ok(attached) => Ok(attached),
            Err(error) => {
                if let Err(second) = self.del(attachment, None).await {
                    tracing::warn!(pod = attachment.name, error = %second, "a failed attachment may leave something");
                }
                Err(error)
            }
        }
    }

    async fn add_all(&self, attachment: &Attachment) -> Result<Attached, Error> {
        let mut previous: Option<Value> = None;
        for plugin in &self.plugins {
            let output = self
                .call("ADD", plugin, attachment, previous.as_ref())
                .await?;
            previous = Some(output);
        }
        let plugin = self.plugins.last().map(type_of).unwrap_or_default();
        let unusable = |reason: &str| Error::Result {
            plugin: plugin.clone(),
            reason: reason.to_owned(),
        };
        let result = previous.ok_or_else(|| unusable("there is no plugin"))?;
        let addresses = addresses(&result).map_err(|reason| unusable(&reason))?;
        Ok(Attached { addresses, result })
    }

    /// Asks every plugin whether the attachment is as it should be.
    ///
    /// # Errors
    /// The first plugin's that objects.
    pub async fn check(&self, attachment: &Attachment, result: &Value) -> Result<(), Error> {
        for plugin in &self.plugins {
            self.call("CHECK", plugin, attachment, Some(result)).await?;
        }
        Ok(())
    }

    /// Detaches a pod: DEL of every plugin in reverse order, all of them whatever fails.
    ///
    /// # Errors
    /// The first plugin's that failed.
    pub async fn del(&self, attachment: &Attachment, result: Option<&Value>) -> Result<(), Error> {
        let mut outcome = Ok(());
        for plugin in self.plugins.iter().rev() {
            let called = self.call("DEL", plugin, attachment, result).await;
            outcome = outcome.and(called.map(|_| ()));
        }
        outcome
    }

    async fn call(
        &self,
        verb: &'static str,
        plugin: &Value,
        attachment: &Attachment,
        previous: Option<&Value>,
    ) -> Result<Value, Error> {
        let kind = type_of(plugin);
        let path = self.programs.join(&kind);
        let failed = |source| Error::Run {
            plugin: kind.clone(),
            verb,
            path: path.clone(),
            source,
        };
        let input = self.input(plugin, attachment, previous);
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            attachment.namespace, attachment.name, attachment.container, attachment.uid
        );
        let mut child = tokio::process::Command::new(&path)
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &attachment.container)
            .env("CNI_NETNS", &attachment.namespace_path)
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_ARGS", arguments)
            .env("CNI_PATH", &self.programs)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let talk = async {
            if let Some(mut stdin) = child.stdin.take() {
                match stdin.write_all(input.to_string().as_bytes()).await {
                    // A plugin may answer without reading.
                    Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(PATIENCE, talk)
            .await
            .map_err(|_| Error::Late {
                plugin: kind.clone(),
                verb,
            })?
            .map_err(failed)?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            return Err(reported(
                &kind,
                verb,
                output.status.code(),
                &output.stdout,
                errors.trim(),
            ));
        }
        if verb != "ADD" {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&output.stdout).map_err(|error| Error::Result {
            plugin: kind.clone(),
            reason: error.to_string(),
        })
    }

    fn input(&self, plugin: &Value, attachment: &Attachment, previous: Option<&Value>) -> Value {
        let mut input = plugin.clone();
        input["name"] = json!(self.name);
        input["cniVersion"] = json!(self.version);
        if let Some(previous) = previous {
            input["prevResult"] = previous.clone();
        }
        let ports = &attachment.port_mappings;
        let asked = [
            ("portMappings", (!ports.is_empty()).then(|| json!(ports))),
            ("bandwidth", attachment.bandwidth.clone()),
        ];
        for (capability, value) in asked {
            if let Some(value) = value
                && plugin["capabilities"][capability] == json!(true)
            {
                input["runtimeConfig"][capability] = value;
            }
        }
        if let Some(fields) = input.as_object_mut() {
            fields.remove("capabilities");
        }
        input
    }
}

fn type_of(plugin: &Value) -> String {
    plugin["type"].as_str().unwrap_or_default().to_owned()
}

/// A plugin's error result (specification, section 5), or what else it said.
fn reported(
    plugin: &str,
    verb: &'static str,
    exit: Option<i32>,
    output: &[u8],
    errors: &str,
) -> Error {
    let said: Value = serde_json::from_slice(output).unwrap_or_default();
    let text = |name: &str| said[name].as_str().filter(|text| !text.is_empty());
    let message = match (text("msg"), text("details")) {
        (Some(message), Some(details)) => format!("{message}: {details}"),
        (Some(message), None) => message.to_owned(),
        (None, _) if !errors.is_empty() => errors.to_owned(),
        (None, _) => "it said nothing".to_owned(),
    };
    Error::Plugin {
        plugin: plugin.to_owned(),
        verb,
        code: said["code"].as_i64().unwrap_or(exit.unwrap_or(-1).into()),
        message,
    }
}

fn addresses(result: &Value) -> Result<Vec<IpAddr>, String> {
    let list = result["ips"].as_array().ok_or("it has no ips")?;
    let addresses: Vec<IpAddr> = list
        .iter()
        .map(|entry| {
            let text = entry["address"].as_str().unwrap_or_default();
            text.parse::<IpNet>()
                .map(|network| network.addr())
                .map_err(|_| format!("{text:?} is not an address with a prefix length"))
        })
        .collect::<Result<_, _>>()?;
    if addresses.is_empty() {
        return Err("it has no ips".to_owned());
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A folder with stub plugins that note how they are called.
    struct Stub {
        folder: PathBuf,
    }

    impl Stub {
        fn new(name: &str) -> Self {
            let folder =
                std::env::temp_dir().join(format!("weft-cni-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            Stub { folder }
        }

        fn plugin(&self, name: &str, answer: &str) {
            let path = self.folder.join(name);
            let log = self.folder.join("calls");
            let script = format!(
                "#!/bin/sh\nread -r input\necho \"$CNI_COMMAND {name} $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS $input\" >> {}\n{answer}\n",
                log.display()
            );
            std::fs::write(&path, script).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }

        fn calls(&self) -> Vec<String> {
            std::fs::read_to_string(self.folder.join("calls"))
                .unwrap_or_default()
                .lines()
                .map(str::to_owned)
                .collect()
        }

        fn network(&self, plugins: &Value) -> Network {
            let config = json!({"cniVersion": "1.1.0", "name": "weft", "plugins": plugins});
            std::fs::write(self.folder.join("10-weft.conflist"), config.to_string()).unwrap();
            load(&self.folder, &self.folder).unwrap()
        }
    }

    impl Drop for Stub {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.folder).unwrap();
        }
    }

    #[test]
    fn the_newest_version_that_is_spoken_is_taken() {
        let version = |document: Value| version(&document);
        assert_eq!(version(json!({"cniVersion": "0.4.0"})), "0.4.0");
        assert_eq!(version(json!({})), "0.2.0");
        let several = json!({"cniVersion": "1.0.0", "cniVersions": ["2.0.0", "1.1.0", "0.4.0"]});
        assert_eq!(version(several), "1.1.0");
    }

    fn attachment() -> Attachment {
        Attachment {
            container: "abc".to_owned(),
            namespace_path: "/proc/7/ns/net".to_owned(),
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            uid: "u-1".to_owned(),
            port_mappings: Vec::new(),
            bandwidth: None,
        }
    }

    const RESULT: &str = r#"echo '{"cniVersion":"1.1.0","ips":[{"address":"10.244.1.5/32"},{"address":"fd00::5/128"}]}'"#;

    #[tokio::test]
    async fn plugins_are_called_in_order_and_undone_in_reverse() {
        let stub = Stub::new("order");
        stub.plugin("first", RESULT);
        stub.plugin("second", RESULT);
        let network = stub.network(&json!([{"type": "first", "mtu": 1500}, {"type": "second"}]));
        let attached = network.add(&attachment()).await.unwrap();
        assert_eq!(
            attached.addresses,
            [
                "10.244.1.5".parse::<IpAddr>().unwrap(),
                "fd00::5".parse().unwrap()
            ]
        );
        network
            .check(&attachment(), &attached.result)
            .await
            .unwrap();
        network
            .del(&attachment(), Some(&attached.result))
            .await
            .unwrap();
        let calls = stub.calls();
        let verbs: Vec<_> = calls
            .iter()
            .map(|call| call.split(' ').take(2).collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            verbs,
            [
                "ADD first",
                "ADD second",
                "CHECK first",
                "CHECK second",
                "DEL second",
                "DEL first"
            ]
        );
        assert!(calls[0].contains(
            "abc /proc/7/ns/net eth0 IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1"
        ));
        assert!(calls[0].contains(r#""mtu":1500"#) && !calls[0].contains("prevResult"));
        assert!(calls[1].contains("prevResult") && calls[1].contains(r#""name":"weft""#));
    }

    #[tokio::test]
    async fn a_failure_is_told_and_undone() {
        let stub = Stub::new("failure");
        stub.plugin("first", RESULT);
        stub.plugin(
            "second",
            r#"[ "$CNI_COMMAND" = DEL ] && exit 0; echo '{"cniVersion":"1.1.0","code":11,"msg":"no free address","details":"range full"}'; exit 1"#,
        );
        let network = stub.network(&json!([{"type": "first"}, {"type": "second"}]));
        let error = network.add(&attachment()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "plugin type=\"second\" failed (ADD): no free address: range full (code 11)"
        );
        let last: Vec<_> = stub
            .calls()
            .iter()
            .rev()
            .take(2)
            .map(|call| call[..4].to_owned())
            .collect();
        assert_eq!(last, ["DEL ", "DEL "]);
    }

    #[test]
    fn a_folder_without_network_says_so_and_a_bad_file_is_named() {
        let stub = Stub::new("bad");
        let error = load(&stub.folder, &stub.folder).unwrap_err().to_string();
        assert!(error.starts_with("no networks found in"), "{error}");
        std::fs::write(stub.folder.join("10-x.conflist"), "{").unwrap();
        let error = load(&stub.folder, &stub.folder).unwrap_err().to_string();
        assert!(error.contains("10-x.conflist"), "{error}");
    }
}
