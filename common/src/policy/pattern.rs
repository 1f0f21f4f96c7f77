//! Patterns of names: literal text with `*` and `**`.
//!
//! A pattern is matched against the whole name. `*` stands for any characters but a colon, also none; `**` for any
//! characters, also none. So `jit:oncall:payments*` matches `jit:oncall:payments` and `jit:oncall:payments-ro`, not
//! `jit:oncall:payments:admin` and not `x:jit:oncall:payments`. There is no escape: names with a star cannot be named.
//! In a group's pattern, `{namespace}` stands for a namespace of those that the rule names.

mod namespace;

pub(crate) use namespace::{TEMPLATE, is_label};

use crate::name::MAX_NAME_CHARS;
use namespace::Namespace;
use std::{fmt, sync::Arc};

/// What no policy can reach: the names that Kubernetes keeps for itself, and those that the embedded API does.
const RESERVED_PREFIXES: [&str; 2] = ["system:", "touchstone:"];

/// Whether a name is a reserved one, in any case of its letters.
pub(crate) fn is_reserved(name: &str) -> bool {
    after_reserved(name).is_some()
}

/// What follows a reserved prefix.
pub(crate) fn after_reserved(name: &str) -> Option<&str> {
    RESERVED_PREFIXES.iter().find_map(|prefix| {
        let (start, rest) = name.split_at_checked(prefix.len())?;
        start.eq_ignore_ascii_case(prefix).then_some(rest)
    })
}

/// A checked pattern.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    /// As it was written, but for `{namespace}`, which is written out: `jit:oncall:{payments,team-*}`.
    text: Arc<str>,
    /// The characters before the first star or template: what does not begin so does not match.
    prefix: Arc<str>,
    /// What follows the prefix; empty where the pattern is a name.
    rest: Vec<Token>,
    namespace: Option<Namespace>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Any,
    AnyButColon,
    Char(char),
    /// Matched as a star is; what it took is looked at afterwards.
    Namespace,
}

/// Why a pattern was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PatternError {
    #[error("has a brace that is not of `{{namespace}}`, the only template there is")]
    Brace,
    #[error("is longer than {MAX_NAME_CHARS} characters")]
    Long,
    #[error(
        "leaves open which text is the namespace: give `{{namespace}}` a part between colons without stars, and no `**` before it"
    )]
    NamespaceBesideStar,
    #[error("has `{{namespace}}` twice; it can stand in one place only")]
    NamespaceTwice,
    #[error("has `{{namespace}}`, and the rule does not say which: name them under `namespaces`")]
    NamespacesMissing,
    #[error("has three stars in a row; `*` and `**` are all there is")]
    Stars,
}

