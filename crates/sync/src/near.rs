//! Memory that will be read in a moment.
#![expect(unsafe_code, reason = "what a hint needs is an address")]

/// Bytes that processors bring at a time.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Asks the processor to bring something nearer, and does not wait for it. A hint: of processors whose instruction for it
/// the compiler does not know yet nothing is asked.
pub fn bring_near<T: ?Sized>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..size_of_val(what)).step_by(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let line = std::ptr::from_ref(what).cast::<i8>().wrapping_add(at);
        // SAFETY: nothing is read or written, and no address is wrong.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}
