//! `{namespace}` in a pattern: one Kubernetes namespace, of those that the rule names.
//!
//! Which text of a name is the namespace is never in doubt: it stands in one part between colons, with nothing but literal
//! text beside it there, and no `**` before it.

use super::{Pattern, PatternError};
use std::sync::Arc;

/// As a policy writes it.
pub(crate) const TEMPLATE: &str = "{namespace}";
/// The most characters of a DNS label (RFC 1123, 2.1).
const MAX_LABEL: usize = 63;

/// Where in a name the namespace stands, and which it may be.
#[derive(Clone, Debug)]
pub(super) struct Namespace {
    /// Which part between colons, counted from 0.
    part: usize,
    /// What stands before it in that part.
    before: Arc<str>,
    /// What stands after it.
    after: Arc<str>,
    allowed: Arc<[Pattern]>,
}

impl Namespace {
    /// The place of the template in the text around it.
    pub(super) fn between(
        before: &str,
        after: &str,
        allowed: &Arc<[Pattern]>,
    ) -> Result<Self, PatternError> {
        let same_part_before = before.rsplit(':').next().unwrap_or_default();
        let same_part_after = after.split(':').next().unwrap_or_default();
        if before.contains("**") || same_part_before.contains('*') || same_part_after.contains('*')
        {
            return Err(PatternError::NamespaceBesideStar);
        }
        Ok(Self {
            part: before.matches(':').count(),
            before: same_part_before.into(),
            after: same_part_after.into(),
            allowed: Arc::clone(allowed),
        })
    }

    /// Whether the namespace in a name is an allowed one.
    pub(super) fn is_allowed_in(&self, name: &str) -> bool {
        self.text_in(name).is_some_and(|text| {
            is_label(text) && self.allowed.iter().any(|allowed| allowed.matches(text))
        })
    }

    /// What stands in the namespace's place.
    fn text_in<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.split(':')
            .nth(self.part)?
            .strip_prefix(&*self.before)?
            .strip_suffix(&*self.after)
    }

    /// Whether every namespace that the other pattern can have in this place is known to be allowed.
    pub(super) fn covers(&self, other: &Pattern) -> bool {
        match &other.namespace {
            Some(inner) if inner.part == self.part => {
                let covered = |one: &Pattern| self.allowed.iter().any(|all| all.covers(one));
                inner.before == self.before
                    && inner.after == self.after
                    && inner.allowed.iter().all(covered)
            }
            // A star is not a label, and so no longer allowed.
            _ => self.is_allowed_in(&other.text),
        }
    }

    /// The patterns of the namespaces, as one writes alternatives: `{payments,team-*}`.
    pub(super) fn alternatives(&self) -> String {
        let all: Vec<_> = self.allowed.iter().map(Pattern::as_str).collect();
        format!("{{{}}}", all.join(","))
    }

    pub(super) fn is_first(&self) -> bool {
        self.part == 0
    }
}

/// Whether Kubernetes takes the text for the name of a namespace.
pub(crate) fn is_label(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    (1..=MAX_LABEL).contains(&bytes.len())
        && bytes.iter().copied().all(is_label_byte)
        && edge(bytes.first())
        && edge(bytes.last())
}

