//! What is printed: data to standard output, everything said to people on standard error.

use crate::{
    args::{Format, Global},
    error::Error,
    touch::Notice,
};
use serde::Serialize;
use std::io::{self, IsTerminal as _, Write as _};

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
                .map(|json| json + "\n")
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
            say(&printable(text));
        }
    }

    /// Says what must not be missed.
    pub fn warn(self, text: &str) {
        say(&format!("{} {}", paint("warning:", "33"), printable(text)));
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
    let error_in_words = printable(&error.to_string());
    say(&format!("{} {error_in_words}", paint("error:", "31")));
    if let Some(remedy) = error.remedy() {
        say(&format!("{} {}", paint("try:", "32"), printable(&remedy)));
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
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column).map(|cell| cell.chars().count()))
            .chain(headings.get(column).map(|heading| heading.chars().count()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    let headings: Vec<String> = headings.iter().map(ToString::to_string).collect();
    for row in std::iter::once(&headings).chain(rows) {
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
        .map(|(name, value)| format!("{:<width$} {value}\n", format!("{name}:")))
        .collect()
}

/// Text that others wrote, made safe for a terminal: control and direction characters become `?`.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}' => '?',
            c if c.is_control() && c != '\n' => '?',
            c => c,
        })
        .collect()
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
    }
}
