//! The actor of the attack suite: tries exactly one thing and says in one line of JSON what it came to.
//!
//! `attacker [--as UID] [--private-mounts] PRIMITIVE [ARGUMENT…]` prints `{"result":"ok","detail":…}` or
//! `{"errno":1,"name":"EPERM"}`. It runs inside a capsule as the attack, and outside as the positive control
//! that shows that the primitive works where nothing holds it. What it would change when it works, it
//! changes to what it was, or the judge picks a target of its own.

mod errno;
mod exhaust;
mod files;
mod ipc;
mod kernel;
mod namespaces;
mod network;
mod notified;
mod privileges;
mod processes;
mod requests;
mod sockets;
mod sys;
mod terminals;

use sys::{Arg, Attempt, arg, call};

/// A primitive: its name, and what it does with its arguments.
type Primitive = (&'static str, fn(&[String]) -> Attempt);

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    while args.first().is_some_and(|first| first.starts_with("--")) {
        match args.remove(0).as_str() {
            "--as" => become_user(args.remove(0).parse().expect("a UID")),
            "--private-mounts" => private_mounts(),
            other => panic!("no such option: {other}"),
        }
    }
    let all = [
        exhaust::PRIMITIVES,
        files::PRIMITIVES,
        ipc::PRIMITIVES,
        kernel::PRIMITIVES,
        namespaces::PRIMITIVES,
        network::PRIMITIVES,
        notified::PRIMITIVES,
        privileges::PRIMITIVES,
        processes::PRIMITIVES,
        requests::PRIMITIVES,
        sockets::PRIMITIVES,
        terminals::PRIMITIVES,
    ];
    let name = arg(&args, 0);
    let found = all.into_iter().flatten().find(|(known, _)| *known == name);
    let (_, act) = found.unwrap_or_else(|| panic!("no such primitive: {name}"));
    println!("{}", shown(act(&args[1..])));
}

/// The line that the judge reads.
fn shown(attempt: Attempt) -> serde_json::Value {
    match attempt {
        Ok(detail) => serde_json::json!({ "result": "ok", "detail": detail }),
        Err(number) => serde_json::json!({ "errno": number, "name": errno::name(number) }),
    }
}

/// For controls: go on as an ordinary user.
fn become_user(uid: i64) {
    call(libc::SYS_setgroups, &mut [Arg::Int(0), Arg::Null]).expect("setgroups");
    call(libc::SYS_setresgid, &mut [Arg::Int(uid), Arg::Int(uid), Arg::Int(uid)]).expect("setresgid");
    call(libc::SYS_setresuid, &mut [Arg::Int(uid), Arg::Int(uid), Arg::Int(uid)]).expect("setresuid");
}

/// For controls: mounts made from here on are this process's own.
fn private_mounts() {
    call(libc::SYS_unshare, &mut [Arg::Int(libc::CLONE_NEWNS.into())]).expect("unshare");
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    call(
        libc::SYS_mount,
        &mut [Arg::Text(c"none"), Arg::Text(c"/"), Arg::Null, Arg::Int(flags as i64), Arg::Null],
    )
    .expect("make mounts private");
}
