//! `plab node reboot` and `poweroff` (3.5): planned, announced, and done only after every capsule was stopped in order.
//!
//! The plan is in the ledger, so that plabd's own restart does not lose it. One whose time has passed when plabd starts
//! is dropped, never carried out late: the machine may have been off for days, and whoever planned it meant another
//! night.

use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use plab_protocol::control::{ErrorCode, ErrorReply, Severity, SliceState};
use plab_protocol::machine::{BootEnd, Plan, PowerAction};
use plab_sandbox::message::ToInit;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::node::Node;
use crate::slice::refused;

/// The ledger's name for the plan.
const PLAN: &str = "power_plan";

/// When those who are logged in are warned, in seconds before: longest first.
const WARNINGS: [i64; 3] = [600, 300, 60];

/// A plan further away than this is a mistake. Seconds.
const FURTHEST: i64 = 366 * 86_400;

/// The longest reason, in characters: it has to fit one line of a terminal or two.
const REASON: usize = 120;

/// Beyond the longest grace that a slice has, before the machine goes down all the same: a process that is stuck in the
/// kernel must not keep a machine from being rebooted.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long systemd is given to answer.
const SYSTEMD: Duration = Duration::from_secs(5);

/// The longest sleep towards a plan.
const LOOK: Duration = Duration::from_secs(3600);

/// What is planned; its task follows it.
pub struct Power {
    plan: watch::Sender<Option<Plan>>,
}

impl Power {
    /// Nothing is planned.
    pub fn new() -> Self {
        Self { plan: watch::Sender::new(None) }
    }

    /// What is planned.
    pub fn plan(&self) -> Option<Plan> {
        self.plan.borrow().clone()
    }
}

/// What reboots the machine.
enum Means {
    Systemd,
    Program(std::path::PathBuf),
}

fn means(node: &Node) -> Result<Means, ErrorReply> {
    if let Some(program) = &node.machine.node.power_program {
        return Ok(Means::Program(program.as_path().to_owned()));
    }
    if node.machine.paths.root != std::path::Path::new("/") {
        let message = format!(
            "this node lives below {} and does not own the machine; nothing was planned",
            node.machine.paths.root.display()
        );
        return Err(refused(ErrorCode::WrongState, message));
    }
    if !has_systemd() {
        let message = "this machine's init is not systemd, and the node file has no [power] program; nothing was planned";
        return Err(refused(ErrorCode::WrongState, message));
    }
    Ok(Means::Systemd)
}

/// As sd_booted(3).
fn has_systemd() -> bool {
    std::path::Path::new("/run/systemd/system").is_dir()
}

/// Plans it; `at` is RFC 3339, at once if absent. Returns the plan.
///
/// # Errors
/// It cannot be done on this machine, the time is none or has passed, or the ledger cannot be written.
pub async fn plan(
    node: &Rc<Node>,
    action: PowerAction,
    at: Option<&str>,
    reason: Option<String>,
) -> Result<Plan, ErrorReply> {
    means(node)?;
    let now = node.clock.now();
    let at = match at {
        Some(text) => time(text, now).map_err(|message| refused(ErrorCode::Malformed, message))?,
        None => now,
    };
    if let Some(reason) = &reason
        && (reason.chars().count() > REASON || reason.chars().any(char::is_control))
    {
        let message = format!("the reason is one line of at most {REASON} characters");
        return Err(refused(ErrorCode::Malformed, message));
    }
    let plan = Plan { action, at: at.to_string(), reason, planned: now.to_string() };
    let text = serde_json::to_string(&plan).map_err(|error| refused(ErrorCode::Failed, error.to_string()))?;
    // One for now need not outlive plabd, and must be possible on a full disk.
    if at > now {
        let kept = node.ledger.set_meta(PLAN, text).await;
        kept.map_err(|error| refused(ErrorCode::Failed, error.to_string()))?;
        let message = announcement(node, &plan, at.as_second() - now.as_second());
        warn(node, &message);
        node.events.report(None, "power-planned", Severity::Notice, message);
    }
    node.power.plan.send_replace(Some(plan.clone()));
    Ok(plan)
}

fn time(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let at: Timestamp =
        text.parse().map_err(|_| format!("{text:?} is no time such as 2026-03-01T04:00:00Z"))?;
    let left = at.as_second() - now.as_second();
    if left < 0 {
        return Err(format!("{at} has passed: it is {now:.0}"));
    }
    if left > FURTHEST {
        return Err(format!("{at} is more than a year away"));
    }
    Ok(at)
}

