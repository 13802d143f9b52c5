//! What each request does.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use plab_config::Definition;
use plab_protocol::control::{ErrorCode, ErrorReply, Exec, Reply, Request, Severity, SliceState};
use plab_sandbox::message::{self, ToInit};
use rustix::fs::{FileType, OFlags};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::authority::Caller;
use super::connection::Connection;
use super::status;
use crate::admission;
use crate::node::Node;
use crate::sessions::{MAX_OF_A_SLICE, Sessions, find_key};
use crate::slice::{Answer, Command, Handle, Settled, refused};

/// Events sent at once: with the longest of messages they fit a line of the protocol.
const EVENTS_AT_ONCE: u32 = 2000;

/// How long an `apply` or `rm` waits to see its effect; the work goes on after that.
const EFFECT_TIMEOUT: Duration = Duration::from_secs(120);

/// A request in a few words, for the audit trail.
pub fn describe(request: &Request) -> String {
    match request {
        Request::Status { slice, .. } => format!("status {}", slice.as_deref().unwrap_or("")),
        Request::Apply { origin, .. } => format!("apply {origin}"),
        Request::Remove { slice } => format!("rm {slice}"),
        Request::Restart { slice } => format!("restart {slice}"),
        Request::Freeze { slice } => format!("freeze {slice}"),
        Request::Thaw { slice } => format!("thaw {slice}"),
        Request::Exec(exec) => match exec.argv.first() {
            Some(program) => format!("exec {} {program}", exec.slice),
            None => format!("shell {}", exec.slice),
        },
        Request::Events { .. } => "events".into(),
        Request::Usage => "usage".into(),
        Request::Ports { slice } => format!("ports {}", slice.as_deref().unwrap_or("")),
        Request::Bandwidth | Request::SetBandwidth { .. } => "bandwidth".into(),
        Request::OptOuts => "opt-out".into(),
        Request::ChangeOptOut { prefix, add } => {
            format!("opt-out {} {prefix}", if *add { "add" } else { "remove" })
        }
        Request::Drain { for_shutdown: false } => "drain".into(),
        Request::Drain { for_shutdown: true } => "drain for shutdown".into(),
        Request::Boots { .. } => "boots".into(),
        Request::Planned => "node".into(),
        Request::Power { action, .. } => format!("node {}", action.name()),
        Request::CancelPower => "node cancel".into(),
        Request::TrustClock => "node trust-clock".into(),
        Request::Sessions { slice } => format!("sessions {}", slice.as_deref().unwrap_or("")),
        Request::WhoSent { .. } => "who-sent".into(),
        Request::Flows { filter, .. } => format!("flows {}", filter.slice.as_deref().unwrap_or("")),
    }
}

/// Does what was asked; the caller may ask it.
pub async fn serve(
    node: &Rc<Node>,
    caller: &Caller,
    request: Request,
    fds: Vec<OwnedFd>,
    connection: &mut Connection,
) {
    let reply = match request {
        Request::Status { slice, verify } => self::status(node, caller, slice.as_deref(), verify),
        Request::Usage => Ok(Reply::Usage { at_micros: monotonic_micros(), capsules: status::usage(node) }),
        Request::Exec(exec) => self::exec(node, caller, exec, &fds, connection),
        Request::Sessions { slice } => sessions(node, caller, slice.as_deref()),
        Request::Ports { slice } => ports(node, caller, slice).await,
        Request::Restart { slice } => command(node, caller, &slice, "restart", Command::Restart).await,
        Request::Freeze { slice } => command(node, caller, &slice, "freeze", Command::Freeze).await,
        Request::Thaw { slice } => command(node, caller, &slice, "thaw", Command::Thaw).await,
        Request::Apply { text, origin } => apply(node, caller, &text, &origin).await,
        Request::Remove { slice } => remove(node, caller, &slice).await,
        Request::Bandwidth => super::bandwidth::show(node).await,
        Request::SetBandwidth { out, incoming } => super::bandwidth::set(node, caller, out, incoming).await,
        Request::OptOuts => super::opt_outs::show(node),
        Request::ChangeOptOut { prefix, add } => super::opt_outs::change(node, caller, &prefix, add).await,
        request @ (Request::Drain { .. }
        | Request::Boots { .. }
        | Request::Planned
        | Request::Power { .. }
        | Request::CancelPower
        | Request::TrustClock) => super::machine::serve(node, caller, request).await,
        Request::WhoSent { filter } => super::flows::who_sent(node, caller, filter).await,
        Request::Flows { filter, last } => {
            super::flows::list(node, caller, filter, last, connection).await;
            return;
        }
        Request::Events { since, slice, follow } => {
            events(node, since, slice, follow, connection).await;
            return;
        }
    };
    // A client that has gone does not want the answer.
    connection.send(&reply.unwrap_or_else(Reply::Error)).await.ok();
}

