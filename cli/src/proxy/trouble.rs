//! Why something cannot be done, in words that can be told to several, through a socket, and to kubectl.

use crate::{
    api::ApiError,
    error::{Error, Exit},
};

/// An error that was rendered once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// What is wrong.
    pub(super) message: String,
    /// What helps.
    pub(super) remedy: Option<String>,
    /// How a command that fails for this ends.
    pub(super) exit: Exit,
}

impl Trouble {
    pub(super) fn new(exit: Exit, message: impl Into<String>, remedy: Option<String>) -> Self {
        Self {
            message: message.into(),
            remedy,
            exit,
        }
    }

    /// In one sentence or two, for those who print no remedies.
    pub(super) fn in_full(&self) -> String {
        match &self.remedy {
            Some(remedy) => format!("touchstone: {}. Try: {remedy}", self.message),
            None => format!("touchstone: {}", self.message),
        }
    }

    /// Whether a human was asked and did not do it: asking again at once would only annoy.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.exit, Exit::Pin | Exit::Touch)
    }
}

impl<E: Into<Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        let error = error.into();
        Self {
            message: error.to_string(),
            remedy: error.remedy(),
            exit: error.exit(),
        }
    }
}

impl Trouble {
    /// The connection to `server` failed.
    pub(super) fn unreachable(server: &str, why: impl Into<String>) -> Self {
        ApiError::Unreachable {
            server: server.to_owned(),
            why: why.into(),
        }
        .into()
    }
}
