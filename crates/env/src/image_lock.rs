//! The locks by which programs that use an image file in place keep off each other, as QEMU has them.
//!
//! QEMU (`block/file-posix.c`, `include/block/block-common.h`) has a bit for each thing that a user of an image may do: 0 reads
//! what is consistent, 1 writes, 2 writes the same again, 3 resizes. Who does it holds a shared lock of byte 100 + bit, who does not bear
//! that others do it one of byte 200 + bit. Whoever comes takes its own, then looks whether anybody holds what does not go with it.
//! They are open-file-description locks: they go with the file that is open, however the process ends.

#![expect(unsafe_code, reason = "fcntl with locks of open file descriptions")]

use std::{fs, io, os::fd::AsRawFd};

const USED: i64 = 100;
const REFUSED: i64 = 200;
const READ: u8 = 1;
const WRITE: u8 = 2;
const WRITE_SAME: u8 = 4;
const RESIZE: u8 = 8;
const BITS: u8 = 4;

fn call(file: &fs::File, command: i32, kind: i32, byte: i64) -> io::Result<libc::flock> {
    // SAFETY: all zeroes is a flock.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    lock.l_start = byte;
    lock.l_len = 1;
    // SAFETY: the descriptor is open, and `lock` outlives the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(lock),
    }
}

fn bits(set: u8) -> impl Iterator<Item = i64> {
    (0..BITS)
        .filter(move |bit| set & (1 << bit) != 0)
        .map(i64::from)
}

/// Keeps others from writing and resizing; and, to write, from reading as if nobody wrote.
pub(crate) fn lock(file: &fs::File, write: bool) -> io::Result<()> {
    let (used, refused) = match write {
        true => (READ | WRITE | WRITE_SAME | RESIZE, WRITE | RESIZE),
        false => (READ, WRITE | RESIZE),
    };
    for byte in bits(used)
        .map(|bit| USED + bit)
        .chain(bits(refused).map(|bit| REFUSED + bit))
    {
        call(file, libc::F_OFD_SETLK, libc::F_RDLCK, byte)?;
    }
    let others = bits(used)
        .map(|bit| REFUSED + bit)
        .chain(bits(refused).map(|bit| USED + bit));
    for byte in others {
        if call(file, libc::F_OFD_GETLK, libc::F_WRLCK, byte)?.l_type != libc::F_UNLCK as i16 {
            let why = "another program has the image open (QEMU's image locks)";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writes_or_many_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let open = || {
            fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .unwrap()
        };
        let (one, two, three) = (open(), open(), open());
        lock(&one, false).unwrap();
        lock(&two, false).unwrap();
        assert_eq!(
            lock(&three, true).unwrap_err().kind(),
            io::ErrorKind::ResourceBusy
        );
        drop((one, two, three));
        let (one, two) = (open(), open());
        lock(&one, true).unwrap();
        assert_eq!(
            lock(&two, false).unwrap_err().kind(),
            io::ErrorKind::ResourceBusy
        );
        let three = open();
        assert_eq!(
            lock(&three, true).unwrap_err().kind(),
            io::ErrorKind::ResourceBusy
        );
        drop((one, two, three));
        lock(&open(), true).unwrap();
    }
}
