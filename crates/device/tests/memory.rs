//! The memory that a model takes, in a process of its own: other tests would load and drop models meanwhile.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use sensorium_device::executor::load_measured;

#[path = "executors/cache.rs"]
mod cache;

#[test]
fn the_profile_says_what_a_model_takes() {
    let backend = cache::cpu();
    // The first model pays for the runtime itself.
    let _first = load_measured(&cache::package("fusion"), &backend).unwrap();
    let (_small, small) = load_measured(&cache::package("fusion"), &backend).unwrap();
    let (_large, large) = load_measured(&cache::package("nanodet"), &backend).unwrap();
    // The weights alone are 15 MB.
    assert!((15 << 20..1 << 30).contains(&large.arena_bytes), "{} bytes", large.arena_bytes);
    assert!(small.arena_bytes < 4 << 20, "{} bytes", small.arena_bytes);
}
