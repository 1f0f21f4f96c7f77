//! The socket's side of the conversations of [`super::control`].

use super::{
    Proxy, ProxyError,
    control::{
        CredentialWanted, Event, LoopbackCredential, MAX_LINE, PinAnswer, Question, ROOM, Sent,
        VERSION,
    },
    place::Place,
    trouble::Trouble,
    voice::Voice,
};
use crate::error::Exit;
use rustix::process::geteuid;
use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, mpsc},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};
use zeroize::Zeroizing;

/// How long a question may take to arrive.
const QUESTION_WITHIN: Duration = Duration::from_secs(10);

/// Opens the socket. Its folder is the user's alone, and this process holds the place.
pub(super) fn open(place: &Place) -> Result<UnixListener, ProxyError> {
    let path = place.socket();
    let opened = || -> io::Result<UnixListener> {
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    opened().map_err(|source| ProxyError::Place {
        path: path.clone(),
        why: source.to_string(),
    })
}

/// Answers until the proxy ends.
pub(super) async fn serve(proxy: Arc<Proxy>, listener: UnixListener) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = proxy.ended().cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let is_ours = stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == geteuid().as_raw());
        if is_ours {
            tokio::spawn(converse(Arc::clone(&proxy), stream));
        }
    }
}

async fn converse(proxy: Arc<Proxy>, stream: UnixStream) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader.take(MAX_LINE));
    let question = tokio::time::timeout(QUESTION_WITHIN, line(&mut reader)).await;
    let Ok(Some(question)) = question else { return };
    let answer = match serde_json::from_slice::<Sent>(&question) {
        Ok(Sent {
            version,
            question:
                Question::Status | Question::Credential(_) | Question::Hold(_) | Question::Held,
        }) if version != VERSION => failed(&Trouble::new(
            Exit::Proxy,
            "the proxy that runs is of another version of touchstone",
            Some(format!("touchstone logout --cluster {}", proxy.cluster())),
        )),
        Ok(Sent { question, .. }) => match question {
            Question::Hold(credential) => match proxy.vault.keep(&credential) {
                Ok(()) => Event::Holding,
                Err(trouble) => failed(&trouble),
            },
            Question::Held => match proxy.vault.copy() {
                Some(credential) => Event::Software(Box::new(credential)),
                None => Event::HoldsNothing,
            },
            Question::Status => Event::Status(Box::new(proxy.status())),
            Question::Stop => {
                if send(&mut writer, &Event::Stopping).await.is_ok() {
                    proxy.stop();
                    // Whoever asked learns of the end by this connection's.
                    proxy.ended().cancelled().await;
                }
                return;
            }
            Question::Credential(wanted) => {
                return credential(proxy, wanted, reader, writer).await;
            }
        },
        Err(error) => failed(&Trouble::new(
            Exit::Proxy,
            format!("the question is not understood: {error}"),
            None,
        )),
    };
    // Nobody can be told when they are gone.
    let _ = send(&mut writer, &answer).await;
}

/// Makes a credential, and lets whoever waits for it be asked and told meanwhile.
async fn credential(
    proxy: Arc<Proxy>,
    wanted: CredentialWanted,
    reader: BufReader<tokio::io::Take<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
) {
    let (say, said) = unbounded_channel();
    let (answer, answers) = mpsc::channel();
    let listening = tokio::spawn(listen(reader, answer));
    let telling = tokio::spawn(tell(said, writer));
    let answers = wanted.answers.then_some(answers);
    let voice = Voice::conversation(proxy.pins(), say.clone(), answers, wanted.terminal.clone());
    let event = match made(&proxy, &wanted, Arc::new(voice)).await {
        Ok(credential) => Event::Credential(credential),
        Err(trouble) => failed(&trouble),
    };
    let _ = say.send(event);
    drop(say);
    // The card may hold on to the voice for some seconds; the answer is the last that is heard of it.
    let _ = tokio::time::timeout(QUESTION_WITHIN, telling).await;
    listening.abort();
}

async fn made(
    proxy: &Arc<Proxy>,
    wanted: &CredentialWanted,
    voice: Arc<Voice>,
) -> Result<LoopbackCredential, Trouble> {
    let epoch = proxy.ready(wanted, voice).await?;
    let not_after = epoch.credential().not_after;
    proxy.clients().admit(wanted.terminal.clone(), not_after)
}

/// Takes the answers to questions for the PIN.
async fn listen(
    mut reader: BufReader<tokio::io::Take<OwnedReadHalf>>,
    answer: mpsc::Sender<PinAnswer>,
) {
    while let Some(line) = line(&mut reader).await {
        let Ok(given) = serde_json::from_slice(&line) else {
            return;
        };
        if answer.send(given).is_err() {
            return;
        }
    }
}

/// Passes on what is said, up to the answer.
async fn tell(mut said: UnboundedReceiver<Event>, mut writer: OwnedWriteHalf) {
    while let Some(event) = said.recv().await {
        let is_answer = matches!(event, Event::Credential(_) | Event::Failed { .. });
        if send(&mut writer, &event).await.is_err() || is_answer {
            return;
        }
    }
}

async fn line(
    reader: &mut BufReader<tokio::io::Take<OwnedReadHalf>>,
) -> Option<Zeroizing<Vec<u8>>> {
    // Room from the start for what is secret, so that no copy is left behind by growing.
    let mut line = Zeroizing::new(Vec::with_capacity(ROOM));
    match reader.read_until(b'\n', &mut line).await {
        Ok(1..) if line.ends_with(b"\n") => Some(line),
        Ok(_) | Err(_) => None,
    }
}

async fn send(writer: &mut OwnedWriteHalf, event: &Event) -> io::Result<()> {
    let mut line = Zeroizing::new(Vec::with_capacity(ROOM));
    serde_json::to_writer(&mut *line, event)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

fn failed(trouble: &Trouble) -> Event {
    Event::Failed {
        message: trouble.message.clone(),
        remedy: trouble.remedy.clone(),
        exit: trouble.exit.code(),
    }
}
