//! Which key opened what, and what becomes of it when the key goes.

use std::process::{Child, Command, Stdio};

use plab_tests::{eventually, eventually_or};

use crate::node::{Slice, Stage, client_options, events, output, outside, port, sessions};

fn await_end(child: &mut Child) {
    let status = eventually("ssh ends", || child.try_wait().expect("wait"));
    assert!(!status.success());
}

/// What plabd sent to the system's log; what it prints for its unit is not that.
fn audit_trail() -> String {
    let asked = ["-q", "-b", "-o", "cat", "_TRANSPORT=syslog", "SYSLOG_IDENTIFIER=plabd"];
    output(Command::new("journalctl").args(asked)).ok()
}

#[test]
fn each_session_tells_its_key() {
    let stage = Stage::new("who");
    let (alice, bob, eve) = (stage.key("alice"), stage.key("bob"), stage.key("eve"));
    let slice = Slice::define("sshtest_who", &[&alice, &bob], "");
    let mut both = [slice.stay(&alice, &[]), slice.stay(&bob, &[])];
    let open = sessions(&slice.name);
    for (session, key, comment) in [(&open[0], &alice, "alice"), (&open[1], &bob, "bob")] {
        assert_eq!(session["login"]["key"], key.fingerprint.as_str());
        assert_eq!(
            (session["key_comment"].as_str(), session["login"]["from"].as_str()),
            (Some(comment), Some("127.0.0.1"))
        );
        let told = events(&slice.name, "session-opened");
        assert!(
            told.iter().any(|line| line.contains(&key.fingerprint) && line.contains("127.0.0.1")),
            "{told:#?}"
        );
        let line = format!("session-opened slice={}", slice.name);
        eventually_or(
            || {
                audit_trail()
                    .lines()
                    .any(|told| told.contains(&line) && told.contains(&key.fingerprint))
                    .then_some(())
            },
            || format!("{line} with {} is in the system's log:\n{}", key.fingerprint, audit_trail()),
        );
    }
    // What is outside for them is sshd and the login shell, each of the slice's UID and nothing else.
    for (pid, program) in outside(slice.uid()) {
        let known = ["/usr/sbin/sshd", "/usr/lib/openssh/sshd-session", "/usr/lib/planetlab/plab-shell"];
        assert!(known.contains(&program.as_str()), "PID {pid}: {program}");
    }
    let refused = slice.run(&eve, "true");
    assert!(refused.code == 255 && refused.stderr.contains("Permission denied (publickey)"), "{refused:?}");
    for child in &mut both {
        child.kill().expect("kill");
        child.wait().expect("wait");
    }
    eventually("both are told to have ended", || {
        (events(&slice.name, "session-closed").len() >= 2 && sessions(&slice.name).is_empty()).then_some(())
    });
}

#[test]
fn a_removed_key_ends_its_connections_and_no_other() {
    let stage = Stage::new("removed");
    let (alice, bob) = (stage.key("alice"), stage.key("bob"));
    let slice = Slice::define("sshtest_gonekey", &[&alice, &bob], "");
    let socket = stage.path("master").display().to_string();
    let control = format!("ControlPath={socket}");
    // A master without a session of its own, one more command over it, one connection with nothing in it, and a plain one.
    let mut master =
        slice.ssh(&alice, &["-o", "ControlMaster=yes", "-o", &control, "-N"]).spawn().expect("start ssh");
    eventually("the master is there", || {
        (output(slice.ssh(&alice, &["-o", &control, "-O", "check"]).arg("x")).code == 0).then_some(())
    });
    let mut over = slice.stay(&alice, &["-o", &control]);
    let mut idle = slice.ssh(&alice, &["-N"]).spawn().expect("start ssh");
    let mut plain = slice.stay(&alice, &[]);
    let mut stays = slice.stay(&bob, &[]);
    let connections = |count: usize| {
        eventually_or(
            || {
                let found = outside(slice.uid());
                (found.iter().filter(|(_, program)| program.contains("sshd")).count() == count).then_some(())
            },
            || format!("{count} connections: {:?}", outside(slice.uid())),
        );
    };
    connections(4);
    slice.change(&[&bob], "");
    for child in [&mut master, &mut over, &mut idle, &mut plain] {
        await_end(child);
    }
    // `apply` returned when it was in effect: Bob's connection and login shell are all that is left.
    connections(1);
    assert_eq!(outside(slice.uid()).len(), 2);
    let open = sessions(&slice.name);
    assert_eq!((open.len(), open[0]["login"]["key"].as_str()), (1, Some(bob.fingerprint.as_str())));
    assert!(stays.try_wait().expect("wait").is_none(), "Bob's went along");
    let told = events(&slice.name, "logins-ended");
    assert!(told.iter().any(|line| line.contains("a key was removed")), "{told:?}");
    let refused = slice.run(&alice, "true");
    assert_eq!(refused.code, 255, "{refused:?}");
    eventually("what they ran inside has ended", || {
        let ask = crate::node::plab(&["exec", &slice.name, "--", "pgrep", "-c", "-x", "sleep"]);
        (ask.stdout.trim() == "1").then_some(())
    });
    // With the lease, and with the slice, goes whoever is in.
    slice.change(&[&bob], "expires = 2000-01-01T00:00:00Z");
    await_end(&mut stays);
    assert_eq!(outside(slice.uid()), []);
    assert_eq!(slice.run(&bob, "true").code, 255);
    slice.change(&[&bob], "");
    let mut stays = slice.stay(&bob, &[]);
    let uid = slice.uid();
    drop(slice);
    await_end(&mut stays);
    assert_eq!(outside(uid), []);
    let name = output(Command::new("getent").args(["passwd", "sshtest_gonekey"]));
    assert_eq!((name.code, name.stdout.as_str()), (2, ""), "the account is gone");
}

