//! Metadata contexts: what BLOCK_STATUS can tell, and how a client chooses ("Metadata querying").
//!
//! A server has a list of context names for each export; clients select from it with queries: `base:allocation`, and
//! `qemu:dirty-bitmap:NAME` (QEMU's docs/interop/nbd).

use crate::flags;
use std::collections::HashSet;

/// Whether a range is allocated and whether it reads as zeroes; see [`AllocationFlags`].
pub const BASE_ALLOCATION: &str = "base:allocation";

flags! {
    /// The status flags of [`BASE_ALLOCATION`].
    AllocationFlags: u32 {
        /// Not allocated.
        HOLE = 1;
        /// Reads as zeroes.
        ZERO = 1 << 1;
    }
}

/// What the name of a bitmap follows: whether a range has changed; see [`BitmapFlags`].
pub const DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";

flags! {
    /// The status flags of [`DIRTY_BITMAP`] contexts.
    BitmapFlags: u32 {
        /// Changed.
        DIRTY = 1;
    }
}

/// Whether these queries of LIST_META_CONTEXT name `context`: by its name, or by a wildcard (`base:`,
/// `qemu:`, `qemu:dirty-bitmap:`). SET_META_CONTEXT selects by the full name only.
#[must_use]
pub fn lists(queries: &HashSet<&str>, context: &str) -> bool {
    let colons = context.match_indices(':');
    let mut wildcards = colons.map(|(at, _)| context.get(..=at).unwrap_or_default());
    queries.contains(context) || wildcards.any(|wildcard| queries.contains(wildcard))
}

/// The payload of a META_CONTEXT reply: the context's id (zero in answers to LIST) and its name.
#[must_use]
pub fn context_payload(id: u32, context: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + context.len());
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(context.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_listed_by_name_and_by_wildcard() {
        let lists = |query: &str, context: &str| lists(&HashSet::from(["x:", query]), context);
        assert!(lists("base:", BASE_ALLOCATION));
        assert!(lists(BASE_ALLOCATION, BASE_ALLOCATION));
        for query in [
            "",
            "base",
            "qemu:",
            "base:alloc",
            "base:allocation:",
            "x-y:z",
            "bas:",
        ] {
            assert!(!lists(query, BASE_ALLOCATION), "{query}");
        }
        let monday = "qemu:dirty-bitmap:monday";
        for query in [monday, "qemu:", DIRTY_BITMAP] {
            assert!(lists(query, monday), "{query}");
        }
        assert!(!lists("qemu:dirty-bitmap:tuesday", monday) && !lists("qemu:dirty-bitmap", monday));
    }
}
