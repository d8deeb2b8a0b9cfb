//! What a disk says that it is.

use crate::{
    device::TestDevice,
    driver::{Guest, Host},
};
use front_vhost::Options;
use virtio_driver::VirtioBlkFeatureFlags as Flags;

const SIZE: u64 = 32 << 20;

#[test]
fn a_driver_learns_what_the_disk_is_like() {
    let device = TestDevice::new(SIZE);
    let host = Host::new(device.clone(), Options::default());
    let guest = Guest::connect(&host, 1);
    let offered = Flags::SIZE_MAX
        | Flags::SEG_MAX
        | Flags::BLK_SIZE
        | Flags::FLUSH
        | Flags::TOPOLOGY
        | Flags::MQ
        | Flags::DISCARD
        | Flags::WRITE_ZEROES;
    assert_eq!(guest.features(), offered);
    let config = guest.config();
    assert_eq!(u64::from(config.capacity), SIZE / 512);
    assert_eq!(u32::from(config.blk_size), 512);
    assert_eq!((config.physical_block_exp, config.alignment_offset), (3, 0));
    assert_eq!(u16::from(config.min_io_size), 8);
    assert_eq!(u16::from(config.num_queues), 4);
    assert_eq!(u32::from(config.seg_max), 254);
    let most = u64::from(u32::from(config.size_max)) * u64::from(u32::from(config.seg_max));
    assert!(most <= 64 << 20, "{most} is more than a request may have");
    assert_eq!(u32::from(config.discard_sector_alignment), 8);
    assert!(u32::from(config.max_discard_seg) > 0 && u32::from(config.max_write_zeroes_seg) > 0);
    assert_eq!(u32::from(config.max_discard_sectors) % 8, 0);
    assert_eq!(config.write_zeroes_may_unmap, 1);
    device.grow(2 * SIZE);
    assert_eq!(u64::from(guest.config().capacity), 2 * SIZE / 512);
}

#[test]
fn a_snapshot_is_read_and_not_written() {
    for by_option in [false, true] {
        let device = match by_option {
            true => TestDevice::new(SIZE),
            false => TestDevice::read_only(SIZE),
        };
        let options = Options {
            read_only: by_option,
            ..Options::default()
        };
        let host = Host::new(device, options);
        let mut guest = Guest::connect(&host, 1);
        assert!(guest.features().contains(Flags::RO));
        assert!(
            !guest
                .features()
                .intersects(Flags::DISCARD | Flags::WRITE_ZEROES)
        );
        assert!(
            guest
                .read(0, 0, 4096)
                .unwrap()
                .iter()
                .all(|&byte| byte == 0)
        );
        // What a driver should not do, it may do all the same.
        assert_eq!(guest.write(0, 0, &[1; 512]), Err(-5));
        let rest = guest.run(
            0,
            |q, _| {
                q.discard(0, 4096, 0).unwrap();
                q.write_zeroes(0, 4096, true, 1).unwrap();
            },
            2,
        );
        assert!(
            rest.iter().all(|&(_, outcome)| outcome == Err(-5)),
            "{rest:?}"
        );
        guest.flush(0).unwrap();
        assert!(
            guest
                .read(0, 0, 4096)
                .unwrap()
                .iter()
                .all(|&byte| byte == 0)
        );
    }
}
