//! The calls of libpcap that hping3 makes, over raw sockets: to be loaded before the real one, by `LD_PRELOAD`.
//!
//! libpcap listens by packet sockets, which no slice has: they hear everybody. A raw socket of a slice's hears what is the
//! slice's own, as the network's programs say, and so does a program that listens by this. Of IPv4 only, as a raw socket
//! of IPv6 shows no header; and what comes in, not what goes out. See pcap(3pcap) for what each call is to do.
//!
//! It runs as the slice, in the slice's program, and is trusted with nothing.

mod capture;

use std::ffi::{CStr, c_char, c_int, c_uchar};
use std::os::fd::AsRawFd;
use std::ptr;

use capture::Capture;

/// `PCAP_ERRBUF_SIZE`.
const ERRBUF: usize = 256;
/// `DLT_RAW`: a packet begins with its IP header.
const DLT_RAW: c_int = 12;
/// `PCAP_ERROR`.
const PCAP_ERROR: c_int = -1;

const NO_FILTERS: &CStr = c"there are no filters: only packets of the slice's own are here";

/// `struct pcap_pkthdr`.
#[repr(C)]
pub struct PacketHeader {
    ts: libc::timeval,
    caplen: u32,
    len: u32,
}

/// Begins to listen: at every interface, whatever `device` is, for as long as `to_ms` milliseconds at a time.
///
/// # Safety
/// `errbuf` is 256 bytes, or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcap_open_live(
    _device: *const c_char,
    snaplen: c_int,
    _promisc: c_int,
    to_ms: c_int,
    errbuf: *mut c_char,
) -> *mut Capture {
    match Capture::open(snaplen, to_ms) {
        Ok(capture) => Box::into_raw(Box::new(capture)),
        Err(error) => {
            let mut text = error.into_bytes();
            text.truncate(ERRBUF - 1);
            text.push(0);
            if !errbuf.is_null() {
                // SAFETY: the text is not longer than what the caller has there.
                unsafe { ptr::copy_nonoverlapping(text.as_ptr().cast(), errbuf, text.len()) };
            }
            ptr::null_mut()
        }
    }
}

/// The next packet, which is there until the next call; null if none has come in time.
///
/// # Safety
/// `capture` is open, and `header` a place for a header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcap_next(capture: *mut Capture, header: *mut PacketHeader) -> *const c_uchar {
    // SAFETY: the caller's promise; nobody else has it meanwhile.
    let Some(packet) = (unsafe { &mut *capture }).next() else { return ptr::null() };
    let ts = libc::timeval { tv_sec: packet.seconds, tv_usec: packet.microseconds };
    // SAFETY: the caller's promise.
    unsafe { header.write(PacketHeader { ts, caplen: packet.caught, len: packet.length }) };
    packet.data.as_ptr()
}

/// What a packet begins with.
#[unsafe(no_mangle)]
pub extern "C" fn pcap_datalink(_capture: *mut Capture) -> c_int {
    DLT_RAW
}

/// A descriptor that is readable when there is a packet.
///
/// # Safety
/// `capture` is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcap_fileno(capture: *mut Capture) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { &*capture }.ready().as_raw_fd()
}

/// Refuses: nothing is heard that would have to be filtered out.
#[unsafe(no_mangle)]
pub extern "C" fn pcap_compile(
    _capture: *mut Capture,
    _program: *mut libc::c_void,
    _text: *const c_char,
    _optimize: c_int,
    _netmask: u32,
) -> c_int {
    PCAP_ERROR
}

/// Refuses.
#[unsafe(no_mangle)]
pub extern "C" fn pcap_setfilter(_capture: *mut Capture, _program: *mut libc::c_void) -> c_int {
    PCAP_ERROR
}

/// The reason of the last refusal: there is one.
#[unsafe(no_mangle)]
pub extern "C" fn pcap_geterr(_capture: *mut Capture) -> *const c_char {
    NO_FILTERS.as_ptr()
}

/// Ends it.
///
/// # Safety
/// `capture` is open, and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcap_close(capture: *mut Capture) {
    // SAFETY: it is from `Box::into_raw` in `pcap_open_live`, and the caller's promise.
    drop(unsafe { Box::from_raw(capture) });
}
