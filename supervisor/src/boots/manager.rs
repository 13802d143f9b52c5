//! What the service manager says of how the plabd before this one ended: `plabd.service` has it written down.

use std::fs;
use std::io;
use std::path::Path;

/// As systemd.exec(5) has `$SERVICE_RESULT`, `$EXIT_CODE` and `$EXIT_STATUS`, in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    result: String,
    code: String,
    status: String,
}

impl Verdict {
    /// The word about the last plabd, which is heard once; none without a manager, or if that knows of no failure.
    pub fn take(file: &Path) -> Option<Self> {
        let line = fs::read_to_string(file)
            .inspect_err(|error| {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!("could not read {}: {error}", file.display());
                }
            })
            .ok()?;
        // Left there it would be said of the next one.
        if let Err(error) = fs::remove_file(file) {
            tracing::warn!("could not remove {}: {error}", file.display());
            return None;
        }
        Self::parse(&line)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().map(str::to_owned);
        let (result, code, status) = (words.next()?, words.next()?, words.next()?);
        (result != "success").then_some(Self { result, code, status })
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {} with {}", self.result, self.code, self.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failure_is_a_verdict() {
        let said = |line| Verdict::parse(line).map(|verdict| verdict.to_string());
        assert_eq!(said("watchdog killed ABRT\n").as_deref(), Some("watchdog, killed with ABRT"));
        assert_eq!(said("exit-code exited 1\n").as_deref(), Some("exit-code, exited with 1"));
        assert_eq!(said("success exited 0\n"), None);
        assert_eq!(said(""), None, "written on a full file system");
    }

    #[test]
    fn it_is_heard_once() {
        let file = std::env::temp_dir().join(format!("plab-verdict-{}", std::process::id()));
        fs::write(&file, "signal killed SEGV\n").expect("write");
        assert!(Verdict::take(&file).is_some());
        assert_eq!(Verdict::take(&file), None);
    }
}
