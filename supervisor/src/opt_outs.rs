//! Where no capsule may send anything: what the node file says, and what an administrator has added while it ran. The
//! latter is in the ledger.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use plab_config::IpPrefix;
use plab_sandbox::KernelError;
use plab_sandbox::net::NetworkGuard;
use tokio::sync::MutexGuard as Turn;

use crate::ledger::{Ledger, LedgerError};

/// In the ledger: the prefixes that were added, with blanks between them.
const LIVE: &str = "opt-outs";

/// The most prefixes of the node file and of the live ones: each list's part of what the kernel's tables hold.
pub const MOST_LIVE: usize = 4096;

/// The prefixes.
#[derive(Debug)]
pub struct OptOuts {
    file: BTreeSet<IpPrefix>,
    live: Mutex<BTreeSet<IpPrefix>>,
    changing: tokio::sync::Mutex<()>,
}

impl OptOuts {
    /// Those of the node file.
    pub fn new(file: &[IpPrefix]) -> Self {
        Self {
            file: file.iter().copied().collect(),
            live: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// Notes what was added, as the ledger has it.
    ///
    /// # Errors
    /// The ledger cannot be read, or a prefix in it: where nothing may be sent is not forgotten silently.
    pub async fn load(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        let text = ledger.meta(LIVE).await?.unwrap_or_default();
        let prefixes = text.split_whitespace().map(|prefix| {
            prefix.parse().map_err(|_| LedgerError::Unread { key: LIVE, value: prefix.to_owned() })
        });
        self.replace(prefixes.collect::<Result<_, _>>()?);
        Ok(())
    }

    /// Whoever changes them, in turn: what one cannot do is undone before the next begins.
    pub async fn turn(&self) -> Turn<'_, ()> {
        self.changing.lock().await
    }

    /// The node file's.
    pub fn of_file(&self) -> &BTreeSet<IpPrefix> {
        &self.file
    }

    /// Those that were added.
    pub fn live(&self) -> BTreeSet<IpPrefix> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the kernel's list all of them.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enforce(&self, guard: &NetworkGuard) -> Result<(), KernelError> {
        let all: Vec<IpPrefix> = self.file.union(&self.live()).copied().collect();
        guard.set_opt_outs(&all)
    }

    /// Makes those that were added these: in the kernel, and in the ledger. Both or neither. To be done in a
    /// [turn](Self::turn).
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn set_live(
        &self,
        live: BTreeSet<IpPrefix>,
        guard: &NetworkGuard,
        ledger: &Ledger,
    ) -> Result<(), String> {
        let texts: Vec<String> = live.iter().map(ToString::to_string).collect();
        let before = self.replace(live);
        let failed = match self.enforce(guard) {
            Ok(()) => match ledger.set_meta(LIVE, texts.join(" ")).await {
                Ok(()) => return Ok(()),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        self.replace(before);
        match self.enforce(guard) {
            Ok(()) => Err(failed),
            Err(error) => Err(format!("{failed}; and {error}")),
        }
    }

    fn replace(&self, live: BTreeSet<IpPrefix>) -> BTreeSet<IpPrefix> {
        std::mem::replace(&mut *self.live.lock().unwrap_or_else(PoisonError::into_inner), live)
    }
}
