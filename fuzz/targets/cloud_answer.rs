#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| redis_ambassador::fuzzing::cloud_answer(data));
