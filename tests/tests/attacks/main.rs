//! The judge of the attack suite: an actor inside a capsule tries one thing a case; what it must come to is
//! exact; a control outside shows that the attack is a real one; and the judge looks from outside whether
//! anything happened. A case whose control fails has failed: it would prove nothing.

mod case;
mod control_directory;
mod files;
mod kernel;
mod network;
mod privileges;
mod processes;
mod raw;
mod requests;
mod shares;
mod sockets;
mod stage;
mod terminals;
mod view;

use case::{Case, Tried};
use stage::Stage;

/// Fewer than this many cases, and something went missing. Raise it with the suite.
const AT_LEAST: usize = 505;

#[test]
fn attacks_come_to_nothing() {
    let stage = Stage::set();
    let groups: [(&str, Vec<Case>); 12] = [
        // First, as the host that its cases are about is one of a kind.
        ("raw sockets", raw::cases(&stage)),
        ("files", files::cases(&stage)),
        ("view", view::cases(&stage)),
        ("privileges", privileges::cases(&stage)),
        ("kernel", kernel::cases()),
        ("processes", processes::cases(&stage)),
        ("sockets", sockets::cases(&stage)),
        ("network", network::cases()),
        ("terminals", terminals::cases()),
        ("requests", requests::cases(&stage)),
        ("control directory", control_directory::cases(&stage)),
        ("shares", shares::cases()),
    ];
    let mut rows = Vec::new();
    for (group, cases) in groups {
        let begun = std::time::Instant::now();
        for Case { name, against, run } in cases {
            let begun = std::time::Instant::now();
            let tried = run(&stage);
            if begun.elapsed().as_secs() > 0 {
                println!("{group}/{name} took {:.1?}", begun.elapsed());
            }
            rows.push((group, name, against, tried));
        }
        println!("{group}: {:.1?}", begun.elapsed());
    }
    print(&rows);
    let failures: Vec<String> = rows
        .iter()
        .filter(|(.., tried)| !tried.wrong.is_empty())
        .map(|(group, name, against, tried)| {
            format!("{group}/{name} (against {against}): {}", tried.wrong.join("; "))
        })
        .collect();
    let count = rows.len();
    println!("{}", failures.join("\n"));
    stage.strike();
    assert!(failures.is_empty(), "{} of {count} cases do not hold:\n{}", failures.len(), failures.join("\n"));
    assert!(count >= AT_LEAST, "only {count} cases ran, where at least {AT_LEAST} must");
}

/// The table: name, inside, control, verdict.
fn print(rows: &[(&str, String, &str, Tried)]) {
    let short = |text: &str, width: usize| text.replace('\n', " ").chars().take(width).collect::<String>();
    println!("{:<32} {:<36} {:<36} {:<30} VERDICT", "CASE", "AGAINST", "INSIDE", "CONTROL");
    for (_, name, against, tried) in rows {
        let verdict = if tried.wrong.is_empty() { "holds" } else { "BROKEN" };
        println!(
            "{name:<32} {:<36} {:<36} {:<30} {verdict}",
            short(against, 36),
            short(&tried.inside, 36),
            short(&tried.control, 30)
        );
    }
    println!("{} cases, {} broken", rows.len(), rows.iter().filter(|row| !row.3.wrong.is_empty()).count());
}
