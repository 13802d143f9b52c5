//! The slice's account, and the end of what was opened with a key that it has no more.

use std::collections::BTreeSet;
use std::rc::Rc;

use plab_config::Definition;
use plab_protocol::control::Severity;
use plab_sandbox::KernelError;

use super::Task;
use crate::sessions::outside;

impl Task {
    /// Brings the account to the definition. If not `open` (the lease has ended), nobody can log in, and nobody stays.
    pub(super) async fn keep_account(&mut self, definition: &Rc<Definition>, open: bool) {
        let same =
            |(had, was_open): &(Rc<Definition>, bool)| Rc::ptr_eq(had, definition) && *was_open == open;
        // Without a UID it was never accepted, and has no account.
        if self.row.is_none() || self.account.as_ref().is_some_and(same) {
            return;
        }
        self.account = Some((Rc::clone(definition), open));
        let name = &self.slice.name;
        let keys = open.then_some(&definition.keys[..]);
        let removed =
            match self.node.machine.accounts.publish(name, self.uid(), keys, &definition.network.ports) {
                Ok(published) => published.key_removed,
                Err(error) => {
                    let message = format!("nobody can log in with ssh: {error}");
                    self.tell("account-failed", Severity::Error, message);
                    true
                }
            };
        if !removed && open && !self.node.sessions.has_strangers(definition) {
            return;
        }
        let stay = if open { self.node.sessions.clients_that_stay(definition) } else { BTreeSet::new() };
        match self.end_outsiders(&stay).await {
            Ok(0) => {}
            Ok(count) => {
                let why = if open { "a key was removed" } else { "the lease has ended" };
                let message = format!("{why}: {count} processes of its logins were ended");
                self.tell("logins-ended", Severity::Notice, message);
            }
            Err(error) => {
                // Tried again with the next thing that happens.
                self.account = None;
                self.tell("logins-left", Severity::Error, error.to_string());
                return;
            }
        }
        if let Err(error) = self.node.machine.accounts.settled(&self.slice.name) {
            self.tell("account-failed", Severity::Error, error.to_string());
        }
    }

    /// Ends what runs with the slice's UID outside its capsule, but for these clients and their connections.
    pub(super) async fn end_outsiders(&self, stay: &BTreeSet<i32>) -> Result<usize, KernelError> {
        let uid = self.uid();
        let stay = stay.clone();
        tokio::task::spawn_blocking(move || outside::end(uid, &stay)).await.unwrap_or_else(|error| {
            Err(KernelError::new("end the logins of", &self.slice.name, std::io::Error::other(error)))
        })
    }
}
