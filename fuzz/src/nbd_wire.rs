//! The NBD protocol's decoders, both sides of it. What decodes encodes to the same bytes again.

use crate::alloc::bounded;
use nbd_proto::{
    handshake::{
        OPTION_HEADER_LEN, OPTION_REPLY_HEADER_LEN, OptionHeader, OptionReplyHeader,
        decode_greeting, greeting, put_option, put_option_reply, server_payload,
    },
    meta::{BASE_ALLOCATION, context_payload, lists},
    option::{BlockSizes, ExportQuery, Info, InfoType, MetaQuery, decode_export_name},
    reply::{Chunk, ReplyFlags, ReplyHeader, Style, To},
    request::{Command, CommandFlags, EXTENDED_REQUEST_LEN, REQUEST_LEN, Request},
};
use std::collections::HashSet;

/// Every decoder sees the same bytes.
pub fn run(data: &[u8]) {
    bounded(64 * data.len() + (64 << 10), || {
        handshake(data);
        options(data);
        requests(data);
        replies(data);
    });
}

fn handshake(data: &[u8]) {
    if let Some(Ok(flags)) = data.first_chunk().map(decode_greeting) {
        assert!(data.starts_with(&greeting(flags)));
    }
    let mut wire = Vec::new();
    if let Some(Ok(header)) = data.first_chunk().map(OptionHeader::decode) {
        put_option(&mut wire, header.option, &[]);
        assert_eq!(wire[..12], data[..12]);
        assert_eq!(header.length.to_be_bytes(), data[12..OPTION_HEADER_LEN]);
    }
    if let Some(Ok(header)) = data.first_chunk().map(OptionReplyHeader::decode) {
        assert_eq!(
            header.length.to_be_bytes(),
            data[16..OPTION_REPLY_HEADER_LEN]
        );
    }
}

fn options(data: &[u8]) {
    if let Ok(query) = ExportQuery::decode(data) {
        let infos = query.infos().count();
        assert_eq!(data.len(), 4 + query.name.len() + 2 + 2 * infos);
        assert_eq!(
            query.wants(InfoType::Name),
            query.infos().any(|info| info == 1)
        );
    }
    if let Ok(query) = MetaQuery::decode(data) {
        let queries: Vec<&str> = query.queries().collect();
        assert_eq!(queries.len(), query.count as usize);
        assert_eq!(MetaQuery::encode(query.export, &queries), data);
        let queries: HashSet<&str> = queries.into_iter().collect();
        assert!(lists(&queries, BASE_ALLOCATION) || !queries.contains(BASE_ALLOCATION));
    }
    if let Ok(info) = Info::decode(data) {
        assert!(data.starts_with(&info.encode()));
    }
    if let Ok(name) = decode_export_name(data) {
        assert_eq!(name.as_bytes(), data);
    }
}

fn requests(data: &[u8]) {
    let mut wire = Vec::new();
    if let Some(Ok(request)) = data.first_chunk().map(Request::decode_compact) {
        request
            .put_compact(&mut wire)
            .expect("it came from 32 bits");
        assert_eq!(wire, data[..REQUEST_LEN]);
        assert!(request.payload_len(false) <= request.length);
    }
    wire.clear();
    if let Some(Ok(request)) = data.first_chunk().map(Request::decode_extended) {
        request.put_extended(&mut wire);
        assert_eq!(wire, data[..EXTENDED_REQUEST_LEN]);
        assert!(request.payload_len(true) <= request.length);
    }
}

fn replies(data: &[u8]) {
    let magic = data.first_chunk().map(|magic| u32::from_be_bytes(*magic));
    if let Some(Ok(len)) = magic.map(ReplyHeader::len_of) {
        let decoded = ReplyHeader::decode(&data[..len.min(data.len())]);
        assert_eq!(decoded.is_ok(), data.len() >= len);
    }
    let Some((kind, payload)) = data.split_first_chunk() else {
        return;
    };
    match Chunk::decode(u16::from_be_bytes(*kind), payload) {
        Ok(Chunk::Data(_, bytes)) => assert_eq!(bytes.len() + 8, payload.len()),
        Ok(Chunk::Status(_, extents)) => {
            assert_eq!(extents.iter().count(), extents.len());
            assert!(extents.iter().all(|(len, _)| len > 0));
        }
        _ => {}
    }
}

/// One of each thing that is on the wire.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let request = Request {
        flags: CommandFlags::FUA,
        command: Command::Write as u16,
        cookie: 7,
        offset: 4096,
        length: 512,
    };
    let mut seeds = vec![
        greeting(nbd_proto::handshake::HandshakeFlags(3)).to_vec(),
        ExportQuery::encode("disk@monday", &[InfoType::Name, InfoType::BlockSize]),
        MetaQuery::encode("disk", &["base:", BASE_ALLOCATION, "qemu:"]),
        server_payload("disk"),
        context_payload(1, BASE_ALLOCATION),
        Info::Export(1 << 30, nbd_proto::handshake::TransmissionFlags(0x5ff)).encode(),
        Info::Name("disk").encode(),
        Info::BlockSize(BlockSizes {
            minimum: 1,
            preferred: 4096,
            maximum_payload: 32 << 20,
        })
        .encode(),
    ];
    let mut put = |fill: &dyn Fn(&mut Vec<u8>)| {
        let mut wire = Vec::new();
        fill(&mut wire);
        seeds.push(wire);
    };
    put(&|out| put_option(out, 7, b"disk"));
    put(&|out| put_option_reply(out, 7, nbd_proto::handshake::OptionReply::Ack, &[]));
    put(&|out| request.put_extended(out));
    put(&|out| request.put_compact(out).unwrap_or_default());
    for style in [Style::Simple, Style::Structured, Style::Extended] {
        let to = To {
            style,
            cookie: 7,
            offset: 0,
        };
        put(&|out| out.extend_from_slice(&to.success()));
        put(&|out| to.put_error(out, nbd_proto::ErrorCode::Io, "damaged"));
        if style != Style::Simple {
            put(&|out| to.put_extents(out, ReplyFlags::DONE, 1, &[(4096, 0), (8192, 3)]));
        }
    }
    // Chunks are looked at with their type first.
    put(&|out| out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0, 16, 0, 1, 2, 3]));
    put(&|out| out.extend_from_slice(&[0, 2, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 16, 0]));
    put(&|out| out.extend_from_slice(&[0, 5, 0, 0, 0, 1, 0, 0, 16, 0, 0, 0, 0, 3]));
    put(&|out| out.extend_from_slice(&[0x80, 1, 0, 0, 0, 5, 0, 2, b'n', b'o']));
    seeds
}
