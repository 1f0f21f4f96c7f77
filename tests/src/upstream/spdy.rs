//! SPDY/3.1, as far as Kubernetes uses it (draft-mbelshe-httpbis-spdy-00): streams that the client opens, their headers
//! compressed with the protocol's dictionary, pings, and no flow control, since kubelet and kubectl have none.

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use std::collections::HashMap;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
};

/// The dictionary of the draft's section 2.6.10.1.
const DICTIONARY: &[u8] = include_bytes!("spdy3.dictionary");
const VERSION: u16 = 3;
const FIN: u8 = 1;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

/// What the client does.
#[derive(Debug)]
pub(super) enum Event {
    /// Opens a stream.
    Opened {
        id: u32,
        headers: HashMap<String, String>,
    },
    /// Sends on one.
    Data { id: u32, data: Bytes },
    /// Sends no more on one.
    Finished { id: u32 },
    /// Throws one away.
    Reset { id: u32 },
}

/// The client's frames. `None` when it has gone.
pub(super) struct Reader<R> {
    io: R,
    headers: Decompress,
    waiting: Option<Event>,
    replies: mpsc::Sender<Vec<u8>>,
    compress: Compress,
}

/// Sends frames.
#[derive(Clone)]
pub(super) struct Writer(mpsc::Sender<Vec<u8>>);

/// Both ends of a connection.
pub(super) fn connection<IO>(io: IO) -> (Reader<tokio::io::ReadHalf<IO>>, Writer)
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, mut write) = tokio::io::split(io);
    let (frames, mut queue) = mpsc::channel::<Vec<u8>>(super::streams::DEPTH);
    tokio::spawn(async move {
        while let Some(frame) = queue.recv().await {
            if write.write_all(&frame).await.is_err() || write.flush().await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    });
    let mut compress = Compress::new(Compression::fast(), true);
    compress.set_dictionary(DICTIONARY).expect("the dictionary");
    let reader = Reader {
        io: read,
        headers: Decompress::new(true),
        waiting: None,
        replies: frames.clone(),
        compress,
    };
    (reader, Writer(frames))
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// What the client does next.
    pub(super) async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.waiting.take() {
            return Some(event);
        }
        loop {
            let mut head = [0; 8];
            self.io.read_exact(&mut head).await.ok()?;
            let [a, b, c, d, flags, length @ ..] = head;
            let length = u32::from_be_bytes([0, length[0], length[1], length[2]]);
            let mut payload = vec![0; usize::try_from(length).ok()?];
            self.io.read_exact(&mut payload).await.ok()?;
            if a & 0x80 == 0 {
                let id = u32::from_be_bytes([a, b, c, d]);
                if flags & FIN != 0 {
                    self.waiting = Some(Event::Finished { id });
                }
                if payload.is_empty() {
                    if let Some(event) = self.waiting.take() {
                        return Some(event);
                    }
                    continue;
                }
                let data = payload.into();
                return Some(Event::Data { id, data });
            }
            assert_eq!(u16::from_be_bytes([a & 0x7f, b]), VERSION, "SPDY/3");
            let number = |at: usize| {
                let bytes = payload.get(at..at + 4)?.try_into().ok()?;
                Some(u32::from_be_bytes(bytes) & 0x7fff_ffff)
            };
            match u16::from_be_bytes([c, d]) {
                SYN_STREAM => {
                    let id = number(0)?;
                    let headers = self.read_headers(payload.get(10..)?);
                    self.reply(id).await?;
                    if flags & FIN != 0 {
                        self.waiting = Some(Event::Finished { id });
                    }
                    return Some(Event::Opened { id, headers });
                }
                RST_STREAM => return Some(Event::Reset { id: number(0)? }),
                PING => {
                    let pong = control(PING, 0, &payload);
                    self.replies.send(pong).await.ok()?;
                }
                GOAWAY => return None,
                _ => {}
            }
        }
    }

    fn read_headers(&mut self, compressed: &[u8]) -> HashMap<String, String> {
        let mut block = Vec::with_capacity(64 * 1024);
        let before = self.headers.total_in();
        let read = |decompress: &mut Decompress, block: &mut Vec<u8>, from: u64| {
            let from = usize::try_from(from - before).expect("little");
            decompress.decompress_vec(&compressed[from..], block, FlushDecompress::Sync)
        };
        let mut result = read(&mut self.headers, &mut block, before);
        if result
            .as_ref()
            .is_err_and(|error| error.needs_dictionary().is_some())
        {
            self.headers
                .set_dictionary(DICTIONARY)
                .expect("the dictionary");
            let from = self.headers.total_in();
            result = read(&mut self.headers, &mut block, from);
        }
        assert!(
            matches!(result, Ok(Status::Ok | Status::BufError)),
            "{result:?}"
        );
        let mut rest = block.as_slice();
        let mut number = || {
            let (bytes, after) = rest.split_first_chunk::<4>().expect("a number");
            rest = after;
            let length = usize::try_from(u32::from_be_bytes(*bytes)).expect("little");
            (length, rest)
        };
        let (count, mut at) = number();
        let mut headers = HashMap::new();
        for _ in 0..count {
            let mut text = || {
                let (bytes, after) = at.split_first_chunk::<4>().expect("a length");
                let length = usize::try_from(u32::from_be_bytes(*bytes)).expect("little");
                let (text, after) = after.split_at(length);
                at = after;
                String::from_utf8_lossy(text).into_owned()
            };
            let (name, value) = (text(), text());
            headers.insert(name.to_ascii_lowercase(), value);
        }
        headers
    }

    /// A stream is open when it was answered; the answer has no headers.
    async fn reply(&mut self, id: u32) -> Option<()> {
        let mut block = Vec::with_capacity(256);
        self.compress
            .compress_vec(&0u32.to_be_bytes(), &mut block, FlushCompress::Sync)
            .expect("compress headers");
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend(block);
        self.replies
            .send(control(SYN_REPLY, 0, &payload))
            .await
            .ok()
    }
}

