//! `plab top`: who uses the node.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use plab_protocol::control::{Reply, Request, Traffic, Usage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::stdio::{stdin, stdout};
use rustix::termios::isatty;

use crate::args::TopArgs;
use crate::client::{self, Client};
use crate::error::{self, ClientError, Error};
use crate::output::{Screen, Style, print, print_json, words};
use crate::signals::Signals;
use crate::status::state_style;
use crate::table::{Cell, Kind, Table, fit};
use crate::terminal::Guard;
use crate::units;

/// Runs `plab top`.
///
/// # Errors
/// When `plabd` cannot be reached or refuses.
pub fn run(socket: &Path, args: &TopArgs, screen: Screen) -> Result<u8, Error> {
    if args.json {
        print_json(&client::ask(socket, Request::Usage)?.line)?;
        return Ok(error::OK);
    }
    let full_screen = !args.once && isatty(stdin()) && isatty(stdout());
    let interval = Duration::from_secs_f64(args.interval.unwrap_or(if full_screen { 2.0 } else { 1.0 }));
    if full_screen { Top::new(socket, interval, screen)?.run() } else { once(socket, interval, screen) }
}

/// What the node said at one time.
#[derive(Debug, Clone, Default)]
struct Sample {
    at_micros: u64,
    capsules: Vec<Usage>,
}

impl Sample {
    fn from_reply(reply: Reply) -> Result<Sample, Error> {
        match reply {
            Reply::Usage { at_micros, capsules } => Ok(Sample { at_micros, capsules }),
            Reply::Error(refusal) => Err(Error::Refused(refusal)),
            _ => Err(Error::Unexpected { expected: "usage" }),
        }
    }
}

fn once(socket: &Path, interval: Duration, screen: Screen) -> Result<u8, Error> {
    let first = Sample::from_reply(client::ask(socket, Request::Usage)?.reply)?;
    std::thread::sleep(interval);
    let second = Sample::from_reply(client::ask(socket, Request::Usage)?.reply)?;
    let rows = rows(Some(&first), &second, Order::Cpu);
    print(&table(&rows).render(screen))?;
    Ok(error::OK)
}

/// What the table is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Cpu,
    Memory,
    Tasks,
    Out,
    In,
    Name,
}

/// A capsule, its share of one CPU in percent, and the bytes a second that left and came; none before there are two samples
/// of it.
#[derive(Debug)]
struct Row<'a> {
    usage: &'a Usage,
    cpu: Option<f64>,
    out: Option<u64>,
    come: Option<u64>,
}

/// The capsules of `now` in order, with what they used since `before`.
fn rows<'a>(before: Option<&Sample>, now: &'a Sample, order: Order) -> Vec<Row<'a>> {
    let old: HashMap<&str, &Usage> =
        before.into_iter().flat_map(|s| &s.capsules).map(|usage| (usage.name.as_str(), usage)).collect();
    let elapsed = before.map_or(0, |s| now.at_micros.saturating_sub(s.at_micros));
    let mut rows: Vec<Row<'_>> = now
        .capsules
        .iter()
        .map(|usage| {
            // A capsule that was started anew counts from nothing again.
            let old = old.get(usage.name.as_str()).filter(|_| elapsed > 0);
            let used = old.and_then(|old| usage.cpu_micros.checked_sub(old.cpu_micros));
            let rate = |count: fn(&Traffic) -> u64| {
                let (old, now) = (old?.traffic.as_ref()?, usage.traffic.as_ref()?);
                Some(a_second(count(now).checked_sub(count(old))?, elapsed))
            };
            let (out, come) = (rate(|traffic| traffic.bytes_out), rate(|traffic| traffic.bytes_in));
            Row { usage, cpu: used.map(|used| percent(used, elapsed)), out, come }
        })
        .collect();
    rows.sort_by(|a, b| {
        let by = match order {
            Order::Cpu => b.cpu.unwrap_or(0.0).total_cmp(&a.cpu.unwrap_or(0.0)),
            Order::Memory => b.usage.memory.cmp(&a.usage.memory),
            Order::Tasks => b.usage.tasks.cmp(&a.usage.tasks),
            Order::Out => b.out.cmp(&a.out),
            Order::In => b.come.cmp(&a.come),
            Order::Name => std::cmp::Ordering::Equal,
        };
        // Rows that are equal must not dance.
        by.then_with(|| a.usage.name.cmp(&b.usage.name))
    });
    rows
}

