//! A kubeconfig as it stands in its file: each value with the place of its text.
//!
//! Read by the YAML parser that reads the other files too. What could change the meaning of a text that is edited in one
//! place (anchors, tags, several documents, keys that stand twice) is refused.

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span, StructureStyle};
use std::ops::Range;

/// Why a file cannot be edited. Completes "the file …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Anchors and aliases.
    #[error("has an anchor or an alias in line {0}")]
    Anchor(usize),
    /// More than one document.
    #[error("holds more than one YAML document")]
    Documents,
    /// A key that stands twice in one mapping.
    #[error("has the key {key:?} twice, again in line {line}")]
    Duplicate {
        /// The key.
        key: String,
        /// Where the second one is.
        line: usize,
    },
    /// A key that is no text.
    #[error("has a key that is not plain text in line {0}")]
    Key(usize),
    /// Something else than what is expected there.
    #[error("has {found} where {wanted} should be, in line {line}")]
    Kind {
        /// What is there.
        found: &'static str,
        /// What should be.
        wanted: &'static str,
        /// Where.
        line: usize,
    },
    /// The lines are not the usual ones.
    #[error("is written in another way than kubectl writes it: {what}, in line {line}")]
    Layout {
        /// In which way.
        what: &'static str,
        /// Where.
        line: usize,
    },
    /// Tags.
    #[error("has a tag in line {0}")]
    Tag(usize),
    /// Not YAML.
    #[error("is not YAML: {0}")]
    Yaml(String),
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    /// Bytes of its text. Of a block, from its first key or item to the end of its last.
    pub(super) place: Range<usize>,
    /// Line of its beginning, counted from one.
    pub(super) line: usize,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(super) enum Value {
    List { items: Vec<Node>, flow: bool },
    Map { entries: Vec<Entry>, flow: bool },
    Scalar { text: String, plain: bool },
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_place: Range<usize>,
    pub(super) value: Node,
}

impl Node {
    /// Reads a file's text. `None`: it says nothing.
    ///
    /// # Errors
    /// When it is not YAML, or of a kind that is not edited.
    pub(super) fn read(text: &str) -> Result<Option<Self>, ShapeError> {
        let mut reader = Reader {
            events: Parser::new_from_str(text),
        };
        let mut root = None;
        let mut documents = 0;
        loop {
            match reader.next()? {
                (Event::StreamEnd, _) => break,
                (Event::DocumentStart(..), _) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(ShapeError::Documents);
                    }
                    let (event, span) = reader.next()?;
                    root = Some(reader.node(event, span)?);
                }
                _ => {}
            }
        }
        Ok(root.filter(|root| !root.is_null()))
    }

    /// Whether it is nothing: no text, `null` or `~`.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// A key and its value.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map { entries, .. } => entries.iter().find(|entry| entry.key == key),
            Value::List { .. } | Value::Scalar { .. } => None,
        }
    }

    /// The text of a key's value, where it has one.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_text()
    }

    /// Its text, where it is a single value.
    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            Value::List { .. } | Value::Map { .. } => None,
        }
    }

    /// The items of a list; none of anything else.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List { items, .. } => items,
            Value::Map { .. } | Value::Scalar { .. } => &[],
        }
    }

    /// What it means, without its place and the order of its keys. Keys that say nothing are left out, as kubectl adds and
    /// drops them.
    pub(super) fn meaning(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::List { items, .. } if items.is_empty() => Json::Null,
            Value::List { items, .. } => Json::Array(items.iter().map(Self::meaning).collect()),
            Value::Map { entries, .. } => Json::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.meaning()))
                    .filter(|(_, value)| !value.is_null())
                    .collect(),
            ),
            Value::Scalar { .. } if self.is_null() => Json::Null,
            // A plain scalar may be a number or a truth value: told from the text of the same letters.
            Value::Scalar { text, plain: true } if !is_plain_text(text) => {
                serde_json::json!({ "plain": text })
            }
            Value::Scalar { text, .. } => Json::String(text.clone()),
        }
    }

    /// What stands there, for a message.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::List { .. } => "a list",
            Value::Map { .. } => "a mapping",
            Value::Scalar { .. } => "a single value",
        }
    }
}

