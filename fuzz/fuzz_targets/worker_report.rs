#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sensorium_fuzz::worker_report(data));
