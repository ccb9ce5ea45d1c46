//! Every kernel, loaded and launched as the product does it, against its twin.

use std::sync::Arc;

use cudarc::driver::CudaContext;
use sensorium_device::cuda::cache::{CacheLimits, CubinCache};
use sensorium_device::cuda::check::kernels_against_twins;
use sensorium_device::cuda::compile::{Nvrtc, NvrtcSearch};
use sensorium_device::cuda::launch::Kernels;

use crate::build::{cubins, seeds, sensorium_cache, with_stand_in};

fn kernels(context: &Arc<CudaContext>) -> Kernels {
    let cache = sensorium_cache();
    let nvrtc = Nvrtc::open(&NvrtcSearch { named: None, cache: Some(cache) }).unwrap();
    Kernels::load(context, &nvrtc, &CubinCache::new(&cubins(), CacheLimits::default())).unwrap()
}

#[test]
fn kernels_do_what_their_twins_do() {
    for seed in seeds(3) {
        with_stand_in("kernels::checks", seed, &[]);
    }
}

#[test]
#[ignore = "started by the test above, with the stand-in"]
fn checks() {
    let context = CudaContext::new(0).unwrap();
    let kernels = kernels(&context);
    let results = kernels_against_twins(&context, &kernels);
    assert_eq!(results.len(), 17);
    for result in results {
        println!("{result:?}");
        assert!(result.passed(), "{result:?}");
    }
}
