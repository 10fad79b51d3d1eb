//! The formats of texts that are checked; all others say nothing (as in Kubernetes).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A format of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Byte,
    Cidr,
    Date,
    DateTime,
    Duration,
    Email,
    HexColor,
    Hostname,
    Ipv4,
    Ipv6,
    Mac,
    /// With the version that its digits must say, if any.
    Uuid(Option<char>),
    Uri,
}

impl Format {
    /// Reads a format's name; dashes do not matter.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name.replace('-', "").as_str() {
            "byte" => Self::Byte,
            "cidr" => Self::Cidr,
            "date" => Self::Date,
            "datetime" => Self::DateTime,
            "duration" => Self::Duration,
            "email" => Self::Email,
            "hexcolor" => Self::HexColor,
            "hostname" => Self::Hostname,
            "ipv4" => Self::Ipv4,
            "ipv6" => Self::Ipv6,
            "mac" => Self::Mac,
            "uuid" => Self::Uuid(None),
            "uuid3" => Self::Uuid(Some('3')),
            "uuid4" => Self::Uuid(Some('4')),
            "uuid5" => Self::Uuid(Some('5')),
            "uri" => Self::Uri,
            _ => return None,
        })
    }

    /// Its name in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Byte => "byte",
            Self::Cidr => "cidr",
            Self::Date => "date",
            Self::DateTime => "date-time",
            Self::Duration => "duration",
            Self::Email => "email",
            Self::HexColor => "hexcolor",
            Self::Hostname => "hostname",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Mac => "mac",
            Self::Uuid(None) => "uuid",
            Self::Uuid(Some('3')) => "uuid3",
            Self::Uuid(Some('4')) => "uuid4",
            Self::Uuid(Some(_)) => "uuid5",
            Self::Uri => "uri",
        }
    }

    /// Whether a text has this format.
    pub(crate) fn accepts(self, text: &str) -> bool {
        match self {
            Self::Byte => STANDARD.decode(text).is_ok(),
            Self::Cidr => is_cidr(text),
            Self::Date => text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10,
            Self::DateTime => text.contains(['T', 't']) && text.parse::<jiff::Timestamp>().is_ok(),
            Self::Duration => is_duration(text),
            Self::Email => is_email(text),
            Self::HexColor => {
                let digits = text.strip_prefix('#').unwrap_or(text);
                matches!(digits.len(), 3 | 6) && digits.bytes().all(|one| one.is_ascii_hexdigit())
            }
            Self::Hostname => is_hostname(text),
            Self::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Self::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
            Self::Mac => is_mac(text),
            Self::Uuid(version) => is_uuid(text, version),
            Self::Uri => is_uri(text),
        }
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    let digits = !length.is_empty() && length.bytes().all(|one| one.is_ascii_digit());
    match (address.parse::<IpAddr>(), length.parse::<u8>()) {
        (Ok(IpAddr::V4(_)), Ok(length)) => digits && length <= 32,
        (Ok(IpAddr::V6(_)), Ok(length)) => digits && length <= 128,
        _ => false,
    }
}

/// Go's `time.ParseDuration` (`1h30m`, `-1.5s`), or one number and a unit (`3 days`).
fn is_duration(text: &str) -> bool {
    is_go_duration(text) || is_spoken_duration(text)
}

fn is_go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let number = rest
            .find(|one: char| !one.is_ascii_digit() && one != '.')
            .unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        let unit = after
            .find(|one: char| one.is_ascii_digit() || one == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let is_number = digits.bytes().any(|one| one.is_ascii_digit())
            && digits.bytes().filter(|one| *one == b'.').count() <= 1;
        if !is_number || !["ns", "us", "µs", "μs", "ms", "s", "m", "h"].contains(&unit) {
            return false;
        }
        rest = after;
    }
    true
}

