//! The API server's record of who called what.

use serde_json::Value;
use std::{fs, path::Path};

/// One call of an account, and how it ended.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) user: String,
    pub(crate) groups: Vec<String>,
    pub(crate) verb: String,
    pub(crate) group: String,
    /// With its subresource, as in a role: `certificatesigningrequests/status`.
    pub(crate) resource: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    /// Of the answer; 403 is a refusal, by RBAC or by admission.
    pub(crate) code: i64,
}

impl Call {
    pub(crate) fn is(&self, verb: &str, resource: &str) -> bool {
        self.verb == verb && self.resource == resource
    }

    /// Of an event about an object; other calls need no role of ours.
    fn of(event: &Value) -> Option<Self> {
        let text = |pointer: &str| event.pointer(pointer)?.as_str().map(str::to_owned);
        let resource = text("/objectRef/resource")?;
        Some(Self {
            user: text("/user/username")?,
            groups: event["user"]["groups"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|it| it.as_str().map(str::to_owned))
                .collect(),
            verb: text("/verb")?,
            group: text("/objectRef/apiGroup").unwrap_or_default(),
            resource: match text("/objectRef/subresource") {
                Some(subresource) => format!("{resource}/{subresource}"),
                None => resource,
            },
            namespace: text("/objectRef/namespace"),
            name: text("/objectRef/name"),
            code: event.pointer("/responseStatus/code")?.as_i64()?,
        })
    }
}

/// All calls so far.
pub(crate) fn read(log: &Path) -> Vec<Call> {
    let text = fs::read_to_string(log).expect("read the API server's audit log");
    // The last line may still be written.
    let events = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter_map(|event| Call::of(&event)).collect()
}