/// Whether these letters, without quotes, are text to every YAML parser: neither a number nor one of the words of YAML 1.1
/// (https://yaml.org/type/bool.html), and without what ends a plain scalar.
pub(super) fn is_plain_text(text: &str) -> bool {
    const WORDS: [&str; 10] = [
        "y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan",
    ];
    let begins = text
        .strip_prefix("--")
        .unwrap_or(text)
        .starts_with(|first: char| first.is_ascii_alphabetic());
    begins
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || " -_./=:+,()".contains(c))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

struct Reader<'a, T: serde_saphyr::granit_parser::input::BorrowedInput<'a>> {
    events: Parser<'a, T>,
}

impl<'a, T: serde_saphyr::granit_parser::input::BorrowedInput<'a>> Reader<'a, T> {
    /// The next event that is no comment.
    fn next(&mut self) -> Result<(Event<'a>, Span), ShapeError> {
        loop {
            match self.events.next() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(next)) => return Ok(next),
                Some(Err(error)) => return Err(ShapeError::Yaml(error.to_string())),
                None => return Err(ShapeError::Yaml("it ends too early".to_owned())),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span) -> Result<Node, ShapeError> {
        let line = span.start.line();
        let place = place(&span)?;
        match event {
            Event::Scalar(text, style, 0, None) => Ok(Node {
                value: Value::Scalar {
                    plain: style == ScalarStyle::Plain,
                    text: text.into_owned(),
                },
                place,
                line,
            }),
            Event::SequenceStart(style, 0, None) => self.list(style, place, line),
            Event::MappingStart(style, 0, None) => self.map(style, place, line),
            Event::Scalar(_, _, 0, Some(_))
            | Event::SequenceStart(_, 0, Some(_))
            | Event::MappingStart(_, 0, Some(_)) => Err(ShapeError::Tag(line)),
            _ => Err(ShapeError::Anchor(line)),
        }
    }

    fn list(
        &mut self,
        style: StructureStyle,
        mut place: Range<usize>,
        line: usize,
    ) -> Result<Node, ShapeError> {
        let flow = style == StructureStyle::Flow;
        let mut items: Vec<Node> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                place.end = if flow {
                    self::place(&span)?.end
                } else {
                    items.last().map_or(place.end, |last| last.place.end)
                };
                let value = Value::List { items, flow };
                return Ok(Node { value, place, line });
            }
            items.push(self.node(event, span)?);
        }
    }

    fn map(
        &mut self,
        style: StructureStyle,
        mut place: Range<usize>,
        line: usize,
    ) -> Result<Node, ShapeError> {
        let flow = style == StructureStyle::Flow;
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                place.end = if flow {
                    self::place(&span)?.end
                } else {
                    entries
                        .last()
                        .map_or(place.end, |last| last.value.place.end)
                };
                let value = Value::Map { entries, flow };
                return Ok(Node { value, place, line });
            }
            let Node {
                value: Value::Scalar { text: key, .. },
                place: key_place,
                line,
            } = self.node(event, span)?
            else {
                return Err(ShapeError::Key(span.start.line()));
            };
            if entries.iter().any(|entry| entry.key == key) {
                return Err(ShapeError::Duplicate { key, line });
            }
            let (event, span) = self.next()?;
            let mut value = self.node(event, span)?;
            if value.place.is_empty() {
                // A value that is not there has its place behind the key's colon, wherever the parser saw it.
                value.place = key_place.end..key_place.end;
            }
            entries.push(Entry {
                key,
                key_place,
                value,
            });
        }
    }
}

fn place(span: &Span) -> Result<Range<usize>, ShapeError> {
    span.byte_range()
        .ok_or_else(|| ShapeError::Yaml("its places are unknown".to_owned()))
}
