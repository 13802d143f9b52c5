//! Bytes and descriptors over Unix sockets: the one place that packs and unpacks `SCM_RIGHTS`.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The most descriptors that one message may carry.
pub const MAX_FDS: usize = 16;

/// Sends `bytes` with `fds` attached, once. On a stream socket fewer bytes than given may go out; the
/// descriptors go with the first.
///
/// # Errors
/// As sendmsg(2). More than [`MAX_FDS`] descriptors are `InvalidInput`.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("control buffer too small"));
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Receives once into `buffer`; received descriptors are close-on-exec. Zero bytes mean the peer closed.
///
/// # Errors
/// As recvmsg(2); a datagram or a control message that did not fit is `InvalidData`, never cut silently.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message larger than the protocol allows"));
    }
    Ok((received.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("socketpair")
    }

    #[test]
    fn descriptors_arrive_with_their_bytes() {
        let (a, b) = pair();
        send(&a, b"hello", &[a.as_fd(), b.as_fd()]).expect("send");
        let mut buffer = [0; 16];
        let (n, fds) = receive(&b, &mut buffer).expect("receive");
        assert_eq!((&buffer[..n], fds.len()), (&b"hello"[..], 2));
        for fd in &fds {
            assert!(rustix::io::fcntl_getfd(fd).expect("getfd").contains(rustix::io::FdFlags::CLOEXEC));
        }
    }

    #[test]
    fn a_cut_datagram_is_an_error() {
        let (a, b) = pair();
        send(&a, &[7; 32], &[]).expect("send");
        assert_eq!(receive(&b, &mut [0; 16]).expect_err("cut").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_closed_peer_is_zero_bytes() {
        let (a, b) = pair();
        drop(a);
        assert_eq!(receive(&b, &mut [0; 16]).expect("eof").0, 0);
    }
}
