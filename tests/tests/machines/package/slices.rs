//! Slices with a service each that notices what is done to it.

use std::collections::BTreeMap;

use plab_tests::Machine;
use serde::Deserialize;

/// What one slice's service can tell about its life.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Life {
    state: String,
    /// capsule-init and the service: PID, and start in clock ticks since the boot.
    init: (u32, u64),
    service: (u32, u64),
    /// How often `start` and `stop` were run since the slice was made.
    pub starts: u32,
    pub stops: u32,
    /// Signals that the service got.
    signals: u32,
    /// Counts up for as long as the service lives.
    beat: u64,
}

pub type Lives = BTreeMap<String, Life>;

/// Every slice begins with these hooks. The service counts, and writes down every signal that it can; only `stop` ends it.
const SKELETON: &str = r#"
hooks=/etc/planetlab/skel/PlanetLab-control
mkdir -p $hooks
cat >$hooks/start <<'END'
#!/bin/bash
cd && echo >>starts
for signal in HUP INT QUIT USR1 USR2 TERM CONT; do trap "echo $signal >>signals" $signal; done
# When the kernel started it: a beat of the boot before may have the same PID.
read -ra stat </proc/$$/stat
for ((beat = 1; ; beat++)); do
    echo $$ ${stat[21]} $beat >beat.new && mv beat.new beat
    sleep 5
done
END
printf '#!/bin/sh\ncd && echo >>stops; kill -KILL -1\n' >$hooks/stop
chmod 755 $hooks/*
"#;

/// Tells the lives of all slices as one JSON document.
const LOOK: &str = r#"
cat >/root/look <<'END'
import json, os, subprocess
def lines(path):
    return open(path).read().count("\n") if os.path.exists(path) else 0
def born(pid):
    return [int(pid), int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[19])]
lives = {}
for slice in json.loads(subprocess.check_output(["plab", "status", "--json"]))["slices"]:
    name, init = slice["name"], slice["pid"]
    home = f"/var/lib/planetlab/slices/{name}/home/{name}/"
    if init is None or not os.path.exists(home + "beat"):
        continue
    inside, since, beat = open(home + "beat").read().split()
    children = open(f"/proc/{init}/task/{init}/children").read().split()
    service = [c for c in children if f"NSpid:\t{c}\t{inside}\n" in open(f"/proc/{c}/status").read() and born(c)[1] == int(since)]
    if not service:
        continue
    lives[name] = dict(state=slice["state"], init=born(init), service=born(service[0]), beat=int(beat),
        starts=lines(home + "starts"), stops=lines(home + "stops"), signals=lines(home + "signals"))
print(json.dumps(lives))
END
"#;

/// Makes `count` slices and waits until each has a service that lives.
pub fn make(machine: &Machine, count: usize) -> Lives {
    machine.run(SKELETON);
    machine.run(LOOK);
    // Written aside and moved, as an administrator's tool would. All stop at once, on CPUs that are emulated.
    machine.run(&format!(
        r#"name=$(plab status --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["node"])')
        mkdir /root/slices
        for i in $(seq {count}); do
            printf 'name = "site_s%d"\ncontact = "a@site.example"\nnodes = ["%s"]\nmemory.max = "32M"\ncontrol.stop_grace = "2m"\n' \
                "$i" "$name" >/root/slices/site_s$i.toml
        done
        printf '[network]\nports = ["tcp/8081-8090"]\nraw = ["icmp"]\n' >>/root/slices/site_s2.toml
        mv /root/slices/* /etc/planetlab/slices.d/"#
    ));
    all_live(machine, count)
}

/// Waits until `count` slices run and their services count.
pub fn all_live(machine: &Machine, count: usize) -> Lives {
    let mut seen = Lives::new();
    machine.eventually(&format!("{count} services count"), || {
        seen = look(machine)?;
        (seen.len() == count && seen.values().all(|life| life.state == "running")).then(|| seen.clone())
    })
}

/// The lives of all slices; none while plabd does not answer.
pub fn look(machine: &Machine) -> Option<Lives> {
    let said = machine.try_run("python3 /root/look");
    said.ok.then(|| serde_json::from_str(&said.text).expect("JSON"))
}

/// None of the slices has noticed anything since `before`: the same processes, none started or stopped or signalled,
/// and each goes on counting.
pub fn undisturbed(machine: &Machine, before: &Lives) {
    let unlike = |now: &Lives| -> Vec<String> {
        let same = |name: &String, was: &Life| {
            now.get(name)
                .is_some_and(|is| Life { beat: was.beat, ..is.clone() } == *was && is.beat >= was.beat)
        };
        before.iter().filter(|(name, was)| !same(name, was)).map(|(name, _)| name.clone()).collect()
    };
    let after = machine.eventually("plabd answers", || look(machine));
    assert_eq!(unlike(&after), Vec::<String>::new(), "these noticed; before: {before:#?}\nafter: {after:#?}");
    machine.eventually("every service counts on", || {
        let now = look(machine)?;
        assert_eq!(unlike(&now), Vec::<String>::new(), "these noticed later");
        before.iter().all(|(name, was)| now[name].beat > was.beat).then_some(())
    });
}
