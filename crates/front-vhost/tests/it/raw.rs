//! A front end made by hand: it says whatever a test wants, in messages and in rings.

use crate::driver::{Buffer, Host};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::{IoSlice, IoSliceMut},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};
use std::{
    io::Read,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::atomic::{AtomicU16, Ordering},
};

/// Messages by their numbers (vhost-user, "Front-end message types").
pub(crate) mod message {
    pub(crate) const SET_FEATURES: u32 = 2;
    pub(crate) const SET_MEM_TABLE: u32 = 5;
    pub(crate) const SET_LOG_BASE: u32 = 6;
    pub(crate) const SET_VRING_NUM: u32 = 8;
    pub(crate) const SET_VRING_ADDR: u32 = 9;
    pub(crate) const SET_VRING_BASE: u32 = 10;
    pub(crate) const GET_VRING_BASE: u32 = 11;
    pub(crate) const SET_VRING_KICK: u32 = 12;
    pub(crate) const SET_VRING_CALL: u32 = 13;
    pub(crate) const SET_VRING_ERR: u32 = 14;
    pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(crate) const SET_VRING_ENABLE: u32 = 18;
    pub(crate) const SET_BACKEND_REQ_FD: u32 = 21;
    pub(crate) const GET_INFLIGHT_FD: u32 = 31;
    pub(crate) const SET_INFLIGHT_FD: u32 = 32;
}

pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const INDIRECT: u64 = 1 << 28;
pub(crate) const LOG_ALL: u64 = 1 << 26;
const PROTOCOL: u64 = 1 << 30;
const FLUSH: u64 = 1 << 9;
/// MQ, LOG_SHMFD, REPLY_ACK, BACKEND_REQ, CONFIG, INFLIGHT_SHMFD, CONFIGURE_MEM_SLOTS.
const PROTOCOL_FEATURES: u64 = 0b1001_0010_0010_1011;

/// Flags of descriptors.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const TABLE: u16 = 4;

/// Where the guest has its memory, and where its monitor has it.
pub(crate) const GUEST: u64 = 0x10_0000;
const USER: u64 = 0x7000_0000_0000;
pub(crate) const MEMORY: usize = 2 << 20;
/// Parts of the ring, within the memory.
pub(crate) const SIZE: u16 = 16;
const AVAILABLE: usize = 0x1000;
pub(crate) const USED: usize = 0x2000;

/// A connection, memory, and one ring.
pub(crate) struct Raw {
    pub(crate) stream: UnixStream,
    pub(crate) memory: Buffer,
    pub(crate) kick: OwnedFd,
    pub(crate) call: OwnedFd,
    pub(crate) err: OwnedFd,
    available: u16,
}

impl Raw {
    pub(crate) fn connect(host: &Host) -> Self {
        Self::with_memory(host, Buffer::new(MEMORY))
    }

    pub(crate) fn with_memory(host: &Host, memory: Buffer) -> Self {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        Raw {
            stream: UnixStream::connect(host.path()).unwrap(),
            memory,
            kick: event(),
            call: event(),
            err: event(),
            available: 0,
        }
    }

    /// Connected, with a ring that runs.
    pub(crate) fn running(host: &Host) -> Self {
        let mut raw = Self::connect(host);
        raw.negotiate(VERSION_1 | INDIRECT);
        raw.share_all();
        raw.start(0);
        raw
    }

    /// Sends a message.
    pub(crate) fn send(&self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        self.send_with_flags(request, 1, body, fds);
    }