type Outcome = Result<Reply, ErrorReply>;

fn find(node: &Node, caller: &Caller, slice: &str) -> Result<Handle, ErrorReply> {
    let handle = node.slices.borrow().get(slice).cloned();
    handle.filter(|_| caller.may_see(slice)).ok_or_else(|| {
        let near = node
            .slices
            .borrow()
            .keys()
            .filter(|name| caller.may_see(name))
            .find(|name| name.starts_with(slice) || slice.starts_with(name.as_str()))
            .cloned();
        let hint = near
            .map(|name| format!("; did you mean {name}?"))
            .unwrap_or_else(|| "; `plab status` lists them".into());
        refused(ErrorCode::NoSuchSlice, format!("no slice {slice:?} on this node{hint}"))
    })
}

fn status(node: &Rc<Node>, caller: &Caller, slice: Option<&str>, verify: bool) -> Outcome {
    if let Some(slice) = slice {
        find(node, caller, slice)?;
    }
    Ok(Reply::Status(Box::new(status::node(node, caller, slice, verify))))
}

/// Hands the client's sockets on to the capsule; plabd is not on the path of the command.
fn exec(node: &Rc<Node>, caller: &Caller, exec: Exec, fds: &[OwnedFd], connection: &Connection) -> Outcome {
    let handle = find(node, caller, &exec.slice)?;
    let definition = Rc::clone(&handle.slice.definition.borrow());
    may_open(node, caller, &exec, &definition)?;
    let client = connection.client().map_err(|error| {
        refused(ErrorCode::Failed, format!("could not take hold of the client's process: {error}"))
    })?;
    let due = if exec.tty.is_some() { 1 } else { 4 };
    if fds.len() != due {
        return Err(refused(
            ErrorCode::Malformed,
            format!("exec takes {due} descriptors; {} came", fds.len()),
        ));
    }
    if let Some(error) = fds.iter().find_map(|fd| unfit(fd)) {
        return Err(refused(ErrorCode::Malformed, format!("a descriptor for the command {error}")));
    }
    let slice = &handle.slice;
    let state = slice.state.get();
    let link = slice.link.borrow().clone();
    // Frozen, its capsule-init is, too: the message would wait and the client with it.
    if state != SliceState::Running {
        let word = serde_json::to_value(state).ok().and_then(|word| word.as_str().map(str::to_owned));
        let detail = slice.detail.borrow().as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
        let message = format!("{} is {}{detail}", exec.slice, word.unwrap_or_default());
        return Err(refused(ErrorCode::WrongState, message));
    }
    let link = link.ok_or_else(|| {
        let message =
            format!("capsule-init of {} does not answer at present; try again in a moment", exec.slice);
        refused(ErrorCode::WrongState, message)
    })?;
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let message = ToInit::Exec(message::Exec {
        argv: exec.argv.clone(),
        env: exec.env.clone(),
        tty: exec.tty,
        agent: exec.agent,
    });
    link.send(&message, &borrowed).map_err(|error| {
        status::audit(node, Some(&exec.slice), caller, &describe(&Request::Exec(exec.clone())));
        let message = format!("could not hand the command to capsule-init of {}: {error}", exec.slice);
        refused(ErrorCode::Failed, message)
    })?;
    // After the handover, which somebody waits for.
    let by = caller.slice().unwrap_or("root");
    Sessions::open(node, by, &exec, &definition, client);
    Ok(Reply::Started)
}

