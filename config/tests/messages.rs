//! The exact words of error messages: people read them, and scripts grep them.

use std::path::Path;

use plab_config::{ConfigError, Definition, NodeFile};

const NODE: &str = "planetlab1.princeton.planet-lab.org";

fn node() -> NodeFile {
    NodeFile::with_name(NODE.parse().expect("a host name"))
}

fn lines(errors: Vec<ConfigError>) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn definition(text: &str) -> Vec<String> {
    match Definition::parse(text, Path::new("a.toml"), &node()) {
        Ok(_) => Vec::new(),
        Err(errors) => lines(errors),
    }
}

/// The errors of a definition that is good but for `rest`, which begins on line 4.
fn with(rest: &str) -> Vec<String> {
    definition(&format!(
        "name = \"princeton4\"\ncontact = \"pi@cs.princeton.edu\"\nnodes = [\"{NODE}\"]\n{rest}"
    ))
}

fn node_file(text: &str) -> Vec<String> {
    match NodeFile::parse(text, Path::new("node.toml")) {
        Ok(_) => Vec::new(),
        Err(errors) => lines(errors),
    }
}

#[test]
fn the_shortest_definition_is_good() {
    assert_eq!(with(""), [""; 0]);
}

#[test]
fn unknown_keys_name_the_nearest() {
    assert_eq!(
        with("\n[memory]\n  maxx = \"1G\"\n"),
        ["a.toml:6:3: memory.maxx: unknown key; nearest known key is memory.max"]
    );
    assert_eq!(with("[memroy]\n"), ["a.toml:4:2: memroy: unknown key; nearest known key is memory"]);
    assert_eq!(
        with("[cpu]\nexpires = 2027-01-31T00:00:00Z\n"),
        ["a.toml:5:1: cpu.expires: unknown key; nearest known key is expires"]
    );
    assert_eq!(with("[tasks]\nquux = 1\n"), ["a.toml:5:1: tasks.quux: unknown key; expected max"]);
    assert_eq!(
        with("[tasks]\n\"\\u001b[2J\" = 1\n"),
        ["a.toml:5:1: tasks.\"\\u{1b}[2J\": unknown key; expected max"]
    );
    assert_eq!(
        definition(&format!(
            "name = \"a1\"\ncontact = \"a@b\"\nnodes = [\"{NODE}\", {{ name = \"x\", addres = \"192.0.2.1\" }}]"
        )),
        ["a.toml:3:63: nodes[1].addres: unknown key; nearest known key is nodes.address"]
    );
}

#[test]
fn values_say_what_was_read_and_expected() {
    assert_eq!(
        with("memory.max = \"256X\"\n"),
        ["a.toml:4:14: memory.max: read \"256X\", expected a size such as \"256M\"; \
          the units are K, M, G and T, or KiB, MiB, GiB and TiB"]
    );
    assert_eq!(
        with("memory.max = \"lots\"\n"),
        ["a.toml:4:14: memory.max: read \"lots\", expected a size such as \"256M\""]
    );
    assert_eq!(
        with("memory.max = true"),
        ["a.toml:4:14: memory.max: read true, expected a size such as \"256M\""]
    );
    assert_eq!(
        with("memory.max = \"4M\""),
        [
            "a.toml:4:14: memory.max: read \"4M\", expected a size such as \"256M\"; a capsule needs at least 8M"
        ]
    );
    assert_eq!(
        with("memory = { high = \"1G\", max = \"256M\" }"),
        ["a.toml:4:19: memory.high: read \"1G\", expected at most memory.max, which is \"256M\""]
    );
    assert_eq!(with("memory = 5"), ["a.toml:4:10: memory: read 5, expected a table"]);
    assert_eq!(
        with("cpu.max = 50"),
        ["a.toml:4:11: cpu.max: read 50, expected a share of one cpu from \"1%\" to \"6400%\""]
    );
    assert_eq!(
        with("cpu.weight = 0x4e20"),
        ["a.toml:4:14: cpu.weight: read 0x4e20, expected a whole number from 1 to 10000"]
    );
    assert_eq!(
        with("tasks.max = 2"),
        ["a.toml:4:13: tasks.max: read 2, expected a whole number from 4 to 4194304; \
          init, a shell and a pipe of two commands need 4 tasks"]
    );
    assert_eq!(
        with("control.stop_grace = \"10\""),
        ["a.toml:4:22: control.stop_grace: read \"10\", expected a time such as \"10s\" or \"1h30m\"; \
          the unit is missing"]
    );
    assert_eq!(
        with("control.status_interval = \"1ms\""),
        ["a.toml:4:27: control.status_interval: read \"1ms\", expected a time from \"100ms\" to \"1d\""]
    );
    assert_eq!(
        with("restart = \"always\""),
        ["a.toml:4:11: restart: read \"always\", expected \"no\" or \"on-failure\""]
    );
    assert_eq!(
        with("seccomp.profile = \"../x\""),
        [
            "a.toml:4:19: seccomp.profile: read \"../x\", expected a profile name such as \"default\" or \"strict\"; \
          at most 32 lower-case letters, digits, hyphens and underscores, a letter first"
        ]
    );
}

