//! What a slot of payload memory costs: allocate and give back.

use criterion::{Criterion, criterion_group, criterion_main};
use sensorium_device::slab::{Slab, default_classes};

fn allocate(criterion: &mut Criterion) {
    let slab = Slab::create(&default_classes()).expect("shared memory");
    for bytes in [1_u64 << 10, 64 << 10, 6 << 20] {
        criterion.bench_function(&format!("slab/allocate_and_free/{bytes}"), |bencher| {
            bencher.iter(|| slab.allocate(bytes).expect("nothing else is out"));
        });
    }
    // A pool in use: many slots are out, and what is given back is not what was given out last.
    let mut out: Vec<_> = (0..2_000).map(|_| slab.allocate(1 << 10).expect("4,096 are there")).collect();
    let mut next = 0;
    criterion.bench_function("slab/allocate_and_free/2000_out", |bencher| {
        bencher.iter(|| {
            next = (next + 7) % out.len();
            out[next] = slab.allocate(1 << 10).expect("2,096 are free");
        });
    });
}

criterion_group!(benches, allocate);
criterion_main!(benches);