/// Whether the caller may open one more session, by the key that it came with if it came by ssh. Asked at each command:
/// a connection outlives the removal of its key by a moment, and carries many commands (`ControlMaster`).
fn may_open(node: &Node, caller: &Caller, exec: &Exec, definition: &Definition) -> Result<(), ErrorReply> {
    if let Some(login) = &exec.login
        && find_key(definition, &login.key).is_none()
    {
        node.events.report(
            Some(&exec.slice),
            "request-denied",
            Severity::Notice,
            format!("{}: ssh with key {}, which the definition does not have", caller.describe(), login.key),
        );
        let message = format!("the key {} may not log in to {} any more", login.key, exec.slice);
        return Err(refused(ErrorCode::Denied, message));
    }
    if caller.slice().is_some() && node.sessions.count_own(&exec.slice) >= MAX_OF_A_SLICE {
        let message = format!(
            "{} has {MAX_OF_A_SLICE} sessions open, which is the limit; close some, `plab sessions` lists them",
            exec.slice
        );
        return Err(refused(ErrorCode::Busy, message));
    }
    Ok(())
}

fn sessions(node: &Node, caller: &Caller, slice: Option<&str>) -> Outcome {
    if let Some(slice) = slice {
        find(node, caller, slice)?;
    }
    let wanted = |name: &str| caller.may_see(name) && slice.is_none_or(|slice| slice == name);
    Ok(Reply::Sessions { sessions: node.sessions.list(|session| wanted(&session.slice)) })
}

async fn ports(node: &Node, caller: &Caller, slice: Option<String>) -> Outcome {
    if let Some(slice) = &slice {
        find(node, caller, slice)?;
    }
    super::ports::list(node, slice).await
}

/// Why a descriptor must not get into a capsule: a directory of the host's (or a mere path, which may be one) is a
/// way out of the view, by fchdir(2) and then connect(2) to a socket beside it.
fn unfit(fd: &OwnedFd) -> Option<&'static str> {
    match (rustix::fs::fstat(fd), rustix::fs::fcntl_getfl(fd)) {
        (Ok(stat), _) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            Some("is a directory")
        }
        (Ok(_), Ok(flags)) if !flags.contains(OFlags::PATH) => None,
        (Ok(_), Ok(_)) => Some("is a path only (O_PATH)"),
        _ => Some("cannot be looked at"),
    }
}

async fn command(
    node: &Node,
    caller: &Caller,
    slice: &str,
    word: &str,
    make: impl FnOnce(Answer) -> Command,
) -> Outcome {
    let handle = find(node, caller, slice)?;
    status::audit(node, Some(slice), caller, word);
    let (answer, answered) = oneshot::channel();
    let gone = || refused(ErrorCode::NoSuchSlice, format!("{slice} was removed meanwhile"));
    handle.commands.send(make(answer)).map_err(|_| gone())?;
    answered.await.map_err(|_| gone())?.map(|message| Reply::Done { message })
}

/// Stores the definition in the directory, which stays the one source of what is desired, and waits for the effect.
async fn apply(node: &Rc<Node>, caller: &Caller, text: &str, origin: &str) -> Outcome {
    let shown = if origin == "-" { "standard input" } else { origin };
    let definition = Definition::parse(text, Path::new(shown), &node.machine.node)
        .and_then(|definition| admission::admit(definition, None, &node.machine))
        .map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            refused(ErrorCode::BadDefinition, lines.join("\n"))
        })?;
    let name = definition.name.clone();
    status::audit(node, Some(name.as_str()), caller, &format!("apply {origin}"));
    // A slice that is defined in a file of another name stays there.
    let file = node
        .set
        .borrow()
        .source(&name)
        .map_or_else(|| node.machine.paths.slices.join(format!("{name}.toml")), Path::to_owned);
    store(&file, text).map_err(|error| {
        refused(ErrorCode::Failed, format!("could not write {}: {error}", file.display()))
    })?;
    node.file_read(&file, Definition::load(&file, &node.machine.node));
    let handle = find(node, &Caller::Root, name.as_str())?;
    let settled = timeout(EFFECT_TIMEOUT, effect(&handle, &definition)).await.map_err(|_| {
        refused(
            ErrorCode::Failed,
            format!(
                "{name} was stored in {} and is not in effect yet; see `plab status {name}`",
                file.display()
            ),
        )
    })?;
    let Some(settled) = settled else {
        return Err(refused(ErrorCode::Failed, format!("{name} was removed meanwhile")));
    };
    let detail = settled.detail.map(|detail| format!(": {detail}")).unwrap_or_default();
    match settled.state {
        state if settled.failed && state != SliceState::Failed => {
            Err(refused(ErrorCode::Failed, format!("{name} was stored and is not in effect{detail}")))
        }
        SliceState::Failed => {
            Err(refused(ErrorCode::Failed, format!("{name} was accepted and does not run{detail}")))
        }
        SliceState::Expired => {
            Ok(Reply::Done { message: format!("{name} was accepted; it does not run{detail}") })
        }
        _ => Ok(Reply::Done { message: format!("{name} is in effect{detail}") }),
    }
}

