//! Public keys that may log in to a slice.

use std::fmt;
use std::str::FromStr;

use ssh_key::{Algorithm, HashAlg, PublicKey};

use crate::ValueError;
use crate::units::serde_as_text;

/// What a key looks like, for error messages.
pub(crate) const EXPECTED: &str = "a public key such as \"ssh-ed25519 AAAA… alice\"";

/// One public key in OpenSSH's form, type, base64 and comment on one line, checked to be a key (4.1, 6.6).
///
/// No options such as `command="…"` before it: what a login may do is the node's to say. No certificates, no DSA,
/// no RSA below 2048 bits. Printed with single spaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SshKey {
    line: Box<str>,
    kind_len: usize,
    base64_len: usize,
    fingerprint: Box<str>,
}

/// Less can be factored by whoever wants it enough (NIST SP 800-131A).
const LEAST_RSA_BITS: usize = 2048;

impl SshKey {
    /// The longest line in bytes; an RSA key of 16384 bits still fits.
    pub const MAX_LEN: usize = 8 << 10;

    /// The key as one line for an `authorized_keys` file, without a newline.
    pub fn as_str(&self) -> &str {
        &self.line
    }

    /// The key's type, such as `ssh-ed25519`.
    pub fn kind(&self) -> &str {
        &self.line[..self.kind_len]
    }

    /// The key itself in base64, which tells two keys apart whatever their comments.
    pub fn base64(&self) -> &str {
        &self.line[self.kind_len + 1..][..self.base64_len]
    }

    /// The key's fingerprint as `ssh-keygen -l` prints it: `SHA256:` and 43 characters of base64.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The comment, mostly its owner's name; empty if there is none.
    pub fn comment(&self) -> &str {
        self.line[self.kind_len + 1 + self.base64_len..].trim_start()
    }
}

impl FromStr for SshKey {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = |reason: &'static str| ValueError::because(EXPECTED, reason);
        if text.len() > Self::MAX_LEN {
            return Err(wrong("longer than 8192 bytes"));
        }
        // A newline would begin another line of authorized_keys, with options of the slice's choosing.
        if text.chars().any(char::is_control) {
            return Err(wrong("has control characters"));
        }
        let mut words = text.split(' ').filter(|word| !word.is_empty());
        let (Some(kind), Some(base64)) = (words.next(), words.next()) else {
            return Err(ValueError::expected(EXPECTED));
        };
        match kind.parse::<Algorithm>() {
            Ok(
                Algorithm::Ed25519
                | Algorithm::Ecdsa { .. }
                | Algorithm::Rsa { hash: None }
                | Algorithm::SkEd25519
                | Algorithm::SkEcdsaSha2NistP256,
            ) => {}
            Ok(Algorithm::Dsa) => return Err(wrong("DSA keys are too weak and sshd refuses them")),
            _ if kind.contains("-cert-v0") => return Err(wrong("certificates are not accepted")),
            _ if std::iter::once(base64)
                .chain(words)
                .any(|word| word.parse::<Algorithm>().is_ok_and(is_known)) =>
            {
                return Err(wrong("options before the key are not accepted"));
            }
            _ => return Err(wrong("no known key type")),
        }
        let comment = words.collect::<Vec<_>>().join(" ");
        let mut key = PublicKey::from_openssh(&format!("{kind} {base64}"))
            .map_err(|_| wrong("the key's data does not decode or is of another type"))?;
        if key.key_data().rsa().is_some_and(|rsa| bits(rsa.n.as_positive_bytes()) < LEAST_RSA_BITS) {
            return Err(wrong("an RSA key of less than 2048 bits is too weak"));
        }
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string().into();
        key.set_comment(comment);
        let mut line = key.to_openssh().map_err(|_| ValueError::expected(EXPECTED))?;
        line.truncate(line.trim_end().len());
        let base64_len = line[kind.len() + 1..].split(' ').next().map_or(0, str::len);
        Ok(Self { kind_len: kind.len(), base64_len, line: line.into(), fingerprint })
    }
}

/// The length of a big-endian number; none is a negative one, which is no modulus.
fn bits(number: Option<&[u8]>) -> usize {
    let number = number.unwrap_or_default();
    let zeros: usize = number.first().map_or(0, |byte| byte.leading_zeros() as usize);
    number.len() * 8 - zeros
}

/// Any word can name an algorithm of someone else's making; only those of OpenSSH's own are meant here.
fn is_known(algorithm: Algorithm) -> bool {
    !matches!(algorithm, Algorithm::Other(_))
}

impl fmt::Display for SshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.line)
    }
}

