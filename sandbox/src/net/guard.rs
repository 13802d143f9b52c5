//! The programs on the cgroup above all capsules, and their state.

mod closing;
mod readback;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use plab_config::{IpPrefix, PortRange};
use rustix::io::Errno;

use super::addresses;
use super::call::{self, possible_cpus};
use super::flows::FlowTap;
use super::layout::{
    CAPSULES, CapsuleEntry, CapsuleState, NodeState, OWNER_NOBODY, OWNER_NODE, OWNER_NODE_OPEN, Plain,
    Refusals, Traffic, prefix_key,
};
use super::object::{self, Maps, PROGRAMS, Program};
use super::owners::Owners;
use super::words::Words;
use crate::cgroup::CgroupTree;
use crate::error::{KernelError, Tried};

pub use closing::Closed;

/// `BPF_NOEXIST`: what is there stays as it is.
const ONLY_NEW: u64 = 1;

/// The programs that hold every capsule of one node to its share of the network.
#[derive(Debug)]
pub struct NetworkGuard {
    maps: Maps,
    owners: Owners,
    /// How often something was changed that the programs look at: what they have kept from before is over.
    changes: Words,
    programs: Vec<Program>,
    parent: OwnedFd,
    path: String,
    node: Mutex<NodeState>,
    /// Where the traffic of which capsule is counted, by the ID of its cgroup.
    indices: Mutex<BTreeMap<u64, u32>>,
    cpus: usize,
}

impl NetworkGuard {
    /// Loads the programs and makes their maps, or takes over those that a former plabd left on the cgroup. Nothing is
    /// attached yet, so that the maps can be filled before.
    ///
    /// # Errors
    /// The kernel lacks something, or refuses.
    pub fn load(tree: &CgroupTree) -> Result<Self, KernelError> {
        let (parent, path) = tree.above_all()?;
        let former = former_maps(parent.as_fd()).tried("look for former BPF maps", &path)?;
        let (maps, programs) = object::load(former)?;
        let owners = Owners::of(maps.get("owners")?)?;
        let changes = Words::of(maps.get("changes")?, size_of::<u64>(), "the count of changes")?;
        // Nothing is written: `plab check` does this as well, beside a plabd whose maps these are.
        let mut bytes = [0; NodeState::SIZE];
        call::lookup(maps.get("node")?, &0_u32.to_ne_bytes(), &mut bytes)
            .tried("look up", "the node's state")?;
        let node = NodeState { ephemeral: ephemeral_range()?, ..NodeState::from_bytes(bytes) };
        let guard = Self {
            maps,
            owners,
            changes,
            programs,
            parent,
            path,
            node: Mutex::new(node),
            indices: Mutex::default(),
            cpus: possible_cpus()?,
        };
        for cgroup in guard.cgroups()? {
            if let Some(entry) = guard.entry(cgroup)? {
                guard.indices().insert(cgroup, entry.index);
            }
        }
        Ok(guard)
    }

    /// Ends what the programs have kept. After a change; whoever makes several may call it after the last.
    fn changed(&self) {
        self.changes.all()[0].fetch_add(1, Ordering::AcqRel);
    }

    fn indices(&self) -> MutexGuard<'_, BTreeMap<u64, u32>> {
        // Each entry is written whole.
        self.indices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The records of what capsules send and get. For the one who keeps them.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn flows(&self) -> Result<FlowTap, KernelError> {
        FlowTap::open(self.maps.get("turns")?, self.maps.get("flows")?, self.maps.get("lost")?)
    }