/// The positions in [`Pattern::rest`] that matching has reached, one bit each; bit `rest.len()` is the end.
type Reached = u128;

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, PatternError> {
        // So that every position fits in `Reached`.
        if text.chars().count() > MAX_NAME_CHARS {
            return Err(PatternError::Long);
        }
        if text.contains("***") {
            return Err(PatternError::Stars);
        }
        let (prefix, rest) = text.split_at(text.find('*').unwrap_or(text.len()));
        Ok(Self {
            text: text.into(),
            prefix: prefix.into(),
            rest: tokens(rest).collect(),
            namespace: None,
        })
    }

    /// A pattern that may have `{namespace}` in it, which stands for the given ones.
    pub(crate) fn template(
        text: &str,
        namespaces: Option<&Arc<[Self]>>,
    ) -> Result<Self, PatternError> {
        let Some((before, after)) = text.split_once(TEMPLATE) else {
            return match text.contains(['{', '}']) {
                true => Err(PatternError::Brace),
                false => Self::parse(text),
            };
        };
        if after.contains(TEMPLATE) {
            return Err(PatternError::NamespaceTwice);
        }
        if before.contains(['{', '}']) || after.contains(['{', '}']) {
            return Err(PatternError::Brace);
        }
        let namespaces = namespaces.ok_or(PatternError::NamespacesMissing)?;
        let namespace = Namespace::between(before, after, namespaces)?;
        let (mut left, right) = (Self::parse(before)?, Self::parse(after)?);
        if before.chars().count() + after.chars().count() >= MAX_NAME_CHARS {
            return Err(PatternError::Long);
        }
        left.rest.push(Token::Namespace);
        left.rest.extend(tokens(after));
        Ok(Self {
            text: format!("{before}{}{}", namespace.alternatives(), right.text).into(),
            namespace: Some(namespace),
            ..left
        })
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        self.has_form(name)
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| namespace.is_allowed_in(name))
    }

    /// Whether the pattern would match but for the namespace in the name.
    pub(crate) fn matches_but_for_the_namespace(&self, name: &str) -> bool {
        self.namespace.is_some() && self.has_form(name) && !self.matches(name)
    }

    fn has_form(&self, name: &str) -> bool {
        match name.strip_prefix(&*self.prefix) {
            None => false,
            Some(rest) if self.rest.is_empty() => rest.is_empty(),
            Some(rest) => self.is_end(self.run(rest.chars().map(Token::Char))),
        }
    }

    /// Whether the pattern matches any reserved name.
    pub(crate) fn can_match_reserved(&self) -> bool {
        RESERVED_PREFIXES.iter().any(|prefix| {
            let namespace = self.namespace.as_ref().filter(|n| n.is_first());
            self.can_match_from(prefix) && namespace.is_none_or(|n| n.is_allowed_in(prefix))
        })
    }

    /// Whether the pattern matches any name that begins so.
    fn can_match_from(&self, start: &str) -> bool {
        match start.strip_prefix(&*self.prefix) {
            None => self.prefix.starts_with(start),
            // Every position can still be brought to the end, by the characters that the tokens ask for.
            Some(rest) if !self.rest.is_empty() => self.run(rest.chars().map(Token::Char)) != 0,
            Some(rest) => rest.is_empty(),
        }
    }

    /// Whether every name that `other` matches is known to match this pattern too.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let Some(between) = other.prefix.strip_prefix(&*self.prefix) else {
            return false;
        };
        // A star that takes another star takes whatever that one stands for.
        let tokens = between
            .chars()
            .map(Token::Char)
            .chain(other.rest.iter().copied());
        self.is_end(self.run(tokens))
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| namespace.covers(other))
    }

    /// Whether the pattern is a name: it has no star and no template.
    pub(crate) fn is_name(&self) -> bool {
        self.rest.is_empty()
    }

    /// Whether the pattern names nothing itself: `*`, `**`, `*:*` and their like.
    pub(crate) fn is_all_stars(&self) -> bool {
        let nothing = |c| matches!(c, '*' | ':' | '{' | '}');
        self.text.contains('*') && self.text.chars().all(nothing)
    }

    /// Whether the last star stops at a colon and nothing follows it.
    pub(crate) fn ends_in_single_star(&self) -> bool {
        self.rest.last() == Some(&Token::AnyButColon)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// The characters before the first star or template.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    fn is_end(&self, reached: Reached) -> bool {
        reached & (1 << self.rest.len()) != 0
    }

    fn run(&self, name: impl IntoIterator<Item = Token>) -> Reached {
        let mut reached = self.skip_stars(1);
        for next_in_name in name {
            let mut next: Reached = 0;
            for (i, token) in self.rest.iter().enumerate() {
                if reached & (1 << i) == 0 {
                    continue;
                }
                match (token, next_in_name) {
                    (Token::Any, _)
                    | (Token::AnyButColon, Token::AnyButColon | Token::Namespace)
                    | (Token::Namespace, Token::Namespace) => next |= 1 << i,
                    (Token::AnyButColon | Token::Namespace, Token::Char(c)) if c != ':' => {
                        next |= 1 << i;
                    }
                    (Token::Char(wanted), Token::Char(c)) if *wanted == c => next |= 1 << (i + 1),
                    (Token::AnyButColon | Token::Char(_) | Token::Namespace, _) => {}
                }
            }
            reached = self.skip_stars(next);
            if reached == 0 {
                break;
            }
        }
        reached
    }

    /// A star may stand for nothing.
    fn skip_stars(&self, mut reached: Reached) -> Reached {
        for (i, token) in self.rest.iter().enumerate() {
            if !matches!(token, Token::Char(_)) && reached & (1 << i) != 0 {
                reached |= 1 << (i + 1);
            }
        }
        reached
    }

    /// What stands before and after the template.
    #[cfg(test)]
    fn around(&self) -> Option<(String, String)> {
        let (before, rest) = self.text.split_once('{')?;
        let (_, after) = rest.split_once('}')?;
        Some((before.to_owned(), after.to_owned()))
    }
}