#[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}

/// What `count` in `micros` is in a second.
fn a_second(count: u64, micros: u64) -> u64 {
    u64::try_from(u128::from(count) * 1_000_000 / u128::from(micros.max(1))).unwrap_or(u64::MAX)
}

/// The limit's period.
const PERIOD_MICROS: u64 = 100_000;

fn table(rows: &[Row<'_>]) -> Table {
    let mut table = Table::new(&[
        ("NAME", Kind::Key),
        ("STATE", Kind::Key),
        ("CPU", Kind::Number),
        ("OF", Kind::Number),
        ("MEM", Kind::Number),
        ("OF", Kind::Number),
        ("TASKS", Kind::Number),
        ("OF", Kind::Number),
        ("OUT/s", Kind::Number),
        ("IN/s", Kind::Number),
    ]);
    for Row { usage, cpu, out, come } in rows {
        let cpu_limit = usage.cpu_max_micros.map(|max| percent(max, PERIOD_MICROS));
        let none = || "none".to_owned();
        let rate = |rate: Option<u64>| Cell::new(rate.map_or_else(|| "-".to_owned(), units::short));
        table.push(vec![
            Cell::new(&usage.name),
            Cell::styled(usage.state.name(), state_style(usage.state)),
            Cell::styled(
                cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.1}%")),
                near(*cpu, cpu_limit),
            ),
            Cell::styled(cpu_limit.map_or_else(none, |limit| format!("{limit:.0}%")), Style::Dim),
            Cell::styled(units::short(usage.memory), near_count(usage.memory, usage.memory_max)),
            Cell::styled(
                if usage.memory_max >= 1 << 60 { none() } else { units::short(usage.memory_max) },
                Style::Dim,
            ),
            Cell::styled(usage.tasks.to_string(), near_count(usage.tasks, usage.tasks_max)),
            Cell::styled(
                if usage.tasks_max >= 1 << 60 { none() } else { usage.tasks_max.to_string() },
                Style::Dim,
            ),
            rate(*out),
            rate(*come),
        ]);
    }
    table
}

/// What has nine tenths of its limit stands out.
fn near(used: Option<f64>, limit: Option<f64>) -> Style {
    match (used, limit) {
        (Some(used), Some(limit)) if limit > 0.0 && used >= limit * 0.9 => Style::Warn,
        _ => Style::Plain,
    }
}

fn near_count(used: u64, limit: u64) -> Style {
    if limit > 0 && used >= limit / 10 * 9 { Style::Warn } else { Style::Plain }
}

/// What a key or signal means.
#[derive(Debug, PartialEq, Eq)]
enum Act {
    Stay,
    Quit(u8),
}

struct Top<'a> {
    socket: &'a Path,
    interval: Duration,
    screen: Screen,
    order: Order,
    before: Option<Sample>,
    now: Sample,
    /// Asked and not yet answered.
    asked: Option<Client>,
    /// When to ask again.
    next: Instant,
    /// What is wrong with plabd, if something is.
    trouble: Option<String>,
    /// Whatever ends this, its drop restores the terminal.
    guard: Guard,
    signals: Signals,
}

