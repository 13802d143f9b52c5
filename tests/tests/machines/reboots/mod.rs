//! Whatever switches a node off, it comes back to its last accepted state and says what happened: reboots in order,
//! power cuts, a panic, clocks that are wrong by years, a full disk, two days without a network.

mod node;

use node::Node;
use serde_json::Value;

#[test]
fn a_reboot_in_order_runs_stop_then_start_and_is_recorded() {
    let node = Node::new("orders", "", &[]);
    node.define("site_a", "");
    node.await_ran("site_a", "start", 1);
    assert_eq!(node.boots()[0]["ended"], Value::Null);

    node.rebooted_by("plab node reboot --reason 'a test'; sleep 60");
    node.await_state("site_a", "running");
    node.await_ran("site_a", "start", 2);
    assert_eq!((node.ran("site_a", "stop"), node.ran("site_a", "configure")), (1, 1));
    let boots = node.boots();
    assert_eq!((boots.len(), boots[1]["ended"].as_str()), (2, Some("reboot")), "{boots:#?}");
    assert_eq!((boots[0]["network"].as_str(), boots[1]["crashes"].as_u64()), (Some("up"), Some(0)));

    // Not ordered through plab: the unit that drains, or plabd's own end, sees where systemd goes.
    node.rebooted_by("systemctl reboot; sleep 60");
    node.await_ran("site_a", "start", 3);
    let boots = node.boots();
    assert_eq!((boots.len(), boots[1]["ended"].as_str()), (3, Some("reboot")), "{boots:#?}");
    assert_eq!(node.ran("site_a", "configure"), 1);
    // A crash of plabd is no boot.
    node.run("systemctl kill --signal=KILL --kill-whom=main plabd");
    node.eventually("the next plabd has begun", || {
        (node.try_run("plab boots -n 1").text.contains("2, crashed 1")).then_some(())
    });
    assert_eq!((node.boots().len(), node.ran("site_a", "start")), (3, 3));

    // Planned for later, announced, and then carried out.
    node.try_run("plab node poweroff --at +10s --reason 'a test'");
    let status = node.run("plab status");
    assert!(status.contains("PLANNED: the node is switched off at"), "{status}");
    node.eventually("it is off", || (!node.is_on()).then_some(()));
    node.boot(None, &[]);
    node.await_plabd();
    node.await_ran("site_a", "start", 4);
    let boots = node.boots();
    assert_eq!((boots.len(), boots[1]["ended"].as_str()), (4, Some("poweroff")), "{boots:#?}");

    // A reboot that no plabd sees is neither in order nor a power cut.
    node.rebooted_by(
        "systemctl stop planetlab.target && systemctl stop planetlab-drain plabd && systemctl reboot; sleep 60",
    );
    node.await_ran("site_a", "start", 5);
    let boots = node.boots();
    assert_eq!((boots.len(), boots[1]["ended"].as_str()), (5, Some("unknown")), "{boots:#?}");
    let said = node.await_event("booted");
    assert!(said.contains("unknown, plabd had been stopped in order"), "{said}");
}

/// Works on slices for as long as the machine has power, and says on disk what it was told is done.
const WORK: &str = r#"
note() { echo "$@" >> /root/done; sync /root/done; }
one() { printf 'name = "%s"\ncontact = "pi@example.org"\nnodes = ["node1.example.org"]\n[memory]\nmax = "%s"\n' $1 $2 | plab apply - > /dev/null; }
i=$1
while :; do
    i=$((i + 1))
    one site_n$i 64M && note created site_n$i
    one site_change $((64 + i))M && note changed $((64 + i))
    one site_g$i 64M && note removing site_g$i && plab rm --yes site_g$i > /dev/null && note removed site_g$i
    plab restart site_hooks > /dev/null
done
"#;

#[test]
fn a_power_cut_at_any_moment_loses_nothing_that_was_answered_for() {
    let node = Node::new("cuts", "", &[]);
    node.define("site_hooks", "");
    node.write("/root/work", WORK);
    // Its `configure` never ends before the power does; those that come later have none.
    node.run(
        r#"
        configure=/etc/planetlab/skel/PlanetLab-control/configure
        printf '#!/bin/sh\necho x >> configure-ran; sync configure-ran; sleep 100000\n' > $configure"#,
    );
    node.define("site_slow", "");
    node.await_ran("site_slow", "configure", 1);
    node.run("rm /etc/planetlab/skel/PlanetLab-control/configure; sync");
    let done =
        |node: &Node| -> usize { node.run("cat /root/done 2> /dev/null | wc -l").parse().expect("a number") };
    for cut in 2..=4 {
        let before = done(&node);
        node.run(&format!("setsid bash /root/work {}00 > /root/work.log 2>&1 < /dev/null &", cut));
        // In the middle of a removal, of a restart, of a creation.
        node.eventually("work is done", || (done(&node) > before + cut).then_some(()));
        node.cut();
        node.boot(None, &[]);
        node.await_plabd();
        let boots = node.boots();
        assert_eq!(boots[1]["ended"], "unclean", "{:#?}", &boots[..2]);
        assert!(node.await_event("booted").contains("power cut"));
        node.eventually("every slice is up, or gone", || {
            let status = node.json("status");
            let slices = status["slices"].as_array().expect("slices").clone();
            slices.iter().all(|slice| slice["state"] == "running").then_some(())
        });
        check_what_was_answered(&node);
    }
    let boots = node.boots();
    assert_eq!(boots.len(), 4, "{boots:#?}");
}

