//! Names that may stand in a certificate: users, groups, clusters.
//!
//! Kubernetes compares names byte by byte, people read them on a screen. Whatever could make the two differ is refused:
//! invisible and direction-changing characters, decomposed letters, spaces at an edge or doubled, and every spelling of
//! the prefix that Kubernetes keeps for itself.

use crate::{grant::GrantId, text::as_string};
use std::{fmt, str::FromStr};
use unicode_normalization::{UnicodeNormalization as _, is_nfc};
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory as _};

/// The most characters a user, group or cluster name may have (X.520 ub-common-name).
pub const MAX_NAME_CHARS: usize = 64;
/// The most groups one request may carry.
pub const MAX_GROUPS: usize = 32;
/// The most groups one certificate carries: those asked for, and the one that is its grant's own.
pub const MAX_CERTIFICATE_GROUPS: usize = MAX_GROUPS + 1;

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A character that must not stand in a name, or not there.
    #[error("has U+{code:04X} ({kind}) at character {position}", code = u32::from(*character))]
    Character {
        /// The character.
        character: char,
        /// What is wrong with it.
        kind: &'static str,
        /// Where it stands; the first is 1.
        position: usize,
    },
    /// Two spaces in a row.
    #[error("has a doubled space at character {0}")]
    DoubledSpace(usize),
    /// A space at the beginning or at the end.
    #[error("begins or ends with a space")]
    EdgeSpace,
    /// Nothing at all.
    #[error("is empty")]
    Empty,
    /// Another Unicode normalization than NFC.
    #[error("is not in Unicode normalization form C")]
    NotNfc,
    /// A name that Kubernetes keeps for itself.
    #[error("begins with \"system:\", which belongs to Kubernetes itself")]
    System,
    /// A name that Touchstone keeps for itself.
    #[error("begins with \"touchstone:\", which belongs to Touchstone itself")]
    Touchstone,
    /// Too many characters.
    #[error("has {length} characters; at most {most} are allowed")]
    TooLong {
        /// How many it has.
        length: usize,
        /// How many it may have.
        most: usize,
    },
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:path, $description:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Reads a name strictly.
            ///
            /// # Errors
            /// When it breaks any rule of this module.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                $check(text)?;
                Ok(Self(text.to_owned()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        as_string!($name, { "description": $description, "minLength": 1, "maxLength": 64 });
    };
}

name_type!(
    /// Who: the certificate's CN.
    UserName,
    check_subject,
    "A user name: the certificate's common name."
);
name_type!(
    /// A Kubernetes group: one O of the certificate.
    GroupName,
    check_subject,
    "A Kubernetes group."
);
name_type!(
    /// A CA's common name. A CA's certificate can be shown as a client's, and then its CN is a user: so it is as strict.
    AuthorityName,
    check_subject,
    "The common name of a CA."
);
impl GroupName {
    /// A grant's own. A known prefix and hexadecimal digits: nothing in it could be refused.
    pub(crate) fn of_grant(id: &GrantId) -> Self {
        Self(id.group_name())
    }
}

name_type!(
    /// The cluster a request is for: ASCII letters, digits, `-`, `_` and `.`, a letter or digit at both ends.
    ClusterName,
    check_cluster,
    "The name of a cluster: ASCII letters, digits, '-', '_' and '.'."
);

fn check_subject(text: &str) -> Result<(), NameError> {
    check_text(text, MAX_NAME_CHARS)?;
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if let Some(position) = text.find("  ") {
        let before = text.get(..position).unwrap_or_default();
        return Err(NameError::DoubledSpace(before.chars().count() + 1));
    }
    if is_system(text) {
        return Err(NameError::System);
    }
    Ok(())
}

fn check_cluster(text: &str) -> Result<(), NameError> {
    check_subject(text)?;
    let last = text.chars().count();
    for (position, character) in (1..).zip(text.chars()) {
        let inner = position != 1 && position != last;
        if !(character.is_ascii_alphanumeric() || inner && matches!(character, '-' | '_' | '.')) {
            return Err(NameError::Character {
                character,
                kind: "not allowed here in a cluster's name",
                position,
            });
        }
    }
    Ok(())
}

