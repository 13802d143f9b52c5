//! What every capsule is made with: opened once, shared by all, with no state of its own.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use plab_config::seccomp::SeccompProfile;
use plab_config::{AbsolutePath, Feature, NodeFile};
use plab_sandbox::KernelError;
use plab_sandbox::cgroup::{CgroupTree, tree_name};
use plab_sandbox::net::NetworkGuard;
use plab_sandbox::probe::Offered;
use plab_sandbox::seccomp::compile;
use plab_sandbox::view::{EtcFiles, Storage, Template, TemplateSpec};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, memfd_create, openat};

use crate::accounts::Accounts;
use crate::bandwidth::Bandwidth;
use crate::disk::Disk;
use crate::firewall::Firewall;
use crate::opt_outs::OptOuts;
use crate::paths::Paths;
use crate::ports::Ports;

/// A compiled seccomp profile, as capsule-inits get it.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Sealed memfd with the compiled programs.
    pub memfd: Arc<OwnedFd>,
    /// Tells compiled programs apart.
    pub digest: String,
}

/// The node's parts that capsules are made of.
pub struct Machine {
    /// Where things lie.
    pub paths: Paths,
    /// The node file.
    pub node: NodeFile,
    /// Control groups.
    pub tree: CgroupTree,
    /// The read-only part of views.
    pub template: Template,
    /// Slices' storage.
    pub storage: Storage,
    /// What makes their files last.
    pub disk: Disk,
    /// Slices' accounts, for sshd.
    pub accounts: Accounts,
    /// What holds capsules to their share of the network, or why there is nothing that could.
    pub guard: Result<NetworkGuard, String>,
    /// Whose ports are whose.
    pub ports: Ports,
    /// How much is sent and received.
    pub bandwidth: Bandwidth,
    /// Where nothing is sent.
    pub opt_outs: OptOuts,
    /// What the kernel offers.
    pub offered: Offered,
    /// Whether it tracks connections.
    pub firewall: Firewall,
    /// The capsule-init program, open.
    pub init: OwnedFd,
    etc: EtcFiles,
    skeleton_etc: std::path::PathBuf,
    sockets: OwnedFd,
    profiles: Mutex<BTreeMap<String, Profile>>,
}

impl Machine {
    /// Opens everything. `place` is where in the v2 hierarchy capsules live, as [`CgroupTree::open`] takes it.
    ///
    /// # Errors
    /// A part that this machine lacks or that cannot be made.
    pub fn open(
        paths: Paths,
        node: NodeFile,
        init: &Path,
        place: Option<&Path>,
    ) -> Result<Self, KernelError> {
        let opened = openat(CWD, init, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|error| {
            KernelError::new("open capsule-init", init.display(), error)
                .hint("it is installed beside plabd; --capsule-init says where else")
        })?;
        let tree_name = tree_name(&paths.root);
        let tree = CgroupTree::open(&tree_name, place)?;
        let guard = NetworkGuard::load(&tree).map_err(|error| error.to_string());
        let offered = Offered::probe(&tree, guard.is_ok());
        let firewall = Firewall::default();
        firewall.look();
        let ports = Ports::new([&node.network.own_ports[..], &node.network.open_loopback].concat(), &paths);
        let bandwidth = Bandwidth::new(&tree_name, node.bandwidth.clone(), guard.is_ok());
        let opt_outs = OptOuts::new(&node.network.opt_out);
        let etc = EtcFiles::new(node.view.etc.clone());
        let own = |paths: &[AbsolutePath]| paths.iter().map(|path| path.as_path().to_owned()).collect();
        let spec = TemplateSpec {
            skeleton: paths.run.join("view"),
            system: own(&node.view.system),
            allow: own(&node.view.allow),
        };
        let template = Template::build(&spec, &etc)?;
        let storage = Storage::open(&paths.storage)?;
        let disk = Disk::start(paths.storage.clone())
            .map_err(|error| KernelError::new("start", "the thread that syncs", error))?;
        let accounts = Accounts::open(&paths)
            .map_err(|error| KernelError::new("prepare", "the accounts of slices", error))?;
        let capsules = paths.capsules();
        make_private_directory(&capsules)?;
        let sockets =
            openat(CWD, &capsules, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| KernelError::new("open", capsules.display(), error))?;
        Ok(Self {
            tree,
            template,
            storage,
            disk,
            accounts,
            guard,
            ports,
            bandwidth,
            opt_outs,
            offered,
            firewall,
            init: opened,
            skeleton_etc: spec.skeleton.join("etc"),
            etc,
            sockets,
            profiles: Mutex::new(BTreeMap::new()),
            node,
            paths,
        })
    }

