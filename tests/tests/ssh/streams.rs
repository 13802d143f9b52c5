//! Commands and copies: exit status, every byte, scp, sftp, rsync.

use std::io::Write;
use std::process::{Command, Stdio};

use plab_tests::eventually;

use crate::node::{Slice, Stage, client_options, output, port, sessions, status};

fn bytes(count: u32) -> Vec<u8> {
    (0..count).map(|i| u8::try_from(i % 251).expect("a byte")).collect()
}

#[test]
fn commands_have_their_streams_and_status() {
    let stage = Stage::new("commands");
    let key = stage.key("alice");
    let slice = Slice::define("sshtest_cmd", &[&key], "");
    for code in [0, 7, 254] {
        assert_eq!(slice.run(&key, &format!("exit {code}")).code, code);
    }
    assert_eq!(slice.run(&key, "kill -KILL $$").code, 137);
    let told = slice.run(&key, "id -un; pwd; cat /proc/1/comm; echo err >&2");
    assert_eq!(told.stdout, "sshtest_cmd\n/home/sshtest_cmd\ncapsule-init\n", "{told:?}");
    assert_eq!(told.stderr, "err\n", "no message of the day, no last login");
    assert_eq!(slice.run(&key, "printf '%s|' 'a  b' c\\ d").stdout, "a  b|c d|");
    // Through, with the end of input handed on.
    let mut child = slice
        .ssh(&key, &[])
        .arg("cat; echo end >&2")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start ssh");
    let (mut stdin, sent) = (child.stdin.take().expect("piped"), bytes(3_000_000));
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let done = child.wait_with_output().expect("wait");
    writer.join().expect("writer").expect("write");
    assert!(done.stdout == bytes(3_000_000) && done.status.success());
    // What the login shell can do without a process inside.
    let shown = slice.run(&key, "plab status").ok();
    assert!(shown.contains("sshtest_cmd") && shown.contains("running"), "{shown}");
    assert!(slice.run(&key, "plab restart").ok().contains("sshtest_cmd runs"));
    assert_eq!(slice.run(&key, "true").code, 0);
}

#[test]
fn files_go_in_and_out() {
    let stage = Stage::new("files");
    let key = stage.key("alice");
    let slice = Slice::define("sshtest_files", &[&key], "");
    let (here, there) = (stage.path("data"), format!("{}@127.0.0.1", slice.name));
    std::fs::write(&here, bytes(500_000)).expect("write");
    let options = client_options(&key.file);
    let same = |name: &str| {
        assert!(
            std::fs::read(stage.path(name)).is_ok_and(|back| back == bytes(500_000)),
            "{name} came back changed"
        );
    };
    // By the protocol of today, which is sftp's, and by the old one.
    for (name, flags) in [("by-scp", &[][..]), ("by-old-scp", &["-O"])] {
        let copy = |from: String, to: String| {
            output(Command::new("scp").args(&options).args(["-P", &port()]).args(flags).args([from, to])).ok()
        };
        copy(here.display().to_string(), format!("{there}:{name}"));
        copy(format!("{there}:{name}"), stage.path(name).display().to_string());
        same(name);
    }
    let batch = stage.path("batch");
    let lines = format!(
        "put {} by-sftp\nls -l\nget by-sftp {}\nrm by-sftp\n",
        here.display(),
        stage.path("by-sftp").display()
    );
    std::fs::write(&batch, lines).expect("write");
    let listed =
        output(Command::new("sftp").args(["-b"]).arg(&batch).args(&options).args(["-P", &port(), &there]))
            .ok();
    assert!(listed.contains("by-scp"), "{listed}");
    same("by-sftp");
    // A path of the node's is none of the capsule's.
    std::fs::write(&batch, "ls /var/lib/planetlab\n").expect("write");
    let refused =
        output(Command::new("sftp").args(["-b"]).arg(&batch).args(&options).args(["-P", &port(), &there]));
    assert!(refused.code != 0 && refused.stderr.contains("not found"), "{refused:?}");
    let shell = format!("ssh {} -p {}", options.join(" "), port());
    for round in ["first", "again"] {
        let arguments = ["-a", "--stats", "-e", &shell];
        let stats =
            output(Command::new("rsync").args(arguments).arg(&here).arg(format!("{there}:by-rsync"))).ok();
        let sent = if round == "first" { "transferred: 1\n" } else { "transferred: 0\n" };
        assert!(stats.contains(sent), "{round}: {stats}");
    }
    output(
        Command::new("rsync")
            .args(["-a", "-e", &shell])
            .arg(format!("{there}:by-rsync"))
            .arg(&stage.directory),
    )
    .ok();
    same("by-rsync");
}

#[test]
fn a_client_that_goes_takes_its_command_along() {
    let stage = Stage::new("gone");
    let key = stage.key("alice");
    let slice = Slice::define("sshtest_gone", &[&key], "");
    let mut child = slice.stay(&key, &[]);
    assert_eq!(sessions(&slice.name).len(), 1);
    child.kill().expect("kill");
    child.wait().expect("wait");
    eventually("the session has ended", || sessions(&slice.name).is_empty().then_some(()));
    eventually("its command has ended", || (status(&slice.name)["tasks"] == 1).then_some(()));
}

#[test]
fn a_slice_without_a_task_left_is_entered_by_the_node_itself() {
    let stage = Stage::new("exhausted");
    let key = stage.key("alice");
    let slice = Slice::define("sshtest_full", &[&key], "[tasks]\nmax = 6");
    let mut hogs: Vec<_> = (0..5)
        .map(|_| slice.ssh(&key, &[]).arg("exec sleep 1000").stdin(Stdio::null()).spawn().expect("start ssh"))
        .collect();
    eventually("every task is taken", || (status(&slice.name)["tasks"] == 6).then_some(()));
    let refused = slice.run(&key, "true");
    assert_eq!(refused.code, 125, "{refused:?}");
    assert!(
        refused.stderr.contains("6 of 6 tasks") && refused.stderr.contains("plab restart"),
        "{refused:?}"
    );
    slice.run(&key, "plab restart").ok();
    for hog in &mut hogs {
        assert!(!hog.wait().expect("wait").success());
    }
    assert_eq!(slice.run(&key, "true").code, 0);
}
