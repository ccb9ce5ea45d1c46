use super::*;
use crate::time::MS;

fn all(arrivals: &Arrivals, end_ns: u64, seed: u64) -> Vec<u64> {
    let mut chance = Chance::new(seed, 1);
    let mut source = arrivals.source(0.0, &mut chance);
    let mut found = Vec::new();
    let mut at_ns = 0;
    while let Some(next_ns) = arrivals.next(&mut source, at_ns, end_ns, &mut chance) {
        assert!(next_ns >= at_ns && next_ns < end_ns);
        at_ns = next_ns;
        found.push(next_ns);
    }
    found
}

fn rate(arrivals: &Arrivals, seconds: u64) -> f64 {
    float(all(arrivals, seconds * SECOND, 5).len() as u64) / float(seconds)
}

#[test]
fn rates_are_as_asked() {
    assert!((rate(&Arrivals::Poisson { per_s: 50.0 }, 200) - 50.0).abs() < 2.0);
    assert!((rate(&Arrivals::Periodic { period_ns: 40 * MS, jitter_ns: 5 * MS }, 200) - 25.0).abs() < 0.1);
    let bursts = Arrivals::Bursts {
        every_ns: 10 * SECOND,
        for_ns: SECOND,
        burst_per_s: 100.0,
        base_per_s: 2.0,
        together: false,
    };
    assert!((rate(&bursts, 1000) - 11.8).abs() < 0.6, "{}", rate(&bursts, 1000));
    assert!((bursts.per_s(3) - 11.8).abs() < 1e-9);
    let day = Arrivals::diurnal(20.0, 3.0, 100 * SECOND);
    assert!((rate(&day, 1000) - 20.0).abs() < 1.0, "{}", rate(&day, 1000));
}

#[test]
fn a_day_has_its_peak_at_noon() {
    for peak_over_mean in [1.0, 1.5, 3.0, 10.0] {
        let day = Arrivals::diurnal(10.0, peak_over_mean, 100 * SECOND);
        assert!((day.per_s(50 * SECOND) - 10.0 * peak_over_mean).abs() < 0.01 * peak_over_mean);
        assert!(day.per_s(0) <= day.per_s(25 * SECOND) && day.per_s(25 * SECOND) <= day.per_s(50 * SECOND));
    }
}

#[test]
fn bursts_are_where_they_should_be() {
    let bursts = |together| Arrivals::Bursts {
        every_ns: 10 * SECOND,
        for_ns: SECOND,
        burst_per_s: 100.0,
        base_per_s: 0.0,
        together,
    };
    let together = all(&bursts(true), 100 * SECOND, 1);
    assert!(together.len() > 500 && together.iter().all(|at_ns| at_ns % (10 * SECOND) < SECOND));
    let apart = all(&bursts(false), 100 * SECOND, 1);
    assert!(apart.iter().any(|at_ns| at_ns % (10 * SECOND) > SECOND), "the phase is drawn");
    assert_eq!((bursts(true).per_s(SECOND / 2), bursts(true).per_s(2 * SECOND)), (100.0, 0.0));
}

#[test]
fn sources_that_go_together_have_one_phase() {
    let camera = Arrivals::Periodic { period_ns: 40 * MS, jitter_ns: 0 };
    let first = |together, seed| {
        let mut chance = Chance::new(seed, 1);
        let mut source = camera.source(together, &mut chance);
        camera.next(&mut source, 0, SECOND, &mut chance).unwrap()
    };
    assert_eq!((first(1.0, 1), first(1.0, 2)), (0, 0));
    assert_ne!(first(0.0, 1), first(0.0, 2));
    assert!((1..50).all(|seed| first(0.75, seed) <= 10 * MS));
}

#[test]
fn a_trace_is_played_as_it_is() {
    let trace = Arrivals::Trace { offsets_ns: Arc::from([0, 5, 5, 900 * MS]) };
    assert_eq!(all(&trace, SECOND, 1), vec![0, 5, 5, 900 * MS]);
    assert_eq!(all(&trace, 10, 1), vec![0, 5, 5]);
    assert!((trace.per_s(SECOND) - 1.0).abs() < 1e-9);
}