async fn effect(handle: &Handle, definition: &Definition) -> Option<Settled> {
    let mut settled = handle.slice.settled.subscribe();
    loop {
        if let Some(settled) = &*settled.borrow_and_update()
            && *settled.definition == *definition
        {
            return Some(settled.clone());
        }
        settled.changed().await.ok()?;
    }
}

/// Replaces a file of the directory of definitions at once, and on disk before it counts.
fn store(file: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // A dot in front: the directory's watch passes it over.
    let temporary: PathBuf = file.with_file_name(format!(".{name}.new"));
    let mut out = std::fs::File::create(&temporary)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    std::fs::rename(&temporary, file)?;
    sync_directory_of(file)
}

/// Puts on disk that a file has come, or gone: a power cut must not bring back what was answered for.
fn sync_directory_of(file: &Path) -> std::io::Result<()> {
    std::fs::File::open(file.parent().unwrap_or(Path::new("/")))?.sync_all()
}

async fn remove(node: &Rc<Node>, caller: &Caller, slice: &str) -> Outcome {
    let handle = find(node, caller, slice)?;
    let name = slice.parse().map_err(|_| refused(ErrorCode::NoSuchSlice, format!("no slice {slice:?}")))?;
    status::audit(node, Some(slice), caller, "rm");
    let file = node.set.borrow().source(&name).map(Path::to_owned);
    if let Some(file) = file {
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(refused(
                    ErrorCode::Failed,
                    format!("could not delete {}: {error}", file.display()),
                ));
            }
            _ => {}
        }
        sync_directory_of(&file).map_err(|error| {
            refused(
                ErrorCode::Failed,
                format!("could not put on disk that {} is gone: {error}", file.display()),
            )
        })?;
        // Asked for by name: no need to wait and see whether the file stays away.
        node.file_gone(&file);
    }
    drop(handle);
    let gone = || !node.slices.borrow().contains_key(slice);
    let waited = timeout(EFFECT_TIMEOUT, node.wait_until(gone)).await;
    waited.map_err(|_| {
        refused(ErrorCode::Failed, format!("{slice} is still being removed; see `plab status {slice}`"))
    })?;
    Ok(Reply::Done { message: format!("{slice} is gone: capsule, storage and definition") })
}

async fn events(node: &Node, since: u64, slice: Option<String>, follow: bool, connection: &mut Connection) {
    // Before the look at what is kept: an event in between is then seen twice and told once.
    let mut live = node.events.follow();
    let mut last = since;
    let mut first = true;
    loop {
        let kept = match node.ledger.events(last, slice.clone(), EVENTS_AT_ONCE).await {
            Ok(kept) => kept,
            Err(error) => {
                connection.send(&Reply::Error(refused(ErrorCode::Failed, error.to_string()))).await.ok();
                return;
            }
        };
        let more = kept.len() == EVENTS_AT_ONCE as usize;
        last = kept.last().map_or(last, |event| event.seq);
        // One page, as without `follow`; a follower gets what else has gathered one by one.
        let replies = if std::mem::take(&mut first) {
            vec![Reply::Events { events: kept }]
        } else {
            kept.into_iter().map(Reply::Event).collect()
        };
        for reply in &replies {
            if connection.send(reply).await.is_err() {
                return;
            }
        }
        if !follow {
            return;
        }
        if !more {
            break;
        }
    }
    loop {
        let event = tokio::select! {
            event = live.recv() => event,
            () = connection.closed() => return,
        };
        let batch = match event {
            Ok(event) => vec![event],
            // It lagged behind what is kept in memory; the ledger has the rest.
            Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {
                node.ledger.events(last, slice.clone(), EVENTS_AT_ONCE).await.unwrap_or_default()
            }
            Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
        };
        for event in batch {
            let wanted = slice.is_none() || event.slice == slice;
            if event.seq <= last || !wanted {
                continue;
            }
            last = event.seq;
            if connection.send(&Reply::Event(event)).await.is_err() {
                return;
            }
        }
    }
}

fn monotonic_micros() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000 + now.tv_nsec.cast_unsigned() / 1000
}
