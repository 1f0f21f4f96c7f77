//! What HTTP/2 gives an attacker, at both doors: streams that are opened and reset (CVE-2023-44487), heads that never end
//! (CVE-2024-27316), heads that are small on the wire alone, and connections that are only held.

use std::{
    any::Any,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;
use tokio::time::timeout;

use crate::{
    front::Street,
    support::{
        frames::{
            CONTINUATION, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frames, HEADERS, frame, head,
            post, reset,
        },
        network::Connection,
        pki::Certified,
        server::{ATTESTED, HELD, TOKEN},
        target::{REQUESTS, REVIEW, Target},
    },
};

/// Where the engineer is, who has nothing to do with it. The attacker is at 127.0.0.1.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// How long an engineer may have to wait for an answer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Connections of one attacker.
const CONNECTIONS: usize = 8;
/// Streams on each of them.
const STREAMS: u32 = 1000;

/// Something that listens, and an engineer who needs it.
struct Door {
    name: &'static str,
    address: SocketAddr,
    ca: Certified,
    shown: Option<Certified>,
    method: &'static str,
    path: String,
    authorization: String,
    _behind: Box<dyn Any>,
}

impl Door {
    async fn both() -> [Self; 2] {
        let target = Target::new().await;
        let bob = target
            .server
            .pki
            .client(&target.server.engineers, "/CN=bob");
        let street = Street::new().await;
        let own = street.create().await;
        [
            Self {
                name: "embedded API",
                address: target.address,
                ca: target.ca.clone(),
                shown: Some(bob),
                method: "POST",
                path: REVIEW.to_owned(),
                authorization: String::new(),
                _behind: Box::new(target),
            },
            Self {
                name: "front door",
                address: street.address,
                ca: street.ca.clone(),
                shown: None,
                method: "GET",
                path: format!("{REQUESTS}/{own}"),
                authorization: format!("Bearer {}", URL_SAFE_NO_PAD.encode(TOKEN)),
                _behind: Box::new(street),
            },
        ]
    }

    async fn attacker(&self) -> Frames {
        Frames::open(self.address, &self.ca).await
    }

    async fn an_engineer_is_answered(&self) {
        let asking = async {
            let shown = self.shown.as_ref();
            let mut engineer =
                Connection::open_from(ELSEWHERE, self.address, &self.ca, shown).await;
            let headers = [("authorization", self.authorization.as_str())];
            let headers = if self.authorization.is_empty() {
                &[][..]
            } else {
                &headers
            };
            let body = json!({}).to_string();
            engineer.ask(self.method, &self.path, headers, body).await
        };
        let answer = timeout(PATIENCE, asking).await;
        let answer = answer.unwrap_or_else(|_| panic!("{}: no answer", self.name));
        assert!(
            matches!(answer.code, 200 | 201),
            "{}: {} {}",
            self.name,
            answer.code,
            answer.text
        );
    }
}

/// The frame that opens a stream, and asks for something on it.
fn open(stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, &head("GET", REQUESTS))
}

/// The numbers of a client's streams.
fn streams() -> impl Iterator<Item = u32> {
    (0..STREAMS).map(|number| 2 * number + 1)
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_end_their_connection_and_keep_nobody_waiting() {
    for door in Door::both().await {
        let mut reasons = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut attacker = door.attacker().await;
            let burst: Vec<u8> = streams()
                .flat_map(|stream| {
                    let mut pair = open(stream, END_STREAM);
                    pair.extend(reset(stream));
                    pair
                })
                .collect();
            // It may be hung up on before all of it is sent.
            attacker.send(&burst).await;
            door.an_engineer_is_answered().await;
            reasons.extend(attacker.hung_up_on().await);
        }
        assert!(
            !reasons.is_empty() && reasons.iter().all(|reason| *reason == ENHANCE_YOUR_CALM),
            "{}: {reasons:?}",
            door.name
        );
    }
}

