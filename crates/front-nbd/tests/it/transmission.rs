use crate::{SIZE, client::Client, client::NONE, world};
use nbd_proto::{
    ErrorCode,
    handshake::OptionType,
    option::MetaQuery,
    reply::Style,
    request::{Command, CommandFlags},
};
use proptest::prelude::*;
use std::sync::atomic::Ordering;

const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];
const MIB: u64 = 1 << 20;

#[test]
fn what_is_written_is_read() {
    for style in STYLES {
        let world = world();
        let mut client = Client::open(&world.server, "disk", style);
        // From parsed in place, over pieces, to the longest there is; aligned and not.
        for (offset, len) in [
            (0, 4096),
            (3, 7),
            (5000, 200_000),
            (MIB + 1, 3 << 20),
            (0, 32 << 20),
        ] {
            let data: Vec<u8> = (0..len).map(|i| (i * 7 + i / 4096 + 1) as u8).collect();
            for flags in [NONE, CommandFlags::FUA] {
                assert_eq!(client.write(flags, offset, &data), Ok(()));
            }
            assert!(client.read(offset, len).unwrap() == data, "{offset} {len}");
        }
        assert_eq!(client.read(10, 0), Ok(vec![]));
        assert_eq!(client.write(NONE, 10, &[]), Ok(()));
        assert_eq!(client.ask(Command::Flush, NONE, 0, 0).error, None);
        assert_eq!(client.ask(Command::Cache, NONE, 0, MIB).error, None);
    }
}

#[test]
fn zeroes_and_trims() {
    for style in STYLES {
        let world = world();
        let mut client = Client::open(&world.server, "disk", style);
        let zero = Command::WriteZeroes;
        for flags in [
            NONE,
            CommandFlags::NO_HOLE,
            CommandFlags::FAST_ZERO,
            CommandFlags::FUA,
            CommandFlags::FUA | CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO,
        ] {
            client.write(NONE, 0, &[9; 10_000]).unwrap();
            assert_eq!(client.ask(zero, flags, 1, 9000).error, None);
            let mut expected = vec![9; 10_000];
            expected[1..9001].fill(0);
            assert_eq!(client.read(0, 10_000).unwrap(), expected);
        }
        // Effects have no payload, and no limit but the device.
        for command in [Command::Trim, zero] {
            assert_eq!(client.ask(command, NONE, 0, SIZE).error, None);
            assert_eq!(client.ask(command, CommandFlags::FUA, 0, SIZE).error, None);
        }
        assert_eq!(client.read(0, 10_000).unwrap(), vec![0; 10_000]);
    }
}

#[test]
fn errors_are_those_of_the_protocol() {
    use Command::{BlockStatus, Cache, Flush, Read, Trim, WriteZeroes};
    for style in STYLES {
        let world = world();
        let mut client = Client::open(&world.server, "disk", style);
        for (command, flags, offset, length, error) in [
            (Read, NONE, SIZE, 1, ErrorCode::Inval),
            (Read, NONE, u64::MAX, 4096, ErrorCode::Inval),
            (Read, NONE, 0, (32 << 20) + 1, ErrorCode::Overflow),
            (Read, CommandFlags::NO_HOLE, 0, 512, ErrorCode::Inval),
            (Trim, NONE, SIZE - 1, 2, ErrorCode::Inval),
            (Trim, CommandFlags(1 << 9), 0, 512, ErrorCode::Inval),
            (Cache, NONE, SIZE, 4096, ErrorCode::Inval),
            (Flush, CommandFlags::DF, 0, 0, ErrorCode::Inval),
            (WriteZeroes, NONE, SIZE - 1, 2, ErrorCode::NoSpc),
            (WriteZeroes, CommandFlags::REQ_ONE, 0, 2, ErrorCode::Inval),
            (BlockStatus, NONE, SIZE, 4096, ErrorCode::Inval),
            (BlockStatus, NONE, 0, 0, ErrorCode::Inval),
        ] {
            let answer = client.ask(command, flags, offset, length);
            assert_eq!(answer.error, Some(error), "{style:?} {command:?} {offset}");
        }
        for len in [512, 2 << 20] {
            let beyond = client.write(NONE, SIZE - 1, &vec![1; len]);
            assert_eq!(beyond, Err(ErrorCode::NoSpc));
        }
        let too_long = client.write(NONE, 0, &vec![1; (32 << 20) + 1]);
        assert_eq!(too_long, Err(ErrorCode::Inval));
        let unknown = client.wire(33, NONE, 0, 0, &[]);
        std::io::Write::write_all(&mut client.stream, &unknown).unwrap();
        assert_eq!(client.answer().error, Some(ErrorCode::Inval));
        assert_eq!(client.read(SIZE - 1, 1), Ok(vec![0]));
        assert_eq!(world.server.stats().unknown, 1);
    }
}

