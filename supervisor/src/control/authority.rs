//! Who may ask what: root everything, a slice's own UID six things, of itself only. The kernel says who asks
//! (`SO_PEERCRED`); nothing in a request is believed about that.

use plab_protocol::control::{ErrorCode, ErrorReply, Request};

use crate::node::Node;
use crate::slice::refused;

/// The caller of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// UID 0.
    Root,
    /// The UID of a slice that is here.
    Slice(String),
    /// Anybody else.
    Nobody(u32),
}

impl Caller {
    /// Who a UID is on this node now.
    pub fn of(uid: u32, node: &Node) -> Self {
        if uid == 0 {
            return Self::Root;
        }
        let slices = node.slices.borrow();
        slices
            .values()
            .find(|handle| handle.slice.uid.get() == uid)
            .map_or(Self::Nobody(uid), |handle| Self::Slice(handle.slice.name.clone()))
    }

    /// For the audit trail.
    pub fn describe(&self) -> String {
        match self {
            Self::Root => "root".into(),
            Self::Slice(name) => format!("slice {name}"),
            Self::Nobody(uid) => format!("UID {uid}"),
        }
    }

    /// The slice it is, if it is one.
    pub fn slice(&self) -> Option<&str> {
        match self {
            Self::Slice(name) => Some(name),
            Self::Root | Self::Nobody(_) => None,
        }
    }

    /// Whether the caller may know of this slice.
    pub fn may_see(&self, slice: &str) -> bool {
        match self {
            Self::Root => true,
            Self::Slice(own) => own == slice,
            Self::Nobody(_) => false,
        }
    }
}

/// Refuses what the caller may not ask.
///
/// # Errors
/// `Denied`. For another's slice the answer is the same whether or not it exists.
pub fn check(caller: &Caller, request: &Request) -> Result<(), ErrorReply> {
    let own = match caller {
        Caller::Root => return Ok(()),
        Caller::Nobody(uid) => {
            return Err(refused(
                ErrorCode::Denied,
                format!("UID {uid} is neither root nor a slice of this node; run it as root, or with sudo"),
            ));
        }
        Caller::Slice(own) => own,
    };
    let asked = match request {
        // Without a name it is about what the caller may see, which is its own.
        Request::Status { slice, .. } | Request::Sessions { slice } => slice.as_ref().unwrap_or(own),
        Request::Flows { filter, .. } => filter.slice.as_ref().unwrap_or(own),
        Request::Exec(exec) => &exec.slice,
        Request::Restart { slice } => slice,
        Request::Apply { .. }
        | Request::Remove { .. }
        | Request::Freeze { .. }
        | Request::Thaw { .. }
        | Request::Events { .. }
        | Request::Usage
        | Request::Ports { .. }
        | Request::Bandwidth
        | Request::SetBandwidth { .. }
        | Request::OptOuts
        | Request::ChangeOptOut { .. }
        | Request::Drain { .. }
        | Request::Boots { .. }
        | Request::Planned
        | Request::Power { .. }
        | Request::CancelPower
        | Request::TrustClock
        | Request::WhoSent { .. } => {
            return Err(refused(
                ErrorCode::Denied,
                "only root may ask this; a slice may use exec, shell, status, sessions, flows, restart on itself",
            ));
        }
    };
    if asked == own {
        Ok(())
    } else {
        Err(refused(ErrorCode::Denied, format!("{own} may ask about itself only")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plab_protocol::control::Exec;
    use plab_protocol::flows::FlowFilter;
    use plab_protocol::machine::PowerAction;

    fn exec(slice: &str) -> Request {
        Request::Exec(Exec {
            slice: slice.into(),
            argv: vec![],
            env: [].into(),
            tty: None,
            login: None,
            agent: false,
        })
    }

    fn everything(slice: &str) -> Vec<(Request, bool)> {
        let slice = || slice.to_owned();
        vec![
            (Request::Status { slice: Some(slice()), verify: true }, true),
            (exec(&slice()), true),
            (Request::Sessions { slice: Some(slice()) }, true),
            (Request::Restart { slice: slice() }, true),
            (Request::Apply { text: String::new(), origin: "-".into() }, false),
            (Request::Remove { slice: slice() }, false),
            (Request::Freeze { slice: slice() }, false),
            (Request::Thaw { slice: slice() }, false),
            (Request::Events { since: 0, slice: Some(slice()), follow: false }, false),
            (Request::Usage, false),
            (Request::Ports { slice: Some(slice()) }, false),
            (Request::Bandwidth, false),
            (Request::SetBandwidth { out: None, incoming: None }, false),
            (Request::OptOuts, false),
            (Request::ChangeOptOut { prefix: "192.0.2.0/24".into(), add: false }, false),
            (Request::Drain { for_shutdown: false }, false),
            (Request::Boots { last: 1 }, false),
            (Request::Planned, false),
            (Request::Power { action: PowerAction::Reboot, at: None, reason: None }, false),
            (Request::CancelPower, false),
            (Request::TrustClock, false),
            (
                Request::Flows {
                    filter: FlowFilter { slice: Some(slice()), ..FlowFilter::default() },
                    last: None,
                },
                true,
            ),
            (
                Request::WhoSent { filter: FlowFilter { slice: Some(slice()), ..FlowFilter::default() } },
                false,
            ),
        ]
    }

    #[test]
    fn root_may_all_and_nobody_nothing() {
        for (request, _) in everything("a") {
            assert!(check(&Caller::Root, &request).is_ok());
            assert_eq!(check(&Caller::Nobody(1000), &request).expect_err("denied").code, ErrorCode::Denied);
        }
    }

    #[test]
    fn a_slice_may_six_things_of_itself() {
        let caller = Caller::Slice("site_sl1".into());
        for (request, may) in everything("site_sl1") {
            assert_eq!(check(&caller, &request).is_ok(), may, "{request:?}");
        }
        assert!(check(&caller, &Request::Status { slice: None, verify: false }).is_ok());
        assert!(check(&caller, &Request::Sessions { slice: None }).is_ok());
        assert!(check(&caller, &Request::Flows { filter: FlowFilter::default(), last: None }).is_ok());
        // A longer name with the same beginning is another's.
        for other in ["site_sl10", "site_sl", "site"] {
            for (request, _) in everything(other) {
                assert!(check(&caller, &request).is_err(), "{request:?}");
            }
        }
    }
}