    /// Puts the programs in force, each in place of a former plabd's at once: capsules that run are under the one or the
    /// other at every moment.
    ///
    /// # Errors
    /// The kernel refuses, or does not show them afterwards.
    pub fn attach(&self) -> Result<(), KernelError> {
        for program in &self.programs {
            let failed = |error: Errno| {
                KernelError::new(format!("attach the BPF program {}", program.name), &self.path, error)
                    .hint("another program there, attached without BPF_F_ALLOW_MULTI, keeps ours out")
            };
            let mut former: Vec<OwnedFd> = ours(self.parent.as_fd(), program.attach)
                .map_err(failed)?
                .into_iter()
                .map(|(_, fd)| fd)
                .collect();
            let replaced = former.pop();
            call::attach(
                self.parent.as_fd(),
                program.fd.as_fd(),
                program.attach,
                replaced.as_ref().map(|fd| fd.as_fd()),
            )
            .map_err(failed)?;
            for extra in former {
                call::detach(self.parent.as_fd(), extra.as_fd(), program.attach).map_err(failed)?;
            }
        }
        // A former plabd may have ended between a change and its count.
        self.changed();
        match self.programs_on(self.parent.as_fd())?.into_iter().find(|row| !row.ok) {
            None => Ok(()),
            Some(row) => Err(KernelError::new(
                format!("attach the BPF program {}", row.what),
                &self.path,
                std::io::Error::other("the kernel does not show it afterwards"),
            )),
        }
    }

