#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::start(fuzz::image::seeds), |data: &[u8]| fuzz::image::run(data));
