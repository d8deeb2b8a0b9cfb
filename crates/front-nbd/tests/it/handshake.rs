use crate::{client::Client, world, world_with};
use front_nbd::Config;
use nbd_proto::{
    handshake::{OptionReply, OptionType, TransmissionFlags, put_option},
    option::{BlockSizes, ExportQuery, Info, InfoType, MetaQuery},
    reply::Style,
    request::Command,
};
use std::{
    io::{Read, Write},
    time::Duration,
};

fn code(replies: &[(u32, Vec<u8>)]) -> u32 {
    replies.last().unwrap().0
}

#[test]
fn exports_are_listed() {
    let world = world();
    let mut client = Client::connect(&world.server);
    let replies = client.option(OptionType::List, &[]);
    let names: Vec<_> = replies[..3].iter().map(|r| &r.1[4..]).collect();
    assert_eq!(names, [&b"disk"[..], b"disk@monday", b"gate"]);
    assert_eq!(code(&replies), OptionReply::Ack as u32);
    let with_data = client.option(OptionType::List, b"x");
    assert_eq!(code(&with_data), OptionReply::ErrInvalid as u32);
}

#[test]
fn an_export_is_described() {
    let world = world();
    let mut client = Client::connect(&world.server);
    let query = ExportQuery::encode("disk", &[InfoType::Name, InfoType::BlockSize]);
    let replies = client.option(OptionType::Info, &query);
    let infos: Vec<_> = replies[..replies.len() - 1]
        .iter()
        .map(|r| Info::decode(&r.1).unwrap())
        .collect();
    assert!(infos.contains(&Info::Name("disk")));
    assert!(infos.contains(&Info::BlockSize(BlockSizes {
        minimum: 1,
        preferred: 4096,
        maximum_payload: 32 << 20,
    })));
    let unknown = client.option(OptionType::Info, &ExportQuery::encode("no", &[]));
    assert_eq!(code(&unknown), OptionReply::ErrUnknown as u32);
    assert_eq!(unknown.len(), 1);
    client.go("disk");
    assert!(!client.flags.contains(TransmissionFlags::SEND_DF));
    assert!(client.flags.contains(TransmissionFlags::CAN_MULTI_CONN));
}

#[test]
fn flags_tell_what_an_export_can() {
    let world = world();
    let client = Client::open(&world.server, "disk@monday", Style::Structured);
    assert!(client.flags.contains(TransmissionFlags::READ_ONLY));
    assert!(client.flags.contains(TransmissionFlags::SEND_DF));
    assert!(!client.flags.contains(TransmissionFlags::SEND_WRITE_ZEROES));
    let client = Client::open(&world.server, "disk", Style::Simple);
    assert!(!client.flags.contains(TransmissionFlags::READ_ONLY));
    assert!(client.flags.contains(TransmissionFlags::SEND_FAST_ZERO));
}

#[test]
fn what_is_not_known_or_malformed_is_refused_and_the_handshake_goes_on() {
    let world = world();
    let mut client = Client::connect(&world.server);
    for (option, payload, reply) in [
        (4, &b""[..], OptionReply::ErrUnsup),
        (99, &[1; 1000], OptionReply::ErrUnsup),
        (5, b"", OptionReply::ErrUnsup),
        (5, b"x", OptionReply::ErrInvalid),
        (6, b"", OptionReply::ErrInvalid),
        (7, &[0xff; 40], OptionReply::ErrInvalid),
        (7, &[0; 100_000], OptionReply::ErrTooBig),
        (10, b"", OptionReply::ErrInvalid),
        (8, b"x", OptionReply::ErrInvalid),
    ] {
        let replies = client.raw_option(option, payload);
        assert_eq!(code(&replies), reply as u32, "option {option}");
    }
    client.go("disk");
    assert_eq!(client.read(0, 3), Ok(vec![0; 3]));
}

#[test]
fn upgrades_have_an_order() {
    let world = world();
    let mut client = Client::connect(&world.server);
    client.negotiate(Style::Structured);
    let again = client.option(OptionType::StructuredReply, &[]);
    assert_eq!(code(&again), OptionReply::ErrInvalid as u32);
    client.negotiate(Style::Extended);
    let back = client.option(OptionType::StructuredReply, &[]);
    assert_eq!(code(&back), OptionReply::ErrExtHeaderReqd as u32);
    let mut wire = Vec::new();
    put_option(&mut wire, OptionType::ExportName as u32, b"disk");
    client.stream.write_all(&wire).unwrap();
    assert!(client.was_closed());
}

#[test]
fn the_old_way_in() {
    let world = world();
    for (name, len) in [("disk", 10), ("none", 0)] {
        let mut client = Client::connect(&world.server);
        let mut wire = Vec::new();
        put_option(&mut wire, OptionType::ExportName as u32, name.as_bytes());
        client.stream.write_all(&wire).unwrap();
        let mut reply = vec![0; len];
        client.stream.read_exact(&mut reply).unwrap();
        if len == 0 {
            assert!(client.was_closed());
        } else {
            assert_eq!(reply[..8], crate::SIZE.to_be_bytes());
            assert_eq!(client.read(5, 2), Ok(vec![0, 0]));
        }
    }
}

