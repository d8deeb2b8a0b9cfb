use super::*;
use proptest::prelude::*;

const CHUNKED: [Style; 2] = [Style::Structured, Style::Extended];

fn to(style: Style) -> To {
    To {
        style,
        cookie: 0xfeed,
        offset: 77,
    }
}

/// Splits one reply off and decodes it.
fn split(wire: &[u8]) -> (ReplyHeader, &[u8]) {
    let magic = u32::from_be_bytes(*wire.first_chunk().unwrap());
    let (head, payload) = wire.split_at(ReplyHeader::len_of(magic).unwrap());
    (ReplyHeader::decode(head).unwrap(), payload)
}

fn chunk(wire: &[u8]) -> (ReplyFlags, Chunk<'_>) {
    let (header, payload) = split(wire);
    let ReplyHeader::Chunk {
        flags,
        chunk,
        cookie,
        length,
    } = header
    else {
        panic!("a simple reply")
    };
    assert_eq!((cookie, length), (0xfeed, payload.len() as u64));
    (flags, Chunk::decode(chunk, payload).unwrap())
}

#[test]
fn simple_replies_come_back() {
    for error in ErrorCode::ALL {
        let mut out = Vec::new();
        to(Style::Simple).put_error(&mut out, error, "not sent");
        let error = error as u32;
        let cookie = 0xfeed;
        assert_eq!(split(&out).0, ReplyHeader::Simple { cookie, error });
    }
    assert_eq!(to(Style::Structured).success().len(), SIMPLE_REPLY_LEN);
    assert_eq!(chunk(&to(Style::Extended).success()).1, Chunk::None);
    assert_eq!(chunk(&to(Style::Structured).nothing_read()).1, Chunk::None);
}

#[test]
fn heads_are_as_long_as_they_say() {
    for style in [Style::Simple, Style::Structured, Style::Extended] {
        let to = to(style);
        let head = to.data_head(ReplyFlags::DONE, 5, 9);
        assert_eq!(head.len(), to.data_head_len());
    }
}

#[test]
fn chunks_come_back() {
    for style in CHUNKED {
        let to = to(style);
        let mut out = to.data_head(ReplyFlags(0), 5, 3).to_vec();
        out.extend_from_slice(b"abc");
        assert_eq!(chunk(&out), (ReplyFlags(0), Chunk::Data(5, b"abc")));
        out.clear();
        to.put_hole(&mut out, ReplyFlags::DONE, 6, 4096);
        assert_eq!(chunk(&out), (ReplyFlags::DONE, Chunk::Hole(6, 4096)));
        out.clear();
        to.put_error_offset(&mut out, ReplyFlags(0), ErrorCode::Io, 9);
        let error = ErrorCode::Io;
        let (message, offset) = ("", Some(9));
        let expected = Chunk::Error {
            error,
            message,
            offset,
        };
        assert_eq!(chunk(&out).1, expected);
        out.clear();
        to.put_error(&mut out, ErrorCode::NoSpc, &"é".repeat(3000));
        let Chunk::Error { message, .. } = chunk(&out).1 else {
            panic!("no error")
        };
        assert_eq!(message.len(), STRING_LEN_MAX);
    }
}

#[test]
fn extents_wider_than_the_wire_are_cut() {
    let extents = [(4096, 0), (1 << 33, 3), (4096, 0)];
    let mut out = Vec::new();
    to(Style::Structured).put_extents(&mut out, ReplyFlags::DONE, 1, &extents);
    let Chunk::Status(1, got) = chunk(&out).1 else {
        panic!("no extents")
    };
    let got: Vec<_> = got.iter().collect();
    assert_eq!(got, [(4096, 0), (0xffff_0000, 3)]);
    out.clear();
    to(Style::Extended).put_extents(&mut out, ReplyFlags::DONE, 1, &extents);
    let Chunk::Status(1, got) = chunk(&out).1 else {
        panic!("no extents")
    };
    let got: Vec<_> = got.iter().collect();
    assert_eq!(got, [(4096, 0), (1 << 33, 3), (4096, 0)]);
}

#[test]
fn errors_have_codes() {
    assert_eq!(ErrorCode::from_wire(0), None);
    assert_eq!(ErrorCode::from_wire(2), Some(ErrorCode::Inval));
    for error in ErrorCode::ALL {
        assert_eq!(ErrorCode::from_wire(error as u32), Some(error));
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..120),
        which in 0usize..ChunkType::ALL.len(),
        any_type: u16,
    ) {
        let _ = ReplyHeader::decode(&bytes);
        for chunk in [ChunkType::ALL[which] as u16, any_type] {
            if let Ok(Chunk::Status(_, extents)) = Chunk::decode(chunk, &bytes) {
                prop_assert_eq!(extents.iter().count(), extents.len());
            }
        }
        for magic in [SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, EXTENDED_REPLY_MAGIC] {
            let mut wire = magic.to_be_bytes().to_vec();
            wire.extend_from_slice(&bytes);
            let right = ReplyHeader::len_of(magic).unwrap();
            prop_assert_eq!(ReplyHeader::decode(&wire).is_ok(), wire.len() == right);
        }
    }

    #[test]
    fn extents_come_back(extents in proptest::collection::vec((1u64..1 << 32, any::<u32>()), 1..50)) {
        for style in CHUNKED {
            let mut out = Vec::new();
            to(style).put_extents(&mut out, ReplyFlags::DONE, 3, &extents);
            let Chunk::Status(3, got) = chunk(&out).1 else { panic!("no extents") };
            let got: Vec<_> = got.iter().map(|(len, status)| (len, status as u32)).collect();
            prop_assert_eq!(&got, &extents);
        }
    }
}