    /// What the programs know of a capsule, by the ID of its cgroup; before a process is in it, and to change it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn admit(&self, cgroup: u64, state: CapsuleState) -> Result<(), KernelError> {
        self.follow_ephemeral_range()?;
        let on = format!("the capsule of UID {}", state.uid);
        let counts = [0; Refusals::SIZE];
        match call::update(self.maps.get("refusals")?, &state.uid.to_ne_bytes(), &counts, ONLY_NEW) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(KernelError::new("count refusals for", on, error)),
        }
        // A definition that asks for raw no more takes nothing from a capsule that runs: it is to be ended first.
        let before = self.entry(cgroup)?;
        let was_raw = before.is_some_and(|entry| entry.net_raw);
        let net_raw = was_raw || !state.raw.is_empty();
        let entry = CapsuleEntry { state, index: self.index_for(cgroup)?, net_raw };
        // To write it anew would forget what the programs have noted in it.
        if before == Some(entry) {
            return Ok(());
        }
        let admitted = call::update(self.maps.get("capsules")?, &cgroup.to_ne_bytes(), &entry.bytes(), 0);
        self.changed();
        if admitted.is_err() && before.is_none() {
            self.indices().remove(&cgroup);
        }
        admitted.tried("admit to the network", on)
    }

    /// Where the capsule's traffic is counted; from nothing, if it is new.
    fn index_for(&self, cgroup: u64) -> Result<u32, KernelError> {
        let mut indices = self.indices();
        if let Some(index) = indices.get(&cgroup) {
            return Ok(*index);
        }
        let used: BTreeSet<u32> = indices.values().copied().collect();
        let free = (0..CAPSULES).find(|index| !used.contains(index));
        let index =
            free.ok_or_else(|| KernelError::new("count the traffic of", "a capsule", Errno::NOSPC))?;
        let nothing = vec![0; self.cpus * Traffic::SIZE];
        call::update(self.maps.get("traffic")?, &index.to_ne_bytes(), &nothing, 0)
            .tried("count the traffic of", "a capsule")?;
        indices.insert(cgroup, index);
        Ok(index)
    }

    fn cgroups(&self) -> Result<Vec<u64>, KernelError> {
        let keys = call::keys(self.maps.get("capsules")?, 8).tried("list", "capsules on the network")?;
        let id = |key: &Vec<u8>| <[u8; 8]>::try_from(&key[..]).map(u64::from_ne_bytes).ok();
        Ok(keys.iter().filter_map(id).collect())
    }

    /// Forgets every capsule but those: of cgroups that are gone.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn keep_only(&self, cgroups: &BTreeSet<u64>) -> Result<(), KernelError> {
        for cgroup in self.cgroups()?.into_iter().filter(|cgroup| !cgroups.contains(cgroup)) {
            self.forget(cgroup)?;
        }
        Ok(())
    }

    fn forget(&self, cgroup: u64) -> Result<(), KernelError> {
        call::delete(self.maps.get("capsules")?, &cgroup.to_ne_bytes())
            .tried("forget", format!("the capsule of cgroup {cgroup} on the network"))?;
        self.changed();
        // How many raw sockets it has; not there unless it has had any.
        call::delete(self.maps.get("raws")?, &cgroup.to_ne_bytes()).tried("forget", "raw sockets")?;
        self.indices().remove(&cgroup);
        Ok(())
    }

    /// Forgets a capsule whose cgroup is gone, and with it what its slice was refused.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn dismiss(&self, cgroup: u64) -> Result<(), KernelError> {
        let Some(state) = self.capsule(cgroup)? else { return Ok(()) };
        let on = format!("the capsule of UID {}", state.uid);
        self.forget(cgroup)?;
        // How many echo IDs it has taken in this minute; not there unless it has taken any.
        call::delete(self.maps.get("echo_take")?, &state.uid.to_ne_bytes()).tried("forget", &on)?;
        call::delete(self.maps.get("refusals")?, &state.uid.to_ne_bytes()).tried("forget", &on)
    }

    /// What the programs know of a capsule now.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn capsule(&self, cgroup: u64) -> Result<Option<CapsuleState>, KernelError> {
        Ok(self.entry(cgroup)?.map(|entry| entry.state))
    }

    fn entry(&self, cgroup: u64) -> Result<Option<CapsuleEntry>, KernelError> {
        let mut bytes = [0; CapsuleEntry::SIZE];
        let found = call::lookup(self.maps.get("capsules")?, &cgroup.to_ne_bytes(), &mut bytes)
            .tried("look up", format!("the capsule of cgroup {cgroup} on the network"))?;
        Ok(found.then(|| CapsuleEntry::from_bytes(bytes)))
    }

    /// What a capsule has sent and got since it was made; none if it is not known.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn traffic(&self, cgroup: u64) -> Result<Option<Traffic>, KernelError> {
        let Some(index) = self.indices().get(&cgroup).copied() else { return Ok(None) };
        let mut copies = vec![0; self.cpus * Traffic::SIZE];
        let found = call::lookup(self.maps.get("traffic")?, &index.to_ne_bytes(), &mut copies)
            .tried("look up", format!("the traffic of cgroup {cgroup}"))?;
        Ok(found.then(|| Traffic::sum(&copies)))
    }

    /// What a slice was refused since its capsule was made; nothing if it has none.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn refusals(&self, uid: u32) -> Result<Refusals, KernelError> {
        let mut bytes = [0; Refusals::SIZE];
        call::lookup(self.maps.get("refusals")?, &uid.to_ne_bytes(), &mut bytes)
            .tried("look up", format!("what UID {uid} was refused"))?;
        Ok(Refusals::from_bytes(bytes))
    }

    /// Makes ports the property of the slice with this UID.
    pub fn give(&self, ports: &[PortRange], uid: u32) {
        self.owners.set(ports, uid);
        self.changed();
    }

    /// Makes ports nobody's.
    pub fn withdraw(&self, ports: &[PortRange]) {
        self.owners.set(ports, OWNER_NOBODY);
        self.changed();
    }

    /// Makes ports the node's; those that are `open`, too, can be reached by capsules.
    pub fn keep(&self, own: &[PortRange], open: &[PortRange]) {
        self.owners.set(own, OWNER_NODE);
        self.owners.set(open, OWNER_NODE_OPEN);
        self.changed();
    }

    /// Makes every port but those nobody's: of slices and of a node file that are gone. What belongs to one of the UIDs
    /// stays.
    pub fn keep_only_ports(&self, ports: &[PortRange], uids: &BTreeSet<u32>) {
        self.owners.keep_only(ports, uids);
        self.changed();
    }

    /// Where no capsule may send anything from now on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_opt_outs(&self, prefixes: &[IpPrefix]) -> Result<(), KernelError> {
        let (v4, v6): (Vec<IpPrefix>, Vec<IpPrefix>) =
            prefixes.iter().partition(|prefix| prefix.address().is_ipv4());
        for (name, size, wanted) in [("opt_out4", 8, &v4), ("opt_out6", 20, &v6)] {
            let keys = wanted.iter().map(|prefix| prefix_key(*prefix)).collect();
            let kept = call::keep_keys(self.maps.get(name)?, size, &keys).tried("opt out", "prefixes");
            self.changed();
            kept?;
        }
        let count = |list: &[IpPrefix]| u32::try_from(list.len()).unwrap_or(u32::MAX);
        self.change_node(|node| node.opt_outs = (count(&v4), count(&v6)))
    }

    /// Makes the addresses that a raw socket may send from those that the node has now.
    ///
    /// # Errors
    /// The kernel does not tell them: then there are none. Or it refuses.
    pub fn follow_addresses(&self) -> Result<(), KernelError> {
        match addresses::own() {
            Ok(own) => self.set_addresses(&own),
            Err(error) => self.forget_addresses().and(Err(error)),
        }
    }

    /// Lets no raw socket send with a header of its own: it is not known which addresses are the node's.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget_addresses(&self) -> Result<(), KernelError> {
        self.set_addresses(&BTreeSet::new())
    }

    fn set_addresses(&self, own: &BTreeSet<[u8; 16]>) -> Result<(), KernelError> {
        let keys = own.iter().map(|address| address.to_vec()).collect();
        call::keep_keys(self.maps.get("addresses")?, 16, &keys).tried("note", "the node's addresses")
    }

    /// An administrator may change it (`net.ipv4.ip_local_port_range`), and it says which ports a capsule's packets may be
    /// from that are nobody's.
    fn follow_ephemeral_range(&self) -> Result<(), KernelError> {
        let now = ephemeral_range()?;
        if self.node.lock().unwrap_or_else(PoisonError::into_inner).ephemeral == now {
            return Ok(());
        }
        self.change_node(|node| node.ephemeral = now)
    }

    fn change_node(&self, change: impl FnOnce(&mut NodeState)) -> Result<(), KernelError> {
        let mut node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut node);
        let written = call::update(self.maps.get("node")?, &0_u32.to_ne_bytes(), &node.bytes(), 0);
        self.changed();
        written.tried("set", "the node's part of the network's state")
    }
}

