//! What stress-ng has, by its own word, and what its words on one stressor mean.

use std::time::Duration;

use plab_tests::measure::Failure;
use plab_tests::{Output, TestNode};
use serde::Serialize;

use crate::capsules::STRESS;
use crate::command::plab;

/// stress-ng answers a question at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// A class and its stressors.
pub struct Class {
    /// Such as `vm`.
    pub name: String,
    /// Such as `mmap`. A stressor may be in several classes.
    pub stressors: Vec<String>,
}

/// How one stressor ended.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case", tag = "ended", content = "why")]
pub enum Ended {
    /// It ran for its time.
    Ran,
    /// It cannot run in a capsule, or on this machine: a right, a device or a kernel's part is missing.
    Skipped(String),
    /// It ran, and something that it checked was not as it expects. In a sandbox that is often a refusal.
    Failed(String),
    /// The capsule was ended meanwhile: most often out of memory.
    WithCapsule,
    /// It was stopped at the time limit, and the capsule started anew.
    Overran,
    /// The capsule could not start it.
    NotStarted(String),
}

/// The version of stress-ng inside the capsule.
pub fn version(node: &TestNode) -> Result<String, Failure> {
    let said = ask(node, &["--version"])?;
    Ok(said.split(" (").next().unwrap_or(&said).trim().to_owned())
}

/// Every class with its stressors.
pub fn classes(node: &TestNode) -> Result<Vec<Class>, Failure> {
    // There is no option that lists the classes; the complaint about an unknown one does.
    let said = ask(node, &["--class", "every"])?;
    let names = after(&said, "available classes:")?;
    names.into_iter().map(|name| stressors(node, name)).collect()
}

fn stressors(node: &TestNode, name: String) -> Result<Class, Failure> {
    let said = ask(node, &["--class", &format!("{name}?")])?;
    Ok(Class { stressors: after(&said, "stressors:")?, name })
}

fn ask(node: &TestNode, question: &[&str]) -> Result<String, Failure> {
    let mut args = vec!["exec", STRESS, "--", "stress-ng"];
    args.extend(question);
    let output = plab(node, &args, PATIENCE)?.ok_or("stress-ng does not answer")?;
    Ok(output.stdout + &output.stderr)
}

/// The words after this one, to the end of its line.
fn after(said: &str, word: &str) -> Result<Vec<String>, Failure> {
    let words: Vec<String> = said
        .split_once(word)
        .map(|(_, rest)| rest.lines().next().unwrap_or_default())
        .into_iter()
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_matches(',').to_owned())
        .collect();
    if words.is_empty() {
        return Err(format!(
            "stress-ng did not say its \"{word}\"; is it installed? It said: {}",
            said.trim()
        )
        .into());
    }
    Ok(words)
}

/// What stress-ng's exit status and messages say of the one stressor that it was to run; none if it never spoke, so that
/// `plab` has to tell why.
pub fn judge(output: &Output) -> Option<Ended> {
    let text = format!("{}{}", output.stdout, output.stderr);
    if !text.lines().any(|line| line.starts_with("stress-ng: ")) {
        return None;
    }
    let skipped = text.contains("No stress workers invoked")
        || number_after(&text, "skipped: ").is_some_and(|count| count > 0);
    // The exit statuses 3 and 4 are "no resource" and "not implemented" in stress-ng(1).
    Some(match output.code {
        3 | 4 => Ended::Skipped(reason(&text, &["skip", "disabled", "not "])),
        _ if skipped => Ended::Skipped(reason(&text, &["skip", "disabled", "not "])),
        0 => Ended::Ran,
        code => {
            Ended::Failed(format!("status {code}: {}", reason(&text, &["fail:", "error:", "terminated"])))
        }
    })
}

fn number_after(text: &str, word: &str) -> Option<u32> {
    let rest = text.split_once(word)?.1;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The first line that has one of these, without stress-ng's own prefix, in bounds.
fn reason(text: &str, hints: &[&str]) -> String {
    let line = hints.iter().find_map(|hint| text.lines().find(|line| line.contains(hint)));
    let line = line.unwrap_or_default();
    let line = line.split_once("] ").map_or(line, |(_, said)| said);
    line.chars().take(160).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: i32, stderr: &str) -> Option<Ended> {
        judge(&Output { code, stdout: String::new(), stderr: stderr.to_owned() })
    }

    #[test]
    fn a_stressor_that_ran_differs_from_one_that_was_skipped() {
        assert!(matches!(
            said(0, "stress-ng: info:  [9] successful run completed in 1.00s"),
            Some(Ended::Ran)
        ));
        let root = "stress-ng: info:  [5] quota stressor will be skipped, need to be running with CAP_SYS_ADMIN\n\
                    stress-ng: error: [5] No stress workers invoked (one or more were unsupported)";
        match said(0, root) {
            Some(Ended::Skipped(why)) => assert!(why.starts_with("quota stressor will be skipped"), "{why}"),
            other => panic!("{other:?}"),
        }
        let newer = "stress-ng: info:  [5] skipped: 1: quota (1)\nstress-ng: info:  [5] passed: 0";
        assert!(matches!(said(0, newer), Some(Ended::Skipped(_))));
        assert!(matches!(said(0, "stress-ng: info:  [5] skipped: 0"), Some(Ended::Ran)));
    }

    #[test]
    fn failures_have_their_reason_and_silence_is_none() {
        match said(2, "stress-ng: fail:  [7] mq: mq_open failed, errno=13\n") {
            Some(Ended::Failed(why)) => assert_eq!(why, "status 2: mq: mq_open failed, errno=13"),
            other => panic!("{other:?}"),
        }
        assert!(said(125, "plab: could not execute stress-ng: Resource temporarily unavailable").is_none());
    }

    #[test]
    fn lists_end_with_their_line() {
        let text = "Unknown class: 'x', available classes: cpu-cache cpu\nmore";
        assert_eq!(after(text, "available classes:").expect("a list"), ["cpu-cache", "cpu"]);
        assert!(after("bash: stress-ng: not found", "stressors:").is_err());
    }
}
