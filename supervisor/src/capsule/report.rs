//! What a capsule-init said, as events: the difference between two of its states.

use plab_control_scripts::{Hook, HookOutcome};
use plab_protocol::control::Severity;
use plab_sandbox::message::{HookState, State, bounded};

/// An event's kind, severity and message.
pub type News = (&'static str, Severity, String);

/// What is found of hooks in a capsule that was adopted: what of it is new, nobody can tell any more.
pub fn found(now: &State) -> Vec<News> {
    let ran = now.hooks.iter().filter(|(_, state)| state.outcome != Some(HookOutcome::Skipped));
    ran.map(|(hook, state)| {
        let how = state.outcome.as_ref().map_or_else(|| "running".to_owned(), ToString::to_string);
        ("hook-found", Severity::Info, bounded(format!("{hook}: {how}")))
    })
    .collect()
}

/// What is new in `now` against `before`; everything if there was nothing before.
pub fn news(before: Option<&State>, now: &State) -> Vec<News> {
    let mut news = Vec::new();
    for (hook, state) in &now.hooks {
        let known = before.and_then(|before| before.hooks.get(hook));
        if known != Some(state) {
            hook_news(*hook, known, state, &mut news);
        }
    }
    let mut problem = |what: &'static str, is: &Option<String>, was: Option<&String>| match is {
        Some(problem) if Some(problem) != was => {
            news.push((what, Severity::Warning, bounded(problem.clone())))
        }
        _ => {}
    };
    problem(
        "control-problem",
        &now.control_problem,
        before.and_then(|before| before.control_problem.as_ref()),
    );
    problem(
        "resources-problem",
        &now.resources_problem,
        before.and_then(|before| before.resources_problem.as_ref()),
    );
    news
}

fn hook_news(hook: Hook, known: Option<&HookState>, state: &HookState, news: &mut Vec<News>) {
    let again = known.is_some_and(|known| known.runs == state.runs);
    match &state.outcome {
        None => {
            // `status` runs every minute: only a change of what it says is an event.
            if hook != Hook::Status {
                news.push(("hook-started", Severity::Info, hook.name().to_owned()));
            }
        }
        // Nothing in its place: nothing happened.
        Some(HookOutcome::Skipped) => {}
        Some(outcome) => {
            let last = known.and_then(|known| known.outcome.as_ref());
            if hook == Hook::Status && (outcome.is_success() || last == Some(outcome)) {
                return;
            }
            // The start was missed, by speed or by a restart of plabd.
            if !again && hook != Hook::Status && outcome.has_run() {
                news.push(("hook-started", Severity::Info, hook.name().to_owned()));
            }
            let severity = if outcome.is_success() { Severity::Info } else { Severity::Warning };
            news.push(("hook-ended", severity, bounded(format!("{hook}: {outcome}"))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(hook: Hook, runs: u64, outcome: Option<HookOutcome>) -> State {
        State { hooks: [(hook, HookState { runs, run_id: 0, outcome })].into(), ..State::default() }
    }

    fn kinds(news: Vec<News>) -> Vec<&'static str> {
        news.into_iter().map(|(kind, ..)| kind).collect()
    }

    #[test]
    fn a_run_is_told_once_however_it_is_seen() {
        let running = state(Hook::Start, 1, None);
        let ended = state(Hook::Start, 1, Some(HookOutcome::Exited(0)));
        assert_eq!(kinds(news(None, &running)), ["hook-started"]);
        assert_eq!(kinds(news(Some(&running), &ended)), ["hook-ended"]);
        assert_eq!(kinds(news(Some(&ended), &ended)), [""; 0]);
        assert_eq!(kinds(news(None, &ended)), ["hook-started", "hook-ended"]);
    }

    #[test]
    fn what_did_not_run_was_not_started() {
        let refused = state(Hook::Start, 1, Some(HookOutcome::Refused("is a FIFO".into())));
        assert_eq!(kinds(news(None, &refused)), ["hook-ended"]);
        assert_eq!(kinds(news(None, &state(Hook::Stop, 1, Some(HookOutcome::Skipped)))), [""; 0]);
    }

    #[test]
    fn status_is_news_only_when_it_changes_for_the_worse() {
        let good = state(Hook::Status, 1, Some(HookOutcome::Exited(0)));
        let bad = state(Hook::Status, 2, Some(HookOutcome::Exited(1)));
        let still = state(Hook::Status, 3, Some(HookOutcome::Exited(1)));
        assert_eq!(kinds(news(None, &good)), [""; 0]);
        assert_eq!(kinds(news(Some(&good), &bad)), ["hook-ended"]);
        assert_eq!(kinds(news(Some(&bad), &still)), [""; 0]);
    }

    #[test]
    fn problems_are_told_when_they_come() {
        let bad = State { control_problem: Some("is a symbolic link".into()), ..State::default() };
        assert_eq!(kinds(news(None, &bad)), ["control-problem"]);
        assert_eq!(kinds(news(Some(&bad), &bad)), [""; 0]);
        assert_eq!(kinds(news(Some(&bad), &State::default())), [""; 0]);
    }
}
