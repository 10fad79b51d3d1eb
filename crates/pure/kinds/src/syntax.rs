//! What names, labels, ports and addresses look like, in Kubernetes' words.
//!
//! Each check returns the complaints: an empty list is a pass. Sources: RFC 1123,
//! RFC 1035, RFC 6335, and apimachinery's `util/validation` for the wording.

use std::net::IpAddr;

use ipnet::IpNet;

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;
/// RFC 6335, section 5.1.
const PORT_NAME_MAX: usize = 15;

const LABEL_FORM: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_FORM: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035_FORM: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_FORM: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_FORM: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY_FORM: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_NAME_FORM: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";
const WILDCARD_FORM: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
pub(crate) const CIDR_FORM: &str =
    "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
const IP_FORM: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// Checks an object's name; `prefix` says that it is a `generateName`.
pub(crate) type NameCheck = fn(&str, bool) -> Vec<String>;

/// Generated names end in random characters: a trailing dash of the prefix is fine.
fn masked(name: &str, prefix: bool) -> String {
    if prefix && name.len() > 1 && name.ends_with('-') {
        return format!("{}a", &name[..name.len() - 1]);
    }
    name.to_owned()
}

pub(crate) fn name_dns_subdomain(name: &str, prefix: bool) -> Vec<String> {
    is_dns1123_subdomain(&masked(name, prefix))
}

pub(crate) fn name_dns_label(name: &str, prefix: bool) -> Vec<String> {
    is_dns1123_label(&masked(name, prefix))
}

pub(crate) fn name_dns1035_label(name: &str, prefix: bool) -> Vec<String> {
    is_dns1035_label(&masked(name, prefix))
}

/// A name that only has to be one element of a URL: RBAC's.
pub(crate) fn name_path(name: &str, prefix: bool) -> Vec<String> {
    if !prefix && (name == "." || name == "..") {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"]
        .iter()
        .filter(|part| name.contains(**part))
        .map(|part| format!("may not contain '{part}'"))
        .collect()
}

/// The name of an IPAddress: the address itself.
pub(crate) fn name_ip(name: &str, _: bool) -> Vec<String> {
    is_canonical_ip(name)
}

/// `must be between LOW and HIGH, inclusive`.
pub(crate) fn range_complaint(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn length_complaint(limit: usize) -> String {
    format!("must be no more than {limit} characters")
}

fn is_lower_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alnum = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            alnum(first) && alnum(last) && bytes.iter().all(|&byte| alnum(byte) || byte == b'-')
        }
        _ => false,
    }
}

fn is_qualified_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        }
        _ => false,
    }
}

/// A DNS label of RFC 1123: a Namespace's, a container's, a port's name.
pub fn is_dns1123_label(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if text.len() > LABEL_MAX {
        complaints.push(length_complaint(LABEL_MAX));
    }
    if !is_lower_label(text) {
        complaints.push(if is_subdomain(text) {
            // What most people get wrong here, said first.
            "must not contain dots".to_owned()
        } else {
            LABEL_FORM.to_owned()
        });
    }
    complaints
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_lower_label)
}

/// A DNS subdomain of RFC 1123: the name of most objects.
pub fn is_dns1123_subdomain(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        complaints.push(length_complaint(SUBDOMAIN_MAX));
    }
    if !is_subdomain(text) {
        complaints.push(SUBDOMAIN_FORM.to_owned());
    }
    complaints
}

/// A DNS label of RFC 1035: a Service's name.
pub fn is_dns1035_label(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if text.len() > LABEL_MAX {
        complaints.push(length_complaint(LABEL_MAX));
    }
    if !is_lower_label(text) || !text.starts_with(|first: char| first.is_ascii_lowercase()) {
        complaints.push(LABEL_1035_FORM.to_owned());
    }
    complaints
}

/// A qualified name: the key of a label or annotation.
pub fn is_qualified_name(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                complaints.push("prefix part must be non-empty".to_owned());
            } else {
                complaints.extend(
                    is_dns1123_subdomain(prefix)
                        .into_iter()
                        .map(|one| format!("prefix part {one}")),
                );
            }
            *name
        }
        _ => {
            complaints.push(format!(
                "a qualified name {QUALIFIED_FORM} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ));
            return complaints;
        }
    };
    if name.is_empty() {
        complaints.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        complaints.push(format!("name part {}", length_complaint(LABEL_MAX)));
    }
    if !is_qualified_part(name) {
        complaints.push(format!("name part {QUALIFIED_FORM}"));
    }
    complaints
}

/// The value of a label.
pub fn is_label_value(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if text.len() > LABEL_MAX {
        complaints.push(length_complaint(LABEL_MAX));
    }
    if !text.is_empty() && !is_qualified_part(text) {
        complaints.push(LABEL_VALUE_FORM.to_owned());
    }
    complaints
}

/// What [`is_sysctl`] asks for.
pub(crate) const SYSCTL_FORM: &str = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// The name of a kernel setting: parts joined by dots or slashes.
pub(crate) fn is_sysctl(text: &str) -> bool {
    let part = |part: &str| {
        let bytes = part.as_bytes();
        let alnum = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        bytes.first().is_some_and(alnum)
            && bytes.last().is_some_and(alnum)
            && bytes.iter().all(|byte| alnum(byte) || b"-_".contains(byte))
    };
    text.len() <= SUBDOMAIN_MAX && text.split(['.', '/']).all(part)
}

/// A header's name.
pub(crate) fn is_http_header(text: &str) -> Vec<String> {
    const FORM: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    if !text.is_empty() && text.as_bytes().iter().all(fits) {
        return Vec::new();
    }
    vec![FORM.to_owned()]
}

