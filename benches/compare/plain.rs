//! The floor: one thread that blocks in recvmmsg, echoes, and hands all replies to sendmmsg.
//!
//! **The argument for the unsafe code.** All memory the kernel reads or writes is in four vectors of [`serve`] that live as long as
//! the loop and are never resized; the pointers to them are made anew for each call, with the sizes of the pieces they
//! point to. What the kernel writes is plain old data.
#![allow(unsafe_code)]

use std::mem::{size_of, zeroed};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::ptr::{self, null_mut};

use libc::{MSG_WAITFORONE, c_void, iovec, mmsghdr, sockaddr_storage};

use nodens::limits::BATCH;

use crate::echo::Template;

const ROOM: usize = 1232;

pub fn serve(socket: &UdpSocket, template: &Template) {
    let mut input = vec![[0u8; ROOM]; BATCH];
    let mut output = vec![[0u8; ROOM]; BATCH];
    // SAFETY: for all three, zeroes are a value: no address, no buffer, no message.
    let (mut names, mut iovs, mut headers): (Vec<sockaddr_storage>, Vec<iovec>, Vec<mmsghdr>) =
        unsafe { (vec![zeroed(); BATCH], vec![zeroed(); BATCH], vec![zeroed(); BATCH]) };
    loop {
        for index in 0..BATCH {
            iovs[index] = iovec { iov_base: input[index].as_mut_ptr().cast::<c_void>(), iov_len: ROOM };
            let header = &mut headers[index].msg_hdr;
            header.msg_name = ptr::from_mut(&mut names[index]).cast::<c_void>();
            header.msg_namelen = size_of::<sockaddr_storage>() as u32;
            header.msg_iov = &mut iovs[index];
            header.msg_iovlen = 1;
        }
        // SAFETY: `BATCH` headers were set just now; see the module.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as u32,
                MSG_WAITFORONE as _,
                null_mut(),
            )
        };
        let count = usize::try_from(count).expect("recvmmsg");
        for index in 0..count {
            let packet = &input[index][..headers[index].msg_len as usize];
            let length = template.write(packet, &mut output[index]).unwrap_or(0);
            iovs[index] = iovec { iov_base: output[index].as_mut_ptr().cast::<c_void>(), iov_len: length };
        }
        // SAFETY: the first `count` headers have the addresses that the kernel wrote, and replies.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as u32, 0) };
        assert!(sent >= 0, "sendmmsg");
    }
}
