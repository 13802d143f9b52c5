//! The node file as text. What is a default is said in a comment, so that a later release's default counts.

use std::fmt::Write;

use plab_config::NodeFile;

use super::facts::Facts;

/// A node file for a machine of which this is known.
pub(super) fn node_file(facts: &Facts) -> String {
    let Facts { name, uids, syslog, .. } = facts;
    let address = match facts.address {
        Some(address) => format!("address = \"{address}\""),
        None => "# None was found: there is no default route.\n#address = \"192.0.2.1\"".to_owned(),
    };
    let defaults = NodeFile::with_name(name.clone());
    let quoted = |paths: &[plab_config::AbsolutePath]| {
        let quoted: Vec<String> = paths.iter().map(|path| format!("\"{path}\"")).collect();
        quoted.join(", ")
    };
    let lacks = lacks(facts);
    let system = quoted(&defaults.view.system);
    let allow = quoted(&defaults.view.allow);
    let (weight, memory, tasks) =
        (defaults.defaults.cpu_weight, defaults.defaults.memory_max, defaults.defaults.tasks_max);
    let times = defaults.defaults.control;
    format!(
        r#"# What this machine is, and what its slices get. Written by `plab init`; yours to change.
# After a change: systemctl restart plabd. Running slices are not disturbed by that.
# A line that begins with # and a key shows the default.

# The node's DNS name. A definition is accepted only if its `nodes` has this name.
name = "{name}"

# The node's one IPv4 address, which all slices share: that of the default route.
{address}

# Each slice gets one user ID from here. Nobody else's on this machine is in it, as far as /etc/passwd, /etc/group,
# /etc/subuid, /etc/subgid and /etc/login.defs tell; if users come from a directory service, look there, too.
uids = "{uids}"

# What this machine may lack without keeping slices from starting. Each entry is a promise that this node does not
# keep, and it says so wherever it says anything. `plab check` shows what there is, and what to do about the rest.
{lacks}degrade = []

# Below this Landlock ABI no capsule starts.
[landlock]
#abi = {abi}

# For definitions that leave these out. The times are for a slice's hooks.
[defaults]
#cpu.weight = {weight}
#memory.max = "{memory}"
#tasks.max = {tasks}
#configure_limit = "{configure}"
#status_interval = "{interval}"
#status_limit = "{status}"
#stop_grace = "{grace}"

[view]
# Every capsule sees these, read-only, where they exist.
#system = [{system}]
# A definition's `[view] paths` must lie within one of these. [] permits none.
#allow = [{allow}]

# The most that the node sends and receives, slices and its own traffic together: "500Kbit", "10Mbit". No limit unless
# said. On the interfaces of the default routes; others: interfaces = ["eth0"]. `plab bandwidth` sets it live.
[bandwidth]
# out = "10Mbit"
# in = "10Mbit"

# The audit trail goes to this socket.
[audit]
syslog = "{syslog}"
"#,
        abi = defaults.landlock.abi,
        configure = times.configure_limit,
        interval = times.status_interval,
        status = times.status_limit,
        grace = times.stop_grace,
    )
}

/// Nothing is let pass that nobody looked at: the line that would is there, as a comment.
fn lacks(facts: &Facts) -> String {
    if facts.lacks.is_empty() {
        return String::new();
    }
    let mut text = "# This machine lacks:\n".to_owned();
    for lack in &facts.lacks {
        let advice = lack.advice.as_ref().map(|advice| format!(" ({advice})")).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "#   {}: {}{advice}", lack.feature, lack.needed_for);
    }
    let names: Vec<String> = facts.lacks.iter().map(|lack| format!("\"{}\"", lack.feature)).collect();
    let _ = writeln!(
        text,
        "# With this line instead of the next, slices run without:\n#degrade = [{}]",
        names.join(", ")
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::facts::Lack;
    use plab_config::{Feature, UidRange};
    use std::path::Path;

    fn facts() -> Facts {
        Facts {
            name: "n.example.org".parse().expect("a name"),
            address: Some([192, 0, 2, 7].into()),
            uids: "80000-89999".parse().expect("a range"),
            lacks: vec![Lack {
                feature: Feature::MemoryHigh,
                needed_for: "slowing down".into(),
                advice: Some("boot with v2".into()),
            }],
            syslog: "/run/systemd/journal/dev-log",
            notes: vec![],
        }
    }

    fn parse(text: &str) -> NodeFile {
        NodeFile::parse(text, Path::new("node.toml")).unwrap_or_else(|errors| panic!("{errors:?}\n{text}"))
    }

    #[test]
    fn it_says_what_was_found_and_lets_nothing_pass() {
        let mut due = NodeFile::with_name(facts().name);
        due.address = facts().address;
        due.uids = facts().uids;
        due.audit.syslog = facts().syslog.parse().expect("a path");
        assert_eq!(parse(&node_file(&facts())), due);
    }

    #[test]
    fn what_is_commented_out_is_the_default_and_parses() {
        let facts = Facts { address: None, uids: UidRange::default(), syslog: "/dev/log", ..facts() };
        let text = node_file(&facts);
        let mut opened: String = text
            .lines()
            .filter(|line| *line != "degrade = []")
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let mut due = NodeFile::with_name(facts.name.clone());
        due.address = Some([192, 0, 2, 1].into());
        due.degrade = [Feature::MemoryHigh].into();
        assert_eq!(parse(&opened), due);
        // Every key was among them.
        opened.retain(|c| c != '"');
        for key in ["abi", "cpu.weight", "memory.max", "tasks.max", "stop_grace", "system", "allow", "syslog"]
        {
            assert!(opened.contains(&format!("\n{key} = ")), "{key}");
        }
    }
}
