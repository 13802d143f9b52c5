//! The lines that sshd gets for a slice, in the format of authorized_keys (sshd(8)).
//!
//! Of the definition there is only each key's type and base64 in them, both checked by the parser; its comment never
//! is. Every option is ours: nothing but a command, the login shell told which key it was; a terminal; the agent.

use std::fmt::Write;
use std::num::NonZeroU16;

use plab_config::{PortRange, SshKey, Transport};

use super::SHELL;

/// What stands before the fingerprint in each line's command.
const KEY: &str = "--key ";

/// sshd takes each port by itself, and at most 4,096 of them; a slice with a wide range forwards the first ones.
const MOST_FORWARDED: usize = 64;

/// One line a key. Forwarding is allowed to and from the TCP ports among these, on the node's loopback only, and not at
/// all if there are none.
pub(super) fn authorized_keys(keys: &[SshKey], ports: &[PortRange]) -> String {
    let mut forwarding = String::new();
    let tcp = ports.iter().filter(|range| range.transport() == Transport::Tcp);
    let ports: Vec<NonZeroU16> = tcp.flat_map(|range| range.ports()).take(MOST_FORWARDED).collect();
    if !ports.is_empty() {
        // Without a permitopen or permitlisten it would be every port.
        forwarding.push_str(",port-forwarding");
    }
    for port in ports {
        for host in ["localhost", "127.0.0.1", "[::1]"] {
            // Writing to a String cannot fail.
            let _ = write!(forwarding, ",permitopen=\"{host}:{port}\"");
        }
        let _ = write!(forwarding, ",permitlisten=\"localhost:{port}\"");
    }
    keys.iter()
        .map(|key| {
            format!(
                "restrict,pty,agent-forwarding{forwarding},command=\"{SHELL} {KEY}{}\" {} {}\n",
                key.fingerprint(),
                key.kind(),
                key.base64()
            )
        })
        .collect()
}

/// The fingerprints in such lines.
pub(super) fn fingerprints(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.split_once(KEY)?.1.split('"').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN2oNn44stRcFx5MUczmpMZbOpJZxmKW8SlP0Nf1Iert";
    const LINE: &str = "restrict,pty,agent-forwarding,command=\"/usr/lib/planetlab/plab-shell --key \
                        SHA256:9UTwQwQxjeyl35CLfPHIXsEIJtykITkwOaZA/76UEQI\" ";

    fn key(comment: &str) -> SshKey {
        format!("{ED25519} {comment}").parse().expect("a key")
    }

    #[test]
    fn a_line_holds_nothing_of_the_comment() {
        for comment in ["", "alice", "\" command=\"/bin/sh", "port-forwarding --key SHA256:x", "# é \\"] {
            assert_eq!(authorized_keys(&[key(comment)], &[]), format!("{LINE}{ED25519}\n"), "{comment}");
        }
        assert_eq!(authorized_keys(&[], &[]), "");
    }

    #[test]
    fn forwarding_is_to_the_slices_ports_only() {
        let ports = ["tcp/80", "udp/7-9", "tcp/8080"].map(|text| text.parse().expect("a range"));
        let line = authorized_keys(&[key("")], &ports);
        let options = line.split(" ssh-ed25519").next().expect("options");
        assert_eq!(options.matches("permitopen=").count(), 6);
        assert_eq!(options.matches("permitlisten=").count(), 2);
        assert!(
            options.starts_with("restrict,pty,agent-forwarding,port-forwarding,permitopen=\"localhost:80\",")
        );
        assert!(
            options.contains("permitopen=\"[::1]:8080\"")
                && options.contains("permitlisten=\"localhost:8080\"")
        );
    }

    #[test]
    fn fingerprints_are_found_again() {
        let text = authorized_keys(&[key("a")], &["tcp/1-65535".parse().expect("a range")]);
        assert_eq!(text.matches("permitlisten=").count(), MOST_FORWARDED);
        assert_eq!(
            fingerprints(&text).collect::<Vec<_>>(),
            ["SHA256:9UTwQwQxjeyl35CLfPHIXsEIJtykITkwOaZA/76UEQI"]
        );
    }
}
