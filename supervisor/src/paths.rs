//! Where things lie on a node (section 11 of the design), all movable with `--root`.

use std::path::{Path, PathBuf};

/// The places of one node.
#[derive(Debug, Clone)]
pub struct Paths {
    /// `/`, or what `--root` said.
    pub root: PathBuf,
    /// The node file.
    pub node_file: PathBuf,
    /// The directory of definitions.
    pub slices: PathBuf,
    /// The site's own seccomp profiles.
    pub seccomp: PathBuf,
    /// What a new slice's home begins with, if it is there.
    pub skel: PathBuf,
    /// The ledger.
    pub ledger: PathBuf,
    /// Who sent what to whom; only root enters it.
    pub flows: PathBuf,
    /// Slices' storage.
    pub storage: PathBuf,
    /// Sockets, lock, view skeleton: nothing that must outlive a boot.
    pub run: PathBuf,
}

impl Paths {
    /// The places below `root`.
    pub fn below(root: &Path) -> Self {
        let etc = root.join("etc/planetlab");
        let state = root.join("var/lib/planetlab");
        Self {
            root: root.to_owned(),
            node_file: etc.join("node.toml"),
            slices: etc.join("slices.d"),
            seccomp: etc.join("seccomp"),
            skel: etc.join("skel"),
            ledger: state.join("ledger.sqlite"),
            flows: state.join("flows"),
            storage: state.join("slices"),
            run: root.join("run/planetlab"),
        }
    }

    /// The directory of the capsules' sockets; only root enters it.
    pub fn capsules(&self) -> PathBuf {
        self.run.join("capsules")
    }

    /// Who may log in: for each slice a file `NAME.keys` for sshd, and one named by its UID, which says that the UID is a
    /// slice's. Everybody may read it.
    pub fn accounts(&self) -> PathBuf {
        self.run.join("accounts")
    }

    /// What the next plabd must know of open sessions; only root enters it.
    pub fn sessions(&self) -> PathBuf {
        self.run.join("sessions")
    }

    /// How the last plabd ended, if a service manager has written that down.
    pub fn verdict(&self) -> PathBuf {
        self.run.join("plabd.verdict")
    }

    /// The control socket.
    pub fn control(&self) -> PathBuf {
        self.run.join("control.sock")
    }
}
