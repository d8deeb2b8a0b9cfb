//! Memory that will be read in a moment.
#![expect(unsafe_code, reason = "what a hint needs is an address")]

/// Asks the processor to bring the beginning of something nearer, one line of its caches, and does not wait for it: what
/// follows it brings by itself once it is read in order. A hint: of processors whose instruction for it the compiler
/// does not know yet nothing is asked.
pub fn bring_near<T>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: nothing is read or written, and no address is wrong.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(what).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}