/// What holds for every text that people read and machines compare: at most so many characters, none of them invisible
/// or misleading, no space at an edge, NFC. May be empty.
pub(crate) fn check_text(text: &str, most: usize) -> Result<(), NameError> {
    let length = text.chars().count();
    if length > most {
        return Err(NameError::TooLong { length, most });
    }
    for (position, character) in (1..).zip(text.chars()) {
        if let Some(kind) = refused(character, position == 1) {
            return Err(NameError::Character {
                character,
                kind,
                position,
            });
        }
    }
    if text.starts_with(' ') || text.ends_with(' ') {
        return Err(NameError::EdgeSpace);
    }
    if !is_nfc(text) {
        return Err(NameError::NotNfc);
    }
    Ok(())
}

/// Why a character must not stand in a name.
fn refused(character: char, first: bool) -> Option<&'static str> {
    if matches!(character, ' '..='~') {
        return None;
    }
    if is_bidi(character) {
        return Some("a bidirectional control");
    }
    if is_invisible(character) {
        return Some("an invisible character");
    }
    match character.general_category() {
        GeneralCategory::Control => Some("a control character"),
        GeneralCategory::Format => Some("an invisible format character"),
        GeneralCategory::LineSeparator | GeneralCategory::ParagraphSeparator => {
            Some("a line separator")
        }
        GeneralCategory::PrivateUse => Some("a private-use character"),
        GeneralCategory::SpaceSeparator => Some("a space other than U+0020"),
        GeneralCategory::Surrogate => Some("a surrogate"),
        GeneralCategory::Unassigned => Some("an unassigned character"),
        _ if first && character.general_category_group() == GeneralCategoryGroup::Mark => {
            Some("a combining mark without a letter before it")
        }
        _ => None,
    }
}

/// Whether a character shows, and as nothing but itself: what names are made of, and what may go to a terminal.
#[must_use]
pub fn is_plain(character: char) -> bool {
    refused(character, false).is_none()
}

/// UAX #9, the explicit directional formatting characters.
fn is_bidi(character: char) -> bool {
    matches!(
        character,
        '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}'
    )
}

/// Characters that show nothing although their category is a letter, mark or symbol: the rest of Unicode's
/// Default_Ignorable_Code_Point, and the empty Braille pattern.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{034F}'
            | '\u{115F}'..='\u{1160}'
            | '\u{17B4}'..='\u{17B5}'
            | '\u{180B}'..='\u{180F}'
            | '\u{200B}'..='\u{200D}'
            | '\u{2060}'..='\u{206F}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{FE00}'..='\u{FE0F}'
            | '\u{FEFF}'
            | '\u{FFA0}'
            | '\u{E0000}'..='\u{E0FFF}'
    )
}

/// Whether a name begins with `system:` for a reader who overlooks case, width and other compatibility forms.
fn is_system(text: &str) -> bool {
    begins_like(text, "system:")
}

/// Whether a name begins with `touchstone:` for such a reader. Certificates carry such groups; nobody may ask for one.
pub(crate) fn is_touchstones(text: &str) -> bool {
    begins_like(text, "touchstone:")
}

fn begins_like(text: &str, prefix: &str) -> bool {
    if text.is_ascii() {
        return text
            .as_bytes()
            .get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()));
    }
    text.nfkc()
        .flat_map(char::to_lowercase)
        .nfkc()
        .take(prefix.len())
        .eq(prefix.chars())
}