/// The tokens of a text without templates.
fn tokens(text: &str) -> impl Iterator<Item = Token> + '_ {
    let mut chars = text.chars().peekable();
    std::iter::from_fn(move || {
        Some(match chars.next()? {
            '*' if chars.next_if_eq(&'*').is_some() => Token::Any,
            '*' => Token::AnyButColon,
            c => Token::Char(c),
        })
    })
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn a_pattern_without_stars_matches_only_itself() {
        let p = pattern("oncall-payments");
        assert!(p.matches("oncall-payments"));
        for other in ["oncall-payment", "oncall-paymentss", "", "Oncall-payments"] {
            assert!(!p.matches(other), "{other}");
        }
    }

    #[test]
    fn one_star_stops_at_a_colon() {
        let p = pattern("jit:oncall:payments*");
        assert!(p.matches("jit:oncall:payments"));
        assert!(p.matches("jit:oncall:payments-ro"));
        assert!(!p.matches("jit:oncall:payments:admin"));
        assert!(!p.matches("jit:oncall:payments-ro:admin"));
        assert!(!p.matches("x:jit:oncall:payments"));
    }

    #[test]
    fn two_stars_cross_colons() {
        let p = pattern("jit:**:ro");
        assert!(p.matches("jit:a:b:ro"));
        assert!(p.matches("jit::ro"));
        assert!(!p.matches("jit:ro"));
        assert!(!p.matches("jit:a:b:rw"));
    }

    #[test]
    fn stars_in_the_middle_try_every_way() {
        let p = pattern("a*b*c");
        assert!(p.matches("abc"));
        assert!(p.matches("abbcbc"));
        assert!(!p.matches("ab:c"));
        assert!(!p.matches("abcb"));
    }

    #[test]
    fn three_stars_and_overlong_patterns_are_refused() {
        assert_eq!(Pattern::parse("a***").unwrap_err(), PatternError::Stars);
        assert_eq!(
            Pattern::parse(&"a".repeat(65)).unwrap_err(),
            PatternError::Long
        );
        assert!(Pattern::parse(&"*a".repeat(32)).is_ok());
    }

    #[test]
    fn patterns_that_could_match_a_reserved_name_are_known() {
        for p in [
            "system:masters",
            "system:*",
            "system:**",
            "**",
            "*:*",
            "s**",
            "sys*:masters",
            "**masters",
            "*:masters",
            "*ystem:*",
            "touchstone:signer",
            "touch*:*",
        ] {
            assert!(pattern(p).can_match_reserved(), "{p}");
        }
        for p in [
            "system",
            "systemx:masters",
            "*",
            "s*",
            "jit:**",
            "System:masters",
            "system*-x",
            "x*system:*",
        ] {
            assert!(!pattern(p).can_match_reserved(), "{p}");
        }
    }

    #[test]
    fn a_pattern_covers_what_its_stars_take() {
        for (outer, inner) in [
            ("a", "a"),
            ("**", "a:*:b**"),
            ("jit:**", "jit:oncall:*"),
            ("a*", "a*"),
            ("a*", "ab*c"),
            ("a**", "a*"),
        ] {
            assert!(pattern(outer).covers(&pattern(inner)), "{outer} {inner}");
        }
        for (outer, inner) in [
            ("a*", "a**"),
            ("a*", "a*:b"),
            ("*:*", "**"),
            ("ab*", "a*"),
            ("a", "a*"),
        ] {
            assert!(!pattern(outer).covers(&pattern(inner)), "{outer} {inner}");
        }
    }

    /// The obvious definition, exponential, to hold the fast one against.
    fn slowly(pattern: &[char], name: &[char]) -> bool {
        match (pattern, name) {
            (['*', '*', p @ ..], n) => (0..=n.len()).any(|i| slowly(p, &n[i..])),
            (['*', p @ ..], n) => (0..=n.len())
                .take_while(|&i| !n[..i].contains(&':'))
                .any(|i| slowly(p, &n[i..])),
            ([a, p @ ..], [b, n @ ..]) => a == b && slowly(p, n),
            ([], []) => true,
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_plain_definition(p in "[ab:*]{0,8}", name in "[ab:]{0,8}") {
            if let Ok(pattern) = Pattern::parse(&p) {
                let (p, n): (Vec<char>, Vec<char>) = (p.chars().collect(), name.chars().collect());
                prop_assert_eq!(pattern.matches(&name), slowly(&p, &n));
            }
        }

        #[test]
        fn what_a_covered_pattern_matches_the_covering_one_matches(
            outer in "[ab:*]{0,6}", inner in "[ab:*]{0,6}", name in "[ab:]{0,6}",
        ) {
            if let (Ok(outer), Ok(inner)) = (Pattern::parse(&outer), Pattern::parse(&inner)) {
                prop_assert!(!outer.covers(&inner) || !inner.matches(&name) || outer.matches(&name));
            }
        }

        #[test]
        fn what_matches_a_reserved_name_says_so(p in "(s|y|system|:|\\*|\\*\\*|a){0,6}", tail in "[a:s]{0,5}") {
            if let Ok(pattern) = Pattern::parse(&p) {
                let reaches = pattern.matches(&format!("system:{tail}"));
                prop_assert!(!reaches || pattern.can_match_reserved());
            }
        }

        #[test]
        fn no_pattern_and_name_panic(p in ".{0,70}", name in ".{0,70}") {
            if let Ok(pattern) = Pattern::parse(&p) {
                let _ = (pattern.matches(&name), pattern.can_match_reserved());
            }
        }
    }
}
