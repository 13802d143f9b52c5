//! What an administrator sets live.

use std::fmt;
use std::str::FromStr;

use plab_config::{BitRate, ValueError};

/// What an administrator can set live.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Cap {
    /// What the node file says.
    #[default]
    NodeFile,
    /// No limit, whatever the node file says.
    None,
    /// This one.
    Rate(BitRate),
}

impl FromStr for Cap {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "none" => Ok(Self::None),
            "node-file" => Ok(Self::NodeFile),
            _ => text.parse().and_then(BitRate::as_limit).map(Self::Rate),
        }
    }
}

impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeFile => f.pad("node-file"),
            Self::None => f.pad("none"),
            Self::Rate(rate) => f.pad(&rate.to_string()),
        }
    }
}

/// What is set live, for what is sent and what is received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Live {
    /// For what is sent.
    pub out: Cap,
    /// For what is received.
    pub incoming: Cap,
}

impl FromStr for Live {
    type Err = ValueError;

    /// As the ledger has it: the one, a blank, the other.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (out, incoming) = text.split_once(' ').ok_or_else(|| ValueError::expected("two limits"))?;
        Ok(Self { out: out.parse()?, incoming: incoming.parse()? })
    }
}

impl fmt::Display for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.out, self.incoming)
    }
}

impl Cap {
    /// What counts, with this in the node file.
    pub fn over(self, file: Option<BitRate>) -> Option<BitRate> {
        match self {
            Self::NodeFile => file,
            Self::None => None,
            Self::Rate(rate) => Some(rate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_live_comes_first() {
        let rate = |text: &str| text.parse::<BitRate>().ok();
        assert_eq!(Cap::NodeFile.over(rate("1Mbit")), rate("1Mbit"));
        assert_eq!(Cap::None.over(rate("1Mbit")), None);
        assert_eq!("2Mbit".parse().map(|cap: Cap| cap.over(rate("1Mbit"))), Ok(rate("2Mbit")));
        for text in ["none", "node-file", "2Mbit"] {
            assert_eq!(text.parse::<Cap>().map(|cap| cap.to_string()), Ok(text.to_owned()));
        }
        let live = Live { out: Cap::None, incoming: "2Mbit".parse().expect("a rate") };
        assert_eq!(live.to_string().parse(), Ok(live));
        assert!("1bit".parse::<Cap>().is_err() && "off".parse::<Cap>().is_err());
    }
}
