#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::start(fuzz::catalog_copy::seeds), |data: &[u8]| fuzz::catalog_copy::run(data));