#[test]
fn times_need_their_offset() {
    assert_eq!(
        with("expires = 2027-01-31T00:00:00"),
        [
            "a.toml:4:11: expires: read 2027-01-31T00:00:00, expected a date and time such as 2027-01-31T00:00:00Z; \
          the offset is missing; add Z for utc"
        ]
    );
    assert_eq!(
        with("expires = 2027-01-31"),
        ["a.toml:4:11: expires: read 2027-01-31, expected a date and time such as 2027-01-31T00:00:00Z; \
          the time of day is missing"]
    );
    assert_eq!(
        with("expires = \"2027-01-31T00:00:00Z\""),
        ["a.toml:4:11: expires: read \"2027-01-31T00:00:00Z\", \
          expected a date and time such as 2027-01-31T00:00:00Z; times stand without quotes"]
    );
}

#[test]
fn what_is_not_enforced_is_refused() {
    assert_eq!(
        with("[disk]\nspace = \"1G\"\n[software]\n"),
        [
            "a.toml:4:2: disk: refused; not enforced by this node yet",
            "a.toml:6:2: software: refused; not enforced by this node yet",
        ]
    );
}

#[test]
fn ports() {
    let ports = |list: &str| with(&format!("[network]\nports = {list}\n"));
    assert_eq!(ports("[\"tcp/80\", \"udp/80\", \"tcp/81-90\"]"), [""; 0]);
    assert_eq!(
        ports("[\"tcp/80-90\", \"tcp/85\"]"),
        [
            "a.toml:5:23: network.ports[1]: read \"tcp/85\", expected each port once; \"tcp/80-90\" stands above and has \
          tcp/85, too"
        ]
    );
    assert_eq!(
        ports("[\"tcp/0\"]"),
        [
            "a.toml:5:10: network.ports[0]: read \"tcp/0\", expected a port or a range such as \"tcp/8080\" or \
          \"udp/33434-33523\"; ports are from 1 to 65535"
        ]
    );
    assert_eq!(
        with("[network]\nport = [\"tcp/80\"]\n"),
        ["a.toml:5:1: network.port: unknown key; nearest known key is network.ports"]
    );
    let many: Vec<_> = (1..=257).map(|n| format!("\"tcp/{n}\"")).collect();
    assert_eq!(
        ports(&format!("[{}]", many.join(","))),
        [
            "a.toml:5:9: network.ports: read 257 entries, expected at most 256; ranges such as \"tcp/8000-8099\" take one"
        ]
    );
}

#[test]
fn a_node_keeps_ports_and_prefixes() {
    assert_eq!(
        node_file("name = \"n.org\"\n[network]\nown_ports = [\"tcp/22\"]\nopt_out = [\"192.0.2.0/24\"]\n"),
        [""; 0]
    );
    assert_eq!(
        node_file("name = \"n.org\"\n[network]\nopt_out = [\"192.0.2.1/24\"]\nownports = []\n"),
        [
            "node.toml:3:12: network.opt_out[0]: read \"192.0.2.1/24\", expected a prefix such as \"192.0.2.0/24\" or \
             \"2001:db8::/32\"; with a length of 24 it is \"192.0.2.0/24\"",
            "node.toml:4:1: network.ownports: unknown key; nearest known key is network.own_ports",
        ]
    );
}

