//! The Debian package on a machine of its own, under a real systemd: what an administrator does to a node, and that no
//! slice notices what it is not to notice. Driven from outside, because the machine goes down in between.

mod slices;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use plab_tests::Machine;
use slices::{Lives, all_live, make, undisturbed};

/// How many services must not notice; `PLAB_TEST_SLICES` makes a quicker round.
const SLICES: usize = 100;

/// As many as a machine of one processor can have beside another machine.
const FEW: usize = 10;

/// What a script of the project's prints: where the package is that it has made.
fn made_by(script: &str, suffix: &str) -> PathBuf {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output =
        Command::new(top.join(script)).env("PLAB_DEB_SUFFIX", suffix).output().expect("it is started");
    assert!(output.status.success(), "{script}: {output:?}");
    top.join(String::from_utf8_lossy(&output.stdout).trim())
}

/// A package of the programs that were built, under a version that ends in this.
fn package(suffix: &str) -> PathBuf {
    made_by("scripts/deb", suffix)
}

/// An earlier package: the one that was named, or that of the commit before this one. Where there is no such commit, as
/// in a tree without its history, the same programs under a lower version.
fn earlier() -> PathBuf {
    if let Some(named) = std::env::var_os("PLAB_DEB_BEFORE") {
        return PathBuf::from(named);
    }
    let former = Command::new("git").args(["rev-parse", "--quiet", "--verify", "HEAD^"]).output();
    if former.is_ok_and(|output| output.status.success()) {
        return made_by("scripts/former-deb", "");
    }
    eprintln!("no commit before this one is here: the upgrade is one of the same programs");
    package("~before")
}

/// As the README says.
fn install(machine: &Machine, package: &Path) {
    machine.put(package);
    let name = package.file_name().expect("named").to_string_lossy();
    machine.run(&format!("DEBIAN_FRONTEND=noninteractive apt-get -y install /root/{name} 2>&1"));
}

fn main_pid(machine: &Machine, unit: &str) -> String {
    machine.run(&format!("systemctl show -p MainPID --value {unit}")).to_owned()
}

/// Waits until systemd has a plabd that is ready and is not the one with this PID.
fn another_plabd(machine: &Machine, former: &str) {
    machine.eventually("there is another plabd", || {
        let now = main_pid(machine, "plabd");
        let ready = machine.try_run("systemctl is-active --quiet plabd").ok;
        (ready && now != "0" && now != former).then_some(())
    });
}

/// Does something that brings another plabd, and that no slice is to notice.
fn unnoticed(machine: &Machine, what: &str, lives: &Lives, act: impl FnOnce()) {
    let begun = Instant::now();
    let former = main_pid(machine, "plabd");
    act();
    another_plabd(machine, &former);
    undisturbed(machine, lives);
    eprintln!("{what}: none of {} noticed ({} s)", lives.len(), begun.elapsed().as_secs());
}

/// After something that stops every slice in order: each `stop` was run, once more than before, and each service has
/// been started once more.
fn stopped_in_order(machine: &Machine, what: &str, before: &Lives) -> Lives {
    let after = all_live(machine, before.len());
    for (name, was) in before {
        let is = &after[name];
        assert_eq!((is.starts, is.stops), (was.starts + 1, was.stops + 1), "{what}: {name}: {is:?}");
    }
    eprintln!("{what}: every stop was run, every slice is back");
    after
}

