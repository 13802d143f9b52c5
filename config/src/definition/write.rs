//! Writing a definition as TOML.

use super::Definition;

impl Definition {
    /// The definition as canonical text: every key that can be said is said, in a fixed order, so that equal
    /// definitions give equal texts and reading it back does not depend on the node file's defaults.
    pub fn to_toml(&self) -> String {
        let mut out = Writer::default();
        out.line("name", quote(self.name.as_str()));
        out.line("contact", quote(&self.contact));
        out.list("keys", self.keys.iter().map(|key| quote(key.as_str())));
        out.list(
            "nodes",
            self.nodes.iter().map(|node| match node.address {
                None => quote(node.name.as_str()),
                Some(address) => {
                    format!(
                        "{{ name = {}, address = {} }}",
                        quote(node.name.as_str()),
                        quote(&address.to_string())
                    )
                }
            }),
        );
        if let Some(expires) = self.expires {
            out.line("expires", expires);
        }
        out.line("restart", quote(self.restart.name()));
        out.table("cpu");
        out.line("weight", self.cpu.weight);
        if let Some(max) = self.cpu.max {
            out.line("max", quote(&max.to_string()));
        }
        out.table("memory");
        if let Some(high) = self.memory.high {
            out.line("high", quote(&high.to_string()));
        }
        out.line("max", quote(&self.memory.max.to_string()));
        out.table("tasks");
        out.line("max", self.tasks.max);
        out.table("view");
        out.list("paths", self.view.paths.iter().map(|path| quote(&path.to_string())));
        out.table("network");
        out.list("ports", self.network.ports.iter().map(|range| quote(&range.to_string())));
        out.list("raw", self.network.raw.iter().map(|protocol| quote(protocol.name())));
        if let Some(rate) = self.network.rate {
            out.line("rate", quote(&rate.to_string()));
        }
        out.table("seccomp");
        out.line("profile", quote(&self.seccomp.profile));
        out.table("control");
        out.line("configure_limit", quote(&self.control.configure_limit.to_string()));
        out.line("status_interval", quote(&self.control.status_interval.to_string()));
        out.line("status_limit", quote(&self.control.status_limit.to_string()));
        out.line("stop_grace", quote(&self.control.stop_grace.to_string()));
        out.text
    }
}

/// A TOML string that means `text`.
fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[derive(Default)]
struct Writer {
    text: String,
}

impl Writer {
    fn line(&mut self, key: &str, value: impl std::fmt::Display) {
        self.text.push_str(&format!("{key} = {value}\n"));
    }

    fn list(&mut self, key: &str, values: impl Iterator<Item = String>) {
        self.line(key, format_args!("[{}]", values.collect::<Vec<_>>().join(", ")));
    }

    fn table(&mut self, name: &str) {
        self.text.push_str(&format!("\n[{name}]\n"));
    }
}
