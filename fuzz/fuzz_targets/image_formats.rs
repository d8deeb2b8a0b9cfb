#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::start(fuzz::image_formats::seeds), |data: &[u8]| fuzz::image_formats::run(data));
