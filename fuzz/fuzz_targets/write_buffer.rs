#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::start(fuzz::write_buffer::seeds), |data: &[u8]| fuzz::write_buffer::run(data));