/// A foreign name for a message: in quotes, at most 64 characters of it, and with every character escaped that could not
/// stand in a name.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for (index, character) in text.chars().enumerate() {
        if index == MAX_NAME_CHARS {
            out.push('…');
            break;
        }
        match character {
            '"' | '\\' => out.extend(character.escape_default()),
            _ if refused(character, index == 0).is_none() => out.push(character),
            _ => out.extend(character.escape_unicode()),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> NameError {
        GroupName::parse(text).unwrap_err()
    }

    #[test]
    fn names_of_real_people_and_groups_are_read() {
        for text in [
            "alice@example.com",
            "oidc:alice@example.com",
            "jit:oncall:payments",
            "Zoë Müller",
            "山田太郎",
            "Łukasz O'Neill",
            "a",
            "systems:x",
            "system",
            "my-system:x",
        ] {
            assert_eq!(GroupName::parse(text).unwrap().as_str(), text);
            assert_eq!(UserName::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn every_spelling_of_the_prefix_that_kubernetes_keeps_is_refused() {
        for text in [
            "system:masters",
            "system:",
            "System:Masters",
            "SYSTEM:masters",
            "ｓｙｓｔｅｍ：masters",
            "system：masters",
            "system﹕masters",
            "ſystem:masters",
            "𝓼𝔂𝓼𝓽𝓮𝓶:masters",
        ] {
            assert_eq!(refusal(text), NameError::System, "{text}");
            assert_eq!(UserName::parse(text), Err(NameError::System), "{text}");
        }
    }

    #[test]
    fn a_name_has_64_characters_at_most_and_characters_are_not_bytes() {
        assert!(GroupName::parse(&"ü".repeat(64)).is_ok());
        assert_eq!(
            refusal(&"a".repeat(65)),
            NameError::TooLong {
                length: 65,
                most: 64
            }
        );
        assert_eq!(refusal(""), NameError::Empty);
    }

    #[test]
    fn what_cannot_be_seen_is_refused_and_named_with_its_place() {
        for (character, kind) in [
            ('\0', "a control character"),
            ('\n', "a control character"),
            ('\u{7f}', "a control character"),
            ('\u{85}', "a control character"),
            ('\u{1b}', "a control character"),
            ('\u{202e}', "a bidirectional control"),
            ('\u{2066}', "a bidirectional control"),
            ('\u{200f}', "a bidirectional control"),
            ('\u{200b}', "an invisible character"),
            ('\u{200d}', "an invisible character"),
            ('\u{feff}', "an invisible character"),
            ('\u{ad}', "an invisible format character"),
            ('\u{34f}', "an invisible character"),
            ('\u{3164}', "an invisible character"),
            ('\u{fe0f}', "an invisible character"),
            ('\u{e0041}', "an invisible character"),
            ('\u{e0100}', "an invisible character"),
            ('\u{2800}', "an invisible character"),
            ('\u{e000}', "a private-use character"),
            ('\u{10fffd}', "a private-use character"),
            ('\u{378}', "an unassigned character"),
            ('\u{ffff}', "an unassigned character"),
            ('\u{2028}', "a line separator"),
            ('\u{a0}', "a space other than U+0020"),
            ('\u{3000}', "a space other than U+0020"),
        ] {
            for (text, position) in [
                (format!("admin{character}x"), 6),
                (format!("{character}admin"), 1),
                (format!("admin{character}"), 6),
            ] {
                assert_eq!(
                    refusal(&text),
                    NameError::Character {
                        character,
                        kind,
                        position
                    }
                );
            }
        }
    }

    #[test]
    fn an_error_shows_the_code_point_and_never_the_character() {
        assert_eq!(
            refusal("admin\u{202e}x").to_string(),
            "has U+202E (a bidirectional control) at character 6"
        );
        assert_eq!(quoted("a\u{202e}b\n\"\\"), r#""a\u{202e}b\u{a}\"\\""#);
        assert_eq!(quoted(&"é".repeat(70)).chars().count(), 64 + 3);
    }

    #[test]
    fn spaces_stand_alone_and_inside() {
        assert!(GroupName::parse("site reliability engineers").is_ok());
        assert_eq!(refusal(" admin"), NameError::EdgeSpace);
        assert_eq!(refusal("admin "), NameError::EdgeSpace);
        assert_eq!(refusal("si te  x"), NameError::DoubledSpace(6));
    }

    #[test]
    fn letters_are_composed_and_marks_need_a_letter() {
        assert!(GroupName::parse("Zo\u{eb}").is_ok());
        assert_eq!(refusal("Zoe\u{308}"), NameError::NotNfc);
        assert!(matches!(
            refusal("\u{308}Zoe"),
            NameError::Character { position: 1, .. }
        ));
        // ANGSTROM SIGN and its letter look alike and are one in NFC.
        assert_eq!(refusal("\u{212b}"), NameError::NotNfc);
    }

    #[test]
    fn a_cluster_is_named_in_plain_ascii() {
        for text in ["prod", "prod-eu.1", "a", "k8s_test"] {
            assert_eq!(ClusterName::parse(text).unwrap().as_str(), text);
        }
        for text in ["../prod", "prod/", "-prod", "prod.", "prod eu", "pröd", ""] {
            assert!(ClusterName::parse(text).is_err(), "{text}");
        }
    }
}