fn check_what_was_answered(node: &Node) {
    let done = node.run("cat /root/done");
    let words: Vec<(&str, &str)> = done.lines().filter_map(|line| line.split_once(' ')).collect();
    let of = |kind: &str| {
        words.iter().filter(|(have, _)| *have == kind).map(|(_, what)| *what).collect::<Vec<_>>()
    };
    for slice in of("created") {
        assert_eq!(node.state(slice), "running", "{slice} was answered for\n{done}");
    }
    let stored = node.run("ls /var/lib/planetlab/slices");
    for slice in of("removed") {
        assert_eq!(node.state(slice), "none", "{slice} was answered for\n{done}");
        assert!(!stored.lines().any(|have| have == slice), "{slice} has storage\n{stored}");
    }
    // What was cut while it was made or removed has left nothing of itself.
    node.eventually("storage is there of the slices that are, and of no other", || {
        let status = node.json("status");
        let mut slices: Vec<String> = status["slices"]
            .as_array()
            .expect("slices")
            .iter()
            .map(|slice| slice["name"].as_str().expect("a name").to_owned())
            .collect();
        slices.sort();
        (node.run("ls -A /var/lib/planetlab/slices").lines().eq(slices.iter())).then_some(())
    });
    if let Some(last) = of("changed").last() {
        let text = node.run("cat /etc/planetlab/slices.d/site_change.toml");
        let now: u64 = text
            .split('"')
            .find_map(|word| word.strip_suffix('M')?.parse().ok())
            .unwrap_or_else(|| panic!("no memory.max in {text}"));
        let answered: u64 = last.parse().expect("a number");
        // The cut may have come between the change and its answer.
        assert!(now == answered || now == answered + 1, "{now}, answered for {answered}");
        node.run("plab status site_change --verify");
    }
    // `configure` is run until it has succeeded, never after that.
    assert_eq!(node.ran("site_hooks", "configure"), 1);
    let ran = node.ran("site_slow", "configure");
    assert!((1..=node.boots().len()).contains(&ran), "{ran}");
}

/// Where the kernel of a machine can leave its last words: ACPI's ERST, in a file.
const ERST: [&str; 4] = [
    "-object",
    "memory-backend-file,id=erst,mem-path=/vm/erst,size=0x10000,share=on",
    "-device",
    "acpi-erst,memdev=erst",
];

#[test]
fn a_panic_is_told_from_a_power_cut_where_the_machine_keeps_its_record() {
    let node = Node::new("panic", "", &ERST);
    node.define("site_a", "");
    node.await_ran("site_a", "start", 1);
    node.rebooted_by("sync; echo c > /proc/sysrq-trigger");
    node.await_ran("site_a", "start", 2);
    let boots = node.boots();
    assert_eq!((boots[1]["ended"].as_str(), boots.len()), (Some("panic"), 2), "{boots:#?}");
    assert!(boots[1]["evidence"].as_str().is_some_and(|evidence| evidence.contains("pstore")), "{boots:#?}");
    assert_eq!((node.ran("site_a", "configure"), node.ran("site_a", "stop")), (1, 0));
    assert!(node.run("plab status").contains("the boot before ended with: panic"));
    // The record is not taken for another one of the next time.
    node.cut();
    node.boot(None, &ERST);
    node.await_plabd();
    assert_eq!(node.boots()[1]["ended"], "unclean");
}