impl Writer {
    /// Sends on a stream; `None` when the client has gone.
    pub(super) async fn send(&self, id: u32, data: &[u8]) -> Option<()> {
        self.0.send(frame(id, 0, data)).await.ok()
    }

    /// Sends no more on a stream.
    pub(super) async fn finish(&self, id: u32) -> Option<()> {
        self.0.send(frame(id, FIN, &[])).await.ok()
    }
}

fn frame(id: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).expect("small frames");
    let mut frame = id.to_be_bytes().to_vec();
    frame.push(flags);
    frame.extend(&length.to_be_bytes()[1..]);
    frame.extend(data);
    frame
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small frames");
    let mut frame = (0x8000 | VERSION).to_be_bytes().to_vec();
    frame.extend(kind.to_be_bytes());
    frame.push(flags);
    frame.extend(&length.to_be_bytes()[1..]);
    frame.extend(payload);
    frame
}

/// exec and attach: a stream for each of error, stdin, stdout, stderr and resize.
pub(super) mod exec {
    use super::{Event, Writer, connection};
    use crate::upstream::{
        process,
        streams::{self, Channel, DEPTH, Exec, Input},
    };
    use std::collections::HashMap;
    use tokio::{
        io::{AsyncRead, AsyncWrite},
        sync::mpsc,
    };

    /// Runs a command for a client.
    pub(in crate::upstream) async fn run<IO>(io: IO, exec: Exec)
    where
        IO: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (mut reader, writer) = connection(io);
        let mut names: HashMap<u32, String> = HashMap::new();
        let wanted = 1
            + usize::from(exec.stdin)
            + usize::from(exec.stdout)
            + usize::from(exec.stderr && !exec.tty)
            + usize::from(exec.tty);
        while names.len() < wanted {
            match reader.next().await {
                Some(Event::Opened { id, headers }) => {
                    let name = headers.get("streamtype").cloned().unwrap_or_default();
                    names.insert(id, name);
                }
                Some(_) => {}
                None => return,
            }
        }
        let ids: HashMap<String, u32> =
            names.iter().map(|(id, name)| (name.clone(), *id)).collect();
        let (input, inputs) = mpsc::channel(DEPTH);
        let (output, outputs) = mpsc::channel(DEPTH);
        let mut running = tokio::spawn(process::run(exec, inputs, output));
        let mut telling = tokio::spawn(tell(outputs, writer.clone(), ids.clone()));
        let status = loop {
            tokio::select! {
                event = reader.next() => {
                    let is = |id: u32, name: &str| ids.get(name) == Some(&id);
                    let sent = match event {
                        Some(Event::Data { id, data }) if is(id, "stdin") => Some(Input::Data(data)),
                        Some(Event::Data { id, data }) if is(id, "resize") => streams::size(&data),
                        Some(Event::Finished { id } | Event::Reset { id }) if is(id, "stdin") => {
                            Some(Input::End)
                        }
                        Some(_) => None,
                        None => {
                            telling.abort();
                            running.abort();
                            return;
                        }
                    };
                    if let Some(sent) = sent {
                        // A process that has ended takes nothing more.
                        let _ = input.send(sent).await;
                    }
                }
                status = &mut running => break status,
            }
        };
        let _ = (&mut telling).await;
        if let (Ok(status), Some(id)) = (status, ids.get("error")) {
            let _ = writer.send(*id, status.to_string().as_bytes()).await;
        }
        for id in ids.values() {
            let _ = writer.finish(*id).await;
        }
        drop(writer);
        // Until the client closes.
        let rest = async { while reader.next().await.is_some() {} };
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), rest).await;
    }

    async fn tell(
        mut outputs: mpsc::Receiver<(Channel, bytes::Bytes)>,
        writer: Writer,
        ids: HashMap<String, u32>,
    ) {
        while let Some((channel, data)) = outputs.recv().await {
            let name = match channel {
                Channel::Stderr => "stderr",
                _ => "stdout",
            };
            if let Some(id) = ids.get(name)
                && writer.send(*id, &data).await.is_none()
            {
                return;
            }
        }
    }
}
