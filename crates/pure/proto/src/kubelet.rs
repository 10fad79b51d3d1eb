//! What the kubelet's server is asked for, in Kubernetes' own paths and parameters:
//! `/exec/NAMESPACE/POD/CONTAINER?command=…&input=1`, `/attach/…`, `/portForward/NAMESPACE/POD`,
//! `/containerLogs/NAMESPACE/POD/CONTAINER?follow=true`.

use jiff::{SignedDuration, Timestamp};

/// A pod by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_{}", self.name, self.namespace)
    }
}

/// Which of a program's streams are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    /// Its input.
    pub input: bool,
    /// Its output.
    pub output: bool,
    /// Its errors.
    pub errors: bool,
    /// All of them as one terminal.
    pub terminal: bool,
}

/// Which part of a log, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on as long as the container runs.
    pub follow: bool,
    /// Of the container before the present one.
    pub previous: bool,
    /// Begin each line with its time.
    pub timestamps: bool,
    /// Not what is older.
    pub since: Option<Timestamp>,
    /// Only the last lines.
    pub tail: Option<u64>,
    /// End after so many bytes.
    pub limit: Option<u64>,
    /// `stdout` or `stderr` alone.
    pub stream: Option<&'static str>,
}

/// A question to the kubelet's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Whether it is there.
    Health,
    /// Run a program.
    Exec {
        /// The pod.
        pod: PodName,
        /// The container.
        container: String,
        /// Its streams.
        streams: Streams,
        /// Program and arguments.
        command: Vec<String>,
    },
    /// Join the container's own program.
    Attach {
        /// The pod.
        pod: PodName,
        /// The container.
        container: String,
        /// Its streams.
        streams: Streams,
    },
    /// Connect to ports inside the pod.
    PortForward {
        /// The pod.
        pod: PodName,
    },
    /// Read a log.
    Logs {
        /// The pod.
        pod: PodName,
        /// The container.
        container: String,
        /// How.
        options: LogOptions,
    },
}

/// Why a question is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such path.
    #[error("404 page not found")]
    Path,
    /// A parameter.
    #[error("{0}")]
    Parameter(String),
}

impl Call {
    /// Reads a path and a query (without `?`). `now` is what `sinceSeconds` counts from.
    ///
    /// # Errors
    /// [`Error`].
    pub fn parse(path: &str, query: &str, now: Timestamp) -> Result<Self, Error> {
        let parts: Vec<String> = path
            .trim_start_matches('/')
            .split('/')
            .map(decode)
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let query = pairs(query);
        match parts.as_slice() {
            ["healthz"] => Ok(Call::Health),
            ["exec", namespace, name, container] | ["exec", namespace, name, _, container] => {
                let words = query.iter().filter(|(key, _)| key == "command");
                let command: Vec<String> = words.map(|(_, word)| word.clone()).collect();
                if command.is_empty() {
                    return Err(Error::Parameter(
                        "you must specify at least one command for the container".to_owned(),
                    ));
                }
                Ok(Call::Exec {
                    pod: pod(namespace, name)?,
                    container: word(container)?,
                    streams: streams(&query)?,
                    command,
                })
            }
            ["attach", namespace, name, container] | ["attach", namespace, name, _, container] => {
                Ok(Call::Attach {
                    pod: pod(namespace, name)?,
                    container: word(container)?,
                    streams: streams(&query)?,
                })
            }
            ["portForward", namespace, name] | ["portForward", namespace, name, _] => {
                Ok(Call::PortForward {
                    pod: pod(namespace, name)?,
                })
            }
            ["containerLogs", namespace, name, container] => Ok(Call::Logs {
                pod: pod(namespace, name)?,
                container: word(container)?,
                options: log_options(&query, now)?,
            }),
            _ => Err(Error::Path),
        }
    }
}

fn pod(namespace: &str, name: &str) -> Result<PodName, Error> {
    Ok(PodName {
        namespace: word(namespace)?,
        name: word(name)?,
    })
}

/// A name of Kubernetes. They become parts of paths here, so nothing else may pass.
fn word(text: &str) -> Result<String, Error> {
    let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    let plain = text.bytes().all(fits) && !text.starts_with('.') && text.len() <= 253;
    (plain && !text.is_empty())
        .then(|| text.to_owned())
        .ok_or(Error::Path)
}

fn get<'a>(query: &'a [(String, String)], name: &str) -> &'a str {
    let found = query.iter().find(|(key, _)| key == name);
    found.map_or("", |(_, value)| value)
}

fn flag(query: &[(String, String)], name: &str) -> bool {
    matches!(get(query, name), "1" | "t" | "T" | "true" | "TRUE" | "True")
}

