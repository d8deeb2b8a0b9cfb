//! The allocator, and what it keeps.
//!
//! Blocks are made on one thread and dropped on another, hundreds of thousands a second. The system's allocator keeps what
//! others freed and grows far beyond the budgets; this one gives it back.
#![expect(
    unsafe_code,
    reason = "a function of a library that is not Rust is declared"
)]

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

// SAFETY: as mimalloc.h has it; it may be called at any time, by any thread.
unsafe extern "C" {
    safe fn mi_collect(force: bool);
}

/// Gives back what has not been used for a while. By itself the allocator looks for it only while something is freed: who
/// does nothing would keep what was needed last.
pub(crate) fn give_back() {
    mi_collect(false);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// MiB that no file backs.
    fn resident() -> u64 {
        let status =
            std::fs::read_to_string("/proc/self/status").expect("reading one's own status");
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:")?.split_whitespace().next())
            .expect("a line of it");
        kib.parse::<u64>().expect("a number") >> 10
    }

    #[test]
    fn what_was_freed_is_given_back_though_nothing_else_is_done() {
        let blocks: Vec<_> = (0..200 << 20 >> 12)
            .map(|n| Box::new([n as u8; 4096]))
            .collect();
        assert!(resident() >= 200);
        drop(blocks);
        let given = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(100));
            give_back();
            resident() < 100
        });
        assert!(given, "{} MiB are kept", resident());
    }
}