    /// The compiled profile of that name; compiled once for all capsules that have it.
    ///
    /// # Errors
    /// Why there is none, for the definition's author.
    pub fn profile(&self, name: &str) -> Result<Profile, String> {
        // A poisoned cache holds whole entries all the same.
        let mut profiles = self.profiles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(profile) = profiles.get(name) {
            return Ok(profile.clone());
        }
        let source = SeccompProfile::load(name, &self.paths.seccomp).map_err(|error| error.to_string())?;
        let compiled = compile(&source).map_err(|error| error.to_string())?;
        let memfd = sealed(&compiled.to_bytes())
            .map_err(|error| format!("could not keep profile {name}: {error}"))?;
        let profile = Profile { memfd: Arc::new(memfd), digest: compiled.digest() };
        profiles.insert(name.to_owned(), profile.clone());
        Ok(profile)
    }

    /// What holds capsules to their share of the network; none on a node that may lack it and does.
    pub fn guard(&self) -> Option<&NetworkGuard> {
        self.guard.as_ref().ok()
    }

    /// As [`Self::guard`], for what is about to run: without one only if the node file lets it.
    ///
    /// # Errors
    /// Why the network cannot be held.
    pub fn required_guard(&self) -> Result<Option<&NetworkGuard>, KernelError> {
        match &self.guard {
            Ok(guard) => Ok(Some(guard)),
            Err(_) if self.node.may_lack(Feature::NetworkBpf) => Ok(None),
            Err(reason) => Err(KernelError::new(
                "hold to its network",
                "a capsule",
                std::io::Error::other(reason.to_string()),
            )
            .hint("degrade = [\"network.bpf\"] in the node file lets capsules run without")),
        }
    }

    /// For what is about to run with raw sockets: only where nothing sees what they send before the programs do, unless the
    /// node file lets it.
    ///
    /// # Errors
    /// What sees it.
    pub fn required_untracked(&self) -> Result<(), KernelError> {
        match self.firewall.look() {
            Some(why) if !self.node.may_lack(Feature::NetworkUntracked) => {
                Err(KernelError::new("hold to its raw sockets", "a capsule", std::io::Error::other(why))
                    .hint("degrade = [\"network.untracked\"] in the node file lets it run all the same"))
            }
            _ => Ok(()),
        }
    }

    /// Copies what has changed in the host's `/etc` into every capsule's view.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn refresh_etc(&self) -> Result<(), KernelError> {
        self.etc.refresh(&self.skeleton_etc)
    }

    /// The path of a capsule's socket by the descriptor of their directory: a Unix address holds 107 bytes, and a
    /// node's root may lie deep.
    ///
    /// Named by UID: the kernel shows the names of all Unix sockets to everybody in the network namespace
    /// (`/proc/net/unix`), and who else has a slice here is nobody's business.
    pub fn socket_address(&self, uid: u32) -> String {
        format!("/proc/self/fd/{}/{}", self.sockets.as_raw_fd(), Self::socket_name(uid))
    }

    /// The name of a capsule's socket in their directory.
    pub fn socket_name(uid: u32) -> String {
        format!("{uid}.sock")
    }

    /// The directory of the capsules' sockets.
    pub fn sockets(&self) -> BorrowedFd<'_> {
        self.sockets.as_fd()
    }
}

fn sealed(bytes: &[u8]) -> rustix::io::Result<OwnedFd> {
    let memfd = memfd_create("seccomp-profile", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut written = 0;
    while written < bytes.len() {
        written += rustix::io::write(&memfd, &bytes[written..])?;
    }
    // Every capsule-init gets this one file: none may change it under the next.
    rustix::fs::fcntl_add_seals(
        &memfd,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(memfd)
}

/// Makes a directory that only root enters.
pub fn make_private_directory(path: &Path) -> Result<(), KernelError> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)))
        .map_err(|error| KernelError::new("make directory", path.display(), error))
}
