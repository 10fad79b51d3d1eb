//! What a request asks for besides its object: `metav1.ListOptions`, `CreateOptions`,
//! `UpdateOptions`, `PatchOptions` and `DeleteOptions`.
//!
//! The rules and their wording are those of apimachinery's `ValidateListOptions` and its
//! siblings.

use serde_json::Value;

use crate::delete::{DeleteOptions, Propagation};
use crate::resource::FieldError;
use crate::route::Query;
use crate::status::ApiError;
use crate::write::FieldValidation;

/// The longest name of a field manager, in bytes.
const LONGEST_MANAGER: usize = 128;

/// How a list's version has to fit `resourceVersion`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VersionMatch {
    Exact,
    NotOlderThan,
}

/// Which version a list or watch is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskedVersion {
    /// Nothing is said: the newest.
    Unset,
    /// `0`: any.
    Any,
    /// A version.
    At(u64),
}

/// `metav1.ListOptions`, selectors aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListOptions {
    pub(crate) version: AskedVersion,
    pub(crate) matching: Option<VersionMatch>,
    /// 0 for no limit.
    pub(crate) limit: usize,
    /// The token of the page before, if one is given.
    pub(crate) token: Option<String>,
    pub(crate) send_initial: Option<bool>,
    pub(crate) bookmarks: bool,
    /// `None` or 0: as long as the server likes.
    pub(crate) timeout_seconds: Option<u64>,
}

