//! What every [`BlockDevice`] must do. An implementation's tests call [`writable`].

use crate::{BlockDevice, Durability, ErrorKind, ExtentKind};

/// Makes a fresh device of so many bytes, full of holes.
pub type Make<'a> = &'a dyn Fn(u64) -> Box<dyn BlockDevice>;

const MIB: u64 = 1 << 20;

/// The suite for devices that can be written.
///
/// # Panics
/// If the device does not conform.
pub fn writable(make: Make<'_>) {
    fresh_device_is_a_hole(&*make(2 * MIB));
    reads_see_writes_in_any_alignment(&*make(2 * MIB));
    zeroes_and_discards(&*make(2 * MIB));
    extents_cover_the_range(&*make(2 * MIB));
    nothing_beyond_the_end(&*make(2 * MIB));
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) | 1)
        .collect()
}

fn read(device: &dyn BlockDevice, offset: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0xaa; len];
    device
        .read(offset, &mut buf)
        .expect("a read within the device");
    let mut again = vec![0xaa; len];
    device.expect(&[offset, u64::MAX]);
    if device
        .try_read(offset, &mut again)
        .expect("a read within the device")
    {
        assert_eq!(buf, again, "try_read and read differ at {offset}");
    }
    buf
}

fn fresh_device_is_a_hole(device: &dyn BlockDevice) {
    assert_eq!(device.info().size, 2 * MIB);
    assert!(read(device, 0, 2 << 20).iter().all(|&byte| byte == 0));
    let extents = device.extents(0, 2 * MIB, 16).expect("extents");
    assert!(
        extents.iter().all(|extent| extent.kind == ExtentKind::Hole),
        "{extents:?}"
    );
}

fn reads_see_writes_in_any_alignment(device: &dyn BlockDevice) {
    let mut model = vec![0; 2 << 20];
    let requests = [
        (0, 4096),
        (512, 512),
        (4000, 200),
        (8191, 2),
        (65_536, 40_000),
        (123, 300_000),
        (2 * MIB as usize - 7, 7),
    ];
    for (seed, (offset, len)) in requests.into_iter().enumerate() {
        let data = pattern(len, seed as u8);
        let durability = if seed % 2 == 0 {
            Durability::Volatile
        } else {
            Durability::Durable
        };
        device
            .write(offset as u64, &data, durability)
            .expect("a write within the device");
        model[offset..offset + len].copy_from_slice(&data);
        assert_eq!(
            read(device, 0, model.len()),
            model,
            "after a write of {len} at {offset}"
        );
    }
    device.flush().expect("flush");
    assert_eq!(read(device, 3, 100_000), model[3..100_003]);
}

fn zeroes_and_discards(device: &dyn BlockDevice) {
    let mut model = pattern(2 << 20, 9);
    device
        .write(0, &model, Durability::Volatile)
        .expect("write");
    device
        .write_zeroes(5000, 20_000, Durability::Durable)
        .expect("write zeroes");
    model[5000..25_000].fill(0);
    assert_eq!(read(device, 0, model.len()), model, "after zeroes");
    device
        .discard(100_000, 50_000, Durability::Volatile)
        .expect("discard");
    model[102_400..147_456].fill(0);
    assert_eq!(read(device, 0, model.len()), model, "after a discard");
    device
        .write(110_000, &[7; 10], Durability::Volatile)
        .expect("write into a discarded range");
    model[110_000..110_010].fill(7);
    assert_eq!(
        read(device, 0, model.len()),
        model,
        "after a write into a discarded range"
    );
    device.flush().expect("flush");
    assert_eq!(read(device, 0, model.len()), model, "after a flush");
}

fn extents_cover_the_range(device: &dyn BlockDevice) {
    device
        .write(64 << 10, &pattern(8192, 1), Durability::Volatile)
        .expect("write");
    device
        .write(MIB, &pattern(4096, 2), Durability::Durable)
        .expect("write");
    let (mut at, mut data) = (0, 0);
    while at < 2 * MIB {
        let extents = device.extents(at, 2 * MIB - at, 2).expect("extents");
        assert!(!extents.is_empty() && extents.len() <= 2, "{extents:?}");
        for extent in extents {
            assert!(extent.len > 0);
            if extent.kind == ExtentKind::Data {
                data += extent.len;
            } else {
                assert!(
                    read(device, at, extent.len as usize)
                        .iter()
                        .all(|&byte| byte == 0)
                );
            }
            at += extent.len;
        }
    }
    assert_eq!(at, 2 * MIB);
    assert_eq!(data, 12_288, "data extents are exactly the blocks written");
    let odd = device.extents((64 << 10) + 100, 1000, 8).expect("extents");
    assert_eq!(odd.len(), 1);
    assert_eq!((odd[0].len, odd[0].kind), (1000, ExtentKind::Data));
}

fn nothing_beyond_the_end(device: &dyn BlockDevice) {
    let mut buf = [0; 4096];
    for offset in [2 * MIB - 1, 2 * MIB, u64::MAX - 100] {
        let errors = [
            device.read(offset, &mut buf).map(|()| false),
            device.try_read(offset, &mut buf),
            device
                .write(offset, &buf, Durability::Volatile)
                .map(|()| false),
            device
                .write_zeroes(offset, 4096, Durability::Volatile)
                .map(|()| false),
            device
                .discard(offset, 4096, Durability::Volatile)
                .map(|()| false),
            device.extents(offset, 4096, 8).map(|_| false),
        ];
        for error in errors {
            assert_eq!(
                error.expect_err("beyond the end").kind(),
                ErrorKind::OutOfRange
            );
        }
    }
}
