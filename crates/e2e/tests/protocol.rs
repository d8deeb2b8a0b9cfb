//! Corners of the NBD protocol, with libnbd from Python, and with bare sockets.

use anyhow::Result;
use e2e::{
    daemon::Daemon,
    process::{command, run},
    tools,
};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(60);

/// A daemon with volume `a` of 16 MiB.
fn daemon() -> Result<Daemon> {
    let daemon = Daemon::new()?;
    daemon.ok(&["volume", "create", "a", "16M"])?;
    Ok(daemon)
}

/// Runs Python with libnbd's module, `uri`, and `refused`, which insists on an error.
fn nbdsh(daemon: &Daemon, script: &str) -> Result<String> {
    tools::need(&["nbdsh"])?;
    let head = format!(
        "import errno, nbd\nuri = {:?}\n\
         def refused(code, call, *a, **k):\n    try:\n        call(*a, **k)\n    except nbd.Error as e:\n        \
         assert e.errnum == code, (e.errnum, code)\n        return\n    assert False, 'not refused'\n",
        daemon.uri("a"),
    );
    // Debian's Python: it is the one that has libnbd's module.
    let mut python = command("/usr/bin/python3");
    run("nbdsh", python.args(["-c", &(head + script)]), LIMIT)
}

#[test]
fn structured_replies_and_block_status() -> Result<()> {
    let daemon = daemon()?;
    nbdsh(
        &daemon,
        r#"
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(uri)
assert h.get_structured_replies_negotiated()
h.pwrite(b"x" * 65536, 65536, nbd.CMD_FLAG_FUA)
seen = []
h.block_status(1 << 20, 0, lambda c, offset, e, err: seen.extend(e))
assert seen[:4] == [65536, 3, 65536, 0], seen
one = []
h.block_status(1 << 20, 0, lambda c, offset, e, err: one.extend(e), nbd.CMD_FLAG_REQ_ONE)
assert len(one) == 2 and one[0] <= 65536, one
chunks = []
h.pread_structured(1 << 17, 0, lambda b, o, s, err: chunks.append((o, len(b), s)))
assert sum(length for _, length, _ in chunks) == 1 << 17, chunks
chunks.clear()
h.pread_structured(1 << 17, 0, lambda b, o, s, err: chunks.append((o, len(b), s)), nbd.CMD_FLAG_DF)
assert len(chunks) == 1, chunks
h.shutdown()
"#,
    )?;
    Ok(())
}