#[test]
fn a_read_only_export_stays_as_it_is() {
    let world = world();
    for style in STYLES {
        let mut client = Client::open(&world.server, "disk@monday", style);
        for len in [512, 500_000] {
            let error = client.write(NONE, 0, &vec![1; len]);
            assert_eq!(error, Err(ErrorCode::Perm));
        }
        for command in [Command::Trim, Command::WriteZeroes] {
            let error = client.ask(command, NONE, 0, 4096).error;
            assert_eq!(error, Some(ErrorCode::Perm));
        }
        assert_eq!(client.ask(Command::Flush, NONE, 0, 0).error, None);
        assert_eq!(client.read(0, 4096), Ok(vec![7; 4096]));
    }
    assert!(world.server.connections().iter().all(|c| c.read_only));
}

#[test]
fn damage_and_departure_have_their_codes() {
    let world = world();
    world.gate.open();
    for style in STYLES {
        let mut client = Client::open(&world.server, "gate", style);
        assert_eq!(client.read(SIZE - 4096, 4096), Err(ErrorCode::Io));
        let gone = client.ask(Command::Cache, NONE, 0, 4096);
        assert_eq!(gone.error, Some(ErrorCode::Shutdown));
        assert_eq!(client.read(2 * MIB, 9), Ok(vec![0; 9]));
    }
}

#[test]
fn long_zeroes_are_not_sent() {
    for style in [Style::Structured, Style::Extended] {
        let world = world();
        let mut client = Client::open(&world.server, "disk", style);
        client.write(NONE, 100, &[1; 5000]).unwrap();
        client.write(NONE, MIB, &[2; 4096]).unwrap();
        for (offset, len) in [
            (0, 2 * MIB),
            (50, 80_000),
            (MIB + 4096, 64 << 10),
            (0, 20 * MIB),
        ] {
            let answer = client.ask(Command::Read, NONE, offset, len);
            assert!(!answer.holes.is_empty());
            let whole = client.ask(Command::Read, CommandFlags::DF, offset, len);
            assert_eq!((whole.data.len(), whole.holes.len()), (1, 0));
            let bytes = answer.bytes(offset, len as usize);
            assert!(bytes == whole.bytes(offset, len as usize));
        }
        let short = client.ask(Command::Read, NONE, 2 * MIB, 4096);
        assert!(short.holes.is_empty());
    }
    let world = world();
    let mut client = Client::open(&world.server, "disk", Style::Simple);
    assert_eq!(client.read(0, 1 << 20), Ok(vec![0; 1 << 20]));
}

#[test]
fn what_is_allocated() {
    for style in [Style::Structured, Style::Extended] {
        let world = world();
        let mut client = Client::open(&world.server, "disk", style);
        client.write(NONE, 8192, &[1; 4096]).unwrap();
        let status = Command::BlockStatus;
        let answer = client.ask(status, NONE, 4096, 12288);
        assert_eq!(answer.extents, [(4096, 3), (4096, 0), (4096, 3)]);
        let answer = client.ask(status, CommandFlags::REQ_ONE, 8192, 8192);
        assert_eq!(answer.extents, [(4096, 0)]);
        let answer = client.ask(status, CommandFlags::REQ_ONE, 1 << 20, 5);
        assert_eq!(answer.extents, [(5, 3)]);
        // More extents than one answer holds.
        for block in (0..SIZE / 4096).step_by(2) {
            client.send(Command::Write, NONE, block * 4096, 1, b"x");
            client.answer();
        }
        let answer = client.ask(status, NONE, 0, SIZE);
        assert_eq!(answer.extents.len(), 8192);
    }
}

