//! Waiting for the answer to a request: watched where that is allowed, read again and again where not.

use super::{State, SubmitError, Submitted, state};
use crate::{
    api::{ApiError, Connection},
    error::Error,
};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api,
    api::{WatchEvent, WatchParams},
};
use std::{convert::Infallible, pin::pin, time::Duration};
use tokio::{sync::watch, time::Instant};

/// How soon a request that cannot be watched is read again; each pause is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// An answer that takes longer is waited for by someone who should know it.
const ANNOUNCE_AFTER: Duration = Duration::from_secs(2);
/// How long one watch lasts before it is opened again.
const WATCH_FOR: u32 = 290;
/// How long the signer may take to decide or to say for whom a request waits.
const DECIDED_WITHIN: Duration = Duration::from_secs(300);
/// The longest that a policy lets a request wait.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);
/// What the signer has to write the end of a wait down.
const AFTER_WAIT: Duration = Duration::from_secs(30);
/// How often it is said again for whom a request waits.
const REMIND_EVERY: Duration = Duration::from_secs(300);

/// Waits until a request is answered: the chain, PEM. Without a `timeout`, the signer has five minutes to decide, and
/// people as long as it says that it waits for them.
///
/// # Errors
/// When it is denied, fails, is deleted, or the time is over.
pub async fn wait(
    connection: &Connection,
    cluster: &str,
    submitted: &Submitted,
    timeout: Option<Duration>,
    progress: &dyn Fn(&str),
) -> Result<Vec<u8>, Error> {
    let started = Instant::now();
    let (outlook, outlooks) = watch::channel(Outlook {
        limit: timeout.unwrap_or(DECIDED_WITHIN),
        waits: None,
        approved: false,
    });
    let mut watching = Watching {
        api: Api::all(connection.client()),
        connection,
        submitted,
        announced: State::Undecided,
        outlook,
        may_wait_longer: timeout.is_none(),
        progress,
        started,
    };
    let last = outlooks.clone();
    tokio::select! {
        answer = watching.until_answered() => answer,
        never = remind(outlooks.clone(), progress) => match never {},
        waited = over(outlooks, started) => Err(SubmitError::Waiting {
            name: submitted.name.clone(),
            approved: last.borrow().approved,
            cluster: cluster.to_owned(),
            waited,
        }
        .into()),
    }
}

/// How long a request is waited for, counted from the beginning, and for whom it waits.
#[derive(Clone, Debug)]
struct Outlook {
    limit: Duration,
    waits: Option<(String, Option<Timestamp>)>,
    approved: bool,
}

/// Ends when the time is over, which can become longer meanwhile; how long it was.
async fn over(mut outlooks: watch::Receiver<Outlook>, started: Instant) -> Duration {
    loop {
        let limit = outlooks.borrow_and_update().limit;
        let end = tokio::time::sleep(limit.saturating_sub(started.elapsed()));
        tokio::select! {
            () = end => return limit,
            Ok(()) = outlooks.changed() => {}
        }
    }
}

/// Says that there is no answer yet, and from time to time for whom the request waits.
async fn remind(outlooks: watch::Receiver<Outlook>, progress: &dyn Fn(&str)) -> Infallible {
    tokio::time::sleep(ANNOUNCE_AFTER).await;
    loop {
        let Outlook { limit, waits, .. } = outlooks.borrow().clone();
        if let Some((what, until)) = waits {
            // It was said when it came in, too.
            tokio::time::sleep(REMIND_EVERY).await;
            progress(&waiting(&what, until, Timestamp::now()));
        } else {
            let seconds = limit.as_secs();
            progress(&format!("No answer yet; waiting for up to {seconds} s."));
            tokio::time::sleep(REMIND_EVERY).await;
        }
    }
}

