//! Why a single value was not accepted, before anyone knows where it stood.

use std::borrow::Cow;

/// A value that could not be accepted: what would have been, and why this one was not.
///
/// It carries no position and not the value itself; [`ConfigError`](crate::ConfigError) adds file, line,
/// key and what was read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}{}", .reason.as_ref().map(|r| format!("; {r}")).unwrap_or_default())]
pub struct ValueError {
    expected: Cow<'static, str>,
    reason: Option<Cow<'static, str>>,
}

impl ValueError {
    /// A value of another form than `expected`, which says all there is to say.
    pub fn expected(expected: impl Into<Cow<'static, str>>) -> Self {
        Self { expected: expected.into(), reason: None }
    }

    /// A value whose form alone does not show what is wrong: `reason` does.
    pub fn because(expected: impl Into<Cow<'static, str>>, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { expected: expected.into(), reason: Some(reason.into()) }
    }

    /// What would have been accepted, such as `a size such as "256M"`.
    pub fn what(&self) -> &str {
        &self.expected
    }

    /// What is wrong with this value, where its form alone does not show it.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}
