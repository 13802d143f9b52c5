//! Calls that the built-in profiles refuse by their arguments: what is refused, and that its neighbours are
//! not.

use super::interpreter::{call, decide};
use super::{ALLOW, EPERM, compiled};

#[test]
fn namespaces_are_refused_bit_by_bit() {
    let (compiled, strict) = (compiled("default"), compiled("strict"));
    let namespaces = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];
    let forked = libc::SIGCHLD | libc::CLONE_CHILD_CLEARTID | libc::CLONE_CHILD_SETTID;
    let thread = 0x3d0f00; // as glibc's pthread_create has it
    let spawned = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    for flags in [forked, thread, spawned, libc::SIGCHLD] {
        let flags = flags as u64;
        assert_eq!(decide(&compiled, &call(libc::SYS_clone, [flags, 0, 0, 0, 0, 0])), ALLOW);
        for namespace in namespaces {
            for high in [0, 1 << 32, u64::MAX << 32] {
                let args = [flags | namespace as u64 | high, 0, 0, 0, 0, 0];
                assert_eq!(decide(&compiled, &call(libc::SYS_clone, args)), EPERM, "{args:x?}");
            }
        }
    }
    for flags in [0, libc::CLONE_FILES, libc::CLONE_FS | libc::CLONE_SYSVSEM] {
        assert_eq!(decide(&compiled, &call(libc::SYS_unshare, [flags as u64, 0, 0, 0, 0, 0])), ALLOW);
        for namespace in namespaces.into_iter().chain([0x80]) {
            let args = [(flags | namespace) as u64, 0, 0, 0, 0, 0];
            assert_eq!(decide(&compiled, &call(libc::SYS_unshare, args)), EPERM, "{args:x?}");
        }
    }
    for flags in [0, libc::CLONE_FILES as u64] {
        assert_eq!(decide(&strict, &call(libc::SYS_unshare, [flags, 0, 0, 0, 0, 0])), EPERM);
    }
}

#[test]
fn terminal_and_quota_ioctls_are_refused_and_their_neighbours_are_not() {
    let refused = [
        0x5412,      // TIOCSTI
        0x541c,      // TIOCLINUX
        0x5423,      // TIOCSETD
        0x4008_6602, // FS_IOC_SETFLAGS
        0x401c_5820, // FS_IOC_FSSETXATTR
        0x5000_9401, // BTRFS_IOC_SNAP_CREATE
        0x5000_940e, // BTRFS_IOC_SUBVOL_CREATE
        0x5000_9417, // BTRFS_IOC_SNAP_CREATE_V2
        0x5000_9418, // BTRFS_IOC_SUBVOL_CREATE_V2
    ];
    for name in ["default", "strict"] {
        let compiled = compiled(name);
        let ioctl = |request: u64| decide(&compiled, &call(libc::SYS_ioctl, [0, request, 0, 0, 0, 0]));
        for request in refused {
            for high in [0, 1 << 32, 1 << 63, u64::MAX << 32] {
                assert_eq!(ioctl(request | high), EPERM, "{request:x}");
            }
            for neighbour in [request - 1, request + 1, request ^ (1 << 31)] {
                let expected = if refused.contains(&neighbour) { EPERM } else { ALLOW };
                assert_eq!(ioctl(neighbour), expected, "{neighbour:x}");
            }
        }
        // TCGETS, TIOCGWINSZ, TIOCSCTTY, TIOCGPTN, FIONBIO, FIONREAD, FICLONE
        for request in [0x5401, 0x5413, 0x540e, 0x8004_5430, 0x5421, 0x541b, 0x4004_9409] {
            assert_eq!(ioctl(request), ALLOW, "{request:x}");
        }
    }
}

#[test]
fn only_the_slices_own_kinds_of_sockets_open() {
    const CLOEXEC_NONBLOCK: u64 = 0o2_004_000;
    for name in ["default", "strict"] {
        let compiled = compiled(name);
        let socket = |family, kind, protocol| {
            // Set bits above the lower 32 must change nothing.
            let answers = [0, 1 << 32].map(|high: u64| {
                let args = [family | high, kind | high, protocol | high, 0, 0, 0];
                decide(&compiled, &call(libc::SYS_socket, args))
            });
            assert_eq!(answers[0], answers[1]);
            answers[0]
        };
        for family in 0..64 {
            let expected = if [1, 2, 10, 16].contains(&family) { ALLOW } else { EPERM };
            let kind = if family == 16 { 3 } else { 1 };
            assert_eq!(socket(family, kind | CLOEXEC_NONBLOCK, 0), expected, "{name}: family {family}");
        }
        for protocol in 0..32 {
            let expected = if protocol == 0 { ALLOW } else { EPERM };
            assert_eq!(socket(16, 3, protocol), expected, "netlink {protocol}");
        }
        for family in [2, 10] {
            for protocol in 0..300 {
                for flags in [0, CLOEXEC_NONBLOCK] {
                    let stream = if [0, 6, 262].contains(&protocol) { ALLOW } else { EPERM };
                    assert_eq!(socket(family, 1 | flags, protocol), stream, "stream {protocol}");
                    let datagram = if [0, 1, 17, 58, 136].contains(&protocol) { ALLOW } else { EPERM };
                    assert_eq!(socket(family, 2 | flags, protocol), datagram, "datagram {protocol}");
                    // Raw ones are for CAP_NET_RAW to say.
                    assert_eq!(socket(family, 3 | flags, protocol), ALLOW);
                    for kind in [4, 5, 6, 10] {
                        assert_eq!(socket(family, kind | flags, protocol), EPERM, "kind {kind}");
                    }
                }
            }
        }
        for kind in [1, 2, 5] {
            assert_eq!(socket(1, kind, 0), ALLOW);
        }
        for family in 0..64 {
            let expected = if family == 1 { ALLOW } else { EPERM };
            let data = call(libc::SYS_socketpair, [family, 1, 0, 0, 0, 0]);
            assert_eq!(decide(&compiled, &data), expected, "pair of family {family}");
        }
    }
}

#[test]
fn personality_turns_randomisation_off_and_nothing_else() {
    let compiled = compiled("default");
    let personality = |persona| decide(&compiled, &call(libc::SYS_personality, [persona, 0, 0, 0, 0, 0]));
    for persona in [0, 0x0004_0000, 0xffff_ffff, 0xffff_ffff_ffff_ffff] {
        assert_eq!(personality(persona), ALLOW, "{persona:x}");
    }
    // PER_LINUX32, READ_IMPLIES_EXEC, MMAP_PAGE_ZERO, ADDR_COMPAT_LAYOUT, and one with the allowed bit.
    for persona in [8, 0x0040_0000, 0x0010_0000, 0x0020_0000, 0x0044_0000, 0x1_0000_0008] {
        assert_eq!(personality(persona), EPERM, "{persona:x}");
    }
}
