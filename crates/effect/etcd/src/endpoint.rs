//! Where a member of etcd is.

use std::fmt;
use std::str::FromStr;

use http::Uri;

use crate::Error;

/// etcd's client port, where a URL has none.
const PORT: u16 = 2379;

/// A member's URL: `http://127.0.0.1:2379`, `https://etcd.example:2379`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub(crate) tls: bool,
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason| Error::Endpoint {
            text: text.to_owned(),
            reason,
        };
        let uri: Uri = text
            .parse()
            .map_err(|_| wrong("is no URL; give one like http://127.0.0.1:2379"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("must begin with http:// or https://")),
        };
        let path = uri.path_and_query().map_or("", |path| path.as_str());
        if !matches!(path, "" | "/") {
            return Err(wrong("must end with the port"));
        }
        let host = uri.host().unwrap_or_default();
        if host.is_empty() {
            return Err(wrong("has no host"));
        }
        Ok(Self {
            tls,
            host: host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            port: uri.port_u16().unwrap_or(PORT),
        })
    }
}

impl Endpoint {
    /// Whether it is `https`.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Host and port, as a URL has them.
    pub(crate) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_written() {
        for (text, shown) in [
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379"),
            ("https://etcd.example/", "https://etcd.example:2379"),
            ("http://[fd00::1]:4001", "http://[fd00::1]:4001"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), shown);
        }
        for (text, words) in [
            ("127.0.0.1:2379", "must begin with http://"),
            ("ftp://a", "must begin with http://"),
            ("http://a:1/v2", "must end with the port"),
            ("http://", "is no URL"),
            ("", "is no URL"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
