//! Where no capsule may send anything: what the node file says, and what an administrator has added while it ran. The
//! latter is in the ledger.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use plab_config::IpPrefix;
use plab_sandbox::KernelError;
use plab_sandbox::net::NetworkGuard;

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
}

impl OptOuts {
    /// Those of the node file.
    pub fn new(file: &[IpPrefix]) -> Self {
        Self { file: file.iter().copied().collect(), live: Mutex::default() }
    }

    /// Notes what was added, as the ledger has it.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn load(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        let text = ledger.meta(LIVE).await?.unwrap_or_default();
        self.replace(text.split_whitespace().filter_map(|prefix| prefix.parse().ok()).collect());
        Ok(())
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

    /// Makes those that were added these: in the kernel, and in the ledger. Both or neither.
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
