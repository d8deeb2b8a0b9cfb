#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::start(fuzz::vhost_inflight::seeds), |data: &[u8]| fuzz::vhost_inflight::run(data));
