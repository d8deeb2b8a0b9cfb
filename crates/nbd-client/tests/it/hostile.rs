use env::{Clock, Env};
use image_formats::{Disk, Error};
use nbd_client::{Address, NbdDisk, Uri};
use nbd_proto::{
    ErrorCode,
    handshake::{
        HandshakeFlags, OptionReply, OptionType, TransmissionFlags, greeting, put_option_reply,
    },
    meta::{BASE_ALLOCATION, context_payload},
    option::{BlockSizes, Info},
    reply::{ReplyFlags, Style, To},
};
use proptest::prelude::*;
use std::{
    io::Write,
    os::unix::net::UnixListener,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};
use types::Cancel;

const SIZE: u64 = 1 << 20;
const CONTEXT: u32 = 7;

/// A server that says what it was told to say, whatever it is asked.
struct Scripted {
    _dir: tempfile::TempDir,
    uri: Uri,
    thread: JoinHandle<()>,
}

/// With `silent` it does not hang up when it is through.
fn scripted(bytes: Vec<u8>, silent: bool) -> Scripted {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nbd");
    let listener = UnixListener::bind(&path).unwrap();
    let body = move || {
        let (mut stream, _) = listener.accept().unwrap();
        // Who does not listen any more has heard enough.
        let _ = stream.write_all(&bytes);
        if silent {
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        } else {
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    };
    let thread = env::spawn("scripted", body).unwrap();
    let uri = Uri {
        address: Address::Unix(path),
        export: "x".to_owned(),
    };
    Scripted {
        _dir: dir,
        uri,
        thread,
    }
}

fn with<T>(
    bytes: Vec<u8>,
    silent: bool,
    clock: &Arc<dyn Clock>,
    f: impl FnOnce(NbdDisk) -> Result<T, Error>,
) -> Result<T, Error> {
    let server = scripted(bytes, silent);
    let result = NbdDisk::open(&server.uri, "the disk", clock, &Cancel::never()).and_then(f);
    server.thread.join().unwrap();
    result
}

fn said<T>(bytes: Vec<u8>, f: impl FnOnce(NbdDisk) -> Result<T, Error>) -> String {
    let result = with(bytes, false, &Env::real().clock, f);
    let error = result.err().expect("it must not be believed").to_string();
    assert!(
        error.contains("the disk") && !error.contains('\n'),
        "{error}"
    );
    error
}

fn option(out: &mut Vec<u8>, option: OptionType, reply: OptionReply, payload: &[u8]) {
    put_option_reply(out, option as u32, reply, payload);
}

/// A handshake as it should be.
fn handshake(sizes: Option<BlockSizes>) -> Vec<u8> {
    let mut out = greeting(HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES).to_vec();
    option(&mut out, OptionType::StructuredReply, OptionReply::Ack, &[]);
    let context = context_payload(CONTEXT, BASE_ALLOCATION);
    option(
        &mut out,
        OptionType::SetMetaContext,
        OptionReply::MetaContext,
        &context,
    );
    option(&mut out, OptionType::SetMetaContext, OptionReply::Ack, &[]);
    let export = Info::Export(SIZE, TransmissionFlags::HAS_FLAGS);
    option(
        &mut out,
        OptionType::Go,
        OptionReply::Info,
        &export.encode(),
    );
    if let Some(sizes) = sizes {
        option(
            &mut out,
            OptionType::Go,
            OptionReply::Info,
            &Info::BlockSize(sizes).encode(),
        );
    }
    option(&mut out, OptionType::Go, OptionReply::Ack, &[]);
    out
}

const TO: To = To {
    style: Style::Structured,
    cookie: 1,
    offset: 0,
};
const MORE: ReplyFlags = ReplyFlags(0);

fn data(out: &mut Vec<u8>, flags: ReplyFlags, at: u64, bytes: &[u8]) {
    out.extend_from_slice(&TO.data_head(flags, at, bytes.len() as u32));
    out.extend_from_slice(bytes);
}

/// Reads 8 KiB from 4096 on.
fn read(disk: NbdDisk) -> Result<Vec<u8>, Error> {
    let mut buf = vec![9; 8192];
    disk.read(4096, &mut buf).map(|()| buf)
}

fn runs(disk: NbdDisk) -> Result<Vec<(u64, bool)>, Error> {
    Ok(disk
        .runs(0)?
        .iter()
        .map(|run| (run.len, run.data))
        .collect())
}

#[test]
fn chunks_come_in_any_order_and_all_of_them_must() {
    let clock = Env::real().clock;
    let mut good = handshake(None);
    data(&mut good, MORE, 8192, &[2; 4096]);
    TO.put_hole(&mut good, ReplyFlags::DONE, 4096, 4096);
    let found = with(good, false, &clock, read).unwrap();
    assert!(found[..4096] == [0; 4096] && found[4096..] == [2; 4096]);

    for (what, chunks) in [
        ("one is missing", vec![(4096, 4096)]),
        (
            "one comes twice",
            vec![(4096, 4096), (4096, 4096), (8192, 4096)],
        ),
        ("they overlap", vec![(4096, 8192), (8192, 4096)]),
        ("one is outside", vec![(0, 4096), (4096, 8192)]),
        ("one goes beyond", vec![(4096, 8193)]),
        ("there are none", vec![]),
    ] {
        let mut bad = handshake(None);
        for (at, len) in chunks {
            data(&mut bad, MORE, at, &vec![1; len]);
        }
        bad.extend_from_slice(&TO.nothing_read());
        let error = said(bad, read);
        assert!(error.contains("at byte 4096"), "{what}: {error}");
    }
}

#[test]
fn errors_are_quoted_and_the_connection_goes_on() {
    let mut bytes = handshake(None);
    TO.put_error(&mut bytes, ErrorCode::Io, "the platter\nis bent");
    let second = To { cookie: 2, ..TO };
    bytes.extend_from_slice(&second.data_head(ReplyFlags::DONE, 0, 512));
    bytes.extend_from_slice(&[5; 512]);
    let clock = Env::real().clock;
    with(bytes, false, &clock, |disk| {
        let mut buf = [0; 512];
        let error = disk.read(0, &mut buf).unwrap_err().to_string();
        assert_eq!(
            error,
            "the disk cannot be read at byte 0: input/output error (the platteris bent)"
        );
        assert!(!disk.is_broken());
        disk.read(0, &mut buf)?;
        assert_eq!(buf, [5; 512]);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_server_that_does_not_keep_to_the_protocol_is_not_believed() {
    let error = said(b"SSH-2.0-OpenSSH_9.2p1 Debian".to_vec(), runs);
    assert!(error.contains("does not keep to the protocol"), "{error}");
    assert!(said(Vec::new(), runs).contains("hung up"));
    let cut = handshake(None);
    for len in 0..cut.len() {
        said(cut[..len].to_vec(), runs);
    }
    for (what, bytes) in [
        (
            "another cookie",
            To { cookie: 2, ..TO }.nothing_read().to_vec(),
        ),
        ("no reply", vec![0xff; 64]),
        ("a simple one", nbd_proto::reply::simple(1, None).to_vec()),
    ] {
        let mut bad = handshake(None);
        bad.extend(bytes);
        let error = said(bad, |disk| {
            let read = disk.read(0, &mut [0; 512]);
            assert!(disk.is_broken(), "{what}");
            read
        });
        assert!(
            error.contains("protocol") || error.contains("hung up"),
            "{what}: {error}"
        );
    }
    let sizes = |minimum, maximum_payload| {
        handshake(Some(BlockSizes {
            minimum,
            preferred: 4096,
            maximum_payload,
        }))
    };
    for (minimum, maximum) in [(0, 1 << 20), (3, 1 << 20), (1 << 20, 1 << 20), (4096, 512)] {
        assert!(said(sizes(minimum, maximum), runs).contains("make no sense"));
    }
}

#[test]
fn runs_end_where_the_disk_ends_and_there_is_one() {
    let clock = Env::real().clock;
    let of = |extents: &[(u64, u32)], context: u32| {
        let mut bytes = handshake(None);
        TO.put_extents(&mut bytes, ReplyFlags::DONE, context, extents);
        bytes
    };
    let found = with(
        of(&[(4096, 3), (8192, 2), (512, 0), (1 << 31, 1)], CONTEXT),
        false,
        &clock,
        runs,
    );
    // Not allocated, but not zeroes either: that is data.
    assert_eq!(found.unwrap(), [(12_288, false), (SIZE - 12_288, true)]);
    said(of(&[(4096, 3)], CONTEXT + 1), runs);
    said(of(&[(0, 3)], CONTEXT), runs);
    said(of(&[], CONTEXT), runs);
    let mut none = handshake(None);
    none.extend_from_slice(&TO.nothing_read());
    said(none, runs);
}

#[test]
fn what_is_not_aligned_is_read_with_what_is_around_it() {
    let sizes = BlockSizes {
        minimum: 4096,
        preferred: 4096,
        maximum_payload: 4096,
    };
    let mut bytes = handshake(Some(sizes));
    for (cookie, at) in [(1, 4096), (2, 8192)] {
        let to = To { cookie, ..TO };
        bytes.extend_from_slice(&to.data_head(ReplyFlags::DONE, at, 4096));
        bytes.extend((0..4096_u64).map(|i| ((at + i) % 251) as u8));
    }
    let found = with(bytes, false, &Env::real().clock, |disk| {
        let mut buf = vec![0; 5000];
        disk.read(5000, &mut buf).map(|()| buf)
    });
    let expect: Vec<u8> = (5000..10_000_u64).map(|at| (at % 251) as u8).collect();
    assert!(found.unwrap() == expect);
}

/// Time that flies: every look at the clock is later by a second.
struct Flying(AtomicU64);

impl Clock for Flying {
    fn now(&self) -> Duration {
        self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        // The kernel is asked to wait no longer than what is left, so that the last wait is short.
        Duration::from_millis(self.0.fetch_add(9_990, Relaxed))
    }
}

#[test]
fn a_server_that_says_nothing_is_not_waited_for() {
    let clock: Arc<dyn Clock> = Arc::new(Flying(AtomicU64::new(0)));
    let error = with(Vec::new(), true, &clock, runs)
        .unwrap_err()
        .to_string();
    assert!(error.contains("does not answer in time"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn garbage_is_an_error_or_an_answer_and_never_a_panic(
        garbage in proptest::collection::vec(any::<u8>(), 0..200),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 0..4),
        reply in any::<bool>(),
    ) {
        let mut bytes = handshake(None);
        if reply {
            data(&mut bytes, MORE, 4096, &[1; 4096]);
            data(&mut bytes, ReplyFlags::DONE, 8192, &[1; 4096]);
        }
        for (at, flip) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        bytes.extend(garbage);
        let _ = with(bytes.clone(), false, &Env::real().clock, read);
        let _ = with(bytes, false, &Env::real().clock, runs);
    }
}

type Ask = fn(NbdDisk) -> Result<(), Error>;

/// Is set when it has been asked a few times since `armed`.
fn cancelled_later(armed: &Arc<AtomicBool>) -> Cancel {
    let (armed, asked) = (Arc::clone(armed), AtomicU64::new(0));
    Cancel::new(move || armed.load(Relaxed) && asked.fetch_add(1, Relaxed) >= 3)
}

fn is_cancelled<T>(result: Result<T, Error>) {
    let error = result.err().expect("nobody has answered").to_string();
    assert!(
        error.contains("the disk") && error.contains("cancelled"),
        "{error}"
    );
}

#[test]
fn who_is_cancelled_waits_for_no_answer() {
    let clock = Env::real().clock;
    // Silent from the beginning.
    let server = scripted(Vec::new(), true);
    let cancel = cancelled_later(&Arc::new(AtomicBool::new(true)));
    is_cancelled(NbdDisk::open(&server.uri, "the disk", &clock, &cancel));
    server.thread.join().unwrap();
    // Later, in the middle of an answer.
    let mut half = handshake(None);
    data(&mut half, MORE, 4096, &[1; 100]);
    half.extend_from_slice(&TO.data_head(ReplyFlags::DONE, 8192, 4096));
    let (reads, looks): (Ask, Ask) = (|disk| read(disk).map(drop), |disk| runs(disk).map(drop));
    for (said, ask) in [(half, reads), (handshake(None), looks)] {
        let server = scripted(said, true);
        let armed = Arc::new(AtomicBool::new(false));
        let cancel = cancelled_later(&armed);
        let disk = NbdDisk::open(&server.uri, "the disk", &clock, &cancel).unwrap();
        armed.store(true, Relaxed);
        is_cancelled(ask(disk));
        server.thread.join().unwrap();
    }
}

/// A server that is stopped takes no more clients than its queue has room for.
#[test]
fn who_is_cancelled_waits_for_no_connection() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nbd");
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&listener, 0).unwrap();
    let _queued = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let uri = Uri {
        address: Address::Unix(path),
        export: String::new(),
    };
    let cancel = cancelled_later(&Arc::new(AtomicBool::new(true)));
    let clock = Env::real().clock;
    is_cancelled(NbdDisk::open(&uri, "the disk", &clock, &cancel));
}