#[test]
fn contexts_are_listed_by_wildcard_and_selected_by_name() {
    let world = world();
    let mut client = Client::connect(&world.server);
    let list = |client: &mut Client, queries: &[&str]| {
        let query = MetaQuery::encode("disk", queries);
        client.option(OptionType::ListMetaContext, &query).len() - 1
    };
    client.negotiate(Style::Structured);
    for queries in [&["base:"][..], &["x:", "base:allocation"]] {
        assert_eq!(list(&mut client, queries), 1, "{queries:?}");
    }
    for queries in [
        &["qemu:"][..],
        &["qemu:dirty-bitmap:"],
        &["base:", "qemu:dirty-bitmap:monday"],
    ] {
        assert_eq!(list(&mut client, queries), 2, "{queries:?}");
    }
    assert_eq!(list(&mut client, &[]), 3);
    for queries in [
        &["qemu:dirty-bitmap:friday"][..],
        &["base:other", "nonsense"],
    ] {
        assert_eq!(list(&mut client, queries), 0, "{queries:?}");
    }
    let wildcard = MetaQuery::encode("disk", &["qemu:dirty-bitmap:", "qemu:"]);
    assert_eq!(
        client.option(OptionType::SetMetaContext, &wildcard).len(),
        1
    );
    let wildcard = MetaQuery::encode("disk", &["base:"]);
    assert_eq!(
        client.option(OptionType::SetMetaContext, &wildcard).len(),
        1
    );
    let elsewhere = MetaQuery::encode("none", &["base:"]);
    let replies = client.option(OptionType::SetMetaContext, &elsewhere);
    assert_eq!(code(&replies), OptionReply::ErrUnknown as u32);
}

#[test]
fn contexts_belong_to_the_export_they_were_selected_for() {
    let world = world();
    for (selected, fine) in [("disk", true), ("disk@monday", false)] {
        let mut client = Client::connect(&world.server);
        client.negotiate(Style::Structured);
        client.select(selected);
        client.go("disk");
        let answer = client.ask(Command::BlockStatus, Default::default(), 0, 4096);
        assert_eq!(answer.error.is_none(), fine);
    }
    // A selection that fails drops the one before.
    let mut client = Client::connect(&world.server);
    client.negotiate(Style::Structured);
    client.select("disk");
    client.option(OptionType::SetMetaContext, b"garbage");
    client.go("disk");
    let answer = client.ask(Command::BlockStatus, Default::default(), 0, 4096);
    assert!(answer.error.is_some());
}

#[test]
fn a_client_may_select_many_contexts_and_not_too_many() {
    let world = world();
    let mut client = Client::connect(&world.server);
    client.negotiate(Style::Structured);
    let names: Vec<String> = (0..17).map(|n| format!("qemu:dirty-bitmap:{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut set = |names: &[&str]| {
        let query = MetaQuery::encode("disk", names);
        client.option(OptionType::SetMetaContext, &query)
    };
    assert_eq!(code(&set(&names)), OptionReply::ErrTooBig as u32);
    assert_eq!(set(&names[..16]).len(), 17);
    // One that is asked for again, or not known, is no more.
    let replies = set(&[
        names[3],
        "qemu:dirty-bitmap:no",
        names[3],
        "base:allocation",
    ]);
    let ids: Vec<u8> = replies[..2].iter().map(|(_, payload)| payload[3]).collect();
    assert_eq!((replies.len(), &ids[..]), (3, &[1, 2][..]));
}

#[test]
fn an_abort_is_acknowledged() {
    let world = world();
    let mut client = Client::connect(&world.server);
    let replies = client.option(OptionType::Abort, b"ignored");
    assert_eq!(code(&replies), OptionReply::Ack as u32);
    assert!(client.was_closed());
}

#[test]
fn who_dawdles_or_babbles_is_sent_away() {
    let world = world_with(Config {
        handshake_timeout: Duration::from_millis(50),
        ..Config::default()
    });
    assert!(Client::connect(&world.server).was_closed());
    let mut client = Client::connect(&crate::world().server);
    // The server may be gone before all is written.
    let _ = client.stream.write_all(&[0x55; 64]);
    assert!(client.was_closed());
}

#[test]
fn a_default_export() {
    let world = world_with(Config {
        default_export: Some("disk".to_owned()),
        ..Config::default()
    });
    let mut client = Client::connect(&world.server);
    client.negotiate(Style::Structured);
    client.select("");
    client.go("disk");
    let answer = client.ask(Command::BlockStatus, Default::default(), 0, 4096);
    assert_eq!(answer.error, None);
}
