//! Walking a TOML text by hand, so that every mistake in it is found and each is told with its place.
//!
//! Deserialising into structures would stop at the first mistake and lose where the others stood.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::ValueError;
use crate::error::{ConfigError, ErrorKind};
use crate::from_toml::FromToml;
use crate::nearest::nearest;
use crate::shown::{quoted, shown};
use crate::text::check_size;

/// The most mistakes reported of one file; the rest is most probably one mistake repeated.
const MAX_ERRORS: usize = 64;

/// The text being read, with what was found wrong in it so far.
pub(crate) struct Document<'t> {
    file: &'t Path,
    text: &'t str,
    line_starts: Vec<usize>,
    known: &'static [&'static str],
    errors: RefCell<Vec<ConfigError>>,
}

/// Reads `text` with `read`, given the top-level table; `known` are all keys of this kind of file, dotted.
///
/// What `read` returns counts only if nothing was found wrong; the mistakes are in the order of the text.
pub(crate) fn read_document<'t, T>(
    text: &'t str,
    file: &'t Path,
    known: &'static [&'static str],
    read: impl FnOnce(&mut Section<'_, 't>) -> Option<T>,
) -> Result<T, Vec<ConfigError>> {
    check_size(text.len(), file)?;
    let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let document = Document { file, text, line_starts, known, errors: RefCell::default() };
    let (table, syntax_errors) = DeTable::parse_recoverable(text);
    let mut result = None;
    if syntax_errors.is_empty() {
        let mut top = Section {
            document: &document,
            path: String::new(),
            at: 0..0,
            table: Some(table.get_ref()),
            taken: Vec::new(),
        };
        result = read(&mut top);
        top.report_leftovers();
    }
    // What a parser makes of a broken text is guesswork; mistakes found in that would mislead.
    for error in syntax_errors.iter().take(MAX_ERRORS) {
        document.report_syntax(error);
    }
    let mut errors = document.errors.into_inner();
    errors.sort_by_key(|e| (e.line, e.column));
    match result {
        Some(value) if errors.is_empty() => Ok(value),
        _ => Err(errors),
    }
}

impl Document<'_> {
    /// Line and column, both from 1, the column in characters.
    fn position(&self, at: usize) -> (usize, usize) {
        let line = self.line_starts.partition_point(|start| *start <= at).max(1);
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let column = 1 + self.text.get(start..at).map_or(0, |before| before.chars().count());
        (line, column)
    }

    fn report(&self, kind: ErrorKind, at: usize, key: String, details: Details) {
        let mut errors = self.errors.borrow_mut();
        if errors.len() < MAX_ERRORS {
            let (line, column) = self.position(at);
            let Details { read, expected, nearest, reason } = details;
            errors.push(ConfigError {
                kind,
                file: self.file.to_owned(),
                line,
                column,
                key,
                read,
                expected,
                nearest,
                reason,
            });
        }
    }

    fn is_full(&self) -> bool {
        self.errors.borrow().len() >= MAX_ERRORS
    }

    fn report_syntax(&self, error: &toml::de::Error) {
        let at = error.span().map_or(self.text.len(), |span| span.start);
        let (line, _) = self.position(at);
        let content = self.line(line).trim();
        self.report(
            ErrorKind::Syntax,
            at,
            self.key_on_line(line),
            Details {
                read: (!content.is_empty()).then(|| quoted(content)),
                reason: Some(shown(error.message())),
                ..Details::default()
            },
        );
    }

    fn line(&self, line: usize) -> &str {
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let end = self.line_starts.get(line).copied().unwrap_or(self.text.len());
        self.text.get(start..end).unwrap_or("")
    }

    /// The key that the line's writer had in mind, as far as a line that is not TOML shows it: what stands before
    /// `=`, after the name of the table above.
    fn key_on_line(&self, line: usize) -> String {
        let is_bare = |key: &str| {
            !key.is_empty()
                && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let Some((key, _)) = self.line(line).split_once('=') else { return String::new() };
        let key = key.trim();
        if !is_bare(key) {
            return String::new();
        }
        let table = (1..line).rev().find_map(|above| self.line(above).trim().strip_prefix('['));
        match table.and_then(|table| table.split_once(']')) {
            Some((table, _)) if is_bare(table.trim()) => shown(&format!("{}.{key}", table.trim())),
            _ => shown(key),
        }
    }
}

/// The parts of a [`ConfigError`] that depend on its kind.
#[derive(Default)]
struct Details {
    read: Option<String>,
    expected: Option<String>,
    nearest: Option<String>,
    reason: Option<String>,
}

/// One table of the document, or its absence; remembers which of its keys were asked for, since all others are
/// unknown.
pub(crate) struct Section<'d, 't> {
    document: &'d Document<'t>,
    path: String,
    at: Range<usize>,
    table: Option<&'d DeTable<'t>>,
    taken: Vec<&'static str>,
}