#[test]
fn each_context_that_was_selected_is_told() {
    for style in [Style::Structured, Style::Extended] {
        let world = world();
        let mut client = Client::connect(&world.server);
        client.negotiate(style);
        let names = ["base:allocation", "qemu:dirty-bitmap:monday"];
        let query = MetaQuery::encode("disk", &names);
        client.option(OptionType::SetMetaContext, &query);
        client.go("disk");
        let status = Command::BlockStatus;
        let answer = client.ask(status, NONE, 60 << 10, 70 << 10);
        assert_eq!(answer.extents, [(70 << 10, 3)]);
        let changed = vec![(4 << 10, 0), (64 << 10, 1), (2 << 10, 0)];
        assert_eq!(answer.others, [(2, changed)]);
        let answer = client.ask(status, CommandFlags::REQ_ONE, 64 << 10, 1 << 20);
        assert_eq!(answer.others, [(2, vec![(64 << 10, 1)])]);
        let answer = client.ask(status, NONE, SIZE, 1);
        assert_eq!(answer.error, Some(ErrorCode::Inval));
        assert!(answer.extents.is_empty() && answer.others.is_empty());
    }
}

#[test]
fn a_payload_where_none_belongs_is_refused_and_skipped() {
    let world = world();
    let mut client = Client::open(&world.server, "disk", Style::Extended);
    let flags = CommandFlags::PAYLOAD_LEN;
    client.send(Command::BlockStatus, flags, 0, 100_000, &[0; 100_000]);
    assert_eq!(client.answer().error, Some(ErrorCode::Inval));
    assert_eq!(client.write(flags, 5, b"fine"), Ok(()));
    assert_eq!(client.read(5, 4).unwrap(), b"fine");
}

#[test]
fn what_waits_does_not_hold_up_the_rest() {
    for style in STYLES {
        let world = world();
        let mut client = Client::open(&world.server, "gate", style);
        let mut cold = vec![
            client.send(Command::Read, NONE, 2 * MIB, 4096, &[]),
            client.send(Command::Read, NONE, 4 * MIB, 3 << 20, &[]),
            client.send(Command::Flush, NONE, 0, 0, &[]),
        ];
        world.gate.wait_for(3);
        for i in 0..10 {
            assert_eq!(client.write(NONE, i * 4096, &[i as u8; 4096]), Ok(()));
            assert_eq!(client.write(CommandFlags::FUA, i * 4096, &[7]), Ok(()));
            let bytes = client.read(i * 4096, 2).unwrap();
            assert_eq!(bytes, [7, i as u8]);
        }
        assert_eq!(world.gate.durable_writes.load(Ordering::SeqCst), 10);
        world.gate.open();
        let mut answered: Vec<_> = (0..3).map(|_| client.answer().cookie).collect();
        answered.sort_unstable();
        cold.sort_unstable();
        assert_eq!(answered, cold);
    }
}

#[test]
fn long_reads_are_answered_part_by_part() {
    let world = world();
    world.gate.open();
    for style in STYLES {
        let mut client = Client::open(&world.server, "gate", style);
        let data: Vec<u8> = (0..3 * MIB).map(|i| (i / 4096) as u8 | 1).collect();
        client.write(NONE, 100, &data).unwrap();
        // The first MiB is in memory; one that waits alone is served by another thread than several at once.
        for together in [1, 4] {
            let asked: Vec<_> = (0..together)
                .map(|_| client.send(Command::Read, NONE, 100, 3 * MIB, &[]))
                .collect();
            let mut answered = Vec::new();
            for _ in &asked {
                let answer = client.answer();
                assert!(answer.bytes(100, data.len()) == data);
                let parts = answer.data.len();
                assert_eq!(parts > 1, style != Style::Simple, "{parts} parts");
                answered.push(answer.cookie);
            }
            answered.sort_unstable();
            assert_eq!(answered, asked);
        }
        let whole = client.ask(
            Command::Read,
            READ_WHOLE[usize::from(style != Style::Simple)],
            100,
            3 * MIB,
        );
        assert_eq!(whole.data.len(), 1);
    }
}

/// What asks for one piece, in the simple style and in others.
const READ_WHOLE: [CommandFlags; 2] = [NONE, CommandFlags::DF];

