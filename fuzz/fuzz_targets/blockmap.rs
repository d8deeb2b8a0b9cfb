#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::start(fuzz::blockmap::seeds), |data: &[u8]| fuzz::blockmap::run(data));