#[tokio::test]
async fn requests_that_are_taken_back_keep_their_turns_until_what_they_began_is_done() {
    let target = Target::new().await;
    let mut request = target.request(ATTESTED);
    request["spec"]["expirationSeconds"] = HELD.into();
    let body = serde_json::to_vec(&request).unwrap();
    let mut attacker = Frames::open(target.address, &target.ca).await;
    // More than strangers have turns, each looked at before it is taken back.
    for stream in streams().take(70) {
        assert!(attacker.send(&post(stream, REQUESTS, &body)).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(attacker.send(&reset(stream)).await);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(target.server.hold.count(), 2, "two are judged at once");
    let answer = target.nobody().await.get("/readyz").await;
    assert_eq!(answer.code, 429, "strangers have no turn left");
    let answer = target
        .engineer("/CN=bob")
        .await
        .post(REVIEW, &json!({}))
        .await;
    assert_eq!(
        answer.code, 201,
        "who has a certificate has turns of their own"
    );
    target.server.hold.let_go();
    let again = async {
        while target.nobody().await.get("/readyz").await.code != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("turns come back");
}

#[tokio::test]
async fn more_streams_than_a_connection_may_have_end_it_and_keep_nobody_waiting() {
    for door in Door::both().await {
        let mut attackers = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut attacker = door.attacker().await;
            // Each of them waits for a body that does not come.
            let all: Vec<u8> = streams().flat_map(|stream| open(stream, 0)).collect();
            attacker.send(&all).await;
            attackers.push(attacker);
        }
        door.an_engineer_is_answered().await;
        // Those that are too many are refused, and each is a reset that the client made the server send.
        let mut reasons = Vec::new();
        for attacker in attackers {
            reasons.extend(attacker.hung_up_on().await);
        }
        assert!(
            !reasons.is_empty() && reasons.iter().all(|reason| *reason == ENHANCE_YOUR_CALM),
            "{}: {reasons:?}",
            door.name
        );
    }
}

#[tokio::test]
async fn heads_that_never_end_are_cut_whether_they_are_large_or_empty() {
    for door in Door::both().await {
        // A header of 16,000 bytes, four thousand times; nothing, a hundred thousand times.
        let mut large = vec![0x00, 1, b'x', 0x7f, 0x81, 0x7c];
        large.extend([b'a'; 16_000]);
        for (part, count) in [(large, 4_000), (Vec::new(), 100_000)] {
            let mut attacker = door.attacker().await;
            let begun = frame(HEADERS, END_STREAM, 1, &head("GET", REQUESTS));
            attacker.send(&begun).await;
            let part = frame(CONTINUATION, 0, 1, &part);
            let mut sent = 0;
            while sent < count && !attacker.is_over() && attacker.send(&part).await {
                sent += 1;
            }
            door.an_engineer_is_answered().await;
            let reason = attacker.hung_up_on().await;
            assert!(
                reason.is_none_or(|reason| reason == ENHANCE_YOUR_CALM),
                "{}: {reason:?} after {sent}",
                door.name
            );
        }
    }
}

#[tokio::test]
async fn a_head_that_is_small_on_the_wire_alone_is_not_unpacked() {
    for door in Door::both().await {
        // One header of 4,000 bytes is remembered (RFC 7541 section 6.2.1), and named once in each further byte: 40 MB.
        let mut bomb = head("GET", "/healthz");
        bomb.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
        bomb.extend([b'a'; 4_000]);
        bomb.extend([0xbe; 10_000]);
        let mut attacker = door.attacker().await;
        let flags = END_STREAM | END_HEADERS;
        attacker.send(&frame(HEADERS, flags, 1, &bomb)).await;
        door.an_engineer_is_answered().await;
        attacker.hung_up_on().await;
    }
}

#[tokio::test]
async fn a_connection_that_falls_silent_or_gives_a_byte_a_second_is_closed() {
    let [embedded, front] = Door::both().await;
    let dripping = async |door: &Door, begun: Vec<u8>, drop: &[u8]| {
        let mut attacker = door.attacker().await;
        attacker.send(&begun).await;
        let started = tokio::time::Instant::now();
        while !attacker.is_over() {
            assert!(
                started.elapsed() < Duration::from_secs(90),
                "{}: still open, after {begun:?}",
                door.name
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
            attacker.send(drop).await;
        }
    };
    let all = async |door: &Door| {
        // A head of a hundred bytes, of which the last never comes; one in a hundred frames.
        let in_a_frame = frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0; 100]);
        let in_frames = frame(HEADERS, END_STREAM, 1, &head("GET", REQUESTS));
        let [one, part] = [[0x82].to_vec(), frame(CONTINUATION, 0, 1, &[0x40])];
        tokio::join!(
            dripping(door, Vec::new(), &[]),
            dripping(door, in_a_frame[..9].to_vec(), &one),
            dripping(door, in_frames, &part),
        );
        door.an_engineer_is_answered().await;
    };
    tokio::join!(all(&embedded), all(&front));
}