serde_as_text!(SshKey);

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN2oNn44stRcFx5MUczmpMZbOpJZxmKW8SlP0Nf1Iert";
    const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBFS3cPfVuvtrKNg+\
                         FyDp21n3/Gke1DmxovRNmJxjGL7eKcwDeRwxmzoW+OVUVzoFx407V768ldSp/lXoawI7KUs=";
    const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQCqtl7R85W1D6z4fEZ1eJUihPjN9P883Hh8W074/o9KqunBXvuOvqjuw3C\
                       G1dTxeIa23aVnoDfBpuGIF9XYUN5JNf46RPgP8pu3d7Q5P2geudQ2f903GFVssvvUWm0ONxXAj0WC9rke3rpoC5oUZYLkW2\
                       s44ofvHynjnSXTDxcLjPDjdtSGEXtqQjve9Ia7cPkdbg2QAmZ3+p+K4ZCJ/y/ZP+sD5ABhJTA0MxmkGpwF1i87zFbF5Qr0w\
                       iIcwxyueISqf3HEqsdS9aOZLZALAFoSs2eHvkGKASmoEavA0pFCiYO+pww+4PN/n0UiVfCkDTZbVOb/zgUURKj11Y2ygstp\
                       YnTRzRswfm4hymyEkegf61PqumaNFS5UgXMjYHjKtDsE9wW31OlPl/H7RIm6hoNsUzW86s39oTUfa0Q+AKEyKtVZnFfNmYW\
                       kZvWvqJnlg/w6mKXpTUhBM+3sPRuUYBldCcrDn+nkpDbMQfsYAW+52vT7MQKcT11bRlOVAHPQZx0=";

    const RSA_1024: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDQ+1DjUE3nSj4mWrHBQ2/1K9Nkp5CzVz4Y4TmGkYXFQWTr\
                            HxHKA6F9xo64aLK/IzRKJJUvB4kVxprgVwZ5VNi5RPUsNETIDLnNdeTUCRuPUFsfMrka7k9SC2DmgcYq\
                            hthNfYvT0A/7aSATlInA6zXjN4xquTorK1qE6u9U64lW4w==";

    #[test]
    fn the_fingerprint_is_that_of_ssh_keygen() {
        let key: SshKey = format!("{ED25519} alice").parse().expect("a key");
        assert_eq!(key.fingerprint(), "SHA256:9UTwQwQxjeyl35CLfPHIXsEIJtykITkwOaZA/76UEQI");
    }

    #[test]
    fn short_rsa_is_refused_by_its_length() {
        let error = RSA_1024.parse::<SshKey>().expect_err("1024 bits").to_string();
        assert!(error.contains("2048"), "{error}");
        assert_eq!(bits(Some(&[0x80, 0])), 16);
        assert_eq!(bits(Some(&[0x7f, 0])), 15);
        assert_eq!(bits(None), 0);
    }

    #[test]
    fn the_parts_of_a_key_are_told_apart() {
        for line in [ED25519, ECDSA, RSA] {
            let key: SshKey = line.parse().expect("a key without a comment");
            assert_eq!((key.as_str(), key.comment()), (line, ""));
            let spaced: SshKey =
                format!("  {}  alice  of princeton ", line.replace(' ', "   ")).parse().expect("a key");
            assert_eq!(spaced.as_str(), format!("{line} alice of princeton"));
            assert_eq!(format!("{} {}", spaced.kind(), spaced.base64()), line);
            assert_eq!(spaced.comment(), "alice of princeton");
        }
    }

    #[test]
    fn options_and_further_lines_are_refused() {
        for text in [
            format!("command=\"/bin/sh\" {ED25519} alice"),
            format!("no-pty {ED25519}"),
            format!("{ED25519} alice\nssh-ed25519 AAAA"),
            format!("{ED25519}\0"),
            format!("{ED25519} \u{85}x"),
            format!("{}\t{}", &ED25519[..11], &ED25519[12..]),
            ED25519.replace("ssh-ed25519", "ssh-rsa"),
            ED25519.replace("ssh-ed25519", "ssh-ed25519-cert-v01@openssh.com"),
            ED25519.replace("ssh-ed25519", "ssh-dss"),
            ED25519.replace("ssh-ed25519", "mine@example.org"),
            ED25519[..60].to_owned(),
            format!("{ED25519}AAAA"),
            "ssh-ed25519".to_owned(),
            format!("{ED25519} {}", "x".repeat(SshKey::MAX_LEN)),
        ] {
            assert!(text.parse::<SshKey>().is_err(), "{text:?}");
        }
    }
}