#[test]
fn damage_in_the_middle_of_a_long_read_is_an_error_of_that_read_alone() {
    let world = world();
    world.gate.open();
    for style in STYLES {
        let mut client = Client::open(&world.server, "gate", style);
        // Of one that waits for each answer, too.
        for _ in 0..12 {
            for len in [3 * MIB, MIB - 512] {
                let end = SIZE - MIB + 256 * 1024;
                let failed = client.ask(Command::Read, NONE, end - len, len);
                assert_eq!(failed.error, Some(ErrorCode::Io));
            }
            assert_eq!(client.read(MIB / 2, 7), Ok(vec![0; 7]));
        }
    }
}

#[test]
fn a_long_durable_write_is_flushed() {
    let world = world();
    world.gate.open();
    let mut client = Client::open(&world.server, "gate", Style::Structured);
    let data = vec![3; 5 << 20];
    client.write(CommandFlags::FUA, 77, &data).unwrap();
    assert_eq!(world.gate.flushes.load(Ordering::SeqCst), 1);
    client.write(NONE, 77, &data).unwrap();
    assert_eq!(world.gate.flushes.load(Ordering::SeqCst), 1);
}

#[test]
fn one_at_a_time_is_served_as_well() {
    // Long enough that the server takes the client for one that waits for each answer.
    let world = world();
    world.gate.open();
    let mut client = Client::open(&world.server, "gate", Style::Structured);
    for i in 0..40 {
        assert_eq!(
            client.write(CommandFlags::FUA, 3 * MIB + i, &[i as u8]),
            Ok(())
        );
        assert_eq!(client.ask(Command::Flush, NONE, 0, 0).error, None);
        assert_eq!(client.read(3 * MIB + i, 1), Ok(vec![i as u8]));
        let status = client.ask(Command::BlockStatus, NONE, 3 * MIB, 4096);
        assert_eq!(status.extents, [(4096, 0)]);
    }
    let stats = world.server.stats();
    assert_eq!((stats.writes, stats.flushes, stats.reads), (40, 40, 40));
    assert_eq!((stats.bytes_written, stats.errors), (40, 0));
    assert_eq!(stats.requests(), 160);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A pipelined stream of requests, sent in arbitrary portions, against an array.
    #[test]
    fn a_pipeline_is_answered_completely(
        style in proptest::sample::select(&STYLES[..]),
        ops in proptest::collection::vec((0u8..4, 0u64..300_000, 0usize..120_000, any::<u8>()), 1..40),
        portion in 1usize..100_000,
    ) {
        let world = world();
        let mut client = Client::open(&world.server, "disk", style);
        let mut model = vec![0u8; 500_000];
        let (mut wire, mut expected) = (Vec::new(), Vec::new());
        for (op, offset, len, byte) in ops {
            let range = offset as usize..offset as usize + len;
            let length = len as u64;
            match op {
                0 => {
                    model[range].fill(byte);
                    let payload = vec![byte; len];
                    let write = Command::Write as u16;
                    wire.extend(client.wire(write, NONE, offset, length, &payload));
                    expected.push(None);
                }
                1 => {
                    model[range].fill(0);
                    let zero = Command::WriteZeroes as u16;
                    wire.extend(client.wire(zero, NONE, offset, length, &[]));
                    expected.push(None);
                }
                _ => {
                    expected.push(Some((offset, model[range].to_vec())));
                    let read = Command::Read as u16;
                    wire.extend(client.wire(read, NONE, offset, length, &[]));
                }
            }
        }
        let mut stream = client.stream.try_clone().unwrap();
        let sender = env::spawn("sender", move || {
            for part in wire.chunks(portion) {
                std::io::Write::write_all(&mut stream, part).unwrap();
            }
        }).unwrap();
        for (i, expected) in expected.into_iter().enumerate() {
            // All of it is in memory, and shorter than what is read beside others: answered in order.
            let answer = client.answer();
            prop_assert_eq!(answer.cookie, i as u64 + 1);
            prop_assert_eq!(answer.error, None);
            if let Some((offset, bytes)) = expected {
                prop_assert!(answer.bytes(offset, bytes.len()) == bytes);
            }
        }
        sender.join().unwrap();
    }
}
