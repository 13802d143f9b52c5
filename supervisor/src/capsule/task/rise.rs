//! Up: making the capsule, finding one that outlived plabd, bringing a running one to its definition.

use std::rc::Rc;
use std::sync::Arc;

use jiff::Timestamp;
use plab_config::Definition;
use plab_protocol::control::{Severity, SliceState};
use plab_sandbox::KernelError;
use plab_sandbox::message::ToInit;
use plab_sandbox::readback;
use tokio::io::Interest;
use tokio::time::Instant;

use super::{Task, Up};
use crate::capsule::adopt::{Found, find};
use crate::capsule::birthmark::{Birthmark, Difference};
use crate::capsule::link::Link;
use crate::capsule::{Capsule, birth, death, wishes};
use crate::ports::Taken;
use crate::watched::watched;

/// Why a definition cannot be taken on.
#[derive(Debug, thiserror::Error)]
pub(super) enum AcceptError {
    /// It cannot be put on record.
    #[error(transparent)]
    Ledger(#[from] crate::ledger::LedgerError),
    /// Its ports are another's.
    #[error("it cannot have its ports: {0}")]
    Taken(#[from] Taken),
    /// Its ports cannot be given to it.
    #[error(transparent)]
    Ports(#[from] KernelError),
    /// A socket of another slice's is on one of them.
    #[error("a socket of {0} is still on one of its ports: its capsule is stopped and started for that")]
    Held(String),
}

impl Task {
    /// Puts the definition on record and makes sure of the UID.
    pub(super) async fn accept(&mut self, definition: &Rc<Definition>) -> Result<(), AcceptError> {
        if self.accepted.as_ref().is_some_and(|accepted| Rc::ptr_eq(accepted, definition)) {
            return Ok(());
        }
        let text = definition.to_toml();
        let source = definition.origin.file.display().to_string();
        *self.slice.definition.borrow_mut() = Rc::clone(definition);
        if self.up.is_some() {
            self.node.flows.tell_owner(&self.node.machine, &self.slice);
        }
        if self
            .row
            .as_ref()
            .is_some_and(|row| row.definition == text && row.source == source && !row.removing)
        {
            self.give_ports(definition).await?;
            self.accepted = Some(Rc::clone(definition));
            return Ok(());
        }
        // One that had to wait for its name has claimed nothing yet; and what cannot be given is not to be on record.
        self.node.machine.ports.claim(&self.slice.name, None, &definition.network.ports)?;
        let new = self.row.is_none();
        let row = self
            .node
            .ledger
            .accept(self.slice.name.clone(), text, source, self.node.machine.node.uids)
            .await?;
        self.slice.uid.set(row.uid);
        let kind = if new { "definition-accepted" } else { "definition-changed" };
        self.tell(
            kind,
            Severity::Info,
            format!("from {}; contact {}, UID {}", row.source, definition.contact, row.uid),
        );
        self.row = Some(row);
        self.give_ports(definition).await?;
        self.accepted = Some(Rc::clone(definition));
        Ok(())
    }

    /// Makes the ports of an accepted definition the slice's, and a port that it no longer has somebody else's to have.
    async fn give_ports(&mut self, definition: &Rc<Definition>) -> Result<(), AcceptError> {
        let holders = self.try_to_give_ports(definition).await?;
        if holders.is_empty() {
            return Ok(());
        }
        for name in &holders {
            self.node.take_ports_from(name, &self.slice.name).await;
        }
        let holders = self.try_to_give_ports(definition).await?;
        if holders.is_empty() { Ok(()) } else { Err(AcceptError::Held(holders.join(", "))) }
    }

    /// Returns the slices that have a socket on one of them.
    async fn try_to_give_ports(&mut self, definition: &Rc<Definition>) -> Result<Vec<String>, KernelError> {
        let (machine, name, uid) = (Arc::clone(&self.node.machine), self.slice.name.clone(), self.uid());
        let ports = definition.network.ports.clone();
        let given =
            tokio::task::spawn_blocking(move || machine.ports.give(machine.guard(), &name, uid, &ports))
                .await;
        let given = given.map_err(|error| {
            KernelError::new("give ports to", &self.slice.name, std::io::Error::other(error))
        })??;
        if given.closed > 0 {
            let message =
                format!("{} sockets were closed: on ports that are not their slice's any more", given.closed);
            self.tell("sockets-closed", Severity::Notice, message);
        }
        if let Some(problem) = given.problem {
            self.tell("sockets-left", Severity::Warning, problem);
        }
        Ok(given.held_by)
    }

    /// Makes the capsule.
    pub(super) async fn start(&mut self, definition: &Rc<Definition>) {
        self.slice.set(SliceState::Starting, None);
        let configured = self.is_configured();
        let (machine, wanted, uid) =
            (Arc::clone(&self.node.machine), Definition::clone(definition), self.uid());
        let teller = self.node.flows.teller(&self.slice);
        let born =
            tokio::task::spawn_blocking(move || birth::birth(&machine, &wanted, uid, configured, teller))
                .await;
        let born = born.unwrap_or_else(|_| {
            Err(KernelError::new("make a capsule", &self.slice.name, std::io::Error::other("it panicked")))
        });
        match born.and_then(|capsule| self.take(capsule)) {
            Ok(()) => {
                if let Some(up) = &mut self.up {
                    up.applied = Some(Rc::clone(definition));
                }
                // It was made of this: capsule-init has said so before it was told to go.
                *self.slice.born.borrow_mut() = self.birthmark(definition).ok().map(|mark| mark.to_string());
                self.slice.since.set(Some(Timestamp::now()));
                self.slice.set(SliceState::Running, None);
                self.slice.settle();
                let pid = self.slice.pid.get().unwrap_or(0);
                self.tell(
                    "capsule-started",
                    Severity::Info,
                    format!("UID {}, capsule-init is PID {pid}", self.uid()),
                );
            }
            Err(error) => {
                // Whatever half of it there is goes: what cannot be enforced does not run.
                let cleared = death::clear(&self.node.machine, &self.slice.name, Some(self.uid())).await;
                let message = match cleared {
                    Ok(()) => error.to_string(),
                    Err(left) => format!("{error}; and {left}"),
                };
                self.failed("start-failed", &message, SliceState::Failed);
            }
        }
    }

    pub(super) fn take(&mut self, capsule: Capsule) -> Result<(), KernelError> {
        let failed =
            |error: std::io::Error| KernelError::new("watch the capsule of", &self.slice.name, error);
        let watch = |fd| watched(fd, Interest::READABLE).map_err(failed);
        let link = Rc::new(Link::new(capsule.link).map_err(failed)?);
        let up = Up {
            pid: capsule.pid,
            pidfd: watch(capsule.pidfd)?,
            oom: capsule.oom.map(watch).transpose()?,
            out_of_memory: false,
            link: Some(Rc::clone(&link)),
            relink: None,
            run_id: 0,
            frozen: false,
            since: Instant::now(),
            next_status: None,
            next_start: None,
            started: Instant::now(),
            adopted: false,
            linked: Instant::now(),
            applied: None,
        };
        self.slice.pid.set(Some(capsule.pid));
        *self.slice.link.borrow_mut() = Some(link);
        *self.slice.said.borrow_mut() = None;
        self.slice.status_ok.set(None);
        *self.slice.born.borrow_mut() = None;
        self.up = Some(up);
        Ok(())
    }

    /// Takes over what a former plabd left, or clears it away.
    pub(super) async fn adopt(&mut self) {
        let found = find(&self.node.machine, &self.slice.name, self.uid());
        let remains = match found {
            Ok(Found::Nothing) => return,
            Ok(Found::Running { capsule, frozen }) => {
                let pid = capsule.pid;
                match self.take(capsule) {
                    Ok(()) => {
                        self.node.flows.tell_owner(&self.node.machine, &self.slice);
                        self.adopted(pid, frozen);
                        return;
                    }
                    Err(error) => error.to_string(),
                }
            }
            Ok(Found::Remains(what)) => what,
            Err(error) => error.to_string(),
        };
        self.tell("remains-cleared", Severity::Notice, remains);
        if let Err(error) = death::clear(&self.node.machine, &self.slice.name, Some(self.uid())).await {
            self.failed("clear-failed", &error, SliceState::Failed);
        }
    }

    pub(super) fn adopted(&mut self, pid: i32, frozen: bool) {
        if let Some(up) = &mut self.up {
            up.frozen = frozen;
            up.adopted = true;
        }
        self.slice
            .since
            .set(readback::started_at(pid).and_then(|seconds| Timestamp::from_second(seconds).ok()));
        self.slice.set(if frozen { SliceState::Frozen } else { SliceState::Running }, None);
        self.tell("capsule-adopted", Severity::Info, format!("capsule-init is PID {pid}"));
    }

    /// Brings a running capsule to its definition: live where the kernel can, else by a new capsule.
    pub(super) async fn apply(&mut self, definition: &Rc<Definition>) {
        let Some(up) = &self.up else { return };
        if up.applied.as_ref().is_some_and(|applied| Rc::ptr_eq(applied, definition)) {
            return;
        }
        let first = up.applied.is_none();
        // Before anything else can fail: what it may not do any more, it may not do until that is mended, either.
        let network = self.set_network(definition).await;
        // What capsule-init itself says it was made of, so that an adopted one is judged as well as our own.
        // Frozen, or just connected, it has not answered yet; its answer wakes this task again.
        let Some(born) = self.slice.born.borrow().clone() else { return };
        let mark = match self.birthmark(definition) {
            Ok(mark) => mark,
            Err(reason) => return self.failed("change-failed", &reason, self.slice.state.get()),
        };
        match born.parse().map_or(Difference::Wish, |born: Birthmark| born.differs(&mark)) {
            Difference::None => {}
            Difference::Release => {
                if first {
                    self.tell(
                        "former-release",
                        Severity::Notice,
                        format!(
                            "it runs under an earlier release's seccomp profile until it is started anew: \
                             plab restart {}",
                            self.slice.name
                        ),
                    );
                }
            }
            Difference::Wish => {
                return self.renew("view, seccomp profile or raw sockets changed", definition).await;
            }
        }
        if let Err(error) = network {
            return self.failed("change-failed", &error, self.slice.state.get());
        }
        let (machine, slice) = (Arc::clone(&self.node.machine), self.slice.name.clone());
        let limits = wishes::limits(definition, &machine.offered);
        // Lowering memory makes the kernel reclaim first, which can take its time.
        let set = tokio::task::spawn_blocking(move || match machine.tree.capsule_cgroup(&slice)? {
            Some(cgroup) if cgroup.verify(&limits)?.iter().any(|row| !row.ok) => {
                cgroup.set(&limits).map(|()| true)
            }
            _ => Ok(false),
        })
        .await;
        let changed = match set {
            Ok(Ok(changed)) => changed,
            Ok(Err(error)) if error.errno() == Some(libc::EBUSY) => {
                return self.renew("it uses more memory than its new limit", definition).await;
            }
            Ok(Err(error)) => return self.failed("change-failed", &error, self.slice.state.get()),
            Err(error) => return self.failed("change-failed", &error, self.slice.state.get()),
        };
        let text = wishes::resources(definition, self.uid(), &self.node.machine.node);
        self.send(&ToInit::Times(wishes::times(definition)));
        self.send(&ToInit::Resources { text });
        if changed {
            self.tell(
                "limits-changed",
                Severity::Info,
                format!(
                    "cpu weight {}, max {}; memory max {}; tasks max {}",
                    definition.cpu.weight,
                    definition.cpu.max.map_or_else(|| "none".to_owned(), |max| max.to_string()),
                    definition.memory.max,
                    definition.tasks.max
                ),
            );
        }
        // Without a link it has not been told, and nobody is to hear that it was; the next one brings this task back here.
        let Some(up) = self.up.as_mut().filter(|up| up.link.is_some()) else { return };
        up.applied = Some(Rc::clone(definition));
        let state = if up.frozen { SliceState::Frozen } else { SliceState::Running };
        self.failures = 0;
        self.hold = None;
        self.slice.set(state, None);
        self.slice.settle();
    }

    /// Brings a running capsule to what its definition says of the network.
    pub(super) async fn set_network(&self, definition: &Definition) -> Result<(), KernelError> {
        let (machine, slice) = (Arc::clone(&self.node.machine), self.slice.name.clone());
        let network = wishes::network(definition, self.uid(), &machine);
        let (uid, rate) = (self.uid(), definition.network.rate);
        let set = tokio::task::spawn_blocking(move || {
            let Some(cgroup) = machine.tree.capsule_cgroup(&slice)? else { return Ok(()) };
            // First what it may do: that is not to wait for how fast.
            machine.guard().map_or(Ok(()), |guard| guard.admit(cgroup.id()?, network))?;
            machine.bandwidth.place(uid, rate)
        });
        set.await.unwrap_or_else(|error| {
            Err(KernelError::new("set the network of", &self.slice.name, std::io::Error::other(error)))
        })
    }

    /// Brings about by a new capsule what the one that runs cannot be brought to.
    async fn renew(&mut self, why: &str, definition: &Rc<Definition>) {
        self.tell("restart-needed", Severity::Notice, format!("{why}: stop, then start"));
        self.stop("its definition changed").await;
        self.hold = None;
        self.start(definition).await;
    }

    fn birthmark(&self, definition: &Definition) -> Result<Birthmark, String> {
        let profile = self.node.machine.profile(definition.seccomp.profile.as_str())?;
        let tcp_ports = wishes::landlock_ports(definition, &self.node.machine);
        Ok(Birthmark::of(definition, &profile.digest, tcp_ports.as_deref()))
    }
}
