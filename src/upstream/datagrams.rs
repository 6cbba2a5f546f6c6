//! Many datagrams of a connected socket in one system call, which also tells that no more wait there.
//!
//! recv(2) has to be called once more to learn that a socket is empty; recvmmsg(2) that takes fewer than there was room for has told it.
//!
//! **The argument for the unsafe code.** All memory the kernel writes is owned by [`Datagrams`] and lives in vectors that are never
//! resized. The pointers handed to the kernel are made from these vectors immediately before the call and not kept after it. The kernel
//! writes at most `iov_len` octets, which is the size of a buffer, and the headers themselves. What is read back is plain old data for which
//! every bit pattern is valid.
#![allow(unsafe_code)]

use std::io;
use std::mem::zeroed;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libc::{iovec, mmsghdr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::wire::header::Flags;

/// Datagrams taken in one call. Most wake-ups bring one; the buffers are shared by all sockets of a thread.
pub const MANY: usize = 8;
/// The largest reply taken: four times what we offer, for servers that do not listen.
const BUFFER: usize = 4096;

/// Where the octet of a header is that has TC (RFC 1035 section 4.1.1).
const FLAGS: usize = 2;

/// Buffers for a call.
pub struct Datagrams {
    buffers: Vec<[u8; BUFFER]>,
    /// What the kernel is told of the buffers. They name no address and no control message, and the kernel leaves that as it is.
    headers: Vec<mmsghdr>,
    iovs: Vec<iovec>,
    count: usize,
}

impl Default for Datagrams {
    fn default() -> Self {
        Datagrams {
            buffers: vec![[0; BUFFER]; MANY],
            // SAFETY: both are plain old data; zero means "none" in each field.
            headers: vec![unsafe { zeroed() }; MANY],
            // SAFETY: as above.
            iovs: vec![unsafe { zeroed() }; MANY],
            count: 0,
        }
    }
}

impl Datagrams {
    /// Takes what waits at a socket, up to [`MANY`] datagrams, and says how many there were. Fewer: it is empty now, or there is an error
    /// to be told, which makes the socket ready once more. A message that was cut here has TC set: it is to be asked for over TCP.
    ///
    /// # Errors
    /// What recvmmsg(2) says: `WouldBlock` where nothing waits, or what ICMP told of a datagram that was sent from the socket.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.count = 0;
        for ((buffer, iov), header) in self.buffers.iter_mut().zip(&mut self.iovs).zip(&mut self.headers) {
            *iov = iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: BUFFER };
            header.msg_hdr.msg_iov = iov;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: `headers` points at `MANY` headers that name no address, no control message and one buffer each; see the module.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                MANY as _,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        self.count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (buffer, header) in self.buffers.iter_mut().zip(&self.headers).take(self.count) {
            if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                buffer[FLAGS] |= (Flags::TC >> 8) as u8;
            }
        }
        Ok(self.count)
    }

    /// What the last call took.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let lengths = self.headers.iter().map(|header| (header.msg_len as usize).min(BUFFER));
        self.buffers.iter().zip(lengths).take(self.count).filter_map(|(buffer, length)| buffer.get(..length))
    }
}

/// Registers a socket with the runtime of this thread, for one kind of readiness: registered for both, whoever reads it would be woken
/// each time that its peer has taken something from the socket's buffer.
///
/// # Errors
/// What epoll_ctl(2) says.
pub fn watch(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    // SAFETY: a `UdpSocket` owns its descriptor and names the same one for as long as it lives, which is until the
    // `AsyncFd` has ended the registration.
    unsafe { AsyncFd::register_with_interest(socket, interest) }.map_err(|refused| refused.into_parts().1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn pair() -> (UdpSocket, UdpSocket) {
        let (one, other) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        one.connect(other.local_addr().unwrap()).unwrap();
        other.connect(one.local_addr().unwrap()).unwrap();
        (one, other)
    }

    #[test]
    fn all_that_waits_is_taken_and_the_end_is_known() {
        let (one, other) = pair();
        let mut datagrams = Datagrams::default();
        let empty = |datagrams: &mut Datagrams| datagrams.receive(one.as_fd()).unwrap_err().kind();
        assert_eq!(empty(&mut datagrams), io::ErrorKind::WouldBlock);
        for length in 0..MANY + 2 {
            other.send(&vec![length as u8; length]).unwrap();
        }
        assert_eq!(datagrams.receive(one.as_fd()).unwrap(), MANY);
        let first: Vec<usize> = datagrams.iter().map(<[u8]>::len).collect();
        assert_eq!(datagrams.receive(one.as_fd()).unwrap(), 2);
        let rest: Vec<Vec<u8>> = datagrams.iter().map(<[u8]>::to_vec).collect();
        assert_eq!((first, rest), ((0..MANY).collect(), vec![vec![8; 8], vec![9; 9]]));
        assert_eq!(empty(&mut datagrams), io::ErrorKind::WouldBlock);
        assert_eq!(datagrams.iter().count(), 0);
    }

    #[test]
    fn what_is_too_long_is_cut_and_a_closed_port_is_told() {
        let (one, other) = pair();
        let mut datagrams = Datagrams::default();
        other.send(&[7; 9000]).unwrap();
        assert_eq!(datagrams.receive(one.as_fd()).unwrap(), 1);
        assert_eq!(datagrams.iter().map(<[u8]>::len).collect::<Vec<_>>(), [BUFFER]);
        assert_eq!(datagrams.iter().next().unwrap()[..5], [7, 7, 7, 7, 7], "7 has TC");
        other.send(&[0; 9000]).unwrap();
        other.send(&[0; BUFFER]).unwrap();
        assert_eq!(datagrams.receive(one.as_fd()).unwrap(), 2);
        let flags: Vec<u8> = datagrams.iter().map(|message| message[2]).collect();
        assert_eq!(flags, [2, 0], "the one that was cut says so");
        drop(other);
        one.send(b"?").unwrap();
        let told = datagrams.receive(one.as_fd()).unwrap_err().kind();
        assert_eq!(told, io::ErrorKind::ConnectionRefused);
    }
}
