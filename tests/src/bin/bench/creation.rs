//! New capsules: one, from the accepted definition to its first hook; and one more among many, which shall cost the
//! same as among few.

use std::time::{Duration, Instant};

use crate::capsule_exec::repeat;
use crate::client::Events;
use crate::clock;
use crate::contenders::Contenders;
use crate::nodes::Node;
use crate::progress::Progress;
use crate::report::{Report, millis, times};
use crate::stats::{Samples, as_f64};
use crate::{Failure, Wishes};

/// A new capsule takes at most this much of one bwrap run.
const OF_BWRAP: f64 = 0.5;
/// The thousandth takes at most this much of the tenth.
const FLAT: f64 = 1.5;

/// Definitions put in place at once while growing.
const BATCH: usize = 10;
/// Batches whose median stands for one size.
const WINDOW: usize = 5;

/// Measures and reports the time to the first hook, beside bwrap runs in between.
pub fn first_hook(
    wishes: &Wishes,
    contenders: &Contenders,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), Failure> {
    progress.step("a new capsule to its first hook: starting a node");
    let node = Node::start("hook")?;
    let measured = hooks(&node, wishes, contenders, progress, report);
    node.finish();
    measured
}

fn hooks(
    node: &Node,
    wishes: &Wishes,
    contenders: &Contenders,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), Failure> {
    node.give_stamp()?;
    let bwrap_program = contenders.bwrap.as_ref().map_err(Clone::clone)?;
    let mut events = Events::follow(&node.socket())?;
    let mut accepted = Samples::default();
    let mut written = Samples::default();
    let mut bwrap = Samples::default();
    let count = wishes.count(150, 10);
    for number in 0..count {
        progress.at("a new capsule to its first hook, by turns with bwrap", number, count);
        repeat(&mut bwrap, 2, || bwrap_program.run())?;
        let slice = format!("hook_{number}");
        node.stage(&slice, "")?;
        let put = clock::now();
        node.define(&slice)?;
        let event = events.next_of("definition-accepted")?;
        let at = clock::parse(&event.time).ok_or_else(|| format!("{} is no time", event.time))?;
        events.next_of("capsule-started")?;
        let began = stamp(node, &slice)?;
        accepted.push(clock::millis_between(at, began));
        written.push(clock::millis_between(put, began));
        // The hook's end and the last words about it are no part of the next round.
        std::thread::sleep(Duration::from_millis(5));
    }
    let ratio = accepted.median() / bwrap.median();
    report
        .row("new capsule to first hook, p50")
        .ours(millis(accepted.median()))
        .peer(format!("bwrap {}", millis(bwrap.median())))
        .ratio(ratio)
        .at_most(times(OF_BWRAP), ratio / OF_BWRAP)
        .add();
    report
        .row("  p99")
        .ours(millis(accepted.percentile(99.0)))
        .peer(format!("bwrap {}", millis(bwrap.percentile(99.0))))
        .ratio(accepted.percentile(99.0) / bwrap.percentile(99.0))
        .add();
    report.row("  from the file put in place").ours(millis(written.median())).add();
    report.samples("hook_accepted_to_first_hook_ms", &accepted);
    report.samples("hook_file_to_first_hook_ms", &written);
    report.samples("hook_bwrap_ms", &bwrap);
    Ok(())
}

fn stamp(node: &Node, slice: &str) -> Result<i128, Failure> {
    let begun = Instant::now();
    loop {
        if let Some(stamp) = node.stamp_of(slice) {
            return Ok(stamp);
        }
        if begun.elapsed() > Duration::from_secs(10) {
            let status = node.test.status(slice);
            return Err(
                format!("the first hook of {slice} never began; its hooks: {}", status["hooks"]).into()
            );
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Measures and reports how the time per capsule grows with their number.
pub fn grow(
    wishes: &Wishes,
    _: &Contenders,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), Failure> {
    progress.step("one more capsule among many: starting a node");
    let node = Node::start("grow")?;
    let measured = batches(&node, wishes, progress, report);
    progress.step("one more capsule among many: taking the node down");
    node.finish();
    measured
}

fn batches(node: &Node, wishes: &Wishes, progress: &Progress, report: &mut Report) -> Result<(), Failure> {
    let total = wishes.count(1000, 50);
    let mut events = Events::follow(&node.socket())?;
    let mut each = Vec::with_capacity(total / BATCH);
    for batch in 0..total / BATCH {
        progress.at("one more capsule among many", batch * BATCH, total);
        let slices: Vec<String> =
            (0..BATCH).map(|number| format!("grow_{}", batch * BATCH + number)).collect();
        for slice in &slices {
            node.stage(slice, "")?;
        }
        let begun = clock::now();
        for slice in &slices {
            node.define(slice)?;
        }
        let mut last = begun;
        for _ in &slices {
            let event = events.next_of("capsule-started")?;
            last = clock::parse(&event.time).ok_or_else(|| format!("{} is no time", event.time))?.max(last);
        }
        each.push(clock::millis_between(begun, last) / as_f64(BATCH));
        // What a start leaves to do afterwards is no part of the next batch.
        std::thread::sleep(Duration::from_millis(10));
    }
    let window = |at: usize| -> f64 {
        let end = (at / BATCH).max(WINDOW).min(each.len());
        each[end.saturating_sub(WINDOW)..end].iter().copied().collect::<Samples>().median()
    };
    let sizes: Vec<usize> = [10, 100, 300, 1000].into_iter().filter(|&size| size <= total).collect();
    let (first, last) = (window(10), window(total));
    for &size in sizes.iter().filter(|&&size| size != 10 && size != total) {
        report
            .row(&format!("one more capsule at {size}"))
            .ours(millis(window(size)))
            .peer(format!("at 10 {}", millis(first)))
            .ratio(window(size) / first)
            .add();
    }
    let row = report
        .row(&format!("one more capsule at {total}"))
        .ours(millis(last))
        .peer(format!("at 10 {}", millis(first)))
        .ratio(last / first);
    if wishes.quick {
        row.add()
    } else {
        row.at_most(times(FLAT), last / first / FLAT).add()
    }
    report.value("grow_ms_per_capsule_by_batch_of_10", each);
    Ok(())
}