fn streams(query: &[(String, String)]) -> Result<Streams, Error> {
    let streams = Streams {
        input: flag(query, "input"),
        output: flag(query, "output"),
        errors: flag(query, "error"),
        terminal: flag(query, "tty"),
    };
    if !(streams.input || streams.output || streams.errors) {
        return Err(Error::Parameter(
            "you must specify at least 1 of stdin, stdout, stderr".to_owned(),
        ));
    }
    Ok(Streams {
        // A terminal has no errors of its own.
        errors: streams.errors && !streams.terminal,
        ..streams
    })
}

fn log_options(query: &[(String, String)], now: Timestamp) -> Result<LogOptions, Error> {
    let number = |name: &str| match get(query, name) {
        "" => Ok(None),
        text => text
            .parse::<u64>()
            .map(Some)
            .map_err(|_| Error::Parameter(format!("{name}: {text:?} is not a number"))),
    };
    let mut since = match get(query, "sinceTime") {
        "" => None,
        text => Some(text.parse().map_err(|error| {
            Error::Parameter(format!("sinceTime: {text:?} is not a time: {error}"))
        })?),
    };
    if let Some(seconds) = number("sinceSeconds")? {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        since = now.checked_sub(SignedDuration::from_secs(seconds)).ok();
    }
    Ok(LogOptions {
        follow: flag(query, "follow"),
        previous: flag(query, "previous"),
        timestamps: flag(query, "timestamps"),
        since,
        tail: number("tailLines")?,
        limit: number("limitBytes")?,
        stream: match get(query, "stream") {
            "Stdout" => Some("stdout"),
            "Stderr" => Some("stderr"),
            _ => None,
        },
    })
}

fn pairs(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let plain = |text: &str| decode(&text.replace('+', " "));
            (plain(key), plain(value))
        })
        .collect()
}

/// Percent-decodes.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).filter(|_| *byte == b'%');
        let value = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(value.unwrap_or(*byte));
        at += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A query of these parameters, with its `?`; empty for none.
#[must_use]
pub fn encode(parameters: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in parameters {
        out.push(if out.is_empty() { '?' } else { '&' });
        out.push_str(name);
        out.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    out.push(char::from(byte));
                }
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    out
}

/// The body of the fuzz target: a line is a path and a query. Nothing may panic, and no name that
/// passes may lead out of its folder.
///
/// # Panics
/// When it does.
pub fn exercise(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (path, query) = text.split_once('?').unwrap_or((&text, ""));
    let Ok(call) = Call::parse(path, query, Timestamp::UNIX_EPOCH) else {
        return;
    };
    let (pod, container) = match &call {
        Call::Health => return,
        Call::PortForward { pod } => (pod, None),
        Call::Exec { pod, container, .. }
        | Call::Attach { pod, container, .. }
        | Call::Logs { pod, container, .. } => (pod, Some(container)),
    };
    for name in [Some(&pod.namespace), Some(&pod.name), container]
        .into_iter()
        .flatten()
    {
        assert!(
            !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']),
            "{name:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str, query: &str) -> Result<Call, Error> {
        Call::parse(path, query, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_command_keeps_its_words() {
        let query = encode(&[
            ("input", "1"),
            ("command", "sh"),
            ("command", "echo a&b=\"c\" +ü%"),
        ]);
        let Ok(Call::Exec {
            command,
            streams,
            pod,
            container,
        }) = parse("/exec/default/web/main", query.trim_start_matches('?'))
        else {
            panic!("no exec");
        };
        assert_eq!(command, ["sh", "echo a&b=\"c\" +ü%"]);
        assert!(streams.input && !streams.output && !streams.terminal);
        assert_eq!(
            (pod.to_string().as_str(), container.as_str()),
            ("web_default", "main")
        );
    }

    #[test]
    fn names_lead_nowhere_else() {
        for path in [
            "/exec/default/../main",
            "/exec/default/%2e%2e/main",
            "/exec/default/a%2Fb/main",
            "/exec//web/main",
            "/attach/default/web/M",
            "/nothing",
        ] {
            assert_eq!(parse(path, "input=1&command=a"), Err(Error::Path), "{path}");
        }
    }

    #[test]
    fn a_log_s_options() {
        let query = "follow=true&sinceSeconds=60&tailLines=5&limitBytes=9&timestamps=true";
        let Ok(Call::Logs { options, .. }) = parse("/containerLogs/a/b/c", query) else {
            panic!("no log");
        };
        assert!(options.follow && options.timestamps && !options.previous);
        assert_eq!((options.tail, options.limit), (Some(5), Some(9)));
        assert_eq!(options.since.unwrap().as_second(), -60);
        assert!(parse("/containerLogs/a/b/c", "tailLines=-1").is_err());
    }
}
