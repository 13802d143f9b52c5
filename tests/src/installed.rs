//! The node that is installed on this machine: plabd under its unit, as its service manager started it.

use std::process::Command;

use serde_json::Value;

use crate::command::{Output, output, output_of_input};

/// `plab` with these arguments, as root.
///
/// # Panics
/// It cannot be started.
pub fn plab(args: &[&str]) -> Output {
    output(Command::new("plab").args(args))
}

/// What `plab` says with these arguments, which ask for JSON.
///
/// # Panics
/// It fails, or says something else.
pub fn plab_json(args: &[&str]) -> Value {
    serde_json::from_str(&plab(args).ok()).expect("JSON")
}

/// A slice of a test's; removed with it.
pub struct InstalledSlice {
    name: String,
}

impl InstalledSlice {
    /// Defines it, with this at the end of its definition, and waits until it runs.
    ///
    /// # Panics
    /// It is refused, or does not run.
    pub fn define(name: &str, more: &str) -> Self {
        let slice = Self { name: name.to_owned() };
        slice.change(more);
        slice
    }

    /// Changes its definition and waits until that is in effect.
    ///
    /// # Panics
    /// As [`Self::define`].
    pub fn change(&self, more: &str) {
        let node = plab_json(&["status", "--json"])["node"].as_str().expect("a name").to_owned();
        let text =
            format!("name = \"{}\"\ncontact = \"pi@example.org\"\nnodes = [\"{node}\"]\n{more}\n", self.name);
        output_of_input(Command::new("plab").args(["apply", "-"]), text.as_bytes()).ok();
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its entry in the status.
    ///
    /// # Panics
    /// There is none.
    pub fn status(&self) -> Value {
        plab_json(&["status", &self.name, "--json"])["slices"][0].clone()
    }
}

impl Drop for InstalledSlice {
    fn drop(&mut self) {
        plab(&["rm", "--yes", &self.name]);
    }
}
