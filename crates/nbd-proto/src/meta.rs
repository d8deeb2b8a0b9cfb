//! Metadata contexts: what BLOCK_STATUS can tell, and how a client chooses ("Metadata querying").
//!
//! A server has a list of context names for each export; clients select from it with queries. There is
//! `base:allocation` now. `qemu:dirty-bitmap:NAME` only needs more names in that list and the wildcards
//! of its namespace in [`lists`].

use crate::flags;

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

/// Whether a query of LIST_META_CONTEXT names `context`: by its name, or by a wildcard (`base:`,
/// `qemu:`, `qemu:dirty-bitmap:`).
#[must_use]
pub fn lists(query: &str, context: &str) -> bool {
    selects(query, context) || (query.ends_with(':') && context.starts_with(query))
}

/// Whether a query of SET_META_CONTEXT selects `context`: only its full name does.
#[must_use]
pub fn selects(query: &str, context: &str) -> bool {
    query == context
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
    fn wildcards_list_but_do_not_select() {
        assert!(lists("base:", BASE_ALLOCATION) && !selects("base:", BASE_ALLOCATION));
        assert!(
            lists(BASE_ALLOCATION, BASE_ALLOCATION) && selects(BASE_ALLOCATION, BASE_ALLOCATION)
        );
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
        assert!(lists("qemu:dirty-bitmap:", "qemu:dirty-bitmap:monday"));
    }
}