    fn send_with_flags(&self, request: u32, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        let header = [request, flags, body.len() as u32].map(u32::to_ne_bytes);
        let bytes = [header.as_flattened(), body].concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let flags = SendFlags::NOSIGNAL;
        sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut control, flags).unwrap();
    }

    /// Sends a message, and whether it was accepted. If not, the connection is over.
    pub(crate) fn ask(&mut self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        self.send_with_flags(request, 1 | 8, body, fds);
        let mut reply = [0; 20];
        let answered = self.stream.read_exact(&mut reply).is_ok();
        answered && reply[12..] == [0; 8]
    }

    /// Sends a message that has an answer of its own.
    pub(crate) fn get<const N: usize>(
        &self,
        request: u32,
        body: &[u8],
    ) -> ([u8; N], Option<OwnedFd>) {
        self.send(request, body, &[]);
        let (mut header, mut reply) = ([0; 12], [0; N]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut header), IoSliceMut::new(&mut reply)];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
        let got = recvmsg(&self.stream, &mut slices, &mut control, flags).unwrap();
        assert_eq!(got.bytes, 12 + N);
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        (reply, fd)
    }

    pub(crate) fn negotiate(&mut self, features: u64) {
        let protocol = PROTOCOL_FEATURES.to_ne_bytes();
        let _: ([u8; 8], _) = self.get(1, &[]);
        let _: ([u8; 8], _) = self.get(15, &[]);
        self.send(message::SET_PROTOCOL_FEATURES, &protocol, &[]);
        let features = (features | PROTOCOL | FLUSH).to_ne_bytes();
        assert!(self.ask(message::SET_FEATURES, &features, &[]));
    }

    /// The body of a memory table.
    pub(crate) fn table(regions: &[[u64; 4]]) -> Vec<u8> {
        let count = [regions.len() as u32, 0].map(u32::to_ne_bytes);
        let words = regions.as_flattened().iter().map(|word| word.to_ne_bytes());
        let words: Vec<_> = words.collect();
        [count.as_flattened(), words.as_flattened()].concat()
    }

    pub(crate) fn share_all(&mut self) {
        let table = Self::table(&[[GUEST, MEMORY as u64, USER, 0]]);
        let file = self.memory.file().try_clone().unwrap();
        assert!(self.ask(message::SET_MEM_TABLE, &table, &[file.as_fd()]));
    }

    /// The body that says where the ring is.
    pub(crate) fn ring_at(descriptors: u64, available: u64, used: u64) -> Vec<u8> {
        let words = [0, descriptors, used, available, 0].map(u64::to_ne_bytes);
        words.as_flattened().to_vec()
    }

    pub(crate) fn own_ring(&self) -> Vec<u8> {
        Self::ring_at(USER, USER + AVAILABLE as u64, USER + USED as u64)
    }

    /// Hangs up, and keeps the memory.
    pub(crate) fn into_memory(self) -> Buffer {
        self.memory
    }

    /// Starts ring 0 at request number `base`.
    pub(crate) fn start(&mut self, base: u16) {
        let pair = |a: u32, b: u32| [a.to_ne_bytes(), b.to_ne_bytes()].concat();
        assert!(self.ask(message::SET_VRING_NUM, &pair(0, SIZE.into()), &[]));
        assert!(self.ask(message::SET_VRING_BASE, &pair(0, base.into()), &[]));
        let ring = self.own_ring();
        assert!(self.ask(message::SET_VRING_ADDR, &ring, &[]));
        self.start_at_address();
    }

    pub(crate) fn start_at_address(&mut self) {
        let fds = [&self.err, &self.call, &self.kick].map(|fd| fd.try_clone().unwrap());
        let codes = [
            message::SET_VRING_ERR,
            message::SET_VRING_CALL,
            message::SET_VRING_KICK,
        ];
        for (code, fd) in codes.into_iter().zip(&fds) {
            assert!(self.ask(code, &0u64.to_ne_bytes(), &[fd.as_fd()]));
        }
        let enable = [0u32, 1].map(u32::to_ne_bytes);
        assert!(self.ask(message::SET_VRING_ENABLE, enable.as_flattened(), &[]));
    }

    pub(crate) fn put(&self, at: usize, bytes: &[u8]) {
        self.memory.bytes()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes a descriptor into the table that begins at `table` of the memory.
    pub(crate) fn describe(
        &self,
        table: usize,
        index: u16,
        (address, len): (u64, u32),
        flags: u16,
        next: u16,
    ) {
        let bytes = [
            &address.to_le_bytes()[..],
            &len.to_le_bytes(),
            &flags.to_le_bytes(),
            &next.to_le_bytes(),
        ];
        self.put(table + 16 * usize::from(index), &bytes.concat());
    }

    /// Writes the header of a request at `at` of the memory.
    pub(crate) fn header(&self, at: usize, kind: u32, sector: u64) {
        self.put(at, &kind.to_le_bytes());
        self.put(at + 8, &sector.to_le_bytes());
    }

    /// A read or write of one sector in the chain `head`, `head + 1`, `head + 2`, with its data in the memory at
    /// `0x10000 + head * 4096`, and its status behind them.
    pub(crate) fn sector_request(&self, head: u16, kind: u32, sector: u64) -> usize {
        let at = 0x1_0000 + usize::from(head) * 4096;
        let guest = GUEST + at as u64;
        self.header(at + 2048, kind, sector);
        self.put(at + 512, &[0xff]);
        let data = if kind == 0 { WRITE } else { 0 };
        self.describe(0, head, (guest + 2048, 16), NEXT, head + 1);
        self.describe(0, head + 1, (guest, 512), data | NEXT, head + 2);
        self.describe(0, head + 2, (guest + 512, 1), WRITE, 0);
        at
    }

    fn word(&self, at: usize) -> &AtomicU16 {
        let bytes = &mut self.memory.bytes()[at..at + 2];
        #[expect(unsafe_code, reason = "it is shared")]
        // SAFETY: two aligned bytes that live as long as the memory.
        unsafe {
            AtomicU16::from_ptr(bytes.as_mut_ptr().cast())
        }
    }

    /// Sets where the next available entry goes.
    pub(crate) fn set_available(&mut self, index: u16) {
        self.available = index;
        self.word(AVAILABLE + 2).store(index, Ordering::SeqCst);
    }

    pub(crate) fn set_used(&self, index: u16) {
        self.word(USED + 2).store(index, Ordering::SeqCst);
    }

    /// Makes a chain available, without saying so.
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = usize::from(self.available % SIZE);
        self.word(AVAILABLE + 4 + 2 * slot)
            .store(head, Ordering::SeqCst);
        self.set_available(self.available.wrapping_add(1));
    }

    pub(crate) fn kick(&self) {
        rustix::io::write(&self.kick, &1u64.to_ne_bytes()).unwrap();
    }

    pub(crate) fn used(&self) -> u16 {
        self.word(USED + 2).load(Ordering::SeqCst)
    }

    /// The head and the length of entry `n` of what is used.
    pub(crate) fn used_entry(&self, n: u16) -> (u32, u32) {
        let at = USED + 4 + 8 * usize::from(n % SIZE);
        let word =
            |at: usize| u32::from_le_bytes(self.memory.bytes()[at..at + 4].try_into().unwrap());
        (word(at), word(at + 4))
    }

    /// Waits until so much is used.
    pub(crate) fn wait_for_used(&self, index: u16) {
        while self.used() != index {
            assert!(self.is_ready(&self.call), "nothing comes");
            let _ = rustix::io::read(&self.call, &mut [0; 8]);
        }
    }

    /// Waits until the server says that it gave the ring up.
    pub(crate) fn wait_for_err(&self) {
        assert!(self.is_ready(&self.err), "the queue goes on");
    }

    /// Waits until the server closes the connection.
    pub(crate) fn wait_for_end(&mut self) {
        let mut rest = Vec::new();
        // It may end with a reset.
        let _ = self.stream.read_to_end(&mut rest);
    }

    #[expect(clippy::unused_self, reason = "it reads better")]
    pub(crate) fn is_ready(&self, fd: &OwnedFd) -> bool {
        let mut fds = [PollFd::new(fd, PollFlags::IN)];
        let patience = Timespec {
            tv_sec: 30,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&patience)).unwrap() > 0
    }

    /// The ring's number of the next request, when it has stopped.
    pub(crate) fn stop(&mut self) -> u16 {
        let (state, _): ([u8; 8], _) = self.get(message::GET_VRING_BASE, &[0; 8]);
        u16::from_ne_bytes([state[4], state[5]])
    }
}