#[test]
fn a_clock_that_is_wrong_by_years_ends_no_lease() {
    let node = Node::new("clock", "", &[]);
    let now = node.run("date -u +%s").parse::<i64>().expect("seconds");
    let year = node.run("date -u -d '+1 year' +%FT%TZ");
    node.define("site_leased", &format!("expires = {year}"));
    node.await_ran("site_leased", "start", 1);
    // Ten years ahead.
    node.cut();
    node.boot(Some(&machine_date(now, 10)), &[]);
    node.await_plabd();
    assert!(node.await_event("clock-suspicious").contains("trust-clock"));
    node.await_state("site_leased", "running");
    node.await_ran("site_leased", "start", 2);
    assert!(node.run("plab status").contains("PROBLEM: the clock says"));
    assert_eq!(node.boots()[0]["clock"], "suspicious");
    // Root may believe it; then the lease has ended.
    node.run("plab node trust-clock");
    node.await_state("site_leased", "expired");
    // It was wrong: the slice comes back. That it is behind what root believed, root has to say, too.
    node.run(&format!("date -s @{}", now + 600));
    node.await_event("clock-behind");
    assert_eq!(node.state("site_leased"), "expired");
    node.run("plab node trust-clock");
    node.await_state("site_leased", "running");
    let began = node.boots()[0]["began"].as_str().expect("began").to_owned();
    assert!(
        node.run(&format!("date -u -d {began} +%s")).parse::<i64>().expect("seconds") < now + 3600,
        "{began}"
    );
    // Ten years behind: an ended lease stays ended.
    let past = node.run("date -u -d '-1 day' +%FT%TZ");
    node.define("site_ended", &format!("expires = {past}"));
    node.await_state("site_ended", "expired");
    node.run("sync");
    node.cut();
    node.boot(Some(&machine_date(now, -10)), &[]);
    node.await_plabd();
    node.await_event("clock-behind");
    node.await_state("site_leased", "running");
    assert_eq!(node.state("site_ended"), "expired");
    // Set right, nothing is left to doubt.
    node.run(&format!("date -s @{}", now + 7200));
    node.await_event("clock-believed");
    assert_eq!(node.json("status")["problems"], Value::Array(Vec::new()));
}

/// A time so many years away, as QEMU wants it.
fn machine_date(now: i64, years: i64) -> String {
    let date = std::process::Command::new("date")
        .args(["-u", "-d", &format!("@{}", now + years * 365 * 86_400), "+%FT%T"])
        .output()
        .expect("date");
    String::from_utf8_lossy(&date.stdout).trim().to_owned()
}

#[test]
fn with_a_disk_that_is_full_at_boot_slices_come_back() {
    let node = Node::new("full", "", &[]);
    node.define("site_a", "");
    node.await_ran("site_a", "start", 1);
    // What fallocate leaves, single blocks.
    node.run(
        "cd /var/lib/planetlab && fallocate -l $(df --output=avail -B1 . | tail -n 1) filler; \
         cat /dev/zero > filler2 2> /dev/null; sync",
    );
    node.cut();
    node.boot(None, &[]);
    node.await_plabd();
    node.await_state("site_a", "running");
    // Its hook cannot write that it ran; that it runs is seen.
    node.eventually("its `start` runs", || {
        node.try_run("plab exec site_a -- pgrep -x sleep").ok.then_some(())
    });
    node.eventually("it says so", || node.run("plab status").contains("the disk is full").then_some(()));
    assert!(node.run("journalctl -b --no-pager").contains("event=disk-full"), "the system log has it");
    node.run("rm /var/lib/planetlab/filler*");
    node.await_event("disk-recovered");
    let boots = node.boots();
    assert_eq!((boots.len(), boots[1]["ended"].as_str()), (2, Some("unclean")), "{boots:#?}");
    node.define("site_b", "");
    assert_eq!(node.ran("site_a", "configure"), 1);
}

#[test]
fn two_days_without_a_network_pass() {
    let node = Node::new("net", "[boot]\nnetwork_wait = \"20s\"\n", &[]);
    node.define("site_a", "");
    let tomorrow = node.run("date -u -d '+1 day' +%FT%TZ");
    node.define("site_leased", &format!("expires = {tomorrow}"));
    node.await_ran("site_leased", "start", 1);
    node.run("rm /etc/test-network; sync");
    node.rebooted_by("systemctl reboot; sleep 60");
    node.await_event("network-waiting");
    node.await_event("network-absent");
    node.await_ran("site_a", "start", 2);
    assert_eq!(node.boots()[0]["network"], "absent");
    // Two days later: the lease that ended meanwhile has ended, nothing else has changed.
    node.run("date -s '+2 days'");
    node.await_state("site_leased", "expired");
    assert_eq!((node.state("site_a"), node.ran("site_a", "start")), ("running".to_owned(), 2));
    node.run("ip address add 192.0.2.1/32 dev lo");
    node.await_event("network-up");
    assert_eq!(node.ran("site_a", "start"), 2);
    node.define("site_b", "");
    node.await_state("site_b", "running");
}
