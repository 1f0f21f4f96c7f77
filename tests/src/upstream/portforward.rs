//! port-forward: for each connection of the client a pair of SPDY streams, `error` and `data`, with the port in their
//! headers. The pod's ports are this machine's.

use super::{
    spdy::{self, Event, Writer},
    streams::DEPTH,
};
use bytes::Bytes;
use std::collections::HashMap;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};

/// Serves the streams of one client.
pub(super) async fn serve<IO>(io: IO)
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reader, writer) = spdy::connection(io);
    let mut open: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    let mut errors: HashMap<String, u32> = HashMap::new();
    while let Some(event) = reader.next().await {
        match event {
            Event::Opened { id, headers } => {
                let value = |name: &str| headers.get(name).cloned().unwrap_or_default();
                let (port, request) = (value("port"), value("requestid"));
                if value("streamtype") == "error" {
                    errors.insert(request, id);
                } else {
                    let (up, ups) = mpsc::channel(DEPTH);
                    open.insert(id, up);
                    let error = errors.remove(&request);
                    tokio::spawn(forward(port, id, error, ups, writer.clone()));
                }
            }
            Event::Data { id, data } => {
                if let Some(up) = open.get(&id) {
                    // One whose port does not read holds up the others, as kubelet's does.
                    let _ = up.send(data).await;
                }
            }
            Event::Finished { id } | Event::Reset { id } => {
                open.remove(&id);
            }
        }
    }
}

async fn forward(
    port: String,
    id: u32,
    error: Option<u32>,
    mut ups: mpsc::Receiver<Bytes>,
    writer: Writer,
) {
    let connected = match port.parse::<u16>() {
        Ok(port) => TcpStream::connect(("127.0.0.1", port)).await,
        Err(_) => Err(std::io::ErrorKind::InvalidInput.into()),
    };
    match connected {
        Ok(stream) => {
            let (mut read, mut write) = stream.into_split();
            let up = async {
                while let Some(data) = ups.recv().await {
                    if write.write_all(&data).await.is_err() {
                        return;
                    }
                }
                let _ = write.shutdown().await;
            };
            let down = async {
                let mut piece = vec![0; 32 * 1024];
                while let Ok(length @ 1..) = read.read(&mut piece).await {
                    if writer.send(id, &piece[..length]).await.is_none() {
                        return;
                    }
                }
                let _ = writer.finish(id).await;
            };
            tokio::join!(up, down);
        }
        Err(why) => {
            if let Some(error) = error {
                let _ = writer.send(error, why.to_string().as_bytes()).await;
            }
            let _ = writer.finish(id).await;
        }
    }
    if let Some(error) = error {
        let _ = writer.finish(error).await;
    }
}