/// Drops what is planned; returns what it was.
///
/// # Errors
/// Nothing is planned, or the ledger cannot be written.
pub async fn cancel(node: &Rc<Node>) -> Result<Plan, ErrorReply> {
    let plan = node.power.plan().ok_or_else(|| {
        refused(ErrorCode::WrongState, "nothing is planned, or it has begun: then it cannot be cancelled")
    })?;
    node.power.plan.send_replace(None);
    if let Err(error) = node.ledger.unset_meta(PLAN).await {
        // The next plabd would find it again.
        node.power.plan.send_replace(Some(plan));
        return Err(refused(ErrorCode::Failed, error.to_string()));
    }
    let message = format!("{} at {} does not take place", plan.action.name(), plan.at);
    warn(node, &format!("{}: {message}", node.machine.node.name));
    node.events.report(None, "power-cancelled", Severity::Notice, message);
    Ok(plan)
}

/// Takes up the plan of a former plabd, or drops it if its time has passed.
///
/// # Errors
/// The ledger cannot be read.
pub async fn resume(node: &Rc<Node>) -> Result<(), crate::ledger::LedgerError> {
    let Some(text) = node.ledger.meta(PLAN).await? else { return Ok(()) };
    let plan: Option<Plan> = serde_json::from_str(&text).ok();
    let at = plan.as_ref().and_then(|plan| plan.at.parse::<Timestamp>().ok());
    match (plan, at) {
        (Some(plan), Some(at)) if at > node.clock.now() => {
            node.power.plan.send_replace(Some(plan));
        }
        (plan, _) => {
            let what = plan.map_or(text, |plan| format!("{} at {}", plan.action.name(), plan.at));
            let message = format!("{what} was missed while plabd did not run; it does not take place");
            node.events.report(None, "power-dropped", Severity::Warning, message);
            // On a full disk it is dropped again by the next plabd.
            node.ledger.unset_meta(PLAN).await.ok();
        }
    }
    Ok(())
}

/// Carries out what is planned, for as long as plabd runs.
pub async fn follow(node: Rc<Node>) {
    let mut planned = node.power.plan.subscribe();
    let mut world = node.world();
    loop {
        let plan = planned.borrow_and_update().clone();
        let Some(plan) = plan else {
            if planned.changed().await.is_err() {
                return;
            }
            continue;
        };
        // It was checked when it was planned, and by `resume`.
        let Ok(at) = plan.at.parse::<Timestamp>() else {
            node.power.plan.send_replace(None);
            continue;
        };
        let left = at.duration_since(node.clock.now());
        if !left.is_positive() {
            node.power.plan.send_replace(None);
            carry_out(&node, &plan).await;
            continue;
        }
        let (pause, warning) = next_stop(left.as_millis());
        tokio::select! {
            _ = planned.changed() => {}
            // The clock was set.
            _ = world.changed() => {}
            () = tokio::time::sleep(pause) => if let Some(seconds) = warning {
                let text = announcement(&node, &plan, seconds);
                warn(&node, &text);
                node.events.report(None, "power-warning", Severity::Notice, text);
            }
        }
    }
}

/// How long to sleep with so many milliseconds left, and the warning that is due then, in seconds before.
fn next_stop(left: i128) -> (Duration, Option<i64>) {
    let warning = WARNINGS.into_iter().find(|seconds| i128::from(*seconds) * 1000 < left);
    let pause = left - warning.map_or(0, |seconds| i128::from(seconds) * 1000);
    let pause = Duration::from_millis(u64::try_from(pause).unwrap_or(0));
    if pause > LOOK { (LOOK, None) } else { (pause, warning) }
}

fn announcement(node: &Node, plan: &Plan, left: i64) -> String {
    let when = match left {
        ..60 => format!("in {left} s"),
        60..7200 => format!("in {} min", left / 60),
        _ => format!("at {}", plan.at),
    };
    let reason = plan.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{} {} {when}{reason}", node.machine.node.name, plan.action.verb())
}

/// Tells every session of every capsule.
fn warn(node: &Node, text: &str) {
    for handle in node.slices.borrow().values() {
        // One that is frozen would hear it when it is too late.
        if handle.slice.state.get() != SliceState::Running {
            continue;
        }
        if let Some(link) = handle.slice.link.borrow().as_ref() {
            // A capsule-init that does not read costs its slice the warning.
            link.send(&ToInit::Notice { text: text.to_owned() }, &[]).ok();
        }
    }
}

async fn carry_out(node: &Rc<Node>, plan: &Plan) {
    // What cannot be removed on a full disk is dropped by the next plabd: its time has passed.
    node.ledger.unset_meta(PLAN).await.ok();
    let reason = plan.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let text = format!("{} {} now{reason}", node.machine.node.name, plan.action.verb());
    warn(node, &text);
    node.events.report(None, "power-now", Severity::Notice, text);
    let longest = node
        .slices
        .borrow()
        .values()
        .map(|handle| handle.slice.definition.borrow().control.stop_grace.get())
        .max();
    if timeout(longest.unwrap_or_default() + PATIENCE, node.drain()).await.is_err() {
        let message = "a capsule could not be stopped; the machine goes down all the same";
        node.events.report(None, "drain-incomplete", Severity::Error, message);
    }
    let end = match plan.action {
        PowerAction::Reboot => BootEnd::Reboot,
        PowerAction::Poweroff => BootEnd::Poweroff,
    };
    // A failure is the ledger's trouble, and told as such; the machine goes down all the same.
    node.boot.end(&node.ledger, Some(end)).await.ok();
    if let Err(error) = go(node, plan.action).await {
        node.boot.end(&node.ledger, None).await.ok();
        let message = format!("{error}; capsules are started again");
        node.events.report(None, "power-failed", Severity::Error, message);
        node.undrain();
    }
}

