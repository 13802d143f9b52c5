//! The way through `seccompiler`'s JSON front end, which has the tables of names and numbers.

use std::fmt::Write as _;

use seccompiler::{TargetArch, sock_filter};

use super::conditions::{Comparison, Operator};

/// Rules of one filter, as JSON.
#[derive(Default)]
pub(super) struct Rules {
    json: String,
}

impl Rules {
    /// Adds a rule that matches `call` if all `comparisons` hold.
    pub(super) fn add(&mut self, call: &str, comparisons: &[Comparison]) {
        // A profile's names are letters, digits and underscores: there is nothing to escape.
        let separator = if self.json.is_empty() { "" } else { "," };
        let _ = write!(self.json, "{separator}{{\"syscall\":\"{call}\"");
        if !comparisons.is_empty() {
            self.json.push_str(",\"args\":[");
            for (i, Comparison { arg, operator, value }) in comparisons.iter().enumerate() {
                let separator = if i == 0 { "" } else { "," };
                let operator = match operator {
                    Operator::NotEqual => "\"ne\"".to_owned(),
                    Operator::MaskedEqual(u32::MAX) => "\"eq\"".to_owned(),
                    Operator::MaskedEqual(mask) => format!("{{\"masked_eq\":{mask}}}"),
                };
                // dword: the low 32 bits and nothing else, as the kernel does for an int.
                let _ = write!(
                    self.json,
                    "{separator}{{\"index\":{arg},\"type\":\"dword\",\"op\":{operator},\"val\":{value}}}"
                );
            }
            self.json.push(']');
        }
        self.json.push('}');
    }
}

pub(super) fn compile_rules(
    rules: &Rules,
    mismatch: &str,
    matched: &str,
    target: TargetArch,
) -> Result<Vec<sock_filter>, seccompiler::Error> {
    let json = format!(
        "{{\"filter\":{{\"mismatch_action\":{mismatch},\"match_action\":{matched},\"filter\":[{}]}}}}",
        rules.json
    );
    let mut programs = seccompiler::compile_from_json(json.as_bytes(), target)?;
    // One key in, one key out.
    Ok(programs.remove("filter").unwrap_or_default())
}
