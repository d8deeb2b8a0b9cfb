#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::start(fuzz::nbd_wire::seeds), |data: &[u8]| fuzz::nbd_wire::run(data));
