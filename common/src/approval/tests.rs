//! Statements as approvers and attackers make them.

use super::*;
use crate::key::{KeyAlgorithm, SoftwareKey};
use base64::engine::general_purpose::URL_SAFE;

fn now() -> Timestamp {
    "2026-07-01T10:00:00Z".parse().unwrap()
}

fn later(minutes: i64) -> Timestamp {
    now() + SignedDuration::from_mins(minutes)
}

/// What is asked, in values of one's own.
#[derive(Clone)]
struct Request {
    cluster: ClusterName,
    uid: String,
    sha256: [u8; 32],
    user: UserName,
    groups: Vec<GroupName>,
    ttl: Ttl,
}

impl Request {
    fn new() -> Self {
        Self {
            cluster: ClusterName::parse("prod").unwrap(),
            uid: "0b2a4e9e-1f6e-4d4b-8f3a-0a8a3c7d9e11".into(),
            sha256: [7; 32],
            user: UserName::parse("alice").unwrap(),
            groups: ["b", "a"]
                .map(|name| GroupName::parse(name).unwrap())
                .to_vec(),
            ttl: "30m".parse().unwrap(),
        }
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            cluster: &self.cluster,
            uid: &self.uid,
            csr_sha256: &self.sha256,
            user: &self.user,
            groups: &self.groups,
            ttl: self.ttl,
        }
    }
}

fn bob() -> UserName {
    UserName::parse("bob@example.com").unwrap()
}

fn statement() -> Statement {
    Statement::new(
        &Request::new().asked(),
        bob(),
        Decision::Approve,
        Reason::parse("Zoë's change, seen").unwrap(),
        [now(), later(60)],
        [9; 32],
    )
}

fn key(algorithm: KeyAlgorithm) -> SoftwareKey {
    SoftwareKey::generate(algorithm).unwrap()
}

fn signed() -> String {
    statement().sign(&key(KeyAlgorithm::P256), None).unwrap()
}

fn refused(text: &str) -> StatementError {
    Signed::parse(text).map(|_| ()).unwrap_err()
}

/// The parts of a text, decoded: header, payload, signature.
fn parts(text: &str) -> [Vec<u8>; 3] {
    let parts: Vec<_> = text
        .split('.')
        .map(|part| URL_SAFE_NO_PAD.decode(part).unwrap())
        .collect();
    parts.try_into().unwrap()
}

fn joined(parts: &[Vec<u8>; 3]) -> String {
    parts
        .each_ref()
        .map(|part| URL_SAFE_NO_PAD.encode(part))
        .join(".")
}

/// Header and payload as they are given, signed by a key that `header` names with `KEY` in place of its spki.
fn forged(key: &SoftwareKey, header: &str, payload: &str) -> String {
    let spki = URL_SAFE_NO_PAD.encode(key.public_key().spki_der());
    let text = [header.replace("KEY", &spki), payload.to_owned()]
        .map(|part| URL_SAFE_NO_PAD.encode(part))
        .join(".");
    let der = key.sign(text.as_bytes()).unwrap();
    let raw = crate::asn1::only(&der, der::Tag::Sequence).map(|mut fields| {
        let mut raw = Vec::new();
        while let Ok(number) = fields.read::<der::asn1::UintRef<'_>>() {
            raw.resize(raw.len() + 32 - number.as_bytes().len(), 0);
            raw.extend_from_slice(number.as_bytes());
        }
        raw
    });
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(raw.unwrap()))
}

const HEADER: &str = r#"{"alg":"ES256","typ":"touchstone-approval+jws","spki":"KEY"}"#;

fn payload() -> String {
    serde_json::to_string(&statement()).unwrap()
}

#[test]
fn a_statement_is_read_as_it_was_signed_by_every_kind_of_key() {
    for algorithm in [
        KeyAlgorithm::P256,
        KeyAlgorithm::P384,
        KeyAlgorithm::Ed25519,
    ] {
        let key = key(algorithm);
        let signed = Signed::parse(&statement().sign(&key, None).unwrap()).unwrap();
        assert_eq!(signed.statement(), &statement());
        assert_eq!(signed.public_key(), key.public_key());
        assert_eq!(
            signed.statement().check(&Request::new().asked(), now()),
            Ok(())
        );
    }
}

