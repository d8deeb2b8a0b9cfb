#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::start(fuzz::vhost_ring::seeds), |data: &[u8]| fuzz::vhost_ring::run(data));
