//! plabd: keeps what runs on a node equal to what its definitions say.

mod accounts;
mod addresses;
mod admission;
mod audit;
mod bandwidth;
mod boots;
mod capsule;
mod clock;
mod control;
mod diagnostics;
mod directory;
mod disk;
mod etc_watch;
mod events;
mod firewall;
mod flows;
mod ledger;
mod ledger_watch;
mod machine;
mod network;
mod node;
mod opt_outs;
mod paths;
mod peer;
mod ports;
mod power;
mod pulse;
mod routes;
mod sessions;
mod slice;
mod watched;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use clap::Parser;
use plab_config::{Feature, NodeFile};
use plab_protocol::control::Severity;
use rustix::fs::{FlockOperation, fcntl_lock};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::directory::Directory;
use crate::events::Events;
use crate::ledger::Ledger;
use crate::machine::{Machine, make_private_directory};
use crate::node::Node;
use crate::paths::Paths;
use crate::sessions::Sessions;
use crate::sessions::kept::Kept;

/// Keeps what runs on a PlanetLab node equal to what its definitions say.
#[derive(Debug, Parser)]
#[command(
    name = "plabd",
    version,
    after_help = "Example:\n  plabd --root /srv/testnode    a node of its own below /srv/testnode, beside a real one\n\n\
                  Capsules outlive plabd: stopping or restarting it disturbs none. `plab drain` stops them all."
)]
struct Args {
    /// Put etc, var and run below this directory; cgroup names derive from it, too
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// The capsule-init program [default: beside plabd]
    #[arg(long, value_name = "FILE")]
    capsule_init: Option<PathBuf>,
    /// Keep capsules in this delegated cgroup, a path below the root of the v2 hierarchy [default: the root]
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// On SIGINT or SIGTERM stop every capsule in order before ending, and leave no cgroup
    #[arg(long)]
    drain_on_exit: bool,
}

/// Threads that make and end capsules: enough to keep two CPUs busy while some wait for the kernel.
const POOL: usize = 4;

fn main() -> ExitCode {
    let args = Args::parse();
    forget_inheritance();
    diagnostics::start();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever started plabd may have blocked signals and left descriptors open: the first would make it deaf to SIGTERM,
/// the second would reach every program it starts.
fn forget_inheritance() {
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is ours to initialise.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: initialised above; there is one thread yet, so this is every thread's mask.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
    // SAFETY: close-on-exec is only set, so nobody loses a descriptor.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

type Failure = Box<dyn std::error::Error>;

fn run(args: Args) -> Result<(), Failure> {
    // The kernel's word, not the working directory's, decides where a relative root is.
    let root = std::fs::canonicalize(&args.root)
        .map_err(|error| format!("root {}: {error}", args.root.display()))?;
    let paths = Paths::below(&root);
    std::fs::create_dir_all(&paths.run)
        .map_err(|error| format!("could not make {}: {error}", paths.run.display()))?;
    // The ledger tells every slice's contact and events, storage is the slices': nothing there is for others to read.
    make_private_directory(paths.ledger.parent().unwrap_or(&root))?;
    let _lock = lock(&paths)?;
    raise_open_files();
    let node_file = NodeFile::load(&paths.node_file).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        format!(
            "{}\nan example is in config/examples/node.toml; only `name` has to be there",
            lines.join("\n")
        )
    })?;
    if !audit::reachable(node_file.audit.syslog.as_path()) && !node_file.may_lack(Feature::Audit) {
        return Err(format!(
            "no system log listens on {}, and the audit trail goes there; start one, or add \"audit\" to `degrade` in {}",
            node_file.audit.syslog, paths.node_file.display()
        )
        .into());
    }
    let init = match args.capsule_init {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("capsule-init"),
    };
    make_private_directory(&paths.capsules())?;
    make_private_directory(&paths.sessions())?;
    let machine = Arc::new(Machine::open(paths, node_file, &init, args.cgroup.as_deref())?);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(POOL).build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, serve(machine, args.drain_on_exit))
}

