//! A file that is being read: where its values stand, and the simple ones of them.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use toml::Spanned;

use super::error::ProfileError;

/// A file that is being read: what messages need to say where they are.
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    pub(super) origin: &'a str,
}

impl Source<'_> {
    pub(super) fn line(&self, span: Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    pub(super) fn wrong(
        &self,
        span: Range<usize>,
        key: &str,
        read: impl fmt::Debug,
        expected: impl Into<String>,
    ) -> ProfileError {
        ProfileError::Value {
            file: self.origin.to_owned(),
            line: self.line(span),
            key: key.to_owned(),
            read: format!("{read:?}"),
            expected: expected.into(),
        }
    }

    pub(super) fn wrong_call(
        &self,
        call: &Spanned<String>,
        key: &str,
        expected: impl Into<String>,
    ) -> ProfileError {
        self.wrong(call.span(), key, call.get_ref(), expected)
    }

    pub(super) fn sentence(&self, key: &str, text: Spanned<String>) -> Result<String, ProfileError> {
        if text.get_ref().trim().is_empty() {
            return Err(self.wrong(text.span(), key, text.get_ref(), "a reason for the reader"));
        }
        Ok(text.into_inner())
    }

    pub(super) fn u32(&self, key: &str, value: &Spanned<i64>) -> Result<u32, ProfileError> {
        u32::try_from(*value.get_ref())
            .map_err(|_| self.wrong(value.span(), key, value.get_ref(), "a number from 0 to 0xffffffff"))
    }

    pub(super) fn values(
        &self,
        key: &str,
        values: Vec<Spanned<i64>>,
        at: &Range<usize>,
    ) -> Result<Vec<u32>, ProfileError> {
        // An empty list would mean "always" for not_in and "never" for the others: nobody means either.
        if values.is_empty() {
            return Err(self.wrong(at.clone(), key, "[]", "at least one number"));
        }
        let mut seen = BTreeSet::new();
        for value in &values {
            if !seen.insert(self.u32(key, value)?) {
                return Err(self.wrong(value.span(), key, value.get_ref(), "each number once"));
            }
        }
        values.iter().map(|value| self.u32(key, value)).collect()
    }
}
