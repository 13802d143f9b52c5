//! What only a new capsule can change, as capsule-init carries it from birth: so a later plabd, perhaps of another
//! release, knows what the capsule it finds was made of.

use std::fmt;
use std::str::FromStr;

use plab_config::Definition;
use plab_config::seccomp::SeccompProfile;

/// What a capsule was made of, or would be made of now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Birthmark {
    /// `[view] paths`, with commas; and the TCP ports that Landlock holds it to, if it does; and
    /// its raw protocols.
    view: String,
    /// The seccomp profile's name; release 0.1.0 did not write it.
    profile: Option<String>,
    /// What the profile compiled to.
    digest: String,
}

/// How the capsule that runs differs from what its definition would give now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// In nothing.
    None,
    /// The definition asks for the same, and this release means something else by it. No reason to disturb anybody.
    Release,
    /// The definition, or a profile of the site's, asks for something else.
    Wish,
}

impl Birthmark {
    /// What a capsule of this definition would be made of, with its profile compiled to `digest`.
    pub fn of(definition: &Definition, digest: &str, tcp_ports: Option<&[u16]>) -> Self {
        let paths: Vec<String> = definition.view.paths.iter().map(ToString::to_string).collect();
        let mut view = paths.join(",");
        if let Some(ports) = tcp_ports {
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            view.push_str(&format!(" tcp={}", ports.join(",")));
        }
        if !definition.network.raw.is_empty() {
            let raw: Vec<String> = definition.network.raw.iter().map(ToString::to_string).collect();
            view.push_str(&format!(" raw={}", raw.join(",")));
        }
        Self { view, profile: Some(definition.seccomp.profile.to_string()), digest: digest.to_owned() }
    }

    /// What stands between a capsule that was born with this and a definition that would give `wanted`.
    pub fn differs(&self, wanted: &Self) -> Difference {
        if self.view != wanted.view {
            return Difference::Wish;
        }
        // Only this release's own profiles can mean something new without anybody's wish.
        let built_in = wanted.profile.as_deref().and_then(SeccompProfile::builtin_text).is_some();
        let same_name = self.profile.is_none() || self.profile == wanted.profile;
        match (self.digest == wanted.digest, same_name && built_in) {
            (true, _) => Difference::None,
            (false, true) => Difference::Release,
            (false, false) => Difference::Wish,
        }
    }
}

impl fmt::Display for Birthmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "view={}", self.view)?;
        if let Some(profile) = &self.profile {
            write!(f, " profile={profile}")?;
        }
        write!(f, " seccomp={}", self.digest)
    }
}

/// Not one of ours: as good as a wish for something else.
#[derive(Debug, PartialEq, Eq)]
pub struct NoBirthmark;

impl FromStr for Birthmark {
    type Err = NoBirthmark;

    /// From behind, where nothing has a space in it: a path may.
    fn from_str(text: &str) -> Result<Self, NoBirthmark> {
        let (rest, digest) = text.rsplit_once(" seccomp=").ok_or(NoBirthmark)?;
        let (view, profile) = match rest.rsplit_once(" profile=") {
            Some((view, profile)) => (view, Some(profile.to_owned())),
            None => (rest, None),
        };
        let view = view.strip_prefix("view=").ok_or(NoBirthmark)?.to_owned();
        Ok(Self { view, profile, digest: digest.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(text: &str) -> Birthmark {
        text.parse().expect("a birthmark")
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in [
            "view= profile=default seccomp=ab12",
            "view=ro:/opt/a b,ro:/opt/c profile=own seccomp=ab12",
            "view=ro:/opt/jdk seccomp=ab12",
            "view=ro:/opt/jdk tcp=80,8080 profile=default seccomp=ab12",
            "view= raw=icmp,icmpv6 profile=default seccomp=ab12",
        ] {
            assert_eq!(mark(text).to_string(), text);
        }
        for text in ["", "view=", "seccomp=ab12", "x seccomp=ab12"] {
            assert_eq!(text.parse::<Birthmark>(), Err(NoBirthmark), "{text}");
        }
    }

    #[test]
    fn a_new_release_is_no_wish() {
        let wanted = mark("view=ro:/opt/a profile=default seccomp=new");
        let differs = |born: &str| mark(born).differs(&wanted);
        assert_eq!(differs("view=ro:/opt/a profile=default seccomp=new"), Difference::None);
        assert_eq!(differs("view=ro:/opt/a seccomp=new"), Difference::None);
        assert_eq!(differs("view=ro:/opt/a profile=default seccomp=old"), Difference::Release);
        assert_eq!(differs("view=ro:/opt/a seccomp=old"), Difference::Release);
        assert_eq!(differs("view=ro:/opt/a profile=strict seccomp=old"), Difference::Wish);
        assert_eq!(differs("view= profile=default seccomp=new"), Difference::Wish);
        assert_eq!(differs("view= profile=default seccomp=old"), Difference::Wish);
        assert_eq!(differs("view=ro:/opt/a tcp=80 profile=default seccomp=new"), Difference::Wish);
        assert_eq!(differs("view=ro:/opt/a raw=icmp profile=default seccomp=new"), Difference::Wish);
        // The site's own profile says what its administrator wrote.
        let own = mark("view= profile=own seccomp=new");
        assert_eq!(mark("view= profile=own seccomp=old").differs(&own), Difference::Wish);
    }
}
