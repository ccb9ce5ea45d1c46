use sensorium_processing::image::{ImageLimits, decode};
#[test]
fn fuzz() {
    let files = [
        "/usr/share/doc/nodejs/thin-white-stripe.jpg",
        "/usr/share/doc/nodejs/full-white-stripe.jpg",
        "/root/.pyenv/versions/3.13.0/lib/python3.13/test/test_email/data/python.jpg",
    ];
    let mut s: u64 = 88172645463325252;
    let mut r = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        s
    };
    let (mut n, mut ok, mut panics) = (0u64, 0u64, std::collections::BTreeMap::<String, u64>::new());
    std::panic::set_hook(Box::new(|_| {}));
    let start = std::time::Instant::now();
    let wholes: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).unwrap()).collect();
    for w in &wholes {
        println!("{} {:?}", w.len(), decode(w, ImageLimits::default()).map(|i| (i.width, i.height)));
    }
    while start.elapsed().as_secs() < 100 {
        let mut b = wholes[(r() % wholes.len() as u64) as usize].clone();
        for _ in 0..(1 + r() % 6) {
            let i = (r() % (b.len() as u64).min(if r() % 3 == 0 { u64::MAX } else { 700 })) as usize;
            b[i] = r() as u8;
        }
        n += 1;
        let t = std::time::Instant::now();
        match std::panic::catch_unwind(|| {
            decode(&b, ImageLimits { side_pixels_max: 1024, pixels_max: 300_000 }).is_ok()
        }) {
            Ok(o) => ok += u64::from(o),
            Err(e) => {
                let m = e
                    .downcast_ref::<String>()
                    .cloned()
                    .or(e.downcast_ref::<&str>().map(|s| s.to_string()))
                    .unwrap_or_default();
                *panics.entry(m).or_default() += 1;
            }
        }
        if t.elapsed().as_millis() > 1000 {
            println!("slow {:?}", t.elapsed());
        }
    }
    println!("{n} runs, {ok} ok, panics {panics:#?}");
}