#[test]
fn rates_are_what_a_link_can_be_limited_to() {
    let limited =
        "name = \"n.org\"\n[bandwidth]\nout = \"10Mbit\"\nin = \"1Gbit\"\ninterfaces = [\"eth0\"]\n";
    assert_eq!(node_file(limited), [""; 0]);
    assert_eq!(
        node_file(
            "name = \"n.org\"\n[bandwidth]\nout = \"10M\"\nin = \"1bit\"\ninterfaces = [\"lo\"]\nrate = 1\n"
        ),
        [
            "node.toml:3:7: bandwidth.out: read \"10M\", expected a rate such as \"10Mbit\"; the units are bit, Kbit, Mbit \
             and Gbit",
            "node.toml:4:6: bandwidth.in: read \"1bit\", expected a rate from \"8Kbit\" to \"1000Gbit\"",
            "node.toml:5:15: bandwidth.interfaces[0]: read \"lo\", expected the name of a network interface such as \
             \"eth0\"; what stays on the machine is not limited",
            "node.toml:6:1: bandwidth.rate: unknown key; expected one of out, in, interfaces",
        ]
    );
    assert_eq!(with("[network]\nrate = \"500Kbit\"\n"), [""; 0]);
    assert_eq!(
        with("[network]\nrate = \"2000Gbit\"\n"),
        ["a.toml:5:8: network.rate: read \"2000Gbit\", expected a rate from \"8Kbit\" to \"1000Gbit\""]
    );
}

#[test]
fn all_mistakes_are_told_in_the_order_of_the_text() {
    assert_eq!(
        definition("expires = 1\nname = \"Princeton\"\n[tasks]\nmax = -1\n"),
        [
            "a.toml:1:1: contact: missing; expected an e-mail address such as \"pi@cs.princeton.edu\"",
            "a.toml:1:1: nodes: missing; expected a list of host names or of tables with name and address",
            "a.toml:1:11: expires: read 1, expected a date and time such as 2027-01-31T00:00:00Z",
            "a.toml:2:8: name: read \"Princeton\", \
             expected a slice name such as \"princeton4\" or \"princeton_codeen\"; \
             does not begin with a lower-case letter",
            "a.toml:4:7: tasks.max: read -1, expected a whole number from 4 to 4194304",
        ]
    );
}

#[test]
fn this_node_must_be_among_the_nodes() {
    let head = "name = \"a1\"\ncontact = \"a@b\"\n";
    assert_eq!(
        definition(&format!("{head}nodes = [\"x.org\", {{ name = \"y.org\" }}]")),
        ["a.toml:3:9: nodes: read x.org, y.org, \
          expected this node, \"planetlab1.princeton.planet-lab.org\", among them"]
    );
    assert_eq!(
        definition(&format!("{head}nodes = []")),
        ["a.toml:3:9: nodes: read [], expected at least one node"]
    );
    assert_eq!(
        definition(&format!("{head}nodes = [\"{NODE}\", \"PlanetLab1.princeton.planet-lab.org\"]")),
        ["a.toml:3:49: nodes[1]: read \"PlanetLab1.princeton.planet-lab.org\", expected each entry once; \
          the same node stands above"]
    );
}

#[test]
fn view_paths_are_read_only_and_allowed() {
    let expected = "expected a read-only path such as \"ro:/opt/jdk\"";
    assert_eq!(
        with("view.paths = [\"rw:/opt/x\", \"ro:/proc/1\", \"ro:/opt/../etc\", \"ro:/srv/x\", \"ro:/opt\"]"),
        [
            format!(
                "a.toml:4:15: view.paths[0]: read \"rw:/opt/x\", {expected}; \
                 the home directory is the only writable storage"
            ),
            format!(
                "a.toml:4:28: view.paths[1]: read \"ro:/proc/1\", {expected}; a capsule has its own there, or none"
            ),
            format!(
                "a.toml:4:42: view.paths[2]: read \"ro:/opt/../etc\", {expected}; has a \".\" or \"..\" in it"
            ),
            "a.toml:4:60: view.paths[3]: read \"ro:/srv/x\", expected a path within /opt; \
             the node file's view.allow permits no other"
                .to_owned(),
        ]
    );
}

