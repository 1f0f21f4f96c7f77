//! Where the frames of WebSocket (RFC 6455 section 5.2) and SPDY/3.1 (draft-mbelshe-httpbis-spdy-00 section 2.2) begin and
//! end, and how a stream of Kubernetes ends in its own words.

use crate::proxy::request::Protocol;
use http::{HeaderMap, header};

/// Follows one direction of a stream.
#[derive(Debug)]
pub(super) struct Frames {
    protocol: Protocol,
    at: At,
    /// A message whose last fragment has not come yet.
    fragmented: bool,
    /// Whether client and server agreed on a protocol whose errors are a Status, as those of exec and attach are.
    ends_with_status: bool,
}

#[derive(Debug)]
enum At {
    Head { seen: [u8; MAX_HEAD], length: usize },
    Payload { left: u64 },
}

/// Two bytes, a length of eight, a mask of four.
const MAX_HEAD: usize = 14;
const FIN: u8 = 0x80;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
/// "normal closure" (RFC 6455 section 7.4.1).
const NORMAL: [u8; 2] = 1000u16.to_be_bytes();
/// Where exec and attach expect a Status (staging/src/k8s.io/client-go/tools/remotecommand in kubernetes/kubernetes): over
/// WebSocket on this channel.
const ERROR_CHANNEL: u8 = 3;
/// Over SPDY on the stream that clients open first.
const ERROR_STREAM: u32 = 1;
const SPDY_HEAD: usize = 8;
const SPDY_FIN: u8 = 1;
/// The protocols of exec and attach that have it.
const WITH_STATUS: [&str; 2] = ["v4.channel.k8s.io", "v5.channel.k8s.io"];

impl Frames {
    /// Of a stream that was agreed on by these headers of the answer.
    pub(super) fn new(protocol: Protocol, answer: &HeaderMap) -> Self {
        let agreed = match protocol {
            Protocol::WebSocket => answer.get(header::SEC_WEBSOCKET_PROTOCOL),
            Protocol::Spdy => answer.get("x-stream-protocol-version"),
        };
        Self {
            protocol,
            at: At::between(),
            fragmented: false,
            ends_with_status: agreed
                .is_some_and(|agreed| WITH_STATUS.iter().any(|name| agreed == *name)),
        }
    }

    /// These bytes went through.
    pub(super) fn passed(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            match &mut self.at {
                At::Payload { left } => {
                    let here = u64::try_from(bytes.len()).unwrap_or(u64::MAX).min(*left);
                    *left -= here;
                    if *left == 0 {
                        self.at = At::between();
                    }
                    let here = usize::try_from(here).unwrap_or(usize::MAX);
                    bytes = bytes.get(here..).unwrap_or_default();
                }
                At::Head { seen, length } => {
                    if let Some(place) = seen.get_mut(*length) {
                        *place = *first;
                    }
                    *length += 1;
                    bytes = rest;
                    let head = match self.protocol {
                        Protocol::WebSocket => websocket_head(seen, *length),
                        Protocol::Spdy => spdy_head(seen, *length),
                    };
                    if let Some((opening, left)) = head {
                        // Control frames may stand between the fragments of a message.
                        if self.protocol == Protocol::WebSocket && opening & 0x0f < CLOSE {
                            self.fragmented = opening & FIN == 0;
                        }
                        self.at = match left {
                            0 => At::between(),
                            left => At::Payload { left },
                        };
                    }
                }
            }
        }
    }

    /// Whether a message may begin here.
    pub(super) fn between_messages(&self) -> bool {
        !self.fragmented && matches!(self.at, At::Head { length: 0, .. })
    }

    /// The frames that end a stream: the error as its client expects it, and the close.
    pub(super) fn goodbye(&self, why: &str) -> Vec<u8> {
        let status = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": why, "reason": "Unauthorized", "code": 401,
        })
        .to_string();
        let mut bytes = Vec::new();
        match self.protocol {
            Protocol::WebSocket => {
                if self.ends_with_status {
                    let mut payload = vec![ERROR_CHANNEL];
                    payload.extend(status.bytes());
                    bytes.extend(websocket_frame(BINARY, &payload));
                }
                bytes.extend(websocket_frame(CLOSE, &NORMAL));
            }
            Protocol::Spdy => {
                if self.ends_with_status {
                    bytes.extend(spdy_frame(ERROR_STREAM, SPDY_FIN, status.as_bytes()));
                }
            }
        }
        bytes
    }
}

impl At {
    const fn between() -> Self {
        Self::Head {
            seen: [0; MAX_HEAD],
            length: 0,
        }
    }
}