async fn serve(machine: Arc<Machine>, drain_on_exit: bool) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let begun = std::time::Instant::now();
    let ledger = Ledger::open(&machine.paths.ledger)?;
    let audit = audit::Audit::start(machine.node.audit.syslog.as_path().to_owned())?;
    let events = Events::new(ledger.clone(), audit, ledger.last_event().await?);
    let clock = clock::Clock::new(ledger.meta(clock::LAST_SEEN).await?.as_deref());
    let boot = boots::Boot::look(&ledger, &clock, &machine.paths.verdict()).await?;
    let flows = flows::Flows::open(&machine, &boot.id(), &clock);
    let sessions = Sessions::new(Kept::new(machine.paths.sessions()));
    let node = Rc::new(Node::new(machine, ledger, events, clock, boot, sessions, flows));
    // On a full disk this fails, is told by whoever follows the ledger, and is done when there is space.
    node.boot.record(&node.ledger).await.ok();
    tokio::task::spawn_local(ledger_watch::follow(Rc::clone(&node)));
    node.events.report(
        None,
        "plabd-started",
        Severity::Notice,
        format!("version {}", env!("CARGO_PKG_VERSION")),
    );
    node.boot.report(&node);
    clock::begin(&node);
    power::resume(&node).await?;
    for feature in admission::missing(&node.machine) {
        if node.machine.node.may_lack(feature) {
            node.events.report(
                None,
                "degraded",
                Severity::Warning,
                format!("this node runs without {}", feature.name()),
            );
        }
    }
    let directory = Directory::watch(Rc::clone(&node))?;
    clear_strangers(&node).await?;
    Sessions::resume(&node);
    network::begin(&node, node.boot.before().same_boot.flatten()).await;
    directory.begin().await?;
    let listener = listen(&node)?;
    // The pulse is part of serving: it tells systemd that plabd is ready, and then that it still serves.
    let pulse = pulse::Pulse::of(Rc::clone(&node));
    let serving = tokio::task::spawn_local(control::serve(Rc::clone(&node), listener, pulse));
    node.wait_until(|| node.still_adopting() == 0).await;
    let took = begun.elapsed();
    node.events.report(
        None,
        "plabd-ready",
        Severity::Info,
        format!("every capsule found again or begun after {} ms", took.as_millis()),
    );
    tokio::task::spawn_local(directory.follow());
    tokio::task::spawn_local(etc_watch::follow(Rc::clone(&node)));
    tokio::task::spawn_local(clock::follow(Rc::clone(&node)));
    tokio::task::spawn_local(power::follow(Rc::clone(&node)));
    node.flows.begin(&node.machine)?;
    tokio::task::spawn_local(flows::follow(Rc::clone(&node)));
    tokio::task::spawn_local(bandwidth::follow(Rc::clone(&node)));
    tokio::task::spawn_local(addresses::follow(Rc::clone(&node)));
    tokio::task::spawn_local(firewall::follow(Rc::clone(&node)));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = serving => return Err(ended?.into()),
    }
    pulse::stopping();
    if drain_on_exit {
        // A second signal does not wait for anybody's grace.
        tokio::select! {
            () = node.drain() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    let rest = match (drain_on_exit, node.is_empty()) {
        (true, _) => "with every capsule",
        (false, true) => "no capsule runs",
        (false, false) => "capsules run on",
    };
    node.events.report(None, "plabd-stopped", Severity::Notice, rest);
    end(&node).await;
    node.flows.close().await;
    std::fs::remove_file(node.machine.paths.control()).ok();
    // Without slices the site's link is nobody's to share, and no port is kept for them: both go as they came, for the next
    // plabd to put back.
    if drain_on_exit || node.is_empty() {
        node.machine.bandwidth.end()?;
        node.machine.ports.end()?;
    }
    if drain_on_exit {
        node.machine.tree.remove_bases()?;
    }
    Ok(())
}

/// Records that plabd ends in order, and the machine, too, if it does: not every machine has the unit that drains it.
/// With it, what was reported is written.
async fn end(node: &Rc<Node>) {
    if let power::GoingDown::Yes(end) = power::going_down().await {
        node.boot.end(&node.ledger, Some(end)).await.ok();
    }
    node.ledger.set_meta(clock::LAST_SEEN, node.clock.now().to_string()).await.ok();
    if let Err(error) = node.boot.end_run(&node.ledger).await {
        tracing::error!("the next plabd will take this end for a crash: {error}");
    }
}

/// Ends capsules that the ledger does not know: of a ledger that was lost, or an old release. Nothing may run here
/// that nobody answers for.
async fn clear_strangers(node: &Rc<Node>) -> Result<(), Failure> {
    let known: std::collections::BTreeSet<String> =
        node.ledger.slices().await?.into_iter().map(|row| row.name).collect();
    node.machine.accounts.clear_strangers(&known)?;
    for name in node.machine.tree.names()? {
        if !known.contains(&name) {
            node.events.report(
                Some(&name),
                "stranger-cleared",
                Severity::Warning,
                "a cgroup that no slice of the ledger has",
            );
            capsule::death::clear(&node.machine, &name, None).await?;
        }
    }
    Ok(())
}

/// One plabd a root. The lock is the kernel's: it goes with the process, however that ends. A record lock
/// (fcntl(2)), because flock(2)'s would be held on by a child that was just cloned and has not executed yet.
fn lock(paths: &Paths) -> Result<std::fs::File, Failure> {
    let path = paths.run.join("plabd.lock");
    let file = std::fs::File::create(&path)
        .map_err(|error| format!("could not open {}: {error}", path.display()))?;
    fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        format!("another plabd serves {} (lock {}: {error})", paths.root.display(), path.display())
    })?;
    Ok(file)
}

/// A capsule takes three descriptors; the soft limit is made for programs that use select(2).
fn raise_open_files() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).ok();
}

fn listen(node: &Node) -> Result<UnixListener, Failure> {
    let path = node.machine.paths.control();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("could not remove the old {}: {error}", path.display()).into());
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path)
        .map_err(|error| format!("could not listen on {}: {error}", path.display()))?;
    // Everybody may connect; who it is, the kernel says, and what they may, `control::authority`.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}
