use super::*;
use pack::FrameKind;
use types::Codec;

/// A pack of 256 frames of four blocks, each frame of `stored_len` bytes.
fn pack(stored_len: u32) -> (PackStat, PackInfo) {
    let frame = |n: u32| FrameEntry {
        offset: 8192 + n * stored_len,
        stored_len,
        crc: 0,
        first: n as u16 * 4,
        blocks: 4,
        codec: Codec::Lz4,
        kind: FrameKind::Data,
    };
    let payload_bytes = u64::from(stored_len) * 256;
    let info = PackInfo {
        noted: None,
        pack: PackId(7),
        blocks: 1024,
        frames: (0..256).map(frame).collect(),
        live: LiveBits::first(1024),
        doubtful: false,
        revision: 0,
        payload_bytes,
    };
    let len = 8192 + payload_bytes;
    let stat = PackStat {
        pack: PackId(7),
        len,
        stored: len,
    };
    (stat, info)
}

fn plan(stored_len: u32, live: impl Fn(u16) -> bool) -> Action {
    let (stat, info) = pack(stored_len);
    let live = (0..1024).filter(|&ordinal| live(ordinal)).collect();
    decide(&stat, &info, &live, &Thresholds::default())
}

#[test]
fn what_is_live_is_kept_and_what_is_dead_goes() {
    assert_eq!(plan(8192, |_| true).how, How::Keep);
    let dead = plan(8192, |_| false);
    assert_eq!((dead.how, dead.dead_blocks), (How::Drop, 1024));
    assert_eq!(dead.frees_estimate, 8192 + 256 * 8192);
}

#[test]
fn runs_of_dead_frames_are_punched() {
    let half = plan(8192, |ordinal| ordinal < 512);
    assert_eq!((half.how, half.frees_estimate), (How::Punch, 128 * 8192));
    assert_eq!((half.live_blocks, half.dead_blocks), (512, 512));
    let few = plan(3000, |ordinal| !(512..600).contains(&ordinal));
    assert_eq!(few.how, How::Punch);
    assert!(few.frees_estimate > 20 * 3000 && few.frees_estimate < 22 * 3000);
}

#[test]
fn scattered_garbage_is_rewritten_if_it_is_most() {
    let most = plan(8192, |ordinal| ordinal.is_multiple_of(4));
    assert_eq!((most.how, most.live_blocks), (How::Rewrite, 256));
    assert!(most.frees_estimate >= 256 * 8192 * 3 / 4 - 4096);
    let some = plan(8192, |ordinal| !ordinal.is_multiple_of(4));
    assert_eq!(
        (some.how, some.frees_estimate, some.dead_blocks),
        (How::Keep, 0, 256)
    );
    // Frames smaller than a page, every second one dead: no hole frees anything.
    let small = plan(2000, |ordinal| ordinal % 8 == 0);
    assert_eq!(small.how, How::Rewrite);
}

#[test]
fn what_was_given_up_before_does_not_count_again() {
    let (mut stat, mut info) = pack(8192);
    info.live = LiveBits::first(512);
    stat.stored -= 128 * 8192;
    let live = LiveBits::first(512);
    let decided = |live, info: &PackInfo| decide(&stat, info, &live, &Thresholds::default());
    assert_eq!(decided(live, &info).how, How::Keep);
    let less = decided(LiveBits::first(400), &info);
    assert_eq!((less.how, less.frees_estimate), (How::Punch, 28 * 8192));
    info.doubtful = true;
    assert_eq!(
        decided(live, &info).how,
        How::Punch,
        "to write a sound live map"
    );
}