#[test]
fn keys_are_keys() {
    let expected = "expected a public key such as \"ssh-ed25519 AAAA… alice\"";
    let good = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN2oNn44stRcFx5MUczmpMZbOpJZxmKW8SlP0Nf1Iert";
    assert_eq!(with(&format!("keys = [\"{good} alice\"]")), [""; 0]);
    assert_eq!(
        with("keys = [\"x\", \"command=x ssh-ed25519 AAAA\", \"ssh-ed25519 AAAA\"]"),
        [
            format!("a.toml:4:9: keys[0]: read \"x\", {expected}"),
            format!(
                "a.toml:4:14: keys[1]: read \"command=x ssh-ed25519 AAAA\", {expected}; \
                 options before the key are not accepted"
            ),
            format!(
                "a.toml:4:44: keys[2]: read \"ssh-ed25519 AAAA\", {expected}; \
                 the key's data does not decode or is of another type"
            ),
        ]
    );
    // What is repeated of a long text is cut.
    assert_eq!(
        with(&format!("keys = [\"{good}\\ncommand=x\"]")),
        [format!("a.toml:4:9: keys[0]: read \"{}…\", {expected}; has control characters", &good[..79])]
    );
    assert_eq!(
        with(&format!("keys = [\"{good} a\", \"{good} b\"]")),
        [format!(
            "a.toml:4:95: keys[1]: read \"{}…\", expected each entry once; the same key stands above",
            &good[..79]
        )]
    );
}

#[test]
fn text_that_is_not_toml_is_told_with_its_line() {
    // The reason is in the parser's own words.
    let errors = with("[memory]\nmax = 256M\n");
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].starts_with("a.toml:5:7: memory.max: not valid TOML; read \"max = 256M\"; "),
        "{errors:?}"
    );
    assert_eq!(
        with("name = \"b\"\n"),
        ["a.toml:4:1: name: not valid TOML; read \"name = \"b\"\"; duplicate key"]
    );
    assert_eq!(definition(&"#".repeat(300_000)), ["a.toml: larger than 262144 bytes"]);
}

#[test]
fn node_files_are_told_alike() {
    assert_eq!(
        node_file("nmae = \"x.org\""),
        [
            "node.toml:1:1: name: missing; \
             expected a host name such as \"planetlab1.princeton.planet-lab.org\"",
            "node.toml:1:1: nmae: unknown key; nearest known key is name",
        ]
    );
    assert_eq!(
        node_file("name = \"x.org\"\ndegrade = [\"memory.hihg\"]"),
        ["node.toml:2:12: degrade[0]: read \"memory.hihg\", expected one of memory.high, memory.swap, \
          memory.oom-group, landlock.scope, landlock.ioctl, network.bpf, network.untracked, audit"]
    );
    assert_eq!(
        node_file("name = \"x.org\"\nuids = \"0-99999\"\naddress = \"::1\"\nlandlock.abi = 0"),
        [
            "node.toml:2:8: uids: read \"0-99999\", expected a range of user ids such as \"70000-99999\"; \
             0-999 are root's and the system users'",
            "node.toml:3:11: address: read \"::1\", expected an IPv4 address such as \"192.0.2.1\"",
            "node.toml:4:16: landlock.abi: read 0, expected a Landlock ABI version, 1 or higher",
        ]
    );
    assert_eq!(
        node_file("name = \"x.org\"\n[view]\nsystem = [\"/\", \"/usr\"]\netc = [\"shadow\"]\n"),
        [
            "node.toml:3:11: view.system[0]: read \"/\", expected a directory of programs or libraries; \
             a capsule has its own there, or none",
            "node.toml:4:8: view.etc[0]: read \"shadow\", \
             expected a name below /etc such as \"hosts\", \"ssl\" or \"python3*\"; \
             that is private, or a capsule has its own",
        ]
    );
    assert_eq!(
        node_file("name = \"x.org\"\n[defaults]\nstop_grace = \"1x\"\nmemory.high = \"1M\"\n"),
        [
            "node.toml:3:14: defaults.stop_grace: read \"1x\", expected a time such as \"10s\" or \"1h30m\"; \
             the units are d, h, m, s and ms, each at most once, the larger first",
            "node.toml:4:8: defaults.memory.high: unknown key; expected max",
        ]
    );
}
