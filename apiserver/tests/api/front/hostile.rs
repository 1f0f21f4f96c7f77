//! What would use the front door up, or get through it, as someone without any rights would try it.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::*;
use crate::support::{
    frames::{Frames, post, reset},
    network::tls as open_tls,
};

/// How long the front door may take to hang up on someone, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);

#[tokio::test]
async fn one_key_gets_so_many_requests_and_takes_no_turn_of_anothers() {
    let street = Street::new().await;
    let mut client = street.nobody().await;
    let mut request = street.request();
    let mut codes = Vec::new();
    for _ in 0..30 {
        codes.push(client.post(REQUESTS, &request).await.code);
    }
    let taken = codes.iter().filter(|code| **code == 201).count();
    // The turns that come back meanwhile depend on the machine.
    assert!((20..30).contains(&taken), "{codes:?}");
    let limited = client.post(REQUESTS, &request).await;
    assert_eq!(limited.code, 429, "{codes:?}");
    let seconds: u64 = limited.headers["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=15).contains(&seconds), "{seconds}");
    assert_eq!(limited.json()["reason"], "TooManyRequests");
    assert_eq!(limited.json()["details"]["retryAfterSeconds"], seconds);
    request["spec"]["expirationSeconds"] = OF_ANOTHER_KEY.into();
    assert_eq!(client.post(REQUESTS, &request).await.code, 201);
    assert_eq!(street.keeper.count_of(FrontOutcome::Created), taken + 1);
}

#[tokio::test]
async fn a_thousand_keys_that_nobody_enrolled_are_judged_only_so_often() {
    let street = Street::new().await;
    let mut request = street.request();
    request["spec"]["expirationSeconds"] = NOT_ENROLLED.into();
    let mut client = street.nobody().await;
    let mut codes = Vec::new();
    let started = std::time::Instant::now();
    for _ in 0..1000 {
        codes.push(client.post(REQUESTS, &request).await.code);
    }
    let judged = codes.iter().filter(|code| **code == 403).count();
    let limited = codes.iter().filter(|code| **code == 429).count();
    assert_eq!(judged + limited, 1000, "{codes:?}");
    // Four more come back each second.
    let most = 240 + 4 * (started.elapsed().as_secs() as usize + 1);
    assert!((240..=most).contains(&judged), "{judged} of {most}");
    assert_eq!(street.keeper.count_of(FrontOutcome::Limited), limited);
    let made = street.requests().list(&Default::default()).await.unwrap();
    assert!(made.items.is_empty());
    // The pod is alive all the same.
    assert_eq!(client.get("/healthz").await.code, 200);
}

/// What was begun goes on: whoever takes their streams back gets no more of it done at once than others.
#[tokio::test]
async fn requests_that_are_taken_back_while_they_are_judged_make_no_room_for_more() {
    let street = Street::new().await;
    let mut request = street.request();
    request["spec"]["expirationSeconds"] = HELD.into();
    let body = serde_json::to_vec(&request).unwrap();
    let mut attacker = Frames::open(street.address, &street.ca).await;
    for stream in (0..12).map(|number| 2 * number + 1) {
        assert!(attacker.send(&post(stream, REQUESTS, &body)).await);
        // Most are at the judge's by then.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(attacker.send(&reset(stream)).await);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let held = street.keeper.hold.count();
    street.keeper.hold.let_go();
    assert_eq!(held, 2, "two are judged at once");
    let answer = street
        .nobody()
        .await
        .post(REQUESTS, &street.request())
        .await;
    assert_eq!(answer.code, 201, "{}", answer.text);
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_they_come_back() {
    let street = Street::new().await;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(street.nobody().await);
    }
    assert!(
        is_hung_up_on(&street, b"").await,
        "a connection too many stays open"
    );
    assert_eq!(open.last_mut().unwrap().get("/healthz").await.code, 200);
    drop(open);
    let again = async {
        // Hung up on at once, or left to begin.
        loop {
            let mut stream = TcpStream::connect(street.address).await.unwrap();
            let ended = timeout(Duration::from_millis(200), stream.read(&mut [0])).await;
            if ended.is_err() {
                return;
            }
        }
    };
    timeout(PATIENCE, again).await.unwrap();
    assert_eq!(street.nobody().await.get("/healthz").await.code, 200);
}

/// Whether a plain connection that says this is ended by the front door.
async fn is_hung_up_on(street: &Street, begun: &[u8]) -> bool {
    let mut stream = TcpStream::connect(street.address).await.unwrap();
    // A connection that is reset while it is written to is hung up on, too.
    let _ = stream.write_all(begun).await;
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .is_ok()
}

#[tokio::test]
async fn who_does_not_speak_tls_or_does_not_go_on_is_hung_up_on() {
    let street = Street::new().await;
    let (silent, plain, garbage, begun) = tokio::join!(
        is_hung_up_on(&street, b""),
        is_hung_up_on(&street, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"),
        is_hung_up_on(&street, &[0xff; 4096]),
        // The head of a TLS record, and a hello that never comes.
        is_hung_up_on(&street, &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]),
    );
    assert!(
        silent && plain && garbage && begun,
        "{silent} {plain} {garbage} {begun}"
    );
}

#[tokio::test]
async fn slow_heads_and_bodies_are_cut() {
    let street = Street::new().await;
    let cut = async |begun: &[u8]| {
        let mut stream = open_tls(street.address, &street.ca, None).await;
        stream.write_all(begun).await.unwrap();
        let mut rest = Vec::new();
        let dripping = async {
            loop {
                tokio::time::sleep(Duration::from_millis(500)).await;
                if stream.write_all(b"a").await.is_err() || stream.flush().await.is_err() {
                    return;
                }
                let mut some = [0; 1024];
                match timeout(Duration::from_millis(1), stream.read(&mut some)).await {
                    Ok(Ok(0) | Err(_)) => return,
                    Ok(Ok(read)) => rest.extend_from_slice(&some[..read]),
                    Err(_) => {}
                }
                if rest.windows(3).any(|three| three == b"504") {
                    return;
                }
            }
        };
        timeout(PATIENCE, dripping).await.is_ok()
    };
    let body = format!(
        "POST {REQUESTS} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n{{"
    );
    let (head, body) = tokio::join!(
        cut(b"GET /healthz HTTP/1.1\r\nX-Slow: "),
        cut(body.as_bytes())
    );
    assert!(head, "a head that never ends keeps its connection");
    assert!(body, "a body that never ends keeps its place");
}

#[tokio::test]
async fn a_connection_that_rests_is_closed() {
    let street = Street::new().await;
    let mut stream = open_tls(street.address, &street.ca, None).await;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let rested = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    assert!(rested.is_ok(), "{}", String::from_utf8_lossy(&answer));
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn what_is_too_large_is_not_taken() {
    let street = Street::new().await;
    let mut large = street.request();
    large["metadata"]["annotations"] = serde_json::json!({ "a": "x".repeat(70 * 1024) });
    let answer = street.nobody().await.post(REQUESTS, &large).await;
    assert_eq!(answer.code, 413, "{}", answer.text);
    let long = "x".repeat(20 * 1024);
    let mut stream = open_tls(street.address, &street.ca, None).await;
    let head =
        format!("GET /healthz HTTP/1.1\r\nHost: a\r\nX-Long: {long}{long}{long}{long}\r\n\r\n");
    // It may hang up before all of it is written.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(
        !answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

#[tokio::test]
async fn a_request_hidden_in_another_is_not_seen() {
    let street = Street::new().await;
    let hidden = format!("POST {REQUESTS} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    for framing in [
        format!(
            "Content-Length: {}\r\nTransfer-Encoding: chunked",
            hidden.len()
        ),
        format!("Content-Length: 0\r\nContent-Length: {}", hidden.len()),
        "Transfer-Encoding: chunked, identity".to_owned(),
        "Transfer-Encoding: xchunked".to_owned(),
        "Content-Length: +5".to_owned(),
        format!(
            "Transfer-Encoding : chunked\r\nContent-Length: {}",
            hidden.len()
        ),
    ] {
        let mut stream = open_tls(street.address, &street.ca, None).await;
        let request =
            format!("POST {REQUESTS} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n0\r\n\r\n{hidden}");
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&answer);
        // A second answer, if any, says that what follows is no request.
        assert!(!text.contains("HTTP/1.1 2"), "{framing}: {text}");
        assert!(text.matches("HTTP/1.1").count() <= 2, "{framing}: {text}");
    }
    let made = street.requests().list(&Default::default()).await.unwrap();
    assert!(made.items.is_empty());
}

#[tokio::test]
async fn headers_make_nobody_anybody() {
    let street = Street::new().await;
    let body = serde_json::to_vec(&street.request()).unwrap();
    let mut client = street.nobody().await;
    for name in [
        "impersonate-user",
        "impersonate-group",
        "impersonate-extra-a",
    ] {
        let answer = client
            .ask("POST", REQUESTS, &[(name, "system:masters")], body.clone())
            .await;
        assert_eq!(answer.code, 403, "{}", answer.text);
    }
    let remote = [
        ("x-remote-user", "root"),
        ("x-remote-group", "system:masters"),
        ("x-forwarded-for", "192.0.2.1"),
    ];
    let answer = client.ask("POST", REQUESTS, &remote, body).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    assert_eq!(answer.json()["spec"]["username"], "alice");
}

#[tokio::test]
async fn a_defect_costs_one_request_and_no_other() {
    let street = Street::new().await;
    let mut client = street.nobody().await;
    let mut request = street.request();
    request["spec"]["expirationSeconds"] = 666.into();
    assert_eq!(client.post(REQUESTS, &request).await.code, 500);
    for body in [
        "",
        "{",
        "[]",
        "null",
        "{\"spec\":{}}",
        "{\"spec\":{\"request\":7}}",
    ] {
        let code = client.ask("POST", REQUESTS, &[], body).await.code;
        assert!((400..500).contains(&code), "{body}: {code}");
    }
    assert_eq!(client.post(REQUESTS, &street.request()).await.code, 201);
}

#[tokio::test]
async fn an_account_that_the_cluster_calls_otherwise_makes_nothing_that_counts() {
    let street = Street::new().await;
    let door = FrontDoor::new(FrontConfig {
        requests: Api::all(street.server.admin()),
        account: "signer".to_owned(),
        signer_names: vec![ATTESTED.to_owned()],
        doorkeeper: street.keeper.clone(),
        tls: tls(&street.server.pki.server(&street.ca)),
    })
    .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = street.server.shutdown.clone();
    tokio::spawn(async move { door.serve(listener, shutdown).await.unwrap() });
    let mut client = Connection::open(address, &street.ca, None).await;
    let answer = client.post(REQUESTS, &street.request()).await;
    assert_eq!(answer.code, 500, "{}", answer.text);
    assert!(!answer.text.contains("admin"), "{}", answer.text);
}
