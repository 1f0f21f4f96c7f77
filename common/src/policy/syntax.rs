//! YAML (and JSON, which is YAML) to the types in [`super::wire`], with errors that say what to write instead.

use super::{Finding, Position, explain::nearest};
use serde::de::DeserializeOwned;
use serde_saphyr::{
    DuplicateKeyPolicy, Error, MergeKeyPolicy, Options, UserMessageFormatter, options::AliasLimits,
};

/// Aliases save typing in a large file. They may not multiply it: what they expand to counts.
fn limits() -> Options {
    let mut options = Options::default();
    options.duplicate_keys = DuplicateKeyPolicy::Error;
    // `<<` would merge keys that a reader of the rule does not see.
    options.merge_keys = MergeKeyPolicy::Error;
    let mut aliases = AliasLimits::default();
    aliases.max_total_replayed_events = 100_000;
    aliases.max_replay_stack_depth = 4;
    options.alias_limits = aliases;
    if let Some(budget) = &mut options.budget {
        // The second is refused with words of its own.
        budget.max_documents = 2;
        budget.max_depth = 16;
        budget.flow_nesting_limit = 16;
        budget.max_aliases = 10_000;
        budget.max_anchors = 1_000;
        budget.max_recorded_anchor_events = 100_000;
        // Some ten values a user, some forty a rule.
        budget.max_nodes = 3_000_000;
        budget.max_events = 6_000_000;
        budget.enforce_alias_anchor_ratio = false;
    }
    options.emit_comments = false;
    options.strict_booleans = true;
    // A name that YAML 1.1 readers take for a number or a truth value has to be quoted.
    options.no_schema = true;
    // Some readers take `0123` for an octal number.
    options.leading_zero_numbers_as_strings = true;
    options.reject_unsupported_tags = true;
    // `!!binary` would hide a name from who reviews the file.
    options.ignore_binary_tag_for_string = true;
    options.reject_tagged_field_names = true;
    options.with_snippet = false;
    options
}

/// Reads `document`, which is named in errors: "a policy".
pub(super) fn read<T: DeserializeOwned>(text: &str, document: &str) -> Result<T, Finding> {
    serde_saphyr::from_str_with_options(text, limits()).map_err(|error| finding(&error, document))
}

fn finding(error: &Error, document: &str) -> Finding {
    Finding {
        position: error.location().filter(|l| l.line() > 0).map(Position::of),
        message: message(error.without_snippet(), document),
    }
}

fn message(error: &Error, document: &str) -> String {
    match error {
        Error::SerdeUnknownField {
            field, expected, ..
        } => unknown("key", field, expected, &format!(" in {}", place(expected))),
        Error::SerdeUnknownVariant {
            variant, expected, ..
        } => unknown("value", variant, expected, ""),
        Error::SerdeMissingField { field, .. } => format!("the key {field:?} is missing"),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key {key:?} stands here twice")
        }
        Error::MergeKeyNotAllowed { .. } => {
            "merge keys (<<) are not read; write the keys out, or use an alias for a whole value"
                .to_owned()
        }
        Error::QuotingRequired { value, .. } => {
            format!("{value} is a number or a truth value; where text is meant, it must be quoted")
        }
        Error::NullIntoString { .. } => "a value is missing".to_owned(),
        Error::InvalidScalar { ty: "u32", .. } => whole_number(u32::MAX.into()),
        Error::InvalidScalar { ty: "u16", .. } => whole_number(u16::MAX.into()),
        Error::InvalidBooleanStrict { .. } => "true or false is expected here".to_owned(),
        Error::Unexpected {
            expected: "mapping start",
            ..
        } => "keys with values are expected here".to_owned(),
        Error::Unexpected {
            expected: "sequence start",
            ..
        } => "a list is expected here".to_owned(),
        Error::ExternallyTaggedEnumExpectedScalarOrMapping { .. } => {
            "a single word is expected here".to_owned()
        }
        Error::Eof { .. } => format!("the file ends where {document} should be"),
        Error::MultipleDocuments { .. } => {
            format!("a second document begins here; {document} is one document")
        }
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::Budget { .. } => format!("the file is too large or too deep: {}", plain(error)),
        Error::AliasError { error, .. } => message(error, document),
        other => match plain(other) {
            text if text.starts_with("tabs disallowed") => {
                "a tab stands here; YAML is indented with spaces".to_owned()
            }
            text => text,
        },
    }
}

fn whole_number(most: u64) -> String {
    format!("a whole number from 0 to {most} is expected here")
}

/// The reader's own words, without the place: that stands before them.
fn plain(error: &Error) -> String {
    let text = error.render_with_formatter(&UserMessageFormatter);
    let text = text.lines().next().unwrap_or_default();
    let end = text.rfind(" at line ").unwrap_or(text.len());
    text.get(..end).unwrap_or(text).to_owned()
}

fn unknown(what: &str, found: &str, expected: &[&str], place: &str) -> String {
    let shown = super::explain::shortened(found, 64);
    match (nearest(found, expected.iter().copied()), expected) {
        (Some(near), _) => format!("unknown {what} {shown:?}{place}; did you mean {near:?}?"),
        (None, [only]) => format!("unknown {what} {shown:?}{place}; it must be {only:?}"),
        (None, _) => format!(
            "unknown {what} {shown:?}{place}; it must be one of {}",
            expected.join(", ")
        ),
    }
}

/// What has these keys. Tested against the types, so that none is forgotten.
fn place(keys: &[&str]) -> &'static str {
    match keys {
        ["apiVersion", "kind", "at", "cases"] => "a file of cases",
        ["apiVersion", "kind", "makes", ..] => "a ceremony",
        ["name", "role"] => "a person",
        ["name", "at", ..] => "a case",
        ["user", ..] => "a request",
        ["serial", "spki", "attested", ..] => "the request's key",
        ["verdict", ..] => "what is expected",
        ["apiVersion", ..] => "a policy",
        ["ttl", "maxTTL", ..] => "the defaults",
        ["attested", ..] => "a key condition",
        ["name", "teams", ..] => "a user",
        ["serial", ..] => "an enrolled key",
        ["name", "who", ..] => "a rule",
        ["users", "teams", "groups"] => "who",
        ["users", "teams"] => "the approvers",
        ["pattern", ..] => "the reason",
        ["days", ..] => "hours",
        ["from", "count"] => "a stage",
        _ => "this mapping",
    }
}
