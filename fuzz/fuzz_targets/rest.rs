#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::start(fuzz::rest::seeds), |data: &[u8]| fuzz::rest::run(data));
