//! The node's own services, as systemd tells of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use plab_tests::measure::Failure;

use crate::command::run;
use crate::probes::patience;

/// What is looked at of each service.
const PROPERTIES: &str = "Id,ActiveState,SubState,MainPID,NRestarts,Result";

type Properties = BTreeMap<String, String>;

/// Services that ran at one time, by name.
pub struct Services(BTreeMap<String, Properties>);

impl Services {
    /// All that run now; none where systemd does not.
    pub fn running() -> Result<Option<Self>, Failure> {
        if !Path::new("/run/systemd/system").exists() {
            return Ok(None);
        }
        let mut all = now()?;
        all.retain(|_, properties| is(properties, "SubState", "running"));
        Ok(Some(Self(all)))
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// What is no longer as it was, in words.
    pub fn complaints(&self) -> Result<Vec<String>, Failure> {
        let now = now()?;
        Ok(self.0.iter().filter_map(|(name, before)| complaint(name, before, now.get(name))).collect())
    }
}

fn complaint(name: &str, before: &Properties, now: Option<&Properties>) -> Option<String> {
    // systemd forgets a unit that ended well and that nothing needs; one that failed it keeps (CollectMode= of systemd.unit(5)).
    let now = now?;
    // One that systemd starts on demand may also end by itself, and has then succeeded.
    let ended_well = is(now, "ActiveState", "inactive") && is(now, "Result", "success");
    let same = ["ActiveState", "MainPID", "NRestarts"].iter().all(|key| before.get(*key) == now.get(*key));
    (!same && !ended_well).then(|| format!("{name} was {before:?} and is {now:?}"))
}

fn is(properties: &Properties, key: &str, value: &str) -> bool {
    properties.get(key).is_some_and(|found| found == value)
}

fn now() -> Result<BTreeMap<String, Properties>, Failure> {
    let mut command = Command::new("systemctl");
    command.args(["show", "*.service", "--property", PROPERTIES]);
    let output = run(command, patience())?.ok_or("systemctl does not answer")?;
    if output.code != 0 {
        return Err(format!("systemctl show: {}", output.stderr.trim()).into());
    }
    Ok(parse(&output.stdout))
}

/// Blocks of `KEY=VALUE` with an empty line between two.
fn parse(text: &str) -> BTreeMap<String, Properties> {
    text.split("\n\n")
        .map(|block| {
            let pairs = block.lines().filter_map(|line| line.split_once('='));
            pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect::<Properties>()
        })
        .filter_map(|properties| Some((properties.get("Id")?.clone(), properties)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(active: &str, pid: &str, restarts: &str, result: &str) -> Properties {
        let text = format!(
            "Id=a.service\nActiveState={active}\nMainPID={pid}\nNRestarts={restarts}\nResult={result}\n"
        );
        parse(&text).remove("a.service").expect("one")
    }

    #[test]
    fn a_service_that_was_restarted_or_died_is_told() {
        let before = one("active", "7", "0", "success");
        let told = |now: &Properties| complaint("a", &before, Some(now)).is_some();
        assert!(!told(&before.clone()));
        assert!(told(&one("active", "9", "1", "success")));
        assert!(told(&one("failed", "0", "0", "signal")));
        assert!(told(&one("inactive", "0", "0", "oom-kill")));
        assert!(!told(&one("inactive", "0", "0", "success")));
        assert!(complaint("a", &before, None).is_none());
    }
}
