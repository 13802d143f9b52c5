//! A profile file as it is written: its tables and keys.

use serde::Deserialize;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileProfile {
    pub(super) name: Spanned<String>,
    pub(super) summary: Spanned<String>,
    pub(super) base: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) group: Vec<FileGroup>,
    #[serde(default)]
    pub(super) deny: Vec<FileDeny>,
    #[serde(default)]
    pub(super) absent: Vec<FileCalls>,
    #[serde(default)]
    pub(super) remove: Vec<FileCalls>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileGroup {
    pub(super) name: Spanned<String>,
    pub(super) why: Spanned<String>,
    pub(super) calls: Spanned<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileDeny {
    pub(super) calls: Spanned<Vec<Spanned<String>>>,
    pub(super) why: Spanned<String>,
    pub(super) when: Option<Spanned<Vec<Spanned<FileCondition>>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileCalls {
    pub(super) calls: Spanned<Vec<Spanned<String>>>,
    pub(super) why: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileCondition {
    pub(super) arg: Spanned<i64>,
    pub(super) mask: Option<Spanned<i64>>,
    pub(super) r#in: Option<Vec<Spanned<i64>>>,
    pub(super) not_in: Option<Vec<Spanned<i64>>>,
    pub(super) any_bits: Option<Vec<Spanned<i64>>>,
}