struct Watching<'a> {
    api: Api<CertificateSigningRequest>,
    connection: &'a Connection,
    submitted: &'a Submitted,
    announced: State,
    outlook: watch::Sender<Outlook>,
    may_wait_longer: bool,
    progress: &'a dyn Fn(&str),
    started: Instant,
}

impl Watching<'_> {
    async fn until_answered(&mut self) -> Result<Vec<u8>, Error> {
        let mut version = self.submitted.version.clone();
        let mut may_watch = true;
        let mut pause = FIRST_PAUSE;
        let mut lost = false;
        loop {
            if may_watch && !version.is_empty() {
                match self.watch(&version).await? {
                    Watched::Answered(chain) => return Ok(chain),
                    Watched::Ended => {}
                    Watched::Forbidden => may_watch = false,
                }
            }
            // The watch ended or was never possible: read what is there now.
            match self
                .connection
                .within(self.api.get(&self.submitted.name))
                .await
            {
                Ok(request) => {
                    if let Some(chain) = self.judge(&request)? {
                        return Ok(chain);
                    }
                    lost = false;
                    version = request.metadata.resource_version.unwrap_or_default();
                    if may_watch && !version.is_empty() {
                        continue;
                    }
                }
                Err(ApiError::Refused {
                    code: Some(404), ..
                }) => return Err(self.gone()),
                // The request is submitted: a server that restarts is waited for.
                Err(
                    error @ (ApiError::Unreachable { .. }
                    | ApiError::Refused {
                        code: Some(500..), ..
                    }),
                ) => {
                    if !lost {
                        (self.progress)(&format!("{error}; trying again."));
                    }
                    lost = true;
                    version.clear();
                }
                // It may be someone else's doing, and this request is submitted.
                Err(error @ ApiError::Busy { again, .. }) => {
                    (self.progress)(&format!("{error}; trying again in {} s.", again.as_secs()));
                    tokio::time::sleep(again).await;
                }
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn watch(&mut self, version: &str) -> Result<Watched, Error> {
        let parameters = WatchParams::default()
            .fields(&format!("metadata.name={}", self.submitted.name))
            .timeout(WATCH_FOR);
        let events = match self
            .connection
            .within(self.api.watch(&parameters, version))
            .await
        {
            Ok(events) => events,
            Err(ApiError::Refused {
                code: Some(401 | 403 | 405),
                ..
            }) => return Ok(Watched::Forbidden),
            // Too old a version: read and begin anew.
            // Or not there: the next read tells.
            Err(
                ApiError::Refused {
                    code: Some(410 | 500..),
                    ..
                }
                | ApiError::Busy { .. }
                | ApiError::Unreachable { .. },
            ) => return Ok(Watched::Ended),
            Err(error) => return Err(error.into()),
        };
        let mut events = pin!(events.into_stream());
        while let Some(event) = events.next().await {
            match event {
                Ok(WatchEvent::Added(request) | WatchEvent::Modified(request)) => {
                    if let Some(chain) = self.judge(&request)? {
                        return Ok(Watched::Answered(chain));
                    }
                }
                Ok(WatchEvent::Deleted(_)) => return Err(self.gone()),
                Ok(WatchEvent::Bookmark(_)) => {}
                // The next read tells whether the server is there.
                Ok(WatchEvent::Error(_)) | Err(_) => break,
            }
        }
        // Never a busy loop, whatever the server does.
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(Watched::Ended)
    }

    fn judge(&mut self, request: &CertificateSigningRequest) -> Result<Option<Vec<u8>>, Error> {
        if request.metadata.uid.as_deref() != Some(&self.submitted.uid) {
            return Err(self.gone());
        }
        let name = || self.submitted.name.clone();
        let state = state(request);
        match &state {
            State::Denied(why) => {
                return Err(SubmitError::Denied {
                    name: name(),
                    why: why.clone(),
                }
                .into());
            }
            State::Failed(why) => {
                return Err(SubmitError::Failed {
                    name: name(),
                    why: why.clone(),
                }
                .into());
            }
            State::Issued(chain) => return Ok(Some(chain.clone())),
            State::Approved(why) if state != self.announced => {
                (self.progress)(&format!("Approved: {why}. Waiting for the signature."));
                self.outlook.send_modify(|outlook| {
                    outlook.waits = None;
                    outlook.approved = true;
                });
            }
            State::Waiting { what, until } if state != self.announced => {
                let now = Timestamp::now();
                (self.progress)(&waiting(what, *until, now));
                self.outlook.send_modify(|outlook| {
                    outlook.waits = Some((what.clone(), *until));
                    if let (true, Some(until)) = (self.may_wait_longer, until) {
                        // Whoever may annotate the request wrote this.
                        let left = Duration::try_from(until.duration_since(now));
                        let left = left.unwrap_or_default().min(LONGEST_WAIT);
                        let limit = self.started.elapsed() + left + AFTER_WAIT;
                        outlook.limit = outlook.limit.max(limit);
                    }
                });
            }
            State::Approved(_) | State::Undecided | State::Waiting { .. } => {}
        }
        self.announced = state;
        Ok(None)
    }

    fn gone(&self) -> Error {
        SubmitError::Gone {
            name: self.submitted.name.clone(),
        }
        .into()
    }
}

/// `Waiting for 1 approval from team sre; 12 min left`.
fn waiting(what: &str, until: Option<Timestamp>, now: Timestamp) -> String {
    let left = until.map(|until| until.duration_since(now).as_secs());
    match left {
        None => format!("Waiting for {what}"),
        Some(seconds @ 120..) => format!("Waiting for {what}; {} min left", seconds / 60),
        Some(seconds) => format!("Waiting for {what}; {} s left", seconds.max(0)),
    }
}

enum Watched {
    Answered(Vec<u8>),
    Ended,
    Forbidden,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_becomes_longer_ends_later_and_says_how_long_it_was() {
        let started = Instant::now();
        let (outlook, outlooks) = watch::channel(Outlook {
            limit: 5 * MINUTE,
            waits: None,
            approved: false,
        });
        let waiting = tokio::spawn(over(outlooks, started));
        tokio::time::sleep(4 * MINUTE).await;
        outlook.send_modify(|outlook| outlook.limit = 60 * MINUTE);
        assert_eq!(waiting.await.unwrap(), 60 * MINUTE);
        assert!(started.elapsed() >= 60 * MINUTE, "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_nobody_prolongs_ends_even_when_whoever_could_is_gone() {
        let (outlook, outlooks) = watch::channel(Outlook {
            limit: MINUTE,
            waits: None,
            approved: false,
        });
        drop(outlook);
        assert_eq!(over(outlooks, Instant::now()).await, MINUTE);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_told_from_time_to_time_for_whom() {
        let (_outlook, outlooks) = watch::channel(Outlook {
            limit: MINUTE,
            approved: false,
            waits: Some(("1 approval from team sre".to_owned(), None)),
        });
        let said = Mutex::new(Vec::new());
        let progress = |text: &str| said.lock().unwrap().push(text.to_owned());
        let _ = tokio::time::timeout(11 * MINUTE, remind(outlooks, &progress)).await;
        let line = "Waiting for 1 approval from team sre";
        assert_eq!(*said.lock().unwrap(), [line, line]);
    }

    #[test]
    fn what_is_left_of_a_wait_is_said_in_minutes_and_then_in_seconds() {
        let now: Timestamp = "2026-07-01T10:00:00Z".parse().unwrap();
        let after = |seconds| Some(now + jiff::SignedDuration::from_secs(seconds));
        assert_eq!(waiting("x", after(725), now), "Waiting for x; 12 min left");
        assert_eq!(waiting("x", after(90), now), "Waiting for x; 90 s left");
        assert_eq!(waiting("x", after(-5), now), "Waiting for x; 0 s left");
    }
}
