//! What this node can hold a definition to: the rest is refused, unless the node file's `degrade` names it.

use plab_config::{ConfigError, Definition, ErrorKind, Feature, NodeFile};
use plab_sandbox::landlock_rules::{IOCTL_SINCE, SCOPES_SINCE};
use plab_sandbox::probe::Offered;

use crate::machine::Machine;
use crate::ports::Taken;

/// Features that are missing on this machine, whether or not the node file allows that.
pub fn missing(machine: &Machine) -> Vec<Feature> {
    lacking(&machine.offered, machine.firewall.seen().is_some())
}

fn lacking(offered: &Offered, tracked: bool) -> Vec<Feature> {
    let checks = [
        (Feature::MemoryHigh, offered.memory_high),
        (Feature::MemorySwap, offered.memory_swap),
        (Feature::MemoryOomGroup, offered.memory_oom_group),
        (Feature::LandlockScope, offered.landlock_abi >= SCOPES_SINCE),
        (Feature::LandlockIoctl, offered.landlock_abi >= IOCTL_SINCE),
        (Feature::NetworkBpf, offered.network_bpf),
        (Feature::NetworkUntracked, !tracked),
    ];
    checks.into_iter().filter(|(_, there)| !there).map(|(feature, _)| feature).collect()
}

/// Lets a definition through that this machine can make a capsule of. `former` is the slice whose place it takes, which
/// may be itself.
///
/// # Errors
/// Why it cannot.
pub fn admit(
    definition: Definition,
    former: Option<&str>,
    machine: &Machine,
) -> Result<Definition, Vec<ConfigError>> {
    // Looked at anew for who asks, as it can change at any time.
    let tracked = if definition.network.raw.is_empty() { None } else { machine.firewall.look() };
    let mut errors = refusals(&definition, &machine.node, &machine.offered, tracked.is_some());
    for (feature, why) in
        [(Feature::NetworkBpf, machine.guard.as_ref().err()), (Feature::NetworkUntracked, tracked.as_ref())]
    {
        if let (Some(why), Some(error)) = (why, errors.iter_mut().find(|error| error.key == feature.name())) {
            error.reason = error.reason.take().map(|reason| format!("{reason}: {why}"));
        }
    }
    if errors.is_empty()
        && let Err(reason) = machine.profile(definition.seccomp.profile.as_str())
    {
        errors.push(refusal(&definition, "seccomp.profile", reason));
    }
    if errors.is_empty()
        && let Err(taken) = machine.ports.check(definition.name.as_str(), former, &definition.network.ports)
    {
        errors.push(conflict(&definition, &taken));
    }
    if errors.is_empty()
        && let Err(reason) = machine.accounts.check_name(definition.name.as_str())
    {
        errors.push(refusal(&definition, "name", reason));
    }
    if errors.is_empty() { Ok(definition) } else { Err(errors) }
}

fn refusal(definition: &Definition, key: &str, reason: String) -> ConfigError {
    ConfigError {
        kind: ErrorKind::Refused,
        file: definition.origin.file.clone(),
        line: 0,
        column: 0,
        key: key.to_owned(),
        read: None,
        expected: None,
        nearest: None,
        reason: Some(reason),
    }
}

/// The key that a conflict over ports is told under.
pub const PORTS: &str = "network.ports";

/// A port that another slice, or the node, has.
pub fn conflict(definition: &Definition, taken: &Taken) -> ConfigError {
    ConfigError {
        kind: ErrorKind::Conflict,
        read: Some(format!("\"{}\"", taken.wanted)),
        expected: Some("ports that nobody else has".to_owned()),
        ..refusal(definition, PORTS, taken.to_string())
    }
}

