//! Editing a kubeconfig's text: what is not touched stays byte for byte, and the result is read again and compared.

use super::tree::{Node, ShapeError, Value, is_plain_text};
use serde_json::{Value as Json, json};
use std::ops::Range;

/// The lists of a kubeconfig.
const LISTS: [&str; 3] = ["clusters", "contexts", "users"];
/// Keys by which a kubeconfig is told from other YAML.
const KNOWN: [&str; 6] = [
    "apiVersion",
    "clusters",
    "contexts",
    "current-context",
    "preferences",
    "users",
];
/// What kubectl makes of nothing.
const EMPTY: &str = "apiVersion: v1\nclusters: null\ncontexts: null\ncurrent-context: \"\"\nkind: Config\npreferences: {}\nusers: null\n";

/// A kubeconfig's text.
#[derive(Clone, Debug)]
pub(super) struct Document {
    text: String,
    root: Node,
}

/// Where something is put in the place of something else.
struct Change {
    place: Range<usize>,
    text: String,
}

impl Document {
    /// Reads a file's text; an empty one becomes what kubectl would begin with.
    pub(super) fn read(text: &str) -> Result<Self, ShapeError> {
        let Some(root) = Node::read(text)? else {
            let newline = newline(text);
            let mut whole = text.to_owned();
            if !whole.is_empty() && !whole.ends_with('\n') {
                whole.push_str(newline);
            }
            whole.push_str(&EMPTY.replace('\n', newline));
            let root = Node::read(&whole)?.ok_or(ShapeError::Documents)?;
            return Self { text: whole, root }.checked();
        };
        Self {
            text: text.to_owned(),
            root,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, ShapeError> {
        let kind = |node: &Node, wanted| ShapeError::Kind {
            found: node.kind(),
            wanted,
            line: node.line,
        };
        let layout = |what, node: &Node| {
            Err(ShapeError::Layout {
                what,
                line: node.line,
            })
        };
        match &self.root.value {
            Value::Map { flow: false, .. } => {}
            Value::Map { flow: true, .. } => return layout("in braces, as JSON", &self.root),
            _ => return Err(kind(&self.root, "a mapping")),
        }
        let start = self.line_start(self.root.place.start);
        if !matches!(self.between(start..self.root.place.start), "" | "\u{feff}") {
            return layout("its keys are indented", &self.root);
        }
        let is_config = self.root.text("kind").is_none_or(|kind| kind == "Config");
        if !is_config || !KNOWN.iter().any(|key| self.root.get(key).is_some()) {
            return Err(ShapeError::Kind {
                found: "other things",
                wanted: "a kubeconfig",
                line: self.root.line,
            });
        }
        for list in LISTS {
            match self.root.get(list) {
                None => {}
                Some(node) if node.is_null() => {}
                Some(node) => match &node.value {
                    Value::List { items, .. } => {
                        if let Some(odd) = items.iter().find(|item| item.text("name").is_none()) {
                            return Err(kind(odd, "an entry with a name"));
                        }
                    }
                    _ => return Err(kind(node, "a list")),
                },
            }
        }
        Ok(self)
    }

    /// The text as it is now.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The entries of a list.
    pub(super) fn entries(&self, list: &str) -> &[Node] {
        self.root.get(list).map_or(&[], Node::items)
    }

    /// The entry of this name, of which there must not be two.
    pub(super) fn entry(&self, list: &str, name: &str) -> Result<Option<&Node>, ShapeError> {
        let mut named = self
            .entries(list)
            .iter()
            .filter(|entry| entry.text("name") == Some(name));
        let first = named.next();
        match named.next() {
            Some(second) => Err(ShapeError::Duplicate {
                key: name.to_owned(),
                line: second.line,
            }),
            None => Ok(first),
        }
    }

    /// The current context, when there is one.
    pub(super) fn current_context(&self) -> Option<&str> {
        self.root
            .text("current-context")
            .filter(|name| !name.is_empty())
    }

    /// Adds an entry, or replaces the one of the same name. `lines` are those of a mapping, without indentation.
    pub(super) fn put(
        &mut self,
        list: &'static str,
        name: &str,
        lines: &str,
    ) -> Result<(), ShapeError> {
        let wanted = Node::read(lines)?.map_or(Json::Null, |node| node.meaning());
        let change = match self.entry(list, name)? {
            Some(entry) => {
                let place = self.lines_of(entry)?;
                let indent = self.dash_column(entry)?;
                Change {
                    text: self.item(lines, indent),
                    place,
                }
            }
            None => self.appended(list, lines)?,
        };
        let mut expected = self.root.meaning();
        let entries = expected
            .as_object_mut()
            .map(|root| root.entry(list).or_insert_with(|| json!([])));
        if let Some(Json::Array(entries)) = entries {
            match entries.iter_mut().find(|entry| entry["name"] == name) {
                Some(entry) => *entry = wanted,
                None => entries.push(wanted),
            }
        }
        self.apply(vec![change], &expected)
    }

    /// Removes the entry of this name.
    pub(super) fn remove(&mut self, list: &'static str, name: &str) -> Result<(), ShapeError> {
        let Some(entry) = self.entry(list, name)? else {
            return Ok(());
        };
        let mut changes = vec![Change {
            place: self.lines_of(entry)?,
            text: String::new(),
        }];
        if self.entries(list).len() == 1 {
            let at = self.behind_colon(list)?;
            changes.push(Change {
                place: at..at,
                // As kubectl writes a list of nothing.
                text: " null".to_owned(),
            });
        }
        let mut expected = self.root.meaning();
        if let Some(root) = expected.as_object_mut()
            && let Some(Json::Array(entries)) = root.get_mut(list)
        {
            entries.retain(|entry| entry["name"] != name);
            if entries.is_empty() {
                root.remove(list);
            }
        }
        self.apply(changes, &expected)
    }

    /// Sets the current context.
    pub(super) fn set_current_context(&mut self, name: &str) -> Result<(), ShapeError> {
        let text = scalar(name);
        let change = match self.root.get("current-context") {
            Some(node) if node.place.is_empty() => {
                let at = self.behind_colon("current-context")?;
                Change {
                    place: at..at,
                    text: format!(" {text}"),
                }
            }
            Some(node) => Change {
                place: node.place.clone(),
                text,
            },
            None => self.at_the_end(&format!("current-context: {text}\n")),
        };
        let mut expected = self.root.meaning();
        if let Some(root) = expected.as_object_mut() {
            root.insert("current-context".to_owned(), json!(name));
        }
        self.apply(vec![change], &expected)
    }

    /// Makes the changes, unless the text would then say anything else than what is expected.
    fn apply(&mut self, mut changes: Vec<Change>, expected: &Json) -> Result<(), ShapeError> {
        // From the end, so that places before stay right.
        changes.sort_by_key(|change| std::cmp::Reverse(change.place.start));
        let mut text = self.text.clone();
        for change in changes {
            text.replace_range(change.place, &change.text);
        }
        let changed = Node::read(&text).ok().flatten();
        match changed {
            Some(root) if root.meaning() == *expected => {
                self.text = text;
                self.root = root;
                Ok(())
            }
            Some(_) | None => Err(ShapeError::Layout {
                what: "an edit would change what else is in it",
                line: self.root.line,
            }),
        }
    }

    /// An entry behind the last one of its list.
    fn appended(&self, list: &'static str, lines: &str) -> Result<Change, ShapeError> {
        let Some(entry) = self.root.entry(list) else {
            return Ok(self.at_the_end(&format!("{list}:\n{}", self.item(lines, 0))));
        };
        match &entry.value.value {
            Value::List { items, flow: false } if !items.is_empty() => {
                let Some(last) = items.last() else {
                    return Ok(self.at_the_end(""));
                };
                let at = self.lines_of(last)?.end;
                let mut text = self.item(lines, self.dash_column(last)?);
                if !self.between(0..at).ends_with('\n') {
                    text.insert_str(0, newline(&self.text));
                }
                Ok(Change {
                    place: at..at,
                    text,
                })
            }
            Value::List { items, .. } if !items.is_empty() => Err(ShapeError::Layout {
                what: "a list in brackets",
                line: entry.value.line,
            }),
            // Nothing, `null` or `[]`: what stands behind it, such as a comment, stays on its line.
            _ => {
                let start = self.behind_colon(list)?;
                let value_end = entry.value.place.end.max(start);
                let end = self.line_end(value_end);
                let rest = self.between(value_end..end).trim_end_matches(['\r', '\n']);
                Ok(Change {
                    text: format!("{rest}{}{}", newline(&self.text), self.item(lines, 0)),
                    place: start..end,
                })
            }
        }
    }

    fn at_the_end(&self, lines: &str) -> Change {
        let newline = newline(&self.text);
        let mut text = lines.replace("\r\n", "\n").replace('\n', newline);
        if !self.text.ends_with('\n') {
            text.insert_str(0, newline);
        }
        let end = self.text.len();
        Change {
            place: end..end,
            text,
        }
    }

    /// The lines of a mapping as an item whose dash stands in a column.
    fn item(&self, lines: &str, column: usize) -> String {
        let newline = newline(&self.text);
        lines
            .lines()
            .enumerate()
            .map(|(number, line)| {
                let dash = if number == 0 { "- " } else { "  " };
                format!("{:column$}{dash}{line}{newline}", "")
            })
            .collect()
    }

    /// The column of an item's dash, which must be the first thing in the item's first line.
    fn dash_column(&self, item: &Node) -> Result<usize, ShapeError> {
        let before = self.between(self.line_start(item.place.start)..item.place.start);
        let (indent, rest) = before.split_once('-').unwrap_or((before, "?"));
        let blank = |text: &str| text.bytes().all(|byte| byte == b' ');
        if blank(indent) && blank(rest) {
            Ok(indent.len())
        } else {
            Err(ShapeError::Layout {
                what: "an entry that does not begin beside its dash",
                line: item.line,
            })
        }
    }

    /// Whole lines of an item.
    fn lines_of(&self, item: &Node) -> Result<Range<usize>, ShapeError> {
        self.dash_column(item)?;
        Ok(self.line_start(item.place.start)..self.line_end(item.place.end))
    }

    /// Where the value of a key of the root begins: behind the colon.
    fn behind_colon(&self, key: &str) -> Result<usize, ShapeError> {
        let place = self.root.entry(key).map(|entry| entry.key_place.end);
        place
            .and_then(|end| {
                let rest = self.between(end..self.text.len());
                let blanks = rest.len() - rest.trim_start_matches(' ').len();
                self.between(end + blanks..self.text.len())
                    .starts_with(':')
                    .then_some(end + blanks + 1)
            })
            .ok_or(ShapeError::Layout {
                what: "a key whose colon is elsewhere",
                line: self.root.line,
            })
    }

    /// Empty where the places are none of the text's.
    fn between(&self, place: Range<usize>) -> &str {
        self.text.get(place).unwrap_or_default()
    }

    fn line_start(&self, at: usize) -> usize {
        self.between(0..at).rfind('\n').map_or(0, |end| end + 1)
    }

    /// Behind the newline of the line that ends at or after this place.
    fn line_end(&self, at: usize) -> usize {
        if self.between(0..at).ends_with('\n') {
            return at;
        }
        self.between(at..self.text.len())
            .find('\n')
            .map_or(self.text.len(), |newline| at + newline + 1)
    }
}

/// How the text ends its lines.
fn newline(text: &str) -> &'static str {
    match text.find('\n') {
        Some(at) if text.get(..at).is_some_and(|line| line.ends_with('\r')) => "\r\n",
        _ => "\n",
    }
}

/// A text as a YAML scalar: in the quotes of JSON, which are YAML too, where it needs them.
pub(super) fn scalar(text: &str) -> String {
    if is_plain_text(text) {
        text.to_owned()
    } else {
        Json::from(text).to_string()
    }
}
