#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::start(fuzz::journal_record::seeds), |data: &[u8]| fuzz::journal_record::run(data));
