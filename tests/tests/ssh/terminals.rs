//! A login with a terminal: the capsule's own, with job control, the client's size, and nothing of the host's.

use plab_tests::{Pty, eventually};

use crate::node::{Slice, Stage, plab, sessions};

#[test]
fn a_login_has_a_terminal_of_the_capsules() {
    let stage = Stage::new("terminal");
    let key = stage.key("alice");
    let slice = Slice::define("sshtest_tty", &[&key], "");
    let mut terminal = Pty::of(slice.ssh(&key, &["-tt"]), (31, 97));
    terminal.type_in("PS1=; stty -echo; echo read''y\n");
    terminal.await_shown("ready");
    let before = terminal.shown();
    for greeting in ["Last login", "Debian GNU/Linux comes", "Could not chdir"] {
        assert!(!before.contains(greeting), "{before}");
    }
    terminal.type_in(
        "stty size; [ \"$(tty)\" = \"$SSH_TTY\" ] && echo same''name; echo $TERM; set -o | grep monitor\n",
    );
    for shown in ["31 97", "samename", "xterm", "monitor        \ton"] {
        terminal.await_shown(shown);
    }
    let open = sessions(&slice.name);
    assert_eq!((open.len(), open[0]["tty"].as_bool()), (1, Some(true)));
    terminal.expect_size_and_interrupt();
    terminal.type_in("sleep 1000\n");
    eventually("it sleeps in the foreground", || {
        let ask = plab(&["exec", &slice.name, "--", "ps", "-o", "stat=", "-C", "sleep"]);
        ask.stdout.contains('+').then_some(())
    });
    terminal.type_in("\u{1a}");
    terminal.await_shown("Stopped");
    terminal.type_in("kill %1; exit 9\n");
    terminal.type_in("exit 9\n");
    let (status, shown) = terminal.wait();
    assert_eq!(status, 9, "{shown}");
}

#[test]
fn whoever_is_logged_in_is_told_of_a_planned_reboot() {
    let stage = Stage::new("notice");
    let key = stage.key("alice");
    let slice = Slice::define("sshtest_notice", &[&key], "");
    let mut terminal = Pty::of(slice.ssh(&key, &["-tt"]), (24, 100));
    terminal.type_in("PS1=; stty -echo; echo read''y\n");
    terminal.await_shown("ready");
    // When it is planned, and ten minutes before.
    plab(&["node", "reboot", "--at", "+3602s", "--reason", "new kernel"]).ok();
    terminal.await_shown(" reboots in 60 min: new kernel ***");
    plab(&["node", "cancel"]).ok();
    plab(&["node", "reboot", "--at", "+602s", "--reason", "newer kernel"]).ok();
    terminal.await_shown(" reboots in 10 min: newer kernel ***");
    eventually("it is shown when there are ten minutes left, too", || {
        (terminal.shown().matches("newer kernel ***").count() == 2).then_some(())
    });
    plab(&["node", "cancel"]).ok();
    terminal.type_in("exit\n");
    terminal.wait();
}

#[test]
fn a_command_gets_a_terminal_if_it_asks() {
    let stage = Stage::new("terminal-command");
    let key = stage.key("alice");
    let slice = Slice::define("sshtest_ttyc", &[&key], "");
    let (status, shown) = Pty::of(
        {
            let mut command = slice.ssh(&key, &["-tt"]);
            command.arg("tty && stty size; exit 5");
            command
        },
        (33, 77),
    )
    .wait();
    assert_eq!(status, 5, "{shown}");
    assert!(shown.contains("/dev/pts/") && shown.contains("33 77"), "{shown}");
    let plain = slice.run(&key, "tty");
    assert_eq!((plain.code, plain.stdout.as_str()), (1, "not a tty\n"));
    // The oldest trick there is with a terminal, to push characters into its input queue, is refused on one.
    let mut pushes = slice.ssh(&key, &["-tt"]);
    pushes.arg(
        "python3 -c 'import fcntl, termios; fcntl.ioctl(0, termios.TIOCSTI, b\"x\"); print(\"pushed\")'",
    );
    let (status, shown) = Pty::of(pushes, (24, 80)).wait();
    assert_eq!(status, 1, "{shown}");
    assert!(shown.contains("PermissionError: [Errno 1]") && !shown.contains("pushed"), "{shown}");
}