/// What of a definition the kernel cannot be made to hold.
fn refusals(definition: &Definition, node: &NodeFile, offered: &Offered, tracked: bool) -> Vec<ConfigError> {
    let name = &definition.name;
    let mut refusals = Vec::new();
    let needed = i32::try_from(node.landlock.abi).unwrap_or(i32::MAX);
    if offered.landlock_abi < needed.max(1) {
        let reason = format!(
            "{name}: this node needs Landlock ABI {needed} and its kernel has {}; boot a newer kernel, or one with \
             lsm=landlock",
            offered.landlock_abi
        );
        refusals.push(refusal(definition, "landlock.abi", reason));
    }
    for feature in lacking(offered, tracked) {
        // Most concern every capsule; these only those that ask.
        let asked = match feature {
            Feature::MemoryHigh => definition.memory.high.is_some(),
            Feature::NetworkUntracked => !definition.network.raw.is_empty(),
            _ => true,
        };
        if asked && !node.may_lack(feature) {
            let reason = format!(
                "{name}: this node cannot enforce {feature}; add \"{feature}\" to `degrade` in the node file to run \
                 without, or see `plab check`",
                feature = feature.name()
            );
            refusals.push(refusal(definition, feature.name(), reason));
        }
    }
    // Not for `degrade` to allow: with the capability and without the programs it would hear everybody.
    if !definition.network.raw.is_empty() && !offered.network_bpf {
        let reason = format!(
            "{name}: raw sockets are held by BPF programs, which this node has not; see `plab check`"
        );
        refusals.push(refusal(definition, "network.raw", reason));
    }
    refusals
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const ALL: Offered = Offered {
        memory_high: true,
        memory_swap: true,
        memory_oom_group: true,
        landlock_abi: 7,
        network_bpf: true,
    };

    fn node(degrade: &str) -> NodeFile {
        NodeFile::parse(&format!("name = \"n.example.org\"\ndegrade = [{degrade}]\n"), Path::new("node.toml"))
            .expect("node file")
    }

    fn definition(memory: &str, node: &NodeFile) -> Definition {
        let text = format!(
            "name = \"a\"\ncontact = \"a@example.org\"\nnodes = [\"n.example.org\"]\n[memory]\n{memory}\n"
        );
        Definition::parse(&text, Path::new("a.toml"), node).expect("definition")
    }

    #[test]
    fn what_cannot_be_enforced_is_refused_by_name() {
        let strict = node("");
        let high = definition("high = \"32M\"\nmax = \"64M\"", &strict);
        assert!(refusals(&high, &strict, &ALL, false).is_empty());
        let without = Offered { memory_high: false, ..ALL };
        assert!(
            refusals(&high, &strict, &without, false)[0].to_string().contains("cannot enforce memory.high")
        );
        assert!(
            refusals(&definition("max = \"64M\"", &strict), &strict, &without, false).is_empty(),
            "nobody asked"
        );
        assert!(refusals(&high, &node("\"memory.high\""), &without, false).is_empty());
    }

    #[test]
    fn raw_sockets_are_never_held_by_nothing() {
        let lax = node("\"network.bpf\"");
        let without = Offered { network_bpf: false, ..ALL };
        let raw = definition("max = \"64M\"\n[network]\nraw = [\"icmp\"]", &lax);
        assert!(refusals(&raw, &lax, &ALL, false).is_empty());
        let refused = refusals(&raw, &lax, &without, false);
        assert!(refused.len() == 1 && refused[0].to_string().contains("network.raw"), "{refused:?}");
        assert!(refusals(&definition("max = \"64M\"", &lax), &lax, &without, false).is_empty());
    }

    #[test]
    fn where_connections_are_tracked_raw_sockets_have_to_be_allowed() {
        let strict = node("");
        let raw = definition("max = \"64M\"\n[network]\nraw = [\"udp\"]", &strict);
        let refused = refusals(&raw, &strict, &ALL, true);
        assert!(refused.len() == 1 && refused[0].key == "network.untracked", "{refused:?}");
        assert!(refusals(&raw, &node("\"network.untracked\""), &ALL, true).is_empty());
        assert!(
            refusals(&definition("max = \"64M\"", &strict), &strict, &ALL, true).is_empty(),
            "nobody asked"
        );
    }

    #[test]
    fn what_concerns_everyone_is_refused_to_everyone() {
        let strict = node("");
        let plain = definition("max = \"64M\"", &strict);
        for offered in [
            Offered { memory_swap: false, ..ALL },
            Offered { memory_oom_group: false, ..ALL },
            Offered { landlock_abi: 5, ..ALL },
            Offered { network_bpf: false, ..ALL },
        ] {
            assert_eq!(refusals(&plain, &strict, &offered, false).len(), 1);
        }
        assert_eq!(refusals(&plain, &strict, &Offered { landlock_abi: 0, ..ALL }, false).len(), 3);
    }
}
