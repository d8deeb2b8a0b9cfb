#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::start(fuzz::journal_recovery::seeds), |data: &[u8]| fuzz::journal_recovery::run(data));