async fn go(node: &Rc<Node>, action: PowerAction) -> Result<(), String> {
    let mut command = match means(node).map_err(|refusal| refusal.message)? {
        Means::Systemd => Command::new("systemctl"),
        Means::Program(program) => Command::new(program),
    };
    command.arg(action.name());
    let shown = format!("{command:?}");
    let ran = tokio::task::spawn_blocking(move || command.output()).await;
    let output = ran
        .map_err(|error| error.to_string())
        .and_then(|output| output.map_err(|error| error.to_string()))
        .map_err(|error| format!("could not run {shown}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{shown} failed, {}: {}", output.status, said.trim()))
}

/// Whether the machine is going down in order now, as far as its init says; a machine without systemd cannot say.
pub enum GoingDown {
    /// To this end.
    Yes(BootEnd),
    /// It is not.
    No,
    /// There is nobody to ask, or no answer.
    Unknown,
}

/// Asks systemd whether it is shutting the machine down.
pub async fn going_down() -> GoingDown {
    if !has_systemd() {
        return GoingDown::Unknown;
    }
    let list = || Command::new("systemctl").args(["list-jobs", "--no-legend", "--no-pager"]).output();
    match timeout(SYSTEMD, tokio::task::spawn_blocking(list)).await {
        Ok(Ok(Ok(output))) if output.status.success() => {
            let jobs = String::from_utf8_lossy(&output.stdout);
            end_by_jobs(&jobs).map_or(GoingDown::No, GoingDown::Yes)
        }
        _ => GoingDown::Unknown,
    }
}

/// What systemd's jobs are leading to. A soft reboot keeps the kernel, so it ends no boot.
fn end_by_jobs(jobs: &str) -> Option<BootEnd> {
    let starting = |unit: &str| {
        jobs.lines().any(|line| {
            let mut words = line.split_whitespace().skip_while(|word| *word != unit).skip(1);
            words.next() == Some("start")
        })
    };
    if starting("reboot.target") || starting("kexec.target") {
        Some(BootEnd::Reboot)
    } else if starting("poweroff.target") || starting("halt.target") {
        Some(BootEnd::Poweroff)
    } else if starting("shutdown.target") && !starting("soft-reboot.target") {
        Some(BootEnd::Shutdown)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_tell_where_the_machine_goes() {
        let reboot = "  1234 reboot.target    start waiting\n  1235 shutdown.target start waiting\n 1 x.service stop running\n";
        assert_eq!(end_by_jobs(reboot), Some(BootEnd::Reboot));
        assert_eq!(end_by_jobs(&reboot.replace("reboot", "poweroff")), Some(BootEnd::Poweroff));
        assert_eq!(end_by_jobs(&reboot.replace("reboot", "soft-reboot")), None);
        assert_eq!(end_by_jobs(" 7 shutdown.target start waiting\n"), Some(BootEnd::Shutdown));
        assert_eq!(end_by_jobs(" 7 reboot.target stop waiting\n 8 plabd.service start running\n"), None);
        assert_eq!(end_by_jobs(""), None);
    }

    #[test]
    fn warnings_come_at_ten_five_and_one_minute() {
        let mut left = 4 * 3_600_000_i128;
        let mut warned = Vec::new();
        while left > 0 {
            let (pause, warning) = next_stop(left);
            assert!(!pause.is_zero() && pause <= LOOK, "{left}: {pause:?}");
            left -= i128::try_from(pause.as_millis()).expect("fits");
            if let Some(seconds) = warning {
                assert_eq!(left, i128::from(seconds) * 1000);
                warned.push(seconds);
            }
        }
        assert_eq!((warned, left), (WARNINGS.to_vec(), 0));
        assert_eq!(next_stop(1), (Duration::from_millis(1), None));
    }

    #[test]
    fn a_time_is_one_to_come() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().expect("time");
        for good in ["2026-03-01T12:00:00Z", "2026-03-02T04:00:00+01:00"] {
            assert!(time(good, now).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("2026-03-01T11:59:59Z", "has passed"),
            ("2028-03-01T11:59:59Z", "more than a year"),
            ("tomorrow", "no time"),
        ] {
            assert!(time(bad, now).expect_err(bad).contains(why), "{bad}");
        }
    }
}
