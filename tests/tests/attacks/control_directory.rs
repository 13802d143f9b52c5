//! stub
use crate::{case::Case, stage::Stage};
pub fn cases(_: &Stage) -> Vec<Case> { Vec::new() }