fn is_label_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn template(text: &str, namespaces: &[&str]) -> Pattern {
        let namespaces: Arc<[Pattern]> = namespaces
            .iter()
            .map(|text| Pattern::parse(text).unwrap())
            .collect();
        Pattern::template(text, Some(&namespaces)).unwrap()
    }

    #[test]
    fn a_template_takes_the_namespaces_that_are_named_and_no_other() {
        let p = template("jit:oncall:{namespace}", &["payments", "team-*"]);
        for name in [
            "jit:oncall:payments",
            "jit:oncall:team-a",
            "jit:oncall:team-a-b",
        ] {
            assert!(p.matches(name), "{name}");
        }
        for name in [
            "jit:oncall:billing",
            "jit:oncall:payments-ro",
            "jit:oncall:",
            "jit:oncall:team-",
            "jit:oncall:team-A",
            "jit:oncall:team-a:admin",
            "jit:oncall:team-é",
            "jit:oncall:payments:",
            "x:jit:oncall:payments",
        ] {
            assert!(!p.matches(name), "{name}");
        }
        assert_eq!(p.as_str(), "jit:oncall:{payments,team-*}");
    }

    #[test]
    fn a_namespace_may_have_text_beside_it_and_stars_in_other_parts() {
        let p = template("jit:*:ns-{namespace}-ro:**", &["*"]);
        assert!(p.matches("jit:eu:ns-payments-ro:x:y"));
        assert!(!p.matches("jit:eu:ns--ro:x"));
        assert!(!p.matches("jit:eu:x:ns-payments-ro:x"));
        assert!(!p.matches("jit:eu:ns-payments-rw:x"));
    }

    #[test]
    fn a_namespace_is_a_dns_label() {
        let longest = "a".repeat(63);
        for label in ["a", "0", "a-b", "kube-system", &longest] {
            assert!(is_label(label), "{label}");
        }
        let too_long = "a".repeat(64);
        for text in [
            "", "-a", "a-", "A", "a.b", "a_b", "a:b", "ä", "*", "a*", &too_long,
        ] {
            assert!(!is_label(text), "{text}");
        }
    }

    #[test]
    fn a_template_whose_namespace_would_be_in_doubt_is_refused() {
        let any: Arc<[Pattern]> = [Pattern::parse("*").unwrap()].into();
        for (text, why) in [
            ("jit:{namespace}*", PatternError::NamespaceBesideStar),
            ("jit:*-{namespace}", PatternError::NamespaceBesideStar),
            ("**:{namespace}", PatternError::NamespaceBesideStar),
            ("{namespace}:{namespace}", PatternError::NamespaceTwice),
            ("jit:{namspace}", PatternError::Brace),
            ("jit:{namespace", PatternError::Brace),
            ("jit:}", PatternError::Brace),
            ("{{namespace}}", PatternError::Brace),
        ] {
            assert_eq!(
                Pattern::template(text, Some(&any)).unwrap_err(),
                why,
                "{text}"
            );
        }
        assert_eq!(
            Pattern::template("jit:{namespace}", None).unwrap_err(),
            PatternError::NamespacesMissing
        );
    }

    #[test]
    fn a_template_reaches_a_reserved_name_only_with_the_namespace_for_it() {
        assert!(template("{namespace}:masters", &["s*"]).can_match_reserved());
        assert!(template("sys{namespace}:masters", &["tem"]).can_match_reserved());
        assert!(!template("{namespace}:masters", &["payments"]).can_match_reserved());
        assert!(!template("jit:{namespace}", &["*"]).can_match_reserved());
    }

    #[test]
    fn a_template_covers_what_its_namespaces_take() {
        let outer = template("jit:{namespace}:*", &["payments", "team-*"]);
        for inner in [
            Pattern::parse("jit:payments:*").unwrap(),
            Pattern::parse("jit:team-a:x").unwrap(),
            template("jit:{namespace}:x", &["payments", "team-a-*"]),
        ] {
            assert!(outer.covers(&inner), "{inner}");
        }
        for inner in [
            Pattern::parse("jit:*:x").unwrap(),
            Pattern::parse("jit:team-*:x").unwrap(),
            Pattern::parse("jit:billing:x").unwrap(),
            template("jit:{namespace}:x", &["*"]),
            template("jit:team-{namespace}:x", &["a"]),
        ] {
            assert!(!outer.covers(&inner), "{inner}");
        }
        let wide = Pattern::parse("jit:*:**").unwrap();
        assert!(wide.covers(&outer));
    }

    fn templates() -> impl Strategy<Value = Pattern> {
        let text = "(a|:|\\*:|a\\*:){0,2}[ab]?\\{namespace\\}(-b)?(:|:\\*|:\\*\\*|:a){0,2}";
        let namespaces = prop::collection::vec("[ab*]{1,3}", 1..3);
        (text, namespaces).prop_filter_map("a template", |(text, namespaces)| {
            let namespaces: Option<Arc<[Pattern]>> = namespaces
                .iter()
                .map(|text| Pattern::parse(text).ok())
                .collect();
            Pattern::template(&text, Some(&namespaces?)).ok()
        })
    }

    proptest! {
        /// A name matches exactly when one of its parts can be put for the template, as it stands, as an allowed label.
        #[test]
        fn matching_agrees_with_trying_every_namespace(p in templates(), name in "[ab:-]{0,8}") {
            let namespace = p.namespace.clone().unwrap();
            let ways = (0..=name.len()).flat_map(|i| (i..=name.len()).map(move |j| (i, j)));
            let expected = ways.into_iter().any(|(i, j)| {
                let part = |range: std::ops::Range<usize>| name.get(range).unwrap();
                let label = part(i..j);
                let around = p.around().map(|(before, after)| {
                    Pattern::parse(&before).unwrap().matches(part(0..i))
                        && Pattern::parse(&after).unwrap().matches(part(j..name.len()))
                });
                is_label(label)
                    && namespace.allowed.iter().any(|a| a.matches(label))
                    && around.unwrap()
            });
            prop_assert_eq!(p.matches(&name), expected);
        }

        #[test]
        fn what_a_covered_pattern_matches_the_covering_template_matches(
            outer in templates(), inner in templates(), plain in "[ab:*-]{0,6}", name in "[ab:-]{0,7}",
        ) {
            prop_assert!(!outer.covers(&inner) || !inner.matches(&name) || outer.matches(&name));
            if let Ok(plain) = Pattern::parse(&plain) {
                prop_assert!(!outer.covers(&plain) || !plain.matches(&name) || outer.matches(&name));
                prop_assert!(!plain.covers(&outer) || !outer.matches(&name) || plain.matches(&name));
            }
        }
    }
}
