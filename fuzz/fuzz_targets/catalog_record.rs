#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::start(fuzz::catalog_record::seeds), |data: &[u8]| fuzz::catalog_record::run(data));
