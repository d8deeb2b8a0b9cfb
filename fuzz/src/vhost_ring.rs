//! A virtqueue and all that it points to, as a guest could write it. Of one chain a naive reader says beforehand which
//! bytes the device may write; of many, that all goes on or ends.

use crate::{alloc::bounded, input::Input};
use block::{BlockDevice, Durability, MemoryDevice};
use front_vhost::testing::{GUEST, MEMORY, RING, serve_ring};
use std::sync::Arc;

const SIZE: u16 = 16;
const DISK: usize = 64 << 10;
/// Where tables, headers and data are likely to be.
const TABLES: usize = 0x2000;
const HEADERS: usize = 0x3000;
const DEEDS_MAX: usize = 64;
const MEMORY_MAX: usize = 8 << 20;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const TABLE: u16 = 4;

/// Deeds on a guest's memory, then a look at what the device made of it.
pub fn run(data: &[u8]) {
    let mut memory = vec![0; MEMORY];
    let mut input = Input::new(data);
    let mut offered = 0;
    for _ in 0..DEEDS_MAX {
        if input.is_empty() {
            break;
        }
        offered += deed(&mut memory, &mut input);
    }
    put(&mut memory, RING[1] + 2, &u16::to_le_bytes(offered));
    let device = Arc::new(MemoryDevice::new(DISK));
    let fill = vec![0xd5; DISK];
    device
        .write(0, &fill, Durability::Volatile)
        .expect("a write");
    let allowed = (offered == 1).then(|| writable(&memory));
    let (after, served) =
        bounded(MEMORY_MAX, || serve_ring(device, SIZE, &memory)).expect("memory");
    let Some(allowed) = allowed else {
        return;
    };
    for (at, (was, is)) in memory.iter().zip(&after).enumerate() {
        let of_ring = (RING[2]..RING[2] + 6 + 8 * usize::from(SIZE)).contains(&at);
        assert!(
            was == is || allowed[at] || of_ring,
            "byte {at:#x} was written"
        );
    }
    if served.is_err() {
        assert_eq!(
            after[RING[2]..RING[2] + 4],
            memory[RING[2]..RING[2] + 4],
            "an answer to nothing"
        );
    }
}

/// Writes a descriptor or a header, or makes a chain available: how many of these.
fn deed(memory: &mut [u8], input: &mut Input<'_>) -> u16 {
    match input.below(4) {
        0 | 1 => {
            let index = input.below(usize::from(SIZE) + 1);
            let table = [RING[0], TABLES, TABLES + 0x100, TABLES + 0x108][input.below(4)];
            let descriptor = descriptor(input);
            put(memory, table + 16 * index, &descriptor);
            0
        }
        2 => {
            let at = HEADERS + 16 * input.below(8);
            let kind = [0, 1, 4, 8, 11, 13, 2, 99][input.below(8)];
            put(memory, at, &u32::to_le_bytes(kind));
            put(memory, at + 8, &input.number().to_le_bytes());
            0
        }
        _ => {
            let slot = input.below(usize::from(SIZE));
            let head = input.number() as u16 % (SIZE + 2);
            put(memory, RING[1] + 4 + 2 * slot, &head.to_le_bytes());
            1
        }
    }
}

fn descriptor(input: &mut Input<'_>) -> [u8; 16] {
    let places = [
        HEADERS,
        HEADERS + 16,
        HEADERS + 17,
        TABLES,
        TABLES + 0x100,
        TABLES + 0x108,
        MEMORY / 2 - 8,
        MEMORY / 2,
        MEMORY - 16,
        0x6000,
    ];
    let address = match input.below(8) {
        0 => input.number(),
        _ => GUEST + places[input.below(places.len())] as u64,
    };
    let len = match input.below(8) {
        0 => input.number() as u32,
        _ => [16, 1, 32, 512, 513, 48, 4096, 8][input.below(8)],
    };
    let flags = u16::from(input.u8()) % 8;
    let next = u16::from(input.u8()) % (SIZE + 1);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}

fn put(memory: &mut [u8], at: usize, bytes: &[u8]) {
    memory[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Which bytes the first chain makes writable, as far as it can be followed at all.
fn writable(memory: &[u8]) -> Vec<bool> {
    let mut allowed = vec![false; memory.len()];
    let head = u16::from_le_bytes([memory[RING[1] + 4], memory[RING[1] + 5]]);
    let (mut table, mut index) = (RING[0] as u64, head);
    for _ in 0..2000 {
        let at = table as usize + 16 * usize::from(index);
        let Some(bytes) = memory.get(at..at + 16) else {
            break;
        };
        let value = u128::from_le_bytes(bytes.try_into().expect("16 bytes"));
        let (address, len) = (value as u64, u64::from((value >> 64) as u32));
        let (flags, next) = ((value >> 96) as u16, (value >> 112) as u16);
        let Some(place) = address
            .checked_sub(GUEST)
            .filter(|&place| place < MEMORY as u64)
        else {
            break;
        };
        if flags & TABLE != 0 {
            (table, index) = (place, 0);
            continue;
        }
        if flags & WRITE != 0 {
            let end = (place + len).min(MEMORY as u64);
            allowed[place as usize..end as usize].fill(true);
        }
        if flags & NEXT == 0 {
            break;
        }
        index = next;
    }
    allowed
}

/// A request of each kind, direct and in a table, and chains that are none.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![]];
    // What `deed` takes for: header of `kind` at 0; descriptors of header, data and status; offer chain 0.
    let place = |index: u8, table: u8, place: u8, len: u8, flags: u8, next: u8| {
        vec![0, index, table, 1, place, 1, len, flags, next]
    };
    for kind in 0..8 {
        let data = if kind == 1 || kind > 3 { 1 } else { 3 };
        for table in [0, 1] {
            let mut seed = vec![2, 0, kind, 1];
            if table == 1 {
                seed.extend(place(0, 0, 3, 5, 4, 0));
            }
            seed.extend(place(0, table, 0, 0, 1, 1));
            seed.extend(place(1, table, 9, 3, data, 2));
            seed.extend(place(2, table, 8, 1, 2, 0));
            seed.extend([3, 0, 0]);
            seeds.push(seed);
        }
    }
    seeds
}