impl<'a> Top<'a> {
    /// Asks once before it takes the screen: a plabd that is not there is an error like anywhere else.
    fn new(socket: &'a Path, interval: Duration, screen: Screen) -> Result<Top<'a>, Error> {
        let now = Sample::from_reply(client::ask(socket, Request::Usage)?.reply)?;
        let signals = Signals::take(&[
            Signal::SIGHUP,
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGTERM,
            Signal::SIGTSTP,
            Signal::SIGCONT,
            Signal::SIGWINCH,
        ])?;
        let guard = Guard::screen(stdin())?;
        // The first difference soon, the others at the interval.
        let next = Instant::now() + interval.min(Duration::from_millis(500));
        let (before, asked, trouble) = (None, None, None);
        Ok(Top {
            socket,
            interval,
            screen,
            order: Order::Cpu,
            before,
            now,
            asked,
            next,
            trouble,
            guard,
            signals,
        })
    }

    fn run(mut self) -> Result<u8, Error> {
        self.draw()?;
        loop {
            let wait = self.next.saturating_duration_since(Instant::now());
            let (keys, signals, answer) = self.poll(wait)?;
            let mut act = Act::Stay;
            if keys {
                act = self.key()?;
            }
            if signals && act == Act::Stay {
                act = self.signalled()?;
            }
            if let Act::Quit(status) = act {
                return Ok(status);
            }
            if answer {
                self.answered();
            }
            if Instant::now() >= self.next {
                self.ask();
            }
            self.draw()?;
        }
    }

    fn poll(&self, wait: Duration) -> Result<(bool, bool, bool), Error> {
        let input = stdin();
        let mut fds = vec![PollFd::new(&input, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(client) = &self.asked {
            fds.push(PollFd::new(client, PollFlags::IN));
        }
        // The interval has a bound that fits.
        let wait = Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        match poll(&mut fds, Some(&wait)) {
            Err(rustix::io::Errno::INTR) => return Ok((false, false, false)),
            other => other.map_err(Error::system("wait for a key"))?,
        };
        let is = |i: usize| fds.get(i).is_some_and(|fd| !fd.revents().is_empty());
        Ok((is(0), is(1), is(2)))
    }

    fn key(&mut self) -> Result<Act, Error> {
        let mut keys = [0; 64];
        let n = match rustix::io::read(stdin(), &mut keys) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(Act::Stay),
            // The terminal is gone.
            Ok(0) | Err(_) => return Ok(Act::Quit(error::REFUSED)),
            Ok(n) => n,
        };
        for key in &keys[..n] {
            match key {
                b'q' | b'Q' => return Ok(Act::Quit(error::OK)),
                b'c' | b'C' => self.order = Order::Cpu,
                b'm' | b'M' => self.order = Order::Memory,
                b't' | b'T' => self.order = Order::Tasks,
                b'o' | b'O' => self.order = Order::Out,
                b'i' | b'I' => self.order = Order::In,
                b'n' | b'N' => self.order = Order::Name,
                _ => {}
            }
        }
        Ok(Act::Stay)
    }

    fn signalled(&mut self) -> Result<Act, Error> {
        while let Some(signal) = self.signals.next()? {
            match signal {
                Signal::SIGWINCH => self.screen = Screen::of_stdout(),
                Signal::SIGTSTP => {
                    self.guard.suspend();
                    // This one cannot be blocked: it acts here, until somebody continues us.
                    nix::sys::signal::raise(Signal::SIGSTOP).map_err(Error::system("stop"))?;
                }
                Signal::SIGCONT => {
                    self.guard.apply()?;
                    self.screen = Screen::of_stdout();
                }
                // To leave by Ctrl-C is as good as by q.
                Signal::SIGINT => return Ok(Act::Quit(error::OK)),
                // As a shell would report it, had the signal ended us.
                signal => return Ok(Act::Quit(128 + u8::try_from(signal as i32).unwrap_or(0))),
            }
        }
        Ok(Act::Stay)
    }

    fn ask(&mut self) {
        self.next = Instant::now() + self.interval;
        if self.asked.is_some() {
            self.trouble = Some("plabd takes long to answer".to_owned());
            return;
        }
        match Client::ask(self.socket, Request::Usage, &[]) {
            Ok(client) => self.asked = Some(client),
            Err(e) => self.failed(&e.into()),
        }
    }

    fn answered(&mut self) {
        let Some(client) = &mut self.asked else { return };
        let received = client.fill().and_then(|more| match client.take() {
            Ok(None) if !more => Err(ClientError::Closed),
            other => other,
        });
        let sample = match received {
            Ok(None) => return,
            Ok(Some(received)) => Sample::from_reply(received.reply),
            Err(e) => Err(e.into()),
        };
        self.asked = None;
        match sample {
            Ok(sample) => {
                self.trouble = None;
                self.before = Some(std::mem::replace(&mut self.now, sample));
            }
            Err(e) => self.failed(&e),
        }
    }

    /// A plabd that restarts comes back, and its capsules never went away: say so, and go on asking.
    fn failed(&mut self, e: &Error) {
        self.trouble = Some(e.to_string().lines().next().unwrap_or_default().to_owned());
    }

    fn draw(&self) -> Result<(), Error> {
        let rows = rows(self.before.as_ref(), &self.now, self.order);
        print(&frame(&rows, self.order, self.trouble.as_deref(), self.screen, height()))
    }
}

fn height() -> usize {
    crate::terminal::size().map_or(24, |size| usize::from(size.rows))
}

/// A whole screen: what was there is overwritten line by line, so that nothing flickers.
fn frame(rows: &[Row<'_>], order: Order, trouble: Option<&str>, screen: Screen, height: usize) -> String {
    let cpu: f64 = rows.iter().filter_map(|row| row.cpu).sum();
    let memory = rows.iter().fold(0u64, |sum, row| sum.saturating_add(row.usage.memory));
    let tasks = rows.iter().fold(0u64, |sum, row| sum.saturating_add(row.usage.tasks));
    let sum = |rate: fn(&Row<'_>) -> Option<u64>| {
        units::short(rows.iter().filter_map(rate).fold(0, u64::saturating_add))
    };
    let head = format!(
        "{} slices   CPU {cpu:.1}% of one   memory {}   {tasks} tasks   out {}/s   in {}/s",
        rows.len(),
        units::bytes(memory),
        sum(|row| row.out),
        sum(|row| row.come)
    );
    let by = match order {
        Order::Cpu => "CPU",
        Order::Memory => "memory",
        Order::Tasks => "tasks",
        Order::Out => "bytes out",
        Order::In => "bytes in",
        Order::Name => "name",
    };
    let keys = format!("by {by}: c CPU, m memory, t tasks, o out, i in, n name, q quit");
    let mut lines = vec![screen.paint(Style::Heading, &fit(&head, screen.width))];
    lines.push(match trouble {
        Some(trouble) => screen.paint(Style::Bad, &fit(&words(trouble), screen.width)),
        None => screen.paint(Style::Dim, &fit(&keys, screen.width)),
    });
    lines.push(String::new());
    lines.extend(table(rows).lines(screen));
    lines.truncate(height.max(1));
    // Home; clear the rest of each line; clear below. No end of line after the last, or the screen scrolls.
    format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use plab_protocol::control::SliceState;

    fn usage(name: &str, cpu_micros: u64, memory: u64, tasks: u64) -> Usage {
        Usage {
            name: name.into(),
            state: SliceState::Running,
            cpu_micros,
            cpu_max_micros: Some(50_000),
            memory,
            memory_max: 256 << 20,
            tasks,
            tasks_max: 128,
            traffic: None,
        }
    }

    fn samples() -> (Sample, Sample) {
        let before =
            Sample { at_micros: 1_000_000, capsules: vec![usage("a", 0, 1, 3), usage("b", 900, 2, 2)] };
        let now = Sample {
            at_micros: 2_000_000,
            capsules: vec![usage("a", 100_000, 1, 3), usage("b", 500_900, 2, 2), usage("c", 7, 3, 1)],
        };
        (before, now)
    }

    #[test]
    fn shares_are_of_the_time_between_two_samples() {
        let (before, now) = samples();
        let rows = rows(Some(&before), &now, Order::Cpu);
        let shares: Vec<_> = rows.iter().map(|r| (r.usage.name.as_str(), r.cpu)).collect();
        assert_eq!(shares, [("b", Some(50.0)), ("a", Some(10.0)), ("c", None)]);
    }

    #[test]
    fn a_restarted_capsule_has_no_share_yet() {
        let (before, now) = samples();
        assert!(rows(Some(&now), &before, Order::Cpu).iter().all(|r| r.cpu.is_none()));
    }

    /// The same with traffic; `b` is not counted, as on a node without the programs.
    fn samples_with_traffic() -> (Sample, Sample) {
        let (mut before, mut now) = samples();
        now.at_micros = 3_000_000;
        let traffic =
            |bytes_out, bytes_in| Some(Traffic { packets_out: 1, bytes_out, packets_in: 1, bytes_in });
        before.capsules[0].traffic = traffic(1000, 7);
        now.capsules[0].traffic = traffic(1000 + (3 << 20), 7);
        now.capsules[2].traffic = traffic(99, 99);
        (before, now)
    }

    #[test]
    fn rates_are_bytes_a_second_between_two_samples() {
        let (before, now) = samples_with_traffic();
        let found: Vec<_> = rows(Some(&before), &now, Order::Out)
            .iter()
            .map(|r| (r.usage.name.clone(), r.out, r.come))
            .collect();
        let of = |name: &str, out, come| (name.to_owned(), out, come);
        assert_eq!(found, [of("a", Some(3 << 19), Some(0)), of("b", None, None), of("c", None, None)]);
        // A capsule that was made anew has no rate yet.
        let anew = Sample { at_micros: 4_000_000, ..before };
        assert_eq!(rows(Some(&now), &anew, Order::In)[0].out, None);
    }

    #[test]
    fn the_longest_usual_row_fits_80_columns_uncut() {
        let (before, mut now) = samples_with_traffic();
        let usage = &mut now.capsules[0];
        usage.name = "princeton_mirror".into();
        usage.memory = 1000 << 20;
        usage.memory_max = 999 << 20;
        usage.tasks_max = 1000;
        usage.cpu_max_micros = Some(200_000);
        let mut rows = rows(Some(&before), &now, Order::Cpu);
        let row = rows.iter_mut().find(|row| row.usage.name == "princeton_mirror").expect("a row");
        (row.cpu, row.out, row.come) = (Some(199.9), Some(999 << 20), Some(1_047_999));
        let lines = table(&rows).lines(Screen { width: 80, colour: false });
        assert!(lines.iter().all(|line| line.len() <= 80 && !line.contains('…')), "{lines:#?}");
        assert!(lines.iter().any(|line| line.ends_with("  999M  1.0M")), "{lines:#?}");
    }

    #[test]
    fn orders() {
        let (before, now) = samples();
        for (order, names) in
            [(Order::Memory, "cba"), (Order::Tasks, "abc"), (Order::In, "abc"), (Order::Name, "abc")]
        {
            let rows = rows(Some(&before), &now, order);
            assert_eq!(rows.iter().map(|r| r.usage.name.as_str()).collect::<String>(), names);
        }
    }

    #[test]
    fn a_frame_fits_the_screen() {
        let (before, now) = samples();
        let rows = rows(Some(&before), &now, Order::Cpu);
        for (width, height) in [(80, 24), (20, 5), (1, 1)] {
            let text = frame(&rows, Order::Cpu, Some("gone"), Screen { width, colour: false }, height);
            let lines: Vec<&str> = text.split("\r\n").collect();
            assert!(lines.len() <= height);
            for line in lines {
                let bare = line.replace("\x1b[H", "").replace("\x1b[K", "").replace("\x1b[J", "");
                assert!(bare.chars().count() <= width, "{bare:?}");
            }
        }
    }
}
