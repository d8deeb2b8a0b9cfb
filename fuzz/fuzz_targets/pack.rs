#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::start(fuzz::pack::seeds), |data: &[u8]| fuzz::pack::run(data));
