//! Memory for packs in the making.
//!
//! A pack of some mebibytes is made and gone within milliseconds. In fresh memory the kernel clears each page first,
//! which costs as much as what is then done there: so memory is used again. It begins at a page, so that bricks can
//! hand it to the device as it is.

use format::pack::{OBJECT_ROOM, PAGE};
use sync::Mutex;

/// So many are kept while nobody needs them.
const KEPT_MAX: usize = 4;

/// Memory that waits for the next pack.
#[derive(Default)]
pub(crate) struct Objects(Mutex<Vec<Object>>);

/// Room for an object, and how long it is.
pub(crate) struct Object {
    memory: Vec<u8>,
    /// Where the first page begins.
    start: usize,
    len: usize,
}

impl Objects {
    pub(crate) fn take(&self) -> Object {
        let kept = self.0.lock().pop();
        kept.unwrap_or_else(Object::new)
    }

    pub(crate) fn give(&self, object: Object) {
        let mut kept = self.0.lock();
        if kept.len() < KEPT_MAX {
            kept.push(object);
        }
    }

    /// Gives memory back that is not used now.
    pub(crate) fn trim(&self) {
        let kept = std::mem::take(&mut *self.0.lock());
        drop(kept);
    }
}

impl Object {
    fn new() -> Self {
        let memory = vec![0; OBJECT_ROOM + PAGE];
        let start = memory.as_ptr().align_offset(PAGE);
        assert!(start < PAGE, "addresses of bytes can be aligned");
        Object {
            memory,
            start,
            len: 0,
        }
    }

    /// Has `fill` make an object in the room for the largest one; it answers how long it is.
    pub(crate) fn set(&mut self, fill: impl FnOnce(&mut [u8]) -> usize) {
        self.len = fill(&mut self.memory[self.start..]);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_and_used_again() {
        let objects = Objects::default();
        let mut object = objects.take();
        object.set(|room| {
            assert!(room.len() >= OBJECT_ROOM);
            room[0] = 7;
            PAGE
        });
        assert_eq!((object.bytes().len(), object.bytes()[0]), (PAGE, 7));
        let at = object.bytes().as_ptr();
        assert_eq!(at.align_offset(PAGE), 0);
        objects.give(object);
        assert_eq!(objects.take().bytes().as_ptr(), at);
        (0..2 * KEPT_MAX).for_each(|_| objects.give(Object::new()));
        assert_eq!(objects.0.lock().len(), KEPT_MAX);
        objects.trim();
        assert!(objects.0.lock().is_empty());
    }
}
