//! The channel on which we ask something of the front end, and the message that brings it.
//!
//! `vhost` makes an object of that message that cannot send what we have to say, so it is taken here.

use rustix::{
    io::{Errno, IoSliceMut},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recv,
        recvmsg, send,
    },
};
use std::{
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixStream},
};
use vhost::vhost_user::message::{BackendReq, FrontendReq, VhostUserHeaderFlag};

const HEADER_LEN: usize = 12;
const VERSION: u32 = 1;

/// Whether the next message brings a channel. Waits for it.
///
/// # Errors
/// The connection broke. (One that ended has no such message.)
pub(crate) fn is_next(stream: &UnixStream) -> io::Result<bool> {
    let mut request = [0; 4];
    loop {
        match recv(stream, &mut request[..], RecvFlags::PEEK) {
            Ok((_, len)) => {
                let channel = FrontendReq::SET_BACKEND_REQ_FD as u32;
                return Ok(len == 4 && u32::from_ne_bytes(request) == channel);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes that message: the channel, and whether the front end waits for an answer.
///
/// # Errors
/// It is not as it should be, or the connection broke.
pub(crate) fn take(stream: &UnixStream) -> io::Result<(OwnedFd, bool)> {
    let mut header = [0; HEADER_LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut header)];
    let wanted = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
    let got = recvmsg(stream, &mut slices, &mut control, wanted)?;
    let rights = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|i| header[at + i]));
    let (flags, len) = (word(4), word(8));
    let cut = got.flags.contains(ReturnFlags::CTRUNC) || got.bytes != HEADER_LEN;
    match rights.filter(|_| !cut && len == 0 && flags & 3 == VERSION) {
        Some(channel) => {
            let waits = flags & VhostUserHeaderFlag::NEED_REPLY.bits() != 0;
            Ok((channel, waits))
        }
        None => {
            let message = "a message that should bring a channel does not";
            Err(io::Error::new(io::ErrorKind::InvalidData, message))
        }
    }
}

/// Answers that the channel is there.
///
/// # Errors
/// The connection broke.
pub(crate) fn acknowledge(stream: &UnixStream) -> io::Result<()> {
    let code = FrontendReq::SET_BACKEND_REQ_FD as u32;
    let flags = VhostUserHeaderFlag::REPLY.bits() | VERSION;
    let words = [code, flags, 8, 0, 0].map(u32::to_ne_bytes);
    send(stream, words.as_flattened(), SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Says that the configuration space has changed. Does not wait for anybody.
///
/// # Errors
/// The front end does not read, or is gone.
pub(crate) fn config_changed(channel: &OwnedFd) -> io::Result<()> {
    let code = BackendReq::CONFIG_CHANGE_MSG as u32;
    let words = [code, VERSION, 0].map(u32::to_ne_bytes);
    send(
        channel,
        words.as_flattened(),
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    )?;
    Ok(())
}
