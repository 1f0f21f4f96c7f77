//! Where WebSocket frames begin and end (RFC 6455 section 5.2), and how a stream of Kubernetes ends in its own words.

use http::HeaderValue;

/// Follows one direction of a WebSocket.
#[derive(Debug)]
pub(super) struct Frames {
    at: At,
    /// A message whose last fragment has not come yet.
    fragmented: bool,
    /// Whether channel 3 is for errors, as the streams of exec and attach have it.
    has_error_channel: bool,
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
/// Where exec and attach expect a Status (staging/src/k8s.io/client-go/tools/remotecommand in kubernetes/kubernetes).
const ERROR_CHANNEL: u8 = 3;
/// "normal closure" (RFC 6455 section 7.4.1).
const NORMAL: [u8; 2] = 1000u16.to_be_bytes();

impl Frames {
    /// `subprotocol` is what client and server agreed on.
    pub(super) fn new(subprotocol: Option<&HeaderValue>) -> Self {
        let with_status = ["v4.channel.k8s.io", "v5.channel.k8s.io"];
        Self {
            at: At::between(),
            fragmented: false,
            has_error_channel: subprotocol
                .is_some_and(|agreed| with_status.iter().any(|name| agreed == *name)),
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
                    if let Some((opening, left)) = head(seen, *length) {
                        // Control frames may stand between the fragments of a message.
                        if opening & 0x0f < CLOSE {
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
        let mut bytes = Vec::new();
        if self.has_error_channel {
            let status = serde_json::json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": why, "reason": "Unauthorized", "code": 401,
            });
            let mut payload = vec![ERROR_CHANNEL];
            payload.extend(status.to_string().bytes());
            bytes.extend(frame(BINARY, &payload));
        }
        bytes.extend(frame(CLOSE, &NORMAL));
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
fn head(seen: &[u8; MAX_HEAD], length: usize) -> Option<(u8, u64)> {
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

/// One frame as a server sends it: whole, without a mask.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
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

    fn frames() -> Frames {
        Frames::new(Some(&HeaderValue::from_static("v5.channel.k8s.io")))
    }

    #[test]
    fn frames_of_every_length_are_followed_however_they_are_cut() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
            let bytes = frame(BINARY, &vec![7; length]);
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
        frames.passed(&frame(0x9, b"ping"));
        assert!(!frames.between_messages());
        frames.passed(&frame(0x0, b"rest"));
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

        let other = Frames::new(Some(&HeaderValue::from_static(
            "SPDY/3.1+portforward.k8s.io",
        )));
        assert_eq!(other.goodbye("over"), [FIN | CLOSE, 2, 3, 232]);
    }
}