#[test]
fn what_an_attacker_would_forge_is_what_is_read_when_nothing_is_forged() {
    let key = key(KeyAlgorithm::P256);
    assert!(Signed::parse(&forged(&key, HEADER, &payload())).is_ok());
}

#[test]
fn no_other_header_is_read() {
    let key = key(KeyAlgorithm::P256);
    for header in [
        r#"{"alg":"none","typ":"touchstone-approval+jws","spki":"KEY"}"#,
        r#"{"alg":"None","typ":"touchstone-approval+jws","spki":"KEY"}"#,
        r#"{"alg":"HS256","typ":"touchstone-approval+jws","spki":"KEY"}"#,
        r#"{"alg":"ES384","typ":"touchstone-approval+jws","spki":"KEY"}"#,
        r#"{"alg":"ES256K","typ":"touchstone-approval+jws","spki":"KEY"}"#,
        r#"{"alg":"EdDSA","typ":"touchstone-approval+jws","spki":"KEY"}"#,
        r#"{"alg":"RS256","typ":"touchstone-approval+jws","spki":"KEY"}"#,
        r#"{"alg":"ES256","typ":"JWT","spki":"KEY"}"#,
        r#"{"alg":"ES256","typ":"touchstone-pass+jws","spki":"KEY"}"#,
        r#"{"alg":"ES256","spki":"KEY"}"#,
        r#"{"alg":"ES256","typ":"touchstone-approval+jws"}"#,
        r#"{"alg":"ES256","typ":"touchstone-approval+jws","x5c":[],"spki":"KEY"}"#,
        r#"{"alg":"ES256","typ":"touchstone-approval+jws","x5c":[]}"#,
        r#"{"alg":"ES256","typ":"touchstone-approval+jws","x5c":["AAAA","AAAA"]}"#,
        r#"{"alg":"ES256","typ":"touchstone-approval+jws","spki":""}"#,
        r#"{"alg":"ES256","typ":"touchstone-approval+jws","spki":"AAAA"}"#,
        r#"{"alg":"ES256","alg":"none","typ":"touchstone-approval+jws","spki":"KEY"}"#,
        r#"{"typ":"touchstone-approval+jws","alg":"ES256","spki":"KEY"}"#,
        r#"{"alg":"ES256","typ":"touchstone-approval+jws","spki":"KEY","kid":"1"}"#,
        r#"{"alg":"ES256","typ":"touchstone-approval+jws","spki":"KEY","crit":["b64"],"b64":false}"#,
        r#"{"alg":"ES256","typ":"touchstone-approval+jws","spki":"KEY","jku":"https://evil.example"}"#,
        r#"{"alg":"ES256","typ":"touchstone-approval+jws","spki":"KEY"} "#,
        r#"{"alg":"ES256","typ":"touchstone\u002dapproval+jws","spki":"KEY"}"#,
        r#"["ES256"]"#,
        "",
    ] {
        refused(&forged(&key, header, &payload()));
    }
}