impl<'d, 't> Section<'d, 't> {
    /// The value of `key`, if it is there.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<Item<'d, 't>> {
        self.taken.push(key);
        let (name, value) = self.table?.get_key_value(key)?;
        Some(Item {
            document: self.document,
            path: join(&self.path, key),
            key_at: name.span(),
            at: value.span(),
            value: value.get_ref(),
        })
    }

    /// The value of `key` as a `T`; `None` if it is absent or was reported as wrong.
    pub(crate) fn read<T: FromToml>(&mut self, key: &'static str) -> Option<T> {
        self.take(key)?.read()
    }

    /// The value of `key` as a `T`; its absence is reported.
    pub(crate) fn require<T: FromToml>(&mut self, key: &'static str) -> Option<T> {
        match self.take(key) {
            Some(item) => item.read(),
            None => {
                self.missing(key, T::EXPECTED);
                None
            }
        }
    }

    /// Reports that `key` is absent.
    pub(crate) fn missing(&self, key: &str, expected: &str) {
        let details = Details { expected: Some(expected.to_owned()), ..Details::default() };
        self.document.report(ErrorKind::Missing, self.at.start, join(&self.path, key), details);
    }

    /// Reads the table `key` with `read`. If it is absent, `read` finds all its keys absent.
    pub(crate) fn section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'d, 't>) -> T,
    ) -> T {
        let item = self.take(key);
        let mut section = match &item {
            Some(item) => item.as_section(),
            None => Section {
                document: self.document,
                path: join(&self.path, key),
                at: self.at.clone(),
                table: None,
                taken: Vec::new(),
            },
        };
        let value = read(&mut section);
        section.report_leftovers();
        value
    }

    fn report_leftovers(&self) {
        let leftovers = self
            .table
            .into_iter()
            .flat_map(|table| table.iter())
            .filter(|(name, _)| !self.taken.contains(&name.get_ref().as_ref()));
        for (name, _) in leftovers {
            if self.document.is_full() {
                return;
            }
            let path = join(&self.path, name.get_ref());
            let near = nearest(&without_indices(&path), self.document.known);
            let details = Details {
                read: Some(quoted(name.get_ref())),
                expected: near.is_none().then(|| match self.taken[..] {
                    [only] => only.to_owned(),
                    _ => format!("one of {}", self.taken.join(", ")),
                }),
                nearest: near.map(str::to_owned),
                reason: None,
            };
            self.document.report(ErrorKind::UnknownKey, name.span().start, path, details);
        }
    }
}

/// One value of the document with its place.
pub(crate) struct Item<'d, 't> {
    document: &'d Document<'t>,
    path: String,
    key_at: Range<usize>,
    at: Range<usize>,
    value: &'d DeValue<'t>,
}

impl<'d, 't> Item<'d, 't> {
    /// The value as a `T`; `None` if it was reported as wrong.
    pub(crate) fn read<T: FromToml>(&self) -> Option<T> {
        match T::from_toml(self.value) {
            Ok(value) => Some(value),
            Err(error) => {
                self.reject(&error);
                None
            }
        }
    }

    /// The elements of an array; `None` if it is none and was reported.
    pub(crate) fn elements(&self, expected: &'static str) -> Option<Vec<Item<'d, 't>>> {
        let Some(array) = self.value.as_array() else {
            self.reject(&ValueError::expected(expected));
            return None;
        };
        let elements = array.iter().enumerate().map(|(index, value)| Item {
            document: self.document,
            path: format!("{}[{index}]", self.path),
            key_at: value.span(),
            at: value.span(),
            value: value.get_ref(),
        });
        Some(elements.collect())
    }

    /// Whether the value is a table.
    pub(crate) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// Reads the value, a table, with `read`.
    pub(crate) fn table<T>(&self, read: impl FnOnce(&mut Section<'d, 't>) -> T) -> T {
        let mut section = self.as_section();
        let value = read(&mut section);
        section.report_leftovers();
        value
    }

    fn as_section(&self) -> Section<'d, 't> {
        let table = self.value.as_table();
        if table.is_none() {
            self.reject(&ValueError::expected("a table"));
        }
        Section {
            document: self.document,
            path: self.path.clone(),
            at: self.at.clone(),
            table,
            taken: Vec::new(),
        }
    }

    /// Reports the value as wrong.
    pub(crate) fn reject(&self, error: &ValueError) {
        self.reject_text(self.read_text(), error);
    }

    /// Reports the value as wrong, and as having been read as `meaning` where that tells more than its spelling.
    pub(crate) fn reject_reading(&self, meaning: &str, error: &ValueError) {
        self.reject_text(shown(meaning), error);
    }

    fn reject_text(&self, read: String, error: &ValueError) {
        let details = Details {
            read: Some(read),
            expected: Some(error.what().to_owned()),
            nearest: None,
            reason: error.reason().map(str::to_owned),
        };
        self.document.report(ErrorKind::Value, self.at.start, self.path.clone(), details);
    }

    /// Reports the key as one that this node does not act on, whatever its value.
    pub(crate) fn refuse(&self, reason: &str) {
        let details = Details { reason: Some(reason.to_owned()), ..Details::default() };
        self.document.report(ErrorKind::Refused, self.key_at.start, self.path.clone(), details);
    }

    /// The line the value is on, from 1.
    pub(crate) fn line(&self) -> usize {
        self.document.position(self.at.start).0
    }

    /// The value as the file has it; strings as what they mean, in quotes.
    fn read_text(&self) -> String {
        match self.value {
            DeValue::String(text) => quoted(text),
            _ => shown(self.document.text.get(self.at.clone()).unwrap_or(self.value.type_str())),
        }
    }
}

/// The dotted path of `key` in the table at `path`, quoted where TOML would need it to be, escaped and bounded.
fn join(path: &str, key: &str) -> String {
    let is_bare =
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    let key = if is_bare { shown(key) } else { quoted(key) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// `path` as the table of known keys has it: every element of an array has the same keys.
fn without_indices(path: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            _ if !inside => out.push(c),
            _ => {}
        }
    }
    out
}
