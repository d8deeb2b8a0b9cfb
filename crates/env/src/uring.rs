//! A file that is read and written through io_uring.
//!
//! A call takes a ring, submits what it has to do and waits for all of it: so a buffer is never in the kernel's hands after
//! the call has returned. A long request goes in pieces, all of them in flight at once; a durable write and a sync are one system call.
//! Rings are kept and used again; there are as many as there were calls at once.

#![expect(
    unsafe_code,
    reason = "requests carry pointers to the caller's buffers"
)]

use crate::{File, real::RealFile};
use io_uring::{IoUring, opcode, squeue::Entry, types::Fd, types::FsyncFlags};
use parking_lot::Mutex;
use std::{io, ops::Range, os::fd::AsRawFd, time::Duration};

/// Pieces of a call that are in flight at once.
const DEPTH: u32 = 8;
/// The longest piece, bytes.
const PIECE: usize = 256 << 10;
/// Rings that are kept.
const KEEP: usize = 64;

/// See the module.
pub(crate) struct UringFile {
    file: RealFile,
    rings: Mutex<Vec<IoUring>>,
}

/// What is left of a piece of a request: where in the buffer.
#[derive(Clone, Copy)]
struct Piece {
    start: usize,
    end: usize,
}

impl UringFile {
    /// The first ring, which tells whether the kernel lets us have any.
    pub(crate) fn rings() -> io::Result<Vec<IoUring>> {
        Ok(vec![new_ring()?])
    }

    pub(crate) fn new(file: RealFile, rings: Vec<IoUring>) -> Self {
        UringFile {
            file,
            rings: Mutex::new(rings),
        }
    }

    fn with_ring<T>(&self, body: impl FnOnce(&mut IoUring) -> io::Result<T>) -> io::Result<T> {
        let kept = self.rings.lock().pop();
        let mut ring = match kept {
            Some(ring) => ring,
            None => new_ring()?,
        };
        let done = body(&mut ring)?;
        // After an error it goes: nobody need know what is left in it.
        let mut rings = self.rings.lock();
        if rings.len() < KEEP {
            rings.push(ring);
        }
        Ok(done)
    }

    /// Does `len` bytes in pieces; `entry` makes the request for `(offset in the buffer, length)`.
    fn transfer(&self, len: usize, entry: impl Fn(usize, u32) -> Entry) -> io::Result<()> {
        let mut waiting: Vec<Piece> = (0..len)
            .step_by(PIECE)
            .map(|start| Piece {
                start,
                end: len.min(start + PIECE),
            })
            .collect();
        waiting.reverse();
        self.with_ring(|ring| {
            let mut failed = None;
            while !waiting.is_empty() && failed.is_none() {
                let batch: Vec<Piece> = (0..DEPTH).map_while(|_| waiting.pop()).collect();
                let results = submit(
                    ring,
                    batch.iter().enumerate().map(|(index, piece)| {
                        entry(piece.start, (piece.end - piece.start) as u32).user_data(index as u64)
                    }),
                )?;
                for (piece, result) in batch.into_iter().zip(results) {
                    match result {
                        0 => failed = Some(io::ErrorKind::UnexpectedEof.into()),
                        n if n > 0 && piece.start + (n as usize) < piece.end => {
                            waiting.push(Piece {
                                start: piece.start + n as usize,
                                ..piece
                            });
                        }
                        n if n > 0 => {}
                        n if -n == libc::EINTR || -n == libc::EAGAIN => waiting.push(piece),
                        n => failed = Some(io::Error::from_raw_os_error(-n)),
                    }
                }
            }
            Ok(failed.map_or(Ok(()), Err))
        })?
    }

    fn write_with(&self, offset: u64, data: &[u8], flags: i32) -> io::Result<()> {
        let (fd, base) = (Fd(self.file.0.as_raw_fd()), data.as_ptr());
        self.transfer(data.len(), |start, len| {
            opcode::Write::new(fd, base.wrapping_add(start), len)
                .offset(offset + start as u64)
                .rw_flags(flags)
                .build()
        })
    }
}

fn new_ring() -> io::Result<IoUring> {
    IoUring::new(DEPTH).map_err(|e| {
        let why = format!("the kernel does not let us have io_uring ({e})");
        io::Error::new(io::ErrorKind::Unsupported, why)
    })
}

/// Submits at most [`DEPTH`] requests, whose user data are 0, 1, 2, …, and waits for all; answers their results in order.
fn submit(ring: &mut IoUring, entries: impl Iterator<Item = Entry>) -> io::Result<Vec<i32>> {
    let mut count = 0;
    for entry in entries {
        // SAFETY: the buffers outlive this function, which returns only after the kernel is done with all of them.
        unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
        count += 1;
    }
    let mut results = vec![0; count];
    let mut done = 0;
    while done < count {
        if let Err(e) = ring.submit_and_wait(count - done) {
            let again = [libc::EINTR, libc::EAGAIN, libc::EBUSY];
            // Else buffers may be in the kernel's hands, and nobody could wait for them: there is no way on.
            let go_on = e.raw_os_error().is_some_and(|code| again.contains(&code));
            assert!(go_on, "io_uring cannot be waited for: {e}");
        }
        for completion in ring.completion() {
            if let Some(result) = results.get_mut(completion.user_data() as usize) {
                *result = completion.result();
            }
            done += 1;
        }
    }
    Ok(results)
}

impl File for UringFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }

    fn modified(&self) -> io::Result<Duration> {
        self.file.modified()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let (fd, base) = (Fd(self.file.0.as_raw_fd()), buf.as_mut_ptr());
        self.transfer(buf.len(), |start, len| {
            opcode::Read::new(fd, base.wrapping_add(start), len)
                .offset(offset + start as u64)
                .build()
        })
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.file.try_read_at(offset, buf)
    }

    fn forget_cached(&self) -> io::Result<()> {
        self.file.forget_cached()
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_with(offset, data, 0)
    }

    fn write_durable_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_with(offset, data, libc::RWF_DSYNC)
    }

    fn lock_image(&self, write: bool) -> io::Result<()> {
        self.file.lock_image(write)
    }

    fn sync_data(&self) -> io::Result<()> {
        let fsync = opcode::Fsync::new(Fd(self.file.0.as_raw_fd())).flags(FsyncFlags::DATASYNC);
        let results = self.with_ring(|ring| submit(ring, std::iter::once(fsync.build())))?;
        match results.first() {
            Some(&result) if result < 0 => Err(io::Error::from_raw_os_error(-result)),
            _ => Ok(()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch_hole(offset, len)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.file.next_data(offset)
    }
}
