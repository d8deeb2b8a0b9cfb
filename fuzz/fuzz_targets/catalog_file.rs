#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::start(fuzz::catalog_file::seeds), |data: &[u8]| fuzz::catalog_file::run(data));
