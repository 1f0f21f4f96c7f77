//! Whether this process leads, for everyone who must not act otherwise.

use super::BootTime;
use tokio::sync::watch;

/// Whether this process leads. Ask before everything that must be done by one alone.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<Standing>);

/// What a candidate knows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing yet.
    Unknown,
    /// Another leads.
    By,
    /// It leads, until then.
    Leads(BootTime),
}

/// This process does not lead, or not any more. Completes "failed to …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("act for the cluster: this replica does not hold the lease")]
pub struct NotLeading;

impl Leadership {
    /// Of a signer that is alone, by other means than a Lease.
    #[must_use]
    pub fn alone() -> Self {
        // A receiver keeps the last value when its sender is gone.
        Self(watch::Sender::new(Standing::Leads(BootTime::NEVER)).subscribe())
    }

    pub(super) fn new() -> (watch::Sender<Standing>, Self) {
        let sender = watch::Sender::new(Standing::Unknown);
        let receiver = sender.subscribe();
        (sender, Self(receiver))
    }

    /// Whether this process leads at this very moment.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self) -> Result<(), NotLeading> {
        match *self.0.borrow() {
            Standing::Leads(until) if BootTime::now() < until => Ok(()),
            Standing::Leads(_) | Standing::By | Standing::Unknown => Err(NotLeading),
        }
    }

    /// Waits until this process leads.
    pub async fn gained(&self) {
        let mut standing = self.0.clone();
        while self.check().is_err() {
            changed(&mut standing).await;
        }
    }

    /// Waits until this process does not lead.
    pub async fn lost(&self) {
        let mut standing = self.0.clone();
        while self.check().is_ok() {
            let until = match *standing.borrow_and_update() {
                Standing::Leads(until) => until,
                Standing::By | Standing::Unknown => return,
            };
            if until == BootTime::NEVER {
                return std::future::pending().await;
            }
            tokio::select! {
                () = changed(&mut standing) => {}
                () = tokio::time::sleep(until.since(BootTime::now())) => {}
            }
        }
    }

    /// Waits until it is known that another leads.
    pub async fn standing_by(&self) {
        let mut standing = self.0.clone();
        while *standing.borrow_and_update() != Standing::By {
            changed(&mut standing).await;
        }
    }
}

/// A candidate that is gone changes nothing any more.
async fn changed(standing: &mut watch::Receiver<Standing>) {
    if standing.changed().await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_leader_whose_time_is_over_is_none_without_being_told() {
        let (standing, leadership) = Leadership::new();
        assert_eq!(leadership.check(), Err(NotLeading));
        standing.send_replace(Standing::Leads(BootTime::now() + Duration::from_millis(50)));
        leadership.gained().await;
        leadership.lost().await;
        assert_eq!(leadership.check(), Err(NotLeading));
    }

    #[tokio::test]
    async fn who_is_alone_leads_for_ever() {
        let leadership = Leadership::alone();
        leadership.gained().await;
        assert_eq!(leadership.check(), Ok(()));
    }
}
