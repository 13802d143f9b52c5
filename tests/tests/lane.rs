//! The lane's pinned capabilities: what `tests/lanes/*.toml` lists is there, or this fails and says what is not.
//!
//! The tests beside this one take the lane for granted and never skip. That is safe only because a machine that
//! lacks something fails here, by name and with what to do about it.

use plab_config::Transport;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

/// Chooses the lane: a file `tests/lanes/$PLAB_LANE.toml`.
const LANE: &str = "PLAB_LANE";

/// Where a capsule looks for programs, and where Debian keeps servers.
const PROGRAM_DIRECTORIES: [&str; 6] =
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"];

/// How everything that is missing ends: with what to do.
const INSTALL: &str = "run `make deps`, or: apt-get install";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lane {
    name: String,
    summary: String,
    machine: Machine,
    kernel: Kernel,
    network: Network,
    cgroups: Cgroups,
    /// Only a node has one; tests on other machines do not ask.
    systemd: Option<Systemd>,
    storage: Option<Storage>,
    program: Vec<Program>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Machine {
    arch: String,
    root: bool,
    cpus: usize,
    /// In MiB.
    memory: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kernel {
    release: String,
    landlock_abi: i32,
    seccomp_actions: Vec<String>,
    namespaces: Vec<String>,
    filesystems: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    /// The programs of the sandbox can be loaded.
    bpf: bool,
    /// No firewall tracks connections.
    untracked: bool,
    /// A socket can be closed by somebody else.
    close_sockets: bool,
    /// What is sent and received can be limited.
    shaping: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cgroups {
    arrangements: Vec<String>,
    controllers: Vec<String>,
    files: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Systemd {
    /// Units that must be active.
    active: Vec<String>,
}

/// The file system of the slices' storage.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Storage {
    at: PathBuf,
    filesystem: String,
    options: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Program {
    name: String,
    package: String,
    /// A directory, `*` for any one name in it; where programs are looked for unless said.
    at: Option<String>,
    /// Arguments with which it must succeed.
    #[serde(default)]
    check: Vec<String>,
}

/// What was found missing, in words.
#[derive(Default)]
struct Missing(Vec<String>);

impl Missing {
    fn unless(&mut self, there: bool, what: impl FnOnce() -> String) {
        if !there {
            self.0.push(what());
        }
    }
}

fn lanes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("lanes")
}

fn lane() -> Lane {
    let name = std::env::var(LANE).unwrap_or_else(|_| "host".to_owned());
    let path = lanes().join(format!("{name}.toml"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| {
        let known: Vec<String> = std::fs::read_dir(lanes())
            .expect("tests/lanes can be listed")
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".toml").map(str::to_owned))
            .collect();
        panic!("{LANE}={name}: no such lane ({error}); there are: {}", known.join(", "))
    });
    let lane: Lane = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(lane.name, name, "{} calls itself by another name", path.display());
    lane
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// A kernel release's first two numbers.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn machine(want: &Machine, missing: &mut Missing) {
    let arch = std::env::consts::ARCH;
    missing.unless(arch == want.arch, || format!("architecture {}: this is {arch}", want.arch));
    let root = rustix::process::geteuid().is_root();
    missing.unless(root || !want.root, || "root: run it as root, `sudo env \"PATH=$PATH\" make test`".into());
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    missing.unless(cpus >= want.cpus, || format!("{} CPUs: there are {cpus}", want.cpus));
    let memory = read("/proc/meminfo")
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024;
    // The kernel keeps a part of what a machine is said to have.
    missing.unless(memory >= want.memory * 9 / 10, || {
        format!("{} MiB of memory: there are {memory}", want.memory)
    });
}

/// What holds capsules to their ports, tried as plabd uses it.
fn network(want: &Network, missing: &mut Missing) {
    if want.bpf {
        let tree = format!("planetlab-lane-{}", std::process::id());
        let rows = plab_sandbox::probe::report(&tree);
        let row = rows.iter().find(|row| row.feature == "network.bpf");
        missing.unless(row.is_some_and(|row| row.state == plab_sandbox::probe::ProbeState::Present), || {
            let found = row.map_or("it was not looked for", |row| row.found.as_str());
            format!("BPF programs on control groups (CONFIG_CGROUP_BPF, CONFIG_BPF_JIT): {found}")
        });
    }
    if want.untracked {
        let tracking = plab_sandbox::net::Tracking::look();
        missing.unless(matches!(tracking, Ok(None)), || {
            format!("a firewall that tracks no connections, or none: {tracking:?}")
        });
    }
    if want.shaping {
        let netns = plab_tests::Netns::new();
        let tried = netns.command("sh").args(["-e", "-c", SHAPING]).output().expect("start sh");
        missing.unless(tried.status.success(), || {
            let said = String::from_utf8_lossy(&tried.stderr).trim().replace('\n', "; ");
            format!(
                "limits on traffic (CONFIG_NET_SCH_HTB, _INGRESS, CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED, \
                 CONFIG_IFB, CONFIG_VETH): {said}"
            )
        });
    }
    if want.close_sockets {
        let closed = closes_a_socket();
        missing.unless(closed.is_ok(), || {
            format!("closing a socket from outside (CONFIG_INET_DIAG_DESTROY): {}", closed.unwrap_err())
        });
    }
}

/// What limits are made of, in a network namespace of this test's own.
const SHAPING: &str = "ip link add veth0 type veth peer name veth1
    ip link add plabifb type ifb
    tc qdisc add dev veth0 root handle 1: htb
    tc class add dev veth0 parent 1: classid 1:1 htb rate 1mbit
    tc qdisc add dev veth0 ingress
    tc filter add dev veth0 parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev plabifb";

/// Closes a socket of this very process through sock_diag.
fn closes_a_socket() -> Result<(), String> {
    let own = std::net::UdpSocket::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let port = own.local_addr().map_err(|error| error.to_string())?.port();
    let table = plab_sandbox::net::SocketTable::open().map_err(|error| error.to_string())?;
    let sockets = table.of(Transport::Udp).map_err(|error| error.to_string())?;
    let socket = sockets.iter().find(|socket| socket.port == port && socket.address.is_loopback());
    let socket = socket.ok_or("the kernel does not show it")?;
    match table.destroy(socket) {
        Ok(true) => Ok(()),
        Ok(false) => Err("it was gone before".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn kernel(want: &Kernel, missing: &mut Missing) {
    let release = read("/proc/sys/kernel/osrelease");
    let release = release.trim();
    missing.unless(version(release) >= version(&want.release), || {
        format!("kernel {} or newer: this is {release}", want.release)
    });
    let abi = plab_sandbox::landlock_rules::kernel_abi();
    missing.unless(abi >= want.landlock_abi, || {
        let advice = if abi == 0 { "boot with lsm=landlock,…" } else { "boot a newer kernel" };
        format!("Landlock ABI {}: the kernel has {abi}; {advice}", want.landlock_abi)
    });
    let actions = read("/proc/sys/kernel/seccomp/actions_avail");
    for action in &want.seccomp_actions {
        missing.unless(actions.split_whitespace().any(|have| have == action), || {
            format!("seccomp action {action}: a kernel with CONFIG_SECCOMP_FILTER")
        });
    }
    for namespace in &want.namespaces {
        missing.unless(Path::new("/proc/self/ns").join(namespace).exists(), || {
            format!("namespace {namespace}: a kernel that was built with it")
        });
    }
    let filesystems = read("/proc/filesystems");
    for kind in &want.filesystems {
        missing.unless(filesystems.lines().any(|line| line.split_whitespace().last() == Some(kind)), || {
            format!("file system {kind}: a kernel that was built with it")
        });
    }
}

/// A mounted cgroup hierarchy: where, whether of v2, and its options.
fn cgroup_mounts() -> Vec<(PathBuf, bool, Vec<String>)> {
    read("/proc/self/mountinfo")
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut left = left.split(' ');
            let root = left.nth(3)?;
            let at = left.next()?;
            let mut right = right.split(' ');
            let kind = right.next()?;
            let options = right.nth(1)?.split(',').map(str::to_owned).collect();
            (root == "/" && kind.starts_with("cgroup")).then(|| (at.into(), kind == "cgroup2", options))
        })
        .collect()
}

fn cgroups(want: &Cgroups, missing: &mut Missing) {
    let mounts = cgroup_mounts();
    let Some((unified, ..)) = mounts.iter().find(|(_, v2, _)| *v2) else {
        missing.0.push("a mounted cgroup2 file system: mount -t cgroup2 none /sys/fs/cgroup/unified".into());
        return;
    };
    let on_v2 = read(unified.join("cgroup.controllers"));
    let is_on_v2 = |controller: &str| on_v2.split_whitespace().any(|have| have == controller);
    for controller in &want.controllers {
        let on_v1 = mounts.iter().any(|(_, v2, options)| !v2 && options.contains(controller));
        missing.unless(is_on_v2(controller) || on_v1, || {
            format!(
                "cgroup controller {controller}: neither in {}/cgroup.controllers nor mounted on v1",
                unified.display()
            )
        });
    }
    let arrangement =
        if want.controllers.iter().all(|controller| is_on_v2(controller)) { "v2" } else { "hybrid" };
    missing.unless(want.arrangements.iter().any(|accepted| accepted == arrangement), || {
        format!("cgroup arrangement {}: this is {arrangement}", want.arrangements.join(" or "))
    });
    // The files are those of a directory below the root, which has fewer; a look makes one for the moment.
    let probe = unified.join(format!("plab-lane-{}", std::process::id()));
    match std::fs::create_dir(&probe) {
        Ok(()) => {
            for file in &want.files {
                missing.unless(probe.join(file).exists(), || format!("{file} in cgroup v2: a newer kernel"));
            }
            std::fs::remove_dir(&probe).expect("the cgroup made for this look can be removed");
        }
        Err(error) => missing.0.push(format!("a cgroup of one's own: {}: {error}", probe.display())),
    }
}

fn systemd(want: &Systemd, missing: &mut Missing) {
    // sd_booted(3): the one sign of it that is promised.
    if !Path::new("/run/systemd/system").is_dir() {
        missing.0.push("systemd as PID 1: there is no /run/systemd/system".into());
        return;
    }
    for unit in &want.active {
        let ended = Command::new("systemctl").args(["is-active", unit]).stdin(Stdio::null()).output();
        let state = ended.map_or_else(
            |error| error.to_string(),
            |ended| String::from_utf8_lossy(&ended.stdout).trim().to_owned(),
        );
        missing.unless(state == "active", || format!("{unit}: is {state}; journalctl -u {unit}"));
    }
}

fn storage(want: &Storage, missing: &mut Missing) {
    let text = read("/proc/self/mountinfo");
    let found = text.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(4);
        if Path::new(left.next()?) != want.at {
            return None;
        }
        // Those of the mount, and those of the file system itself.
        let mut right = right.split(' ');
        let kind = right.next()?;
        let options = [left.next()?, right.nth(1)?].join(",");
        Some((kind.to_owned(), options.split(',').map(str::to_owned).collect::<Vec<_>>()))
    });
    let at = want.at.display();
    let Some((kind, options)) = found else {
        missing.0.push(format!("storage: nothing is mounted on {at}"));
        return;
    };
    missing.unless(kind == want.filesystem, || format!("storage: {at} is {kind}, not {}", want.filesystem));
    for option in &want.options {
        missing.unless(options.contains(option), || {
            format!("storage: {at} is mounted without {option}: with {}", options.join(","))
        });
    }
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The directories that a pattern with at most one `*` stands for.
fn directories(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else { return vec![pattern.into()] };
    let inside = std::fs::read_dir(before).into_iter().flatten().flatten();
    inside.map(|entry| entry.path().join(after.trim_start_matches('/'))).collect()
}

fn program(want: &Program, missing: &mut Missing) {
    let Program { name, package, .. } = want;
    let places = match &want.at {
        Some(pattern) => directories(pattern),
        None => PROGRAM_DIRECTORIES.map(PathBuf::from).into(),
    };
    let Some(path) = places.iter().map(|place| place.join(name)).find(|path| is_program(path)) else {
        let at = want.at.clone().unwrap_or_else(|| PROGRAM_DIRECTORIES.join(":"));
        missing.0.push(format!("program {name}: not in {at}; {INSTALL} {package}"));
        return;
    };
    if want.check.is_empty() {
        return;
    }
    let shown = format!("{} {}", path.display(), want.check.join(" "));
    let ended = Command::new(&path)
        .args(&want.check)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output();
    match ended {
        Ok(ended) if ended.status.success() => {}
        Ok(ended) => missing.0.push(format!(
            "program {name}: `{shown}` ended with {}: {}; {INSTALL} {package}",
            ended.status,
            String::from_utf8_lossy(&ended.stderr).lines().last().unwrap_or_default()
        )),
        Err(error) => missing.0.push(format!("program {name}: `{shown}`: {error}; {INSTALL} {package}")),
    }
}

#[test]
fn everything_the_lane_pins_is_there() {
    let lane = lane();
    let mut missing = Missing::default();
    machine(&lane.machine, &mut missing);
    kernel(&lane.kernel, &mut missing);
    network(&lane.network, &mut missing);
    cgroups(&lane.cgroups, &mut missing);
    lane.systemd.iter().for_each(|want| systemd(want, &mut missing));
    lane.storage.iter().for_each(|want| storage(want, &mut missing));
    lane.program.iter().for_each(|want| program(want, &mut missing));
    assert!(
        missing.0.is_empty(),
        "lane {} ({}): this machine lacks {} things:\n  {}\n",
        lane.name,
        lane.summary,
        missing.0.len(),
        missing.0.join("\n  ")
    );
}

#[test]
fn releases_compare_by_number() {
    assert!(version("6.1.0-18-amd64") > version("5.14"));
    assert!(version("5.9.1") < version("5.14"));
    assert_eq!(version("6.18"), Some((6, 18)));
    assert_eq!(version("six"), None);
}

#[test]
fn a_star_stands_for_one_name() {
    assert_eq!(directories("/usr/bin"), [PathBuf::from("/usr/bin")]);
    assert!(directories("/pr*/self").is_empty(), "a star is a whole name");
    assert!(directories("/proc/*/ns").contains(&PathBuf::from("/proc/self/ns")));
}