#[test]
fn a_payload_is_read_in_one_spelling_only() {
    let key = key(KeyAlgorithm::P256);
    let good = payload();
    for (from, to) in [
        (r#"{"version":1"#, r#"{"version":2"#),
        (r#"{"version":1"#, r#"{"version":1.0"#),
        (r#"{"version":1"#, r#"{"version":1,"version":1"#),
        (r#"{"version":1"#, r#"{ "version":1"#),
        (r#"{"version":1,"#, r#"{"#),
        (
            r#""decision":"approve""#,
            r#""decision":"approve","decision":"deny""#,
        ),
        (r#""decision":"approve""#, r#""decision":"Approve""#),
        (r#""decision":"approve""#, r#""decision":"\u0061pprove""#),
        (
            r#""decision":"approve""#,
            r#""decision":"approve","admin":true"#,
        ),
        (r#""user":"alice""#, r#""user":"system:masters""#),
        (r#""user":"alice""#, r#""user":"alice ""#),
        (r#""groups":["a","b"]"#, r#""groups":["b","a"]"#),
        (r#""groups":["a","b"]"#, r#""groups":["a","a","b"]"#),
        (r#""groups":["a","b"]"#, r#""groups":[]"#),
        (r#""groups":["a","b"]"#, r#""groups":"a""#),
        (r#""ttl":"30m""#, r#""ttl":"1800s""#),
        (r#""ttl":"30m""#, r#""ttl":"48h""#),
        (r#""issuedAt":"#, r#""issuedAt":0"#),
        (r#""issuedAt":1"#, r#""issuedAt":1e300,"x":1"#),
        (r#""uid":"0b2a"#, r#""uid":"0b2a "#),
        (
            r#""uid":"0b2a4e9e-1f6e-4d4b-8f3a-0a8a3c7d9e11""#,
            r#""uid":"""#,
        ),
        (r#""sha256":"0707"#, r#""sha256":"07"#),
        (r#""comment":"Zoë"#, r#""comment":"Zoe\u0308"#),
        (r#""comment":""#, r#""comment":"\u202e"#),
        ("}", "}\n"),
        ("}", "}}"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        refused(&forged(&key, HEADER, &bad));
    }
    // The digest in capitals means the same.
    let digest = hex::encode([0xab_u8; 32]);
    let good = good.replace(&hex::encode([7_u8; 32]), &digest);
    assert!(Signed::parse(&forged(&key, HEADER, &good)).is_ok());
    let capitals = good.replace(&digest, &digest.to_uppercase());
    assert_eq!(
        refused(&forged(&key, HEADER, &capitals)),
        JwsError::Spelling.into()
    );
}

#[test]
fn a_text_is_three_parts_in_base64url_without_padding_and_nothing_else() {
    let good = signed();
    let [header, payload, signature] = parts(&good);
    let padded = [&header, &payload, &signature]
        .map(|part| URL_SAFE.encode(part))
        .join(".");
    assert!(padded.contains('='));
    let last = good.chars().last().unwrap();
    // The last character carries bits that stand for nothing: 64 bytes leave four of them.
    let shifted: String = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        .chars()
        .skip_while(|c| *c != last)
        .nth(1)
        .into_iter()
        .collect();
    let mut loose = good.clone();
    loose.pop();
    loose.push_str(&shifted);
    for bad in [
        String::new(),
        "..".to_owned(),
        format!("{good}."),
        format!("{good}.AAAA"),
        format!("{good}\n"),
        format!(" {good}"),
        good.replacen('.', "..", 1),
        padded,
        loose,
        good.replacen('.', "+.", 1),
    ] {
        refused(&bad);
    }
    assert_eq!(
        refused(&"a".repeat(MAX_JWS_BYTES + 1)),
        JwsError::TooLong(MAX_JWS_BYTES + 1).into()
    );
}

#[test]
fn a_signature_is_by_the_key_in_the_header_over_these_very_bytes() {
    let good = parts(&signed());
    for part in 0..3 {
        for bit in [0, good[part].len() * 8 - 1] {
            let mut bad = good.clone();
            bad[part][bit / 8] ^= 1 << (bit % 8);
            refused(&joined(&bad));
        }
    }
    let [_, _, signature] = good.clone();
    for length in [0, 63, 65, 96] {
        let mut bad = good.clone();
        bad[2] = signature.iter().copied().cycle().take(length).collect();
        assert_eq!(
            refused(&joined(&bad)),
            JwsError::Signature.into(),
            "{length}"
        );
    }
    for constant in [[0; 64], [0xff; 64]] {
        let mut bad = good.clone();
        bad[2] = constant.to_vec();
        refused(&joined(&bad));
    }
    // Header and signature of another's.
    let mut mixed = parts(&signed());
    mixed[1].clone_from(&good[1]);
    mixed[2] = signature;
    assert_eq!(refused(&joined(&mixed)), JwsError::Signature.into());
}

#[test]
fn a_statement_is_about_one_request_and_one_moment() {
    let asked = Request::new();
    let on = |change: &dyn Fn(&mut Request)| {
        let mut other = asked.clone();
        change(&mut other);
        statement()
            .check(&other.asked(), now())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        on(&|r| r.cluster = ClusterName::parse("dev").unwrap()),
        "is about another cluster"
    );
    assert_eq!(on(&|r| r.uid.push('0')), "is about another request");
    assert_eq!(
        on(&|r| r.sha256 = [8; 32]),
        "is about another request under the same UID"
    );
    assert_eq!(
        on(&|r| r.user = UserName::parse("eve").unwrap()),
        "is about another user"
    );
    for groups in [&["a"][..], &["a", "b", "c"], &["a", "c"]] {
        let groups: Vec<_> = groups
            .iter()
            .map(|g| GroupName::parse(g).unwrap())
            .collect();
        assert_eq!(
            on(&|r| r.groups.clone_from(&groups)),
            "is about another list of groups"
        );
    }
    assert_eq!(
        on(&|r| r.ttl = "1h".parse().unwrap()),
        "is about another lifetime"
    );
}

#[test]
fn a_statement_ends_and_is_never_good_for_long() {
    let asked = Request::new();
    let check = |times: [Timestamp; 2], at: Timestamp| {
        Statement {
            issued_at: times[0],
            expires_at: times[1],
            ..statement()
        }
        .check(&asked.asked(), at)
    };
    assert_eq!(check([now(), later(24 * 60)], now()), Ok(()));
    assert_eq!(check([later(5), later(60)], now()), Ok(()));
    assert_eq!(check([now(), later(60)], later(59)), Ok(()));
    assert_eq!(
        check([now(), later(60)], later(60)),
        Err(StatementError::Expired(later(60)))
    );
    assert_eq!(
        check([later(6), later(60)], now()),
        Err(StatementError::Future(later(6)))
    );
    for times in [
        [now(), later(24 * 60 + 1)],
        [now(), now()],
        [later(1), now()],
        [Timestamp::MIN, Timestamp::MAX],
    ] {
        assert!(
            matches!(check(times, now()), Err(StatementError::Validity { .. })),
            "{times:?}"
        );
    }
}

#[test]
fn a_statement_stands_in_its_approvers_annotation_alone() {
    let text = signed();
    let key = annotation_key(&bob());
    assert!(Signed::from_annotation(&key, &text).is_ok());
    let of_another = annotation_key(&UserName::parse("carol@example.com").unwrap());
    for key in [of_another.as_str(), ANNOTATION_PREFIX, ""] {
        assert_eq!(
            Signed::from_annotation(key, &text).map(|_| ()).unwrap_err(),
            StatementError::Misplaced
        );
    }
    // What Kubernetes takes as the name part of an annotation's key.
    let name = key.strip_prefix(ANNOTATION_PREFIX).unwrap();
    assert!(name.len() <= 63 && name.bytes().all(|b| b.is_ascii_hexdigit()));
}

#[test]
fn a_pass_is_no_statement_and_a_statement_no_pass() {
    let key = key(KeyAlgorithm::P256);
    let cluster = ClusterName::parse("prod").unwrap();
    let minutes = SignedDuration::from_mins(10);
    let pass = Pass::new(bob(), cluster.clone(), now(), minutes, [1; 32]);
    let text = pass.sign(&key, None).unwrap();
    assert!(Signed::parse(&text).is_err());
    assert!(SignedPass::parse(&signed()).is_err());
    let read = SignedPass::parse(&text).unwrap();
    assert_eq!(read.pass(), &pass);
    assert_eq!(pass.check(&cluster, now()), Ok(()));
    assert!(
        pass.check(&ClusterName::parse("dev").unwrap(), now())
            .is_err()
    );
    assert!(pass.check(&cluster, later(10)).is_err());
    assert!(pass.check(&cluster, later(-6)).is_err());
    let long = Pass::new(
        bob(),
        cluster.clone(),
        now(),
        SignedDuration::from_mins(61),
        [1; 32],
    );
    assert!(long.check(&cluster, now()).is_err());
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in ".*", parts in proptest::collection::vec(proptest::collection::vec(0_u8.., 0..64), 3)) {
        proptest::prop_assert!(Signed::parse(&text).is_err());
        let parts: [Vec<u8>; 3] = parts.try_into().unwrap();
        proptest::prop_assert!(Signed::parse(&joined(&parts)).is_err());
    }
}