#[test]
fn zero_trim_and_cache() -> Result<()> {
    let daemon = daemon()?;
    nbdsh(
        &daemon,
        r#"
h = nbd.NBD()
h.connect_uri(uri)
h.pwrite(b"y" * 1048576, 0)
h.zero(4096, 0, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
h.zero(4096, 4096, nbd.CMD_FLAG_FAST_ZERO)
h.trim(4096, 8192, nbd.CMD_FLAG_FUA)
h.zero(1000, 20000)
h.cache(65536, 0)
want = bytearray(b"y" * 65536)
want[0:12288] = bytes(12288)
want[20000:21000] = bytes(1000)
got = h.pread(65536, 0)
assert got == want, [i for i in range(65536) if got[i] != want[i]][:5]
h.flush()
"#,
    )?;
    Ok(())
}

#[test]
fn what_is_out_of_range_or_unknown_is_refused_and_the_connection_lives() -> Result<()> {
    let daemon = daemon()?;
    nbdsh(
        &daemon,
        r#"
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(uri)
size = h.get_size()
refused(errno.EINVAL, h.pread, 4096, size)
refused(errno.EINVAL, h.pread, 8192, size - 4096)
refused(errno.ENOSPC, h.pwrite, b"z" * 8192, size - 4096)
refused(errno.ENOSPC, h.zero, 8192, size - 4096)
refused(errno.EINVAL, h.trim, 8192, size - 4096)
refused(errno.EINVAL, h.pread, 4096, 1 << 63)
refused(errno.EINVAL, h.pread, 4096, 0, 1 << 9)
assert h.pread(512, 0) == bytes(512)
other = nbd.NBD()
try:
    other.connect_uri(uri.replace("/a?", "/nothing?"))
    assert False, "connected to an export that is not there"
except nbd.Error as e:
    assert e.errnum == errno.ENOENT, e
"#,
    )?;
    Ok(())
}

#[test]
fn old_handshakes_and_simple_replies_work() -> Result<()> {
    let daemon = daemon()?;
    nbdsh(
        &daemon,
        r#"
h = nbd.NBD()
h.set_request_structured_replies(False)
h.set_full_info(False)
h.connect_uri(uri)
assert not h.get_structured_replies_negotiated()
h.pwrite(b"q" * 4096, 0)
assert h.pread(4096, 0) == b"q" * 4096
h.shutdown()
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(uri)
names = []
h.opt_list(lambda name, description: names.append(name) or 0)
assert "a" in names, names
h.opt_abort()
"#,
    )?;
    Ok(())
}

/// CAN_MULTI_CONN: what one connection wrote, another sees and makes durable.
#[test]
fn a_flush_covers_other_connections() -> Result<()> {
    let mut daemon = daemon()?;
    nbdsh(
        &daemon,
        r#"
import os
a, b = nbd.NBD(), nbd.NBD()
a.connect_uri(uri); b.connect_uri(uri)
assert a.can_multi_conn()
a.pwrite(b"m" * 4096, 4096)
assert b.pread(4096, 4096) == b"m" * 4096
b.flush()
os._exit(0)
"#,
    )?;
    daemon.kill();
    daemon.start()?;
    nbdsh(
        &daemon,
        "h = nbd.NBD(); h.connect_uri(uri)\nassert h.pread(4096, 4096) == b'm' * 4096\n",
    )?;
    Ok(())
}

#[test]
fn the_largest_payload_and_many_requests_in_flight() -> Result<()> {
    let daemon = Daemon::new()?;
    daemon.ok(&["volume", "create", "a", "64M"])?;
    nbdsh(
        &daemon,
        r#"
h = nbd.NBD()
h.connect_uri(uri)
big = bytes(range(256)) * (32 * 4096)
assert len(big) == 32 << 20
h.pwrite(big, 512)
assert h.pread(len(big), 512) == big
buffers = [nbd.Buffer.from_bytearray(bytearray([i]) * 4096) for i in range(64)]
cookies = [h.aio_pwrite(b, i * 4096) for i, b in enumerate(buffers)]
while h.aio_in_flight() > 0:
    h.poll(-1)
    for c in list(cookies):
        if h.aio_command_completed(c):
            cookies.remove(c)
for i in range(64):
    assert h.pread(4096, i * 4096) == bytes([i]) * 4096
"#,
    )?;
    Ok(())
}

/// Bytes that are no NBD: the connection may be closed, others must not notice.
#[test]
fn nonsense_harms_only_its_own_connection() -> Result<()> {
    let daemon = daemon()?;
    let mut silent = Vec::new();
    let greetings: [&[u8]; 5] = [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 4096],
        // Client flags, then an option of 4 GiB.
        b"\0\0\0\x03IHAVEOPT\0\0\0\x07\xff\xff\xff\xff",
        // Client flags, then half an option.
        b"\0\0\0\x03IHAVE",
    ];
    for greeting in greetings {
        for keep in [true, false] {
            let mut stream = UnixStream::connect(daemon.nbd_socket())?;
            stream.set_read_timeout(Some(Duration::from_millis(200)))?;
            let mut hello = [0; 18];
            stream.read_exact(&mut hello)?;
            assert_eq!(&hello[..16], b"NBDMAGICIHAVEOPT");
            // The server may hang up first.
            let _ = stream.write_all(greeting);
            if keep {
                silent.push(stream);
            }
        }
    }
    nbdsh(
        &daemon,
        "h = nbd.NBD(); h.connect_uri(uri); h.pwrite(b'k' * 512, 0); h.flush()\n",
    )?;
    assert!(daemon.pid().is_some());
    Ok(())
}