/// All that a package could leave: every path but those that live with the machine, and what of processes, cgroups,
/// units and users there is.
fn traces(machine: &Machine) -> Vec<String> {
    let listing = machine.run(
        "find / -xdev \\( -path /proc -o -path /sys -o -path /tmp -o -path /root -o -path /var/log -o -path /var/cache \
             -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/lib/systemd -o -path /var/lib/chrony -o -path /var/lib/dhcpcd \
             -o -path /var/tmp -o -path /boot -o -name __pycache__ \\) -prune -o -print
         find /var/lib/planetlab /run/planetlab 2>/dev/null | sed 's/^/left: /'
         find /sys/fs/cgroup -type d -name '*plan*' -o -type d -name 'plab*'
         find / /run /dev/shm /var/lib/planetlab -xdev -uid +65535 2>/dev/null
         find /var/lib/systemd -name '*plan*' -o -name '*plab*'
         systemctl list-unit-files --no-legend | awk '{ print \"unit \" $1, $2 }'
         ps -eo comm= | grep -E '^(plab|capsule)' || true
         awk '$3 ~ /./ && /plan|plab/' /proc/self/mountinfo | cut -d' ' -f5
         sort /etc/passwd /etc/group",
    );
    let mut lines: Vec<String> = listing.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Purges the package, and looks for what it brought: its files, its users, accounts of slices, sshd's configuration as
/// sshd has it. This needs no state before, which an earlier purge may have spoilt. What dpkg said.
fn purged(machine: &Machine) -> String {
    let files = machine
        .run("dpkg -L planetlab-node | while IFS= read -r at; do [ -d \"$at\" ] || echo \"$at\"; done");
    assert!(files.lines().count() > 20, "{files}");
    let began = machine.run("date +%s");
    let said = machine.run("dpkg --purge planetlab-node 2>&1").to_owned();
    let left = machine.run(&format!(
        "for at in {} /run/planetlab /run/userdb; do [ ! -e $at ] || echo $at; done
         getent passwd planetlab-keys; getent group planetlab-keys planetlab-slices; getent passwd | grep plab-shell
         systemctl list-unit-files --no-legend 'planetlab*' 'plabd*'
         journalctl -q --since @{began} -u ssh | grep -q -e Reloaded -e 'Received SIGHUP' || echo 'sshd was not told'",
        files.replace('\n', " ")
    ));
    assert_eq!(left, "", "left behind by a purge: {said}");
    said
}

/// What an administrator expects of the package, each as dpkg says that it is there and not empty.
const PARTS: [&str; 21] = [
    "/usr/sbin/plabd",
    "/usr/bin/plab",
    "/usr/lib/planetlab/capsule-init",
    "/usr/lib/planetlab/plab-shell",
    "/usr/lib/planetlab/plab-keys",
    "/usr/lib/systemd/system/plabd.service",
    "/usr/lib/systemd/system/planetlab.target",
    "/usr/lib/systemd/system/planetlab-capsules.service",
    "/usr/lib/systemd/system/planetlab-drain.service",
    "/usr/lib/sysusers.d/planetlab-accounts.conf",
    "/etc/default/plabd",
    "/etc/ssh/sshd_config.d/50-planetlab.conf",
    "/usr/share/man/man1/plab.1.gz",
    "/usr/share/man/man1/plab-status.1.gz",
    "/usr/share/man/man8/plabd.8.gz",
    "/usr/share/bash-completion/completions/plab",
    "/usr/share/zsh/vendor-completions/_plab",
    "/usr/share/fish/vendor_completions.d/plab.fish",
    "/usr/share/planetlab/seccomp/default.toml",
    "/usr/share/planetlab/seccomp/strict.toml",
    "/usr/share/doc/planetlab-node/examples/node.toml",
];

/// The package has all its parts, a manual page for each command, and nothing that its checksums do not know.
fn is_whole(machine: &Machine) {
    let missing = machine.run(&format!(
        "dpkg -L planetlab-node >/root/parts
         for part in {}; do grep -qFx $part /root/parts || echo $part; done
         for command in $(plab --help | sed -n '/^Commands:/,/^$/s/^  \\([a-z-]*\\) .*/\\1/p'); do
             [ $command = help ] || grep -qFx /usr/share/man/man1/plab-$command.1.gz /root/parts || echo $command
         done
         dpkg --verify planetlab-node",
        PARTS.join(" ")
    ));
    assert_eq!(missing, "", "what the package lacks, or has otherwise");
}

/// The kernel's list of ports that nobody gets by chance.
fn reserved_ports(machine: &Machine) -> String {
    machine.run("cat /proc/sys/net/ipv4/ip_local_reserved_ports").to_owned()
}

/// The slice that has ports and raw sockets has them, and the kernel knows whose the ports are; another slice has not.
fn has_its_network(machine: &Machine) {
    machine.run("plab status --verify site_s2");
    let reserved = reserved_ports(machine);
    assert!(reserved.split(',').any(|range| range == "8081-8090"), "{reserved}");
    let ping = "ping -n -q -c 1 127.0.0.1";
    machine.run(&format!("plab exec site_s2 -- {ping}"));
    let refused = machine.try_run(&format!("plab exec site_s1 -- {ping} 2>&1"));
    assert!(!refused.ok && refused.text.contains("not permitted"), "{}", refused.text);
    let take = "import socket; socket.socket().bind((\"\", 8081))";
    machine.run(&format!("plab exec site_s2 -- python3 -c '{take}'"));
    let refused = machine.try_run(&format!("plab exec site_s1 -- python3 -c '{take}' 2>&1"));
    assert!(!refused.ok && refused.text.contains("PermissionError"), "{}", refused.text);
}

#[test]
fn the_life_of_a_node() {
    let count =
        std::env::var("PLAB_TEST_SLICES").map_or(SLICES, |text| text.parse().expect("a number of slices"));
    let (processors, memory) = if count > FEW { (2, 3072) } else { (1, 2048) };
    let machine = Machine::new("package", processors, memory, &[]);
    let clean = traces(&machine);
    let (before, current) = (earlier(), package(""));
    eprintln!("the upgrade is from {} to {}", before.display(), current.display());

    // The image has the current package, and a node file of it, which an earlier plabd may refuse.
    purged(&machine);
    let unreserved = reserved_ports(&machine);
    install(&machine, &before);
    // Its network has no way out, for which the slices of a boot would wait.
    machine.run(
        "printf '\\n[boot]\\nnetwork_wait = \"5s\"\\n' >> /etc/planetlab/node.toml; systemctl restart plabd",
    );
    machine.run("systemctl is-active planetlab.target planetlab-capsules plabd planetlab-drain");
    machine.run("plab check && plab init --stdout | grep -q '^name = '");
    let refused = machine.try_run("plab init");
    assert_eq!(refused.status, Some(1), "the node file was written when the package was installed");
    let lives = make(&machine, count);
    eprintln!("{count} slices run");
    inherits_nothing(&machine);
    has_its_network(&machine);

    unnoticed(&machine, "systemctl restart plabd", &lives, || {
        machine.run("systemctl restart plabd");
    });
    unnoticed(&machine, "an upgrade", &lives, || {
        install(&machine, &current);
        let replaced = machine.run("readlink /proc/[0-9]*/exe | grep -c '/capsule-init (deleted)'");
        assert_eq!(replaced, count.to_string(), "each goes on with the capsule-init it began with");
    });
    is_whole(&machine);
    has_its_network(&machine);
    unnoticed(&machine, "systemctl daemon-reload and daemon-reexec", &lives, || {
        machine.run("systemctl daemon-reload && systemctl daemon-reexec && systemctl restart plabd");
    });
    unnoticed(&machine, "plabd killed", &lives, || {
        machine.run("kill -KILL $(systemctl show -p MainPID --value plabd)");
    });
    unnoticed(&machine, "plabd hangs, and the watchdog", &lives, || {
        machine.run("kill -STOP $(systemctl show -p MainPID --value plabd)");
    });
    assert!(machine.run("journalctl -u plabd --no-pager").contains("Watchdog timeout"));
    let crashes = machine.run("plab events --json");
    assert!(crashes.contains("(watchdog, killed with "), "{crashes}");
    assert!(crashes.contains("(signal, killed with KILL, as the service manager says)"), "{crashes}");

    machine.reboot();
    let lives = stopped_in_order(&machine, "reboot", &lives);
    machine.off();
    machine.boot(None, &[]);
    let lives = stopped_in_order(&machine, "power off and on", &lives);
    machine.run("systemctl stop planetlab.target && systemctl stop planetlab-drain plabd planetlab-capsules");
    assert_eq!(machine.run("ps -eo comm= | grep -cE '^(plab|capsule)' || true"), "0");
    machine.run("test ! -e /sys/fs/cgroup/system.slice/planetlab-capsules.service");
    assert_eq!(reserved_ports(&machine), unreserved, "no slice runs");
    machine.run("systemctl start planetlab.target");
    let lives = stopped_in_order(&machine, "systemctl stop and start", &lives);
    has_its_network(&machine);

    unnoticed(&machine, "the holder of the cgroup killed", &lives, || {
        let holder = main_pid(&machine, "planetlab-capsules");
        machine.run(&format!("kill -KILL {holder}"));
        machine.eventually("systemd has seen it", || {
            (!machine.try_run("systemctl is-active --quiet planetlab-capsules").ok).then_some(())
        });
        machine.run("systemctl restart plabd");
    });
    machine.run("plab restart site_s1");
    let lives = all_live(&machine, count);
    machine.run("systemctl stop planetlab.target && systemctl stop planetlab-drain plabd planetlab-capsules");
    machine.run("systemctl start planetlab.target");
    let lives = stopped_in_order(&machine, "a new holder", &lives);
    machine.run("systemctl is-active planetlab-capsules");

    machine.run("dpkg --remove planetlab-node 2>&1");
    assert_eq!(machine.run("ps -eo comm= | grep -cE '^(plab|capsule)' || true"), "0");
    machine.run("test -e /etc/planetlab/node.toml && test -d /var/lib/planetlab/slices/site_s7/home");
    assert_eq!(reserved_ports(&machine), unreserved, "removed");
    install(&machine, &current);
    stopped_in_order(&machine, "remove and install", &lives);
    has_its_network(&machine);
    let said = purged(&machine);
    assert!(said.contains(&format!("PURGING: the storage of {count} slices")), "{said}");
    assert_eq!(reserved_ports(&machine), unreserved, "purged");
    let left: Vec<String> = traces(&machine).into_iter().filter(|line| !clean.contains(line)).collect();
    assert_eq!(left, Vec::<String>::new(), "left behind by a purge");
    eprintln!("purged: nothing is left");
}

/// What plabd has of its unit, and a capsule must not.
fn inherits_nothing(machine: &Machine) {
    let pid = machine.run("pgrep -o -x capsule-init");
    assert_eq!(machine.run("cat /proc/$(systemctl show -p MainPID --value plabd)/oom_score_adj"), "-900");
    assert_eq!(machine.run(&format!("cat /proc/{pid}/oom_score_adj")), "0");
    assert_eq!(machine.run("plab exec site_s1 -- cat /proc/self/oom_score_adj"), "0");
    let lower = "import os; os.write(os.open(\"/proc/self/oom_score_adj\", os.O_WRONLY), b\"-1\")";
    let back = machine.try_run(&format!("plab exec site_s1 -- python3 -c '{lower}'"));
    assert!(back.text.contains("PermissionError"), "{}", back.text);
    let environment = machine.run(&format!("plab exec site_s1 -- env; tr '\\0' '\\n' </proc/{pid}/environ"));
    for name in
        ["NOTIFY_SOCKET", "INVOCATION_ID", "WATCHDOG", "JOURNAL_STREAM", "CREDENTIALS", "RUNTIME_DIRECTORY"]
    {
        assert!(!environment.contains(name), "{name} is in {environment}");
    }
    // One filter is the profile's, the other the table's; none is systemd's.
    let filters = machine.run(&format!("sed -n 's/^Seccomp_filters:\\t//p' /proc/{pid}/status"));
    assert_eq!(filters, "2");
    // What systemd lets every capsule open of devices is enough for a terminal.
    machine
        .run("plab status --verify site_s1 && plab exec site_s1 -- python3 -c 'import pty; pty.openpty()'");
}
