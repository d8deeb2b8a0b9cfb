#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::start(fuzz::text::seeds), |data: &[u8]| fuzz::text::run(data));
