//! What the device says of itself: features, and its configuration space (VirtIO 1.3, 5.2.3 and 5.2.4).

use crate::{
    disk::{DATA_MAX, Disk, RANGES_MAX},
    request::SECTOR,
};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use virtio_bindings::{
    virtio_blk::{
        VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
        VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_TOPOLOGY,
        VIRTIO_BLK_F_WRITE_ZEROES,
    },
    virtio_config::VIRTIO_F_VERSION_1,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};

/// Bytes of the space, as many as a front end may ask for; behind what we have to say there are zeroes.
pub(crate) const LEN: usize = 256;
/// Sectors of one range of a discard or of zeroes: 4 GiB, in whole blocks.
const RANGE_SECTORS_MAX: u32 = 1 << 23;

/// Whether `feature` is among `features`.
pub(crate) const fn has(features: u64, feature: u32) -> bool {
    features & (1 << feature) != 0
}

/// What a driver may choose from.
///
/// `CONFIG_WCE`, by which a driver turns the write cache off, is not there: a monitor that connects again after
/// a restart does not repeat the driver's choice, and so its writes would silently be volatile again.
pub(crate) fn features(disk: &Disk) -> u64 {
    let mut bits = vec![
        VIRTIO_F_VERSION_1,
        VIRTIO_RING_F_EVENT_IDX,
        VIRTIO_RING_F_INDIRECT_DESC,
        VIRTIO_BLK_F_SIZE_MAX,
        VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_BLK_SIZE,
        VIRTIO_BLK_F_TOPOLOGY,
        VIRTIO_BLK_F_FLUSH,
        VIRTIO_BLK_F_MQ,
    ];
    if disk.read_only() {
        bits.push(VIRTIO_BLK_F_RO);
    } else {
        bits.extend([VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]);
    }
    let of_transport =
        VhostUserVirtioFeatures::PROTOCOL_FEATURES | VhostUserVirtioFeatures::LOG_ALL;
    bits.iter()
        .fold(of_transport.bits(), |all, &bit| all | 1 << bit)
}

/// What a front end may choose from.
pub(crate) fn protocol_features() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::LOG_SHMFD
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::BACKEND_REQ
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::INFLIGHT_SHMFD
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
}

/// The configuration space as it is now.
///
/// The logical block is one sector, so that every guest can use the disk; the physical one, which file systems
/// align to, is the device's.
pub(crate) fn space(disk: &Disk) -> [u8; LEN] {
    let info = disk.device.info();
    let sectors_per_block = (u64::from(info.block_size) / SECTOR).max(1);
    let segments = u32::from(disk.options.queue_size.saturating_sub(2).max(1));
    let mut space = [0; LEN];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &(info.size / SECTOR).to_le_bytes());
    // So many of so many bytes each are what a request may have.
    let size_max = (DATA_MAX / u64::from(segments)).next_power_of_two() / 2;
    put(8, &(size_max as u32).to_le_bytes());
    put(12, &segments.to_le_bytes());
    put(20, &(SECTOR as u32).to_le_bytes());
    put(24, &[sectors_per_block.ilog2() as u8]);
    put(26, &(sectors_per_block as u16).to_le_bytes());
    put(34, &disk.options.queues.to_le_bytes());
    put(36, &RANGE_SECTORS_MAX.to_le_bytes());
    put(40, &(RANGES_MAX as u32).to_le_bytes());
    put(44, &(sectors_per_block as u32).to_le_bytes());
    put(48, &RANGE_SECTORS_MAX.to_le_bytes());
    put(52, &(RANGES_MAX as u32).to_le_bytes());
    put(56, &[1]);
    space
}