#[test]
fn the_users_agent_is_reached_from_inside() {
    let stage = Stage::new("agent");
    let (alice, other) = (stage.key("alice"), stage.key("other"));
    let slice = Slice::define("sshtest_agent", &[&alice], "");
    let socket = stage.path("agent.sock");
    let mut agent = Command::new("ssh-agent")
        .args(["-D", "-a"])
        .arg(&socket)
        .stdout(Stdio::null())
        .spawn()
        .expect("start ssh-agent");
    let add = || output(Command::new("ssh-add").arg("-q").arg(&other.file).env("SSH_AUTH_SOCK", &socket));
    eventually("the agent has a key", || (add().code == 0).then_some(()));
    let ask = |options: &[&str]| {
        output(slice.ssh(&alice, options).arg("ssh-add -l; ls -A /tmp").env("SSH_AUTH_SOCK", &socket))
    };
    // It is not what one logs in with: every client here has only the key that it is given (IdentitiesOnly).
    let with = ask(&["-A"]);
    let without = ask(&["-a"]);
    agent.kill().expect("kill");
    agent.wait().expect("wait");
    assert!(with.stdout.contains(&other.fingerprint), "{with:?}");
    assert!(!without.stdout.contains(&other.fingerprint) && without.stdout.is_empty(), "{without:?}");
}

#[test]
fn nothing_but_a_key_opens_the_door() {
    let stage = Stage::new("passwords");
    let key = stage.key("alice");
    let slice = Slice::define("sshtest_pw", &[&key], "");
    let asked = output(
        slice
            .ssh(
                &key,
                &["-o", "PreferredAuthentications=password,keyboard-interactive,gssapi-with-mic,hostbased"],
            )
            .arg("true"),
    );
    assert!(asked.code == 255 && asked.stderr.contains("Permission denied (publickey)"), "{asked:?}");
    // A certificate by whomever, for this very name.
    let ca = stage.key("ca");
    output(
        Command::new("ssh-keygen")
            .args(["-q", "-s"])
            .arg(&ca.file)
            .args(["-I", "x", "-n", &slice.name])
            .arg(key.file.with_extension("pub")),
    )
    .ok();
    let other = stage.key("other");
    output(
        Command::new("ssh-keygen")
            .args(["-q", "-s"])
            .arg(&ca.file)
            .args(["-I", "x", "-n", &slice.name])
            .arg(other.file.with_extension("pub")),
    )
    .ok();
    assert_eq!(slice.run(&other, "true").code, 255);
    let shadow = output(Command::new("getent").args(["shadow", &slice.name])).ok();
    let password = shadow.split(':').nth(1).expect("a field");
    assert!(password.starts_with('!') || password.starts_with('*'), "{shadow}");
    // A user of the machine's who is no slice has no keys of ours.
    let mut root = Command::new("ssh");
    root.args(client_options(&key.file)).args(["-p", &port(), "root@127.0.0.1", "true"]);
    assert_eq!(output(&mut root).code, 255);
}