/// Where the kernel takes a port from that nobody has asked for.
fn ephemeral_range() -> Result<(u16, u16), KernelError> {
    let source = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = std::fs::read_to_string(source).tried("read", source)?;
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) => Ok((first, last)),
        _ => {
            Err(KernelError::new("read", source, std::io::Error::other(format!("it says {:?}", text.trim()))))
        }
    }
}

/// Our programs of one kind on the cgroup itself, by ID.
fn ours(parent: BorrowedFd<'_>, kind: u32) -> Result<Vec<(u32, OwnedFd)>, Errno> {
    let mut found = Vec::new();
    for id in call::query(parent, kind, false)? {
        if let Some(fd) = call::program_by_id(id)?
            && call::program_info(fd.as_fd())?.name.starts_with(PROGRAMS)
        {
            found.push((id, fd));
        }
    }
    Ok(found)
}

/// The maps of the programs that a former plabd left on the cgroup, by name.
fn former_maps(parent: BorrowedFd<'_>) -> Result<BTreeMap<String, OwnedFd>, Errno> {
    let mut maps = BTreeMap::new();
    for kind in object::ATTACH_KINDS {
        for (_, program) in ours(parent, kind as u32)? {
            for id in call::program_info(program.as_fd())?.maps {
                if let Some(map) = call::map_by_id(id)? {
                    maps.insert(call::map_info(map.as_fd())?.0, map);
                }
            }
        }
    }
    Ok(maps)
}
