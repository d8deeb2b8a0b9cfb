#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::start(fuzz::nbd_session::seeds), |data: &[u8]| fuzz::nbd_session::run(data));
