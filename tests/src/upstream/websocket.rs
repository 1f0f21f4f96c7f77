//! exec and attach over WebSocket: `v5.channel.k8s.io` and `v4.channel.k8s.io`, the first byte of a message its channel.

use super::{
    process,
    streams::{self, Channel, DEPTH, Exec, Input},
};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message, Utf8Bytes,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

/// Closes another channel; its number is the second byte. Since v5.
const CLOSE: u8 = 255;

/// Runs a command for a client.
pub(super) async fn exec(io: Upgraded, exec: Exec) {
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await;
    let (mut sink, mut stream) = socket.split();
    let (input, inputs) = mpsc::channel(DEPTH);
    let (output, mut outputs) = mpsc::channel(DEPTH);
    let reading = tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            let Message::Binary(data) = message else {
                continue;
            };
            let Some((channel, rest)) = data.split_first() else {
                continue;
            };
            let sent = match *channel {
                n if n == Channel::Stdin as u8 => Some(Input::Data(data.slice(1..))),
                n if n == Channel::Resize as u8 => streams::size(rest),
                CLOSE if rest == [Channel::Stdin as u8] => Some(Input::End),
                _ => None,
            };
            if let Some(sent) = sent
                && input.send(sent).await.is_err()
            {
                return;
            }
        }
    });
    let mut running = tokio::spawn(process::run(exec, inputs, output));
    let status = loop {
        tokio::select! {
            Some((channel, data)) = outputs.recv() => {
                if sink.send(message(channel, &data)).await.is_err() {
                    reading.abort();
                    return;
                }
            }
            status = &mut running => break status,
        }
    };
    while let Some((channel, data)) = outputs.recv().await {
        if sink.send(message(channel, &data)).await.is_err() {
            break;
        }
    }
    if let Ok(status) = status {
        let _ = sink
            .send(message(Channel::Error, status.to_string().as_bytes()))
            .await;
    }
    let goodbye = CloseFrame {
        code: CloseCode::Normal,
        reason: Utf8Bytes::default(),
    };
    let _ = sink.send(Message::Close(Some(goodbye))).await;
    // The client closes when it has read the rest.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), reading).await;
}

fn message(channel: Channel, data: &[u8]) -> Message {
    let mut bytes = BytesMut::with_capacity(1 + data.len());
    bytes.put_u8(channel as u8);
    bytes.put_slice(data);
    Message::Binary(bytes.freeze())
}

/// A WebSocket as the stream of bytes that another protocol goes through (kubectl's port-forward).
pub(super) async fn tunnel(io: Upgraded) -> tokio::io::DuplexStream {
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await;
    let (ours, theirs) = tokio::io::duplex(256 * 1024);
    tokio::spawn(async move {
        let (mut sink, mut stream) = socket.split();
        let (mut read, mut write) = tokio::io::split(theirs);
        let up = async {
            use tokio::io::AsyncWriteExt as _;
            while let Some(Ok(message)) = stream.next().await {
                if let Message::Binary(data) = message
                    && write.write_all(&data).await.is_err()
                {
                    break;
                }
            }
            let _ = write.shutdown().await;
        };
        let down = async {
            use tokio::io::AsyncReadExt as _;
            let mut piece = vec![0; 32 * 1024];
            while let Ok(length @ 1..) = read.read(&mut piece).await {
                let data = Bytes::copy_from_slice(&piece[..length]);
                if sink.send(Message::Binary(data)).await.is_err() {
                    break;
                }
            }
            let _ = sink.close().await;
        };
        tokio::join!(up, down);
    });
    ours
}