fn is_spoken_duration(text: &str) -> bool {
    const UNITS: [&str; 14] = [
        "ns", "nano", "us", "micro", "ms", "milli", "s", "sec", "m", "min", "h", "hr", "hour", "d",
    ];
    let text = text.trim();
    let number = text
        .find(|one: char| !one.is_ascii_digit())
        .unwrap_or(text.len());
    let unit = text[number..].trim();
    number > 0
        && (UNITS.contains(&unit)
            || [
                "nanosecond",
                "microsecond",
                "millisecond",
                "second",
                "minute",
                "hour",
                "day",
                "week",
                "w",
            ]
            .iter()
            .any(|long| unit == *long || unit.strip_suffix('s') == Some(long)))
}

fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else {
        return false;
    };
    let plain = |part: &str| {
        !part.is_empty()
            && !part.contains(|one: char| one.is_whitespace() || "()<>,;:\\\"[]@".contains(one))
    };
    plain(local) && plain(domain)
}

/// RFC 1034, section 3.1, with digits in front as RFC 1123 allows.
fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .chars()
                .all(|one| one.is_alphanumeric() || one == '-' || one == '_')
    };
    text.len() <= 255 && text.trim_end_matches('.').split('.').all(label)
}

fn is_mac(text: &str) -> bool {
    let hex = |groups: Vec<&str>, length: usize| {
        groups
            .iter()
            .all(|group| group.len() == length && group.bytes().all(|one| one.is_ascii_hexdigit()))
    };
    let by = |separator: char| text.split(separator).collect::<Vec<_>>();
    let bytes =
        |separator: char| matches!(by(separator).len(), 6 | 8 | 20) && hex(by(separator), 2);
    let words = matches!(by('.').len(), 3 | 4 | 10) && hex(by('.'), 4);
    bytes(':') || bytes('-') || words
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    let digits: String = text.chars().filter(|one| *one != '-').collect();
    let grouped = [8, 13, 18, 23];
    let dashes_fit = text.len() == 32
        || grouped
            .iter()
            .all(|at| text.as_bytes().get(*at) == Some(&b'-'));
    let said = digits.chars().nth(12);
    let variant = digits.chars().nth(16).map(|one| one.to_ascii_lowercase());
    digits.len() == 32
        && dashes_fit
        && digits.bytes().all(|one| one.is_ascii_hexdigit())
        && version.is_none_or(|version| said == Some(version))
        && (!matches!(version, Some('4' | '5')) || matches!(variant, Some('8' | '9' | 'a' | 'b')))
}

/// Go's `url.ParseRequestURI`: an absolute URI or an absolute path.
fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.contains(|one: char| one.is_ascii_control() || one == ' ') {
        return false;
    }
    if text.starts_with('/') {
        return true;
    }
    text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|one: char| one.is_ascii_alphabetic())
            && scheme
                .chars()
                .all(|one| one.is_ascii_alphanumeric() || "+-.".contains(one))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_accept_what_kubernetes_accepts() {
        for (name, good, bad) in [
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "fd00::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "02:42:ac:11:00:02", "02:42:ac:11:00"),
            ("date", "2024-02-29", "2023-02-29"),
            ("date-time", "2024-02-29T12:00:00Z", "2024-02-29"),
            ("duration", "1h30m", "1 parsec"),
            ("duration", "3 days", "days"),
            ("byte", "YQ==", "Y"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
            (
                "uuid4",
                "123e4567-e89b-42d3-a456-426614174000",
                "123e4567-e89b-12d3-a456-426614174000",
            ),
            ("hostname", "a.example.org", "a..org"),
            ("email", "a@example.org", "example.org"),
            ("uri", "https://example.org/a", "no uri"),
            ("hexcolor", "#0aF", "#0g0"),
        ] {
            let format = Format::parse(name).unwrap();
            assert!(format.accepts(good), "{name} {good}");
            assert!(!format.accepts(bad), "{name} {bad}");
        }
        assert_eq!(Format::parse("int32"), None);
    }
}
