//! Root notes: what a destage says in the header of one of its packs of the root that it made.
//!
//! A note lies in the part of the fixed header that is zero otherwise, below its checksum: it is read with the first
//! page, no hole is punched there, and a pack that is rewritten keeps it. Nothing reads notes but a rebuild of a lost
//! catalog.

use crate::{Malformed, bytes, pack};
use types::{Codec, Epoch, Generation, Name, PackId, Pointer, Root, StoreId, VolumeId};

/// Where it lies in the header, and how long it may be.
pub(crate) const AT: usize = 72;
pub(crate) const LEN_MAX: usize = pack::CRC_AT - AT;

const VERSION: u8 = 1;
const NAME_AT: usize = 56;
const _: () = assert!(NAME_AT + Name::LEN_MAX <= LEN_MAX, "every name fits");

/// The state of a volume after a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootNote {
    /// Whose.
    pub volume: VolumeId,
    /// Its name then.
    pub name: Name,
    /// Of the writer.
    pub epoch: Epoch,
    /// The last generation that the root holds.
    pub generation: Generation,
    /// The map.
    pub root: Root,
    /// Bytes of the volume then.
    pub size: u64,
    /// Blocks that the root maps.
    pub mapped_blocks: u64,
    /// Whether new blocks were deduplicated.
    pub dedup: bool,
    /// How new blocks were compressed.
    pub codec: Codec,
    /// Whether writes were refused.
    pub read_only: bool,
    /// Whether holes of the root stand for what an image has that the volume is imported from.
    pub partial: bool,
}

impl RootNote {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let name = self.name.as_str().as_bytes();
        let codec = match self.codec {
            Codec::None => 0,
            Codec::Lz4 => 1,
            Codec::Zstd => 2,
        };
        let mut note = vec![0; NAME_AT + name.len()];
        note[0] = VERSION;
        note[1] = name.len() as u8;
        note[2] = self.root.height;
        note[3] = codec;
        note[4] =
            u8::from(self.dedup) | u8::from(self.read_only) << 1 | u8::from(self.partial) << 2;
        let numbers = [
            self.volume.0,
            self.epoch.0,
            self.generation.0,
            self.root.pointer.to_raw(),
            self.size,
            self.mapped_blocks,
        ];
        for (i, number) in numbers.into_iter().enumerate() {
            bytes::put(&mut note, 8 + i * 8, &number.to_le_bytes());
        }
        bytes::put(&mut note, NAME_AT, name);
        note
    }

    /// The note of a pack, from its first bytes.
    ///
    /// # Errors
    /// They are not the header of `pack` of `store`, or its note makes no sense.
    pub fn decode(page: &[u8], pack: PackId, store: StoreId) -> Result<Option<Self>, Malformed> {
        let note = raw(page, pack, store)?;
        match note.first() {
            Some(0) | None => Ok(None),
            Some(&VERSION) => decode(note).map(Some).ok_or(malformed("it makes no sense")),
            Some(_) => Err(malformed("a version that we do not know")),
        }
    }
}

/// The bytes of a pack's note, known or not, from its first bytes: what a rewritten pack keeps.
///
/// # Errors
/// They are not the header of `pack` of `store`.
pub fn raw(page: &[u8], pack: PackId, store: StoreId) -> Result<&[u8], Malformed> {
    pack::check_fixed(page, pack, store)?;
    page.get(AT..AT + LEN_MAX).ok_or(malformed("cut short"))
}

/// Whose note there is in a page that was checked.
pub(crate) fn volume(page: &[u8]) -> Option<VolumeId> {
    let version = bytes::array::<1>(page, AT)?;
    let volume = bytes::u64_at(page, AT + 8)?;
    (version == [VERSION]).then_some(VolumeId(volume))
}

fn decode(note: &[u8]) -> Option<RootNote> {
    let number = |i: usize| bytes::u64_at(note, 8 + i * 8);
    let [_, name_len, height, codec, flags] = bytes::array(note, 0)?;
    let name = note.get(NAME_AT..NAME_AT + usize::from(name_len))?;
    let name = std::str::from_utf8(name).ok()?.parse().ok()?;
    let root = Root {
        pointer: Pointer::from_raw(number(3)?)?,
        height,
    };
    let codec = match codec {
        0 => Codec::None,
        1 => Codec::Lz4,
        2 => Codec::Zstd,
        _ => return None,
    };
    (height <= 4 && flags <= 7).then_some(RootNote {
        volume: VolumeId(number(0)?),
        name,
        epoch: Epoch(number(1)?),
        generation: Generation(number(2)?),
        root,
        size: number(4)?,
        mapped_blocks: number(5)?,
        dedup: flags & 1 != 0,
        codec,
        read_only: flags & 2 != 0,
        partial: flags & 4 != 0,
    })
}

const fn malformed(why: &'static str) -> Malformed {
    Malformed::new("root note", why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::NewPack;

    const PACK: PackId = PackId(7);
    const STORE: StoreId = StoreId([1; 16]);

    fn note(name: &str) -> RootNote {
        RootNote {
            volume: VolumeId(3),
            name: name.parse().unwrap(),
            epoch: Epoch(4),
            generation: Generation(5),
            root: Root {
                pointer: Pointer::new(PackId(6), 1023),
                height: 4,
            },
            size: 1 << 40,
            mapped_blocks: 77,
            dedup: true,
            codec: Codec::Zstd,
            read_only: false,
            partial: true,
        }
    }

    fn page(note: &[u8]) -> Vec<u8> {
        let pack = NewPack {
            pack: PACK,
            store: STORE,
            revision: 0,
            hashes: &[],
            live: None,
            note,
        };
        pack.assemble(&[])
    }

    #[test]
    fn a_note_comes_back_with_the_longest_name_too() {
        for name in ["a", &"n".repeat(Name::LEN_MAX)] {
            let note = note(name);
            let page = page(&note.encode());
            let decoded = RootNote::decode(&page, PACK, STORE).unwrap();
            assert_eq!(decoded, Some(note));
            // What a rewritten pack keeps is the same note.
            let again = self::page(raw(&page, PACK, STORE).unwrap());
            assert_eq!(again, page);
            RootNote::decode(&page, PackId(8), STORE).unwrap_err();
            RootNote::decode(&page[..400], PACK, STORE).unwrap_err();
        }
        assert_eq!(RootNote::decode(&page(&[]), PACK, STORE).unwrap(), None);
    }

    #[test]
    fn every_changed_byte_is_found() {
        let good = page(&note("volume").encode());
        for at in 0..512 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            RootNote::decode(&bad, PACK, STORE).unwrap_err();
        }
    }

    /// Below a right checksum: an error or a note that makes sense.
    #[test]
    fn hostile_notes_are_no_panic() {
        let good = note("volume").encode();
        for at in 0..good.len() {
            for byte in 0..=255 {
                let mut bad = good.clone();
                bad[at] = byte;
                if let Ok(Some(note)) = RootNote::decode(&page(&bad), PACK, STORE) {
                    assert_eq!(note.encode()[0], VERSION);
                    assert!(note.root.height <= 4);
                }
            }
        }
        assert!(RootNote::decode(&page(&[9; LEN_MAX]), PACK, STORE).is_err());
    }
}