/// First byte and payload length of a head, once it is whole.
fn websocket_head(seen: &[u8; MAX_HEAD], length: usize) -> Option<(u8, u64)> {
    let [opening, second, rest @ ..] = seen;
    let (extended, mut payload) = match second & 0x7f {
        126 => (2, 0),
        127 => (8, 0),
        short => (0, u64::from(short)),
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    if length < 2 + extended + mask {
        return None;
    }
    for byte in rest.iter().take(extended) {
        payload = payload << 8 | u64::from(*byte);
    }
    Some((*opening, payload))
}

/// The same. A frame of data or of control: the last three bytes are its length.
fn spdy_head(seen: &[u8; MAX_HEAD], length: usize) -> Option<(u8, u64)> {
    let [opening, _, _, _, _, high, middle, low, ..] = *seen;
    let payload = u32::from_be_bytes([0, high, middle, low]);
    (length == SPDY_HEAD).then(|| (opening, payload.into()))
}

/// A frame of data.
fn spdy_frame(stream: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let [_, high, middle, low] = length.to_be_bytes();
    let mut frame = stream.to_be_bytes().to_vec();
    frame.extend([flags, high, middle, low]);
    frame.extend(data);
    frame
}

/// One frame as a server sends it: whole, without a mask.
fn websocket_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![FIN | opcode];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..=125), _) => frame.push(length),
        (_, Ok(length)) => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
        (_, Err(_)) => {
            frame.push(127);
            frame.extend(
                u64::try_from(payload.len())
                    .unwrap_or(u64::MAX)
                    .to_be_bytes(),
            );
        }
    }
    frame.extend(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreed(protocol: Protocol, name: &'static str, value: &'static str) -> Frames {
        let mut answer = HeaderMap::new();
        answer.insert(name, http::HeaderValue::from_static(value));
        Frames::new(protocol, &answer)
    }

    fn frames() -> Frames {
        let name = "sec-websocket-protocol";
        agreed(Protocol::WebSocket, name, "v5.channel.k8s.io")
    }

    fn spdy(version: &'static str) -> Frames {
        agreed(Protocol::Spdy, "x-stream-protocol-version", version)
    }

    #[test]
    fn frames_of_every_length_are_followed_however_they_are_cut() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
            let bytes = websocket_frame(BINARY, &vec![7; length]);
            for cut in [1, 2, 3, 7, 4096, usize::MAX] {
                let mut frames = frames();
                let mut left = bytes.len();
                for piece in bytes.chunks(cut.min(bytes.len())) {
                    assert!(left == bytes.len() || !frames.between_messages());
                    frames.passed(piece);
                    left -= piece.len();
                }
                assert!(frames.between_messages(), "{length} by {cut}");
            }
        }
    }

    #[test]
    fn a_masked_frame_has_four_bytes_more() {
        let mut frames = frames();
        frames.passed(&[FIN | BINARY, 0x80 | 1, 1, 2, 3]);
        assert!(!frames.between_messages());
        frames.passed(&[4, 5]);
        assert!(frames.between_messages());
    }

    #[test]
    fn nothing_is_said_between_two_fragments_although_a_ping_is() {
        let mut frames = frames();
        frames.passed(&[BINARY, 1, 0]);
        assert!(!frames.between_messages());
        frames.passed(&websocket_frame(0x9, b"ping"));
        assert!(!frames.between_messages());
        frames.passed(&websocket_frame(0x0, b"rest"));
        assert!(frames.between_messages());
    }

    #[test]
    fn the_goodbye_is_a_status_on_the_error_channel_and_a_close() {
        let mut frames = frames();
        let bytes = frames.goodbye("over");
        assert_eq!(bytes.first(), Some(&(FIN | BINARY)));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains("\"message\":\"over\""), "{text}");
        assert!(bytes.ends_with(&[FIN | CLOSE, 2, 3, 232]));
        frames.passed(&bytes);
        assert!(frames.between_messages());

        let other = agreed(
            Protocol::WebSocket,
            "sec-websocket-protocol",
            "SPDY/3.1+portforward.k8s.io",
        );
        assert_eq!(other.goodbye("over"), [FIN | CLOSE, 2, 3, 232]);
    }

    #[test]
    fn frames_of_spdy_are_followed_and_end_with_a_status_on_the_first_stream() {
        for length in [0usize, 1, 255, 256, 70_000] {
            let bytes = spdy_frame(3, 0, &vec![7; length]);
            for cut in [1, 5, 8, 9, usize::MAX] {
                let mut frames = spdy("v4.channel.k8s.io");
                let mut left = bytes.len();
                for piece in bytes.chunks(cut.min(bytes.len())) {
                    assert!(left == bytes.len() || !frames.between_messages());
                    frames.passed(piece);
                    left -= piece.len();
                }
                assert!(frames.between_messages(), "{length} by {cut}");
            }
        }
        let mut frames = spdy("v4.channel.k8s.io");
        let bytes = frames.goodbye("over");
        assert!(bytes.starts_with(&[0, 0, 0, 1, SPDY_FIN]));
        frames.passed(&bytes);
        assert!(frames.between_messages());
        assert!(spdy("portforward.k8s.io").goodbye("over").is_empty());
    }
}