impl ListOptions {
    /// Reads the options of a list (`watch` false) or of a watch.
    ///
    /// # Errors
    /// 422 for what contradicts itself, 400 for what can't be read.
    pub(crate) fn parse(query: &Query, watch: bool) -> Result<Self, ApiError> {
        let matching = query.get("resourceVersionMatch");
        let version = query.get("resourceVersion");
        let send_initial = query
            .has("sendInitialEvents")
            .then(|| query.flag("sendInitialEvents"));
        let errors = if watch {
            watch_errors(query, matching, send_initial)
        } else {
            list_errors(query, matching, version, send_initial)
        };
        if !errors.is_empty() {
            return Err(ApiError::invalid_options("ListOptions", &errors));
        }
        let token = query.get("continue");
        if !token.is_empty() && !matches!(version, "" | "0") {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let limit = query.number("limit")?.unwrap_or(0);
        let timeout = query.number("timeoutSeconds")?;
        Ok(Self {
            version: match version {
                "" => AskedVersion::Unset,
                "0" => AskedVersion::Any,
                text => AskedVersion::At(version_number(text)?),
            },
            matching: match matching {
                "Exact" => Some(VersionMatch::Exact),
                "NotOlderThan" => Some(VersionMatch::NotOlderThan),
                _ => None,
            },
            limit: usize::try_from(limit).unwrap_or(0),
            token: (!token.is_empty()).then(|| token.to_owned()),
            send_initial,
            bookmarks: query.flag("allowWatchBookmarks"),
            timeout_seconds: timeout.and_then(|seconds| u64::try_from(seconds).ok()),
        })
    }

    /// The version a list must show, `None` for the newest. As in Kubernetes a limited list
    /// of a version without a word about how it has to match means exactly that version.
    pub(crate) fn exact_version(&self) -> Option<u64> {
        let exact = match self.matching {
            Some(VersionMatch::Exact) => true,
            Some(VersionMatch::NotOlderThan) => false,
            None => self.limit > 0,
        };
        match self.version {
            AskedVersion::At(version) if exact => Some(version),
            AskedVersion::At(_) | AskedVersion::Unset | AskedVersion::Any => None,
        }
    }

    /// Whether a watch begins with the objects there are. Without a version it always did.
    pub(crate) fn begins_with_objects(&self) -> bool {
        self.send_initial
            .unwrap_or(!matches!(self.version, AskedVersion::At(_)))
    }

    /// Whether a bookmark says where the objects end and the changes begin.
    pub(crate) fn marks_end_of_objects(&self) -> bool {
        self.begins_with_objects() && self.bookmarks
    }
}

fn forbidden_match(why: &str) -> FieldError {
    FieldError::forbidden("resourceVersionMatch", why)
}

fn list_errors(
    query: &Query,
    matching: &str,
    version: &str,
    send_initial: Option<bool>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !matching.is_empty() {
        if version.is_empty() {
            errors.push(forbidden_match(
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        errors.extend(match_with_token(query));
        if !matches!(matching, "Exact" | "NotOlderThan") {
            errors.push(FieldError::not_supported(
                "resourceVersionMatch",
                matching,
                &["Exact", "NotOlderThan", ""],
            ));
        }
        if matching == "Exact" && version == "0" {
            errors.push(forbidden_match(
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
    }
    if send_initial.is_some() {
        errors.push(FieldError::forbidden(
            "sendInitialEvents",
            "sendInitialEvents is forbidden for list",
        ));
    }
    errors
}

fn watch_errors(query: &Query, matching: &str, send_initial: Option<bool>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if send_initial.is_some() && matching != "NotOlderThan" {
        errors.push(forbidden_match(
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    if !matching.is_empty() {
        if send_initial.is_none() {
            errors.push(forbidden_match(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        if matching != "NotOlderThan" {
            errors.push(FieldError::not_supported(
                "resourceVersionMatch",
                matching,
                &["NotOlderThan"],
            ));
        }
        errors.extend(match_with_token(query));
    }
    errors
}

fn match_with_token(query: &Query) -> Option<FieldError> {
    (!query.get("continue").is_empty())
        .then(|| forbidden_match("resourceVersionMatch is forbidden when continue is provided"))
}

fn version_number(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "resourceVersion: Invalid value: {text:?}: must be a decimal number"
        ))
    })
}

/// What every write may say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) validation: FieldValidation,
    /// Who writes, if the request says.
    pub(crate) manager: Option<String>,
}

impl WriteOptions {
    /// Reads the options that Kubernetes calls `kind`: `CreateOptions`, `UpdateOptions`,
    /// `PatchOptions`; `applies` for a patch that is a server-side apply.
    ///
    /// # Errors
    /// 422 for values that are not allowed.
    pub(crate) fn parse(query: &Query, kind: &str, applies: bool) -> Result<Self, ApiError> {
        let manager = query.get("fieldManager");
        let mut errors = Vec::new();
        if kind == "PatchOptions" {
            if applies && manager.is_empty() {
                errors.push(FieldError::required(
                    "fieldManager",
                    "is required for apply patch",
                ));
            }
            if !applies && query.has("force") {
                errors.push(FieldError::forbidden(
                    "force",
                    "may not be specified for non-apply patch",
                ));
            }
        }
        errors.extend(manager_errors(manager));
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let validation = match query.get("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            "Ignore" => FieldValidation::Ignore,
            other => {
                errors.push(FieldError::not_supported(
                    "fieldValidation",
                    other,
                    &["", "Ignore", "Strict", "Warn"],
                ));
                FieldValidation::Warn
            }
        };
        if !errors.is_empty() {
            return Err(ApiError::invalid_options(kind, &errors));
        }
        Ok(Self {
            dry_run,
            validation,
            manager: (!manager.is_empty()).then(|| manager.to_owned()),
        })
    }
}

fn manager_errors(manager: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if manager.len() > LONGEST_MANAGER {
        errors.push(FieldError::too_long("fieldManager", LONGEST_MANAGER));
    }
    if let Some((at, bad)) = manager.char_indices().find(|(_, one)| one.is_control()) {
        let why = format!(
            "invalid character U+{:04X} (at position {at})",
            u32::from(bad)
        );
        errors.push(FieldError::invalid("fieldManager", &manager.into(), &why));
    }
    errors
}

/// The name of a client program, from its `User-Agent`: what stands before the first slash.
pub(crate) fn manager_of_agent(agent: &str) -> String {
    let program = agent.split('/').next().unwrap_or_default();
    program
        .chars()
        .filter(|one| !one.is_control())
        .take(LONGEST_MANAGER)
        .collect()
}

/// Whether nothing is to be kept, from the values of `dryRun`.
fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut Vec<FieldError>) -> bool {
    let values: Vec<&str> = values.collect();
    if values.iter().any(|value| *value != "All") {
        let said: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
        let mut error = FieldError::not_supported("dryRun", "", &["All"]);
        error.message = format!(
            "Unsupported value: []string{{{}}}: supported values: \"All\"",
            said.join(", ")
        );
        errors.push(error);
    }
    !values.is_empty()
}

/// Options of a delete: from the body, or else from the query.
///
/// # Errors
/// 422 for values that are not allowed.
pub(crate) fn delete_options(body: &Value, query: &Query) -> Result<DeleteOptions, ApiError> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    if !body.is_null() && !body.is_object() {
        return Err(ApiError::bad_request("the body must be DeleteOptions"));
    }
    let kind = &body["kind"];
    if !matches!(kind.as_str(), None | Some("" | "DeleteOptions")) {
        return Err(ApiError::bad_request(format!(
            "the body must be DeleteOptions, not {kind}"
        )));
    }
    let mut errors = Vec::new();
    let seconds = &body["gracePeriodSeconds"];
    let grace_period = if seconds.is_null() {
        query.number("gracePeriodSeconds")?
    } else {
        Some(seconds.as_i64().ok_or_else(|| {
            ApiError::bad_request(format!(
                "gracePeriodSeconds of DeleteOptions must be a number of seconds, not {seconds}"
            ))
        })?)
    };
    let policy = text(&body["propagationPolicy"])
        .or_else(|| Some(query.get("propagationPolicy").to_owned()))
        .filter(|policy| !policy.is_empty());
    let orphan = body["orphanDependents"].as_bool().or_else(|| {
        query
            .has("orphanDependents")
            .then(|| query.flag("orphanDependents"))
    });
    if let (Some(policy), Some(_)) = (&policy, orphan) {
        errors.push(FieldError::invalid(
            "propagationPolicy",
            &policy.as_str().into(),
            "orphanDependents and deletionPropagation cannot be both set",
        ));
    }
    let propagation = match (policy.as_deref(), orphan) {
        (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
        (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
        (Some("Foreground"), _) => Some(Propagation::Foreground),
        (None, None) => None,
        (Some(other), _) => {
            errors.push(FieldError::not_supported(
                "propagationPolicy",
                other,
                &["Foreground", "Background", "Orphan", "nil"],
            ));
            None
        }
    };
    let in_body = body["dryRun"].as_array().into_iter().flatten();
    let values = in_body.map(|value| value.as_str().unwrap_or_default());
    let dry_run = dry_run(values.chain(query.all("dryRun")), &mut errors);
    if !errors.is_empty() {
        return Err(ApiError::invalid_options("DeleteOptions", &errors));
    }
    Ok(DeleteOptions {
        dry_run,
        // As in Kubernetes: less than nothing is as little as there is.
        grace_period: grace_period.map(|seconds| if seconds < 0 { 1 } else { seconds }),
        uid: text(&body["preconditions"]["uid"]),
        version: text(&body["preconditions"]["resourceVersion"]),
        propagation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(query: &str, watch: bool) -> Result<ListOptions, String> {
        ListOptions::parse(&Query::parse(query), watch).map_err(|error| error.message)
    }

    #[test]
    fn contradictions_in_list_options_are_refused() {
        for (query, watch, wanted) in [
            (
                "resourceVersionMatch=Exact",
                false,
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
            (
                "resourceVersionMatch=Exact&resourceVersion=0",
                false,
                "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ),
            (
                "resourceVersionMatch=Newest&resourceVersion=5",
                false,
                "resourceVersionMatch: Unsupported value: \"Newest\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
            ),
            (
                "sendInitialEvents=true",
                false,
                "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
            ),
            (
                "sendInitialEvents=true",
                true,
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ),
            (
                "resourceVersionMatch=NotOlderThan",
                true,
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ),
        ] {
            let message = format!("ListOptions.meta.k8s.io \"\" is invalid: {wanted}");
            assert_eq!(list(query, watch), Err(message), "{query}");
        }
        for query in [
            "limit=x",
            "resourceVersion=x",
            "continue=a&resourceVersion=5",
        ] {
            assert!(list(query, false).is_err(), "{query}");
        }
    }

    #[test]
    fn which_version_a_list_shows() {
        for (query, wanted) in [
            ("", None),
            ("resourceVersion=0", None),
            ("resourceVersion=5", None),
            ("resourceVersion=5&limit=2", Some(5)),
            ("resourceVersion=5&resourceVersionMatch=Exact", Some(5)),
            (
                "resourceVersion=5&resourceVersionMatch=NotOlderThan&limit=2",
                None,
            ),
        ] {
            assert_eq!(
                list(query, false).unwrap().exact_version(),
                wanted,
                "{query}"
            );
        }
    }

    #[test]
    fn how_a_watch_begins() {
        let marked = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        for (query, objects, mark) in [
            ("", true, false),
            ("allowWatchBookmarks=true", true, true),
            ("resourceVersion=0", true, false),
            ("resourceVersion=7&allowWatchBookmarks=1", false, false),
            (marked, true, false),
            (
                &format!("{marked}&allowWatchBookmarks=true&resourceVersion=7"),
                true,
                true,
            ),
            (
                "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
                false,
                false,
            ),
        ] {
            let options = list(query, true).unwrap();
            assert_eq!(options.begins_with_objects(), objects, "{query}");
            assert_eq!(options.marks_end_of_objects(), mark, "{query}");
        }
    }

    #[test]
    fn options_of_writes() {
        let parse = |query: &str, kind: &str, applies: bool| {
            WriteOptions::parse(&Query::parse(query), kind, applies).map_err(|error| error.message)
        };
        let long = "m".repeat(129);
        for (query, kind, applies, wanted) in [
            (
                "dryRun=Some&dryRun=All",
                "CreateOptions",
                false,
                "dryRun: Unsupported value: []string{\"Some\", \"All\"}: supported values: \"All\"",
            ),
            (
                "fieldValidation=strict",
                "UpdateOptions",
                false,
                "fieldValidation: Unsupported value: \"strict\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
            ),
            (
                "",
                "PatchOptions",
                true,
                "fieldManager: Required value: is required for apply patch",
            ),
            (
                "force=true",
                "PatchOptions",
                false,
                "force: Forbidden: may not be specified for non-apply patch",
            ),
            (
                &format!("fieldManager={long}"),
                "CreateOptions",
                false,
                "fieldManager: Too long: may not be more than 128 bytes",
            ),
            (
                "fieldManager=a%01b",
                "CreateOptions",
                false,
                "fieldManager: Invalid value: \"a\\x01b\": invalid character U+0001 (at position 1)",
            ),
        ] {
            let message = format!("{kind}.meta.k8s.io \"\" is invalid: {wanted}");
            assert_eq!(parse(query, kind, applies), Err(message));
        }
        let fine = parse(
            "dryRun=All&fieldManager=me&force=true",
            "PatchOptions",
            true,
        )
        .unwrap();
        assert!(fine.dry_run && fine.manager.as_deref() == Some("me"));
    }

    #[test]
    fn options_of_deletes() {
        let parse = |body: Value, query: &str| {
            delete_options(&body, &Query::parse(query)).map_err(|error| error.message)
        };
        use serde_json::json;
        assert_eq!(
            parse(json!({"propagationPolicy": "Sideways"}), ""),
            Err("DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Sideways\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"".into())
        );
        assert!(
            parse(
                json!({"propagationPolicy": "Orphan", "orphanDependents": true}),
                ""
            )
            .is_err()
        );
        assert!(parse(json!([]), "").is_err());
        assert!(parse(json!({"kind": "Pod"}), "").is_err());
        assert!(parse(json!({"kind": "DeleteOptions"}), "").is_ok());
        assert!(parse(json!({"gracePeriodSeconds": "soon"}), "").is_err());
        let read = parse(
            Value::Null,
            "propagationPolicy=Orphan&gracePeriodSeconds=-3",
        )
        .unwrap();
        assert_eq!(read.propagation, Some(Propagation::Orphan));
        assert_eq!(read.grace_period, Some(1));
        assert!(parse(json!({"dryRun": ["All"]}), "").unwrap().dry_run);
        assert!(parse(json!({}), "dryRun=All").unwrap().dry_run);
    }
}