/// A port's number.
pub(crate) fn is_port_number(number: i64) -> Vec<String> {
    if (1..=65535).contains(&number) {
        Vec::new()
    } else {
        vec![range_complaint(1, 65535)]
    }
}

/// A port's name by RFC 6335, section 5.1.
pub(crate) fn is_port_name(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if text.len() > PORT_NAME_MAX {
        complaints.push(length_complaint(PORT_NAME_MAX));
    }
    let charset = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    if text.is_empty() || !text.as_bytes().iter().all(charset) {
        complaints.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !text.as_bytes().iter().any(u8::is_ascii_lowercase) {
        complaints.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        complaints.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        complaints.push("must not begin or end with a hyphen".to_owned());
    }
    complaints
}

/// The key of a ConfigMap or Secret: it may become a file's name.
pub(crate) fn is_config_map_key(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        complaints.push(length_complaint(SUBDOMAIN_MAX));
    }
    let charset = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    if text.is_empty() || !text.as_bytes().iter().all(charset) {
        complaints.push(CONFIG_KEY_FORM.to_owned());
    }
    if text == "." {
        complaints.push("must not be '.'".to_owned());
    } else if text == ".." {
        complaints.push("must not be '..'".to_owned());
    } else if text.starts_with("..") {
        complaints.push("must not start with '..'".to_owned());
    }
    complaints
}

/// The name of an environment variable.
pub(crate) fn is_env_name(text: &str) -> Vec<String> {
    let printable = |byte: &u8| (b' '..=b'~').contains(byte) && *byte != b'=';
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if text.as_bytes().iter().all(printable) {
        return Vec::new();
    }
    vec![ENV_NAME_FORM.to_owned()]
}

/// An IP address of either family; not an IPv4-mapped IPv6 one.
pub(crate) fn is_ip(text: &str) -> Vec<String> {
    match text.parse::<IpAddr>() {
        Ok(_) => Vec::new(),
        Err(_) => vec![IP_FORM.to_owned()],
    }
}

/// An IP address in the one form that `Display` gives it.
pub(crate) fn is_canonical_ip(text: &str) -> Vec<String> {
    let Ok(address) = text.parse::<IpAddr>() else {
        return is_ip(text);
    };
    let canonical = address.to_string();
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if mapped {
        vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
    } else if canonical != text {
        vec![format!("must be in canonical form (\"{canonical}\")")]
    } else {
        Vec::new()
    }
}

/// A range of addresses in the one form that `Display` gives it, without host bits.
pub(crate) fn is_canonical_cidr(text: &str) -> Vec<String> {
    let Ok(range) = text.parse::<IpNet>() else {
        return vec![CIDR_FORM.to_owned()];
    };
    let mapped = matches!(range.addr(), IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if mapped {
        vec!["must not have an IPv4-mapped IPv6 address".to_owned()]
    } else if range.trunc() != range {
        vec!["must not have bits set beyond the prefix length".to_owned()]
    } else if range.to_string() != text {
        vec![format!("must be in canonical form (\"{range}\")")]
    } else {
        Vec::new()
    }
}

/// A wildcard of RFC 1034, section 4.3.3: `*.` and a DNS subdomain.
pub(crate) fn is_wildcard_subdomain(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        complaints.push(length_complaint(SUBDOMAIN_MAX));
    }
    if !text.strip_prefix("*.").is_some_and(is_subdomain) {
        complaints.push(WILDCARD_FORM.to_owned());
    }
    complaints
}

/// A path of RFC 3986 without query and fragment.
pub(crate) fn is_http_path(text: &str) -> bool {
    let charset = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(byte);
    !text.is_empty() && text.as_bytes().iter().all(charset)
}

/// Quantity-less counters: replicas, ports of a probe, seconds.
pub(crate) fn is_not_negative(number: i64) -> Vec<String> {
    if number < 0 {
        vec!["must be greater than or equal to 0".to_owned()]
    } else {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(is_dns1123_label("a-1").is_empty());
        assert_eq!(is_dns1123_label("A"), vec![LABEL_FORM.to_owned()]);
        assert_eq!(
            is_dns1123_label("a.b"),
            vec!["must not contain dots".to_owned()]
        );
        assert!(is_dns1123_subdomain("a.b-c.d").is_empty());
        assert_eq!(
            is_dns1123_subdomain("a..b"),
            vec![SUBDOMAIN_FORM.to_owned()]
        );
        assert_eq!(is_dns1035_label("1a"), vec![LABEL_1035_FORM.to_owned()]);
        assert_eq!(
            is_dns1123_label(&"a".repeat(64)),
            vec!["must be no more than 63 characters".to_owned()]
        );
    }

    #[test]
    fn labels() {
        assert!(is_qualified_name("app.kubernetes.io/name").is_empty());
        assert!(is_qualified_name("My_name").is_empty());
        assert_eq!(
            is_qualified_name("/x"),
            vec!["prefix part must be non-empty".to_owned()]
        );
        assert_eq!(is_qualified_name("a/b/c").len(), 1);
        assert!(is_label_value("").is_empty());
        assert_eq!(is_label_value("-x"), vec![LABEL_VALUE_FORM.to_owned()]);
    }

    #[test]
    fn ports() {
        assert!(is_port_name("http-2").is_empty());
        assert_eq!(
            is_port_name("123"),
            vec!["must contain at least one letter (a-z)".to_owned()]
        );
        assert_eq!(
            is_port_number(0),
            vec!["must be between 1 and 65535, inclusive".to_owned()]
        );
    }
}
