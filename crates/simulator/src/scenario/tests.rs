use proptest::prelude::*;

use super::*;

const GOOD: &str = r#"name = "small"
seconds = 10
overhead_us = 100

[scheduler]
share_min_permille = [0, 200, 100, 50]

[scheduler.plan]
kind = "table"

[[model]]
name = "detector"
modality = "visual"
batch_max = 8
profile = [
    { jobs = 1, p50_us = 1000, p99_us = 1500 },
    { jobs = 4, p50_us = 2000, p99_us = 2500 },
]

[[device]]
name = "gpu"
count = 4
kind = "accelerator"
models = ["detector"]

[[device]]
name = "cpu"
kind = "cpu"
lanes_at_once_max = 2
models = ["detector"]

[[load]]
name = "cameras"
count = 6
model = "detector"
deadline_ms = 50
arrivals = { periodic_per_s = 25, jitter_ms = 4 }
start_s = 1

[[fault]]
at_s = 3
device = "gpu"
share = 0.3
kind = "lose"
restart_s = 2
"#;

fn file(text: &str) -> SourceFile {
    SourceFile { name: "small.toml".to_owned(), text: text.to_owned() }
}

fn parse(text: &str) -> Result<Scenario, ScenarioError> {
    Scenario::parse(&[file(text)], &|_, name| match name {
        "arrivals.csv" => Ok("offset_us\n2000\n1000\n".to_owned()),
        "bad.csv" => Ok("offset_us\n1000\nx\n".to_owned()),
        "service.csv" => Ok("service_us\n1000\n3000\n2000\n".to_owned()),
        _ => Err("No such file".to_owned()),
    })
}

/// The error after one change of the good file.
fn error(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from} is not in the file");
    parse(&GOOD.replacen(from, to, 1)).unwrap_err().to_string()
}

#[test]
fn a_good_file_becomes_numbers() {
    let scenario = parse(GOOD).unwrap();
    assert_eq!((scenario.name(), scenario.seed(), scenario.seconds()), ("small", 1, 10.0));
    assert_eq!(scenario.overhead_ns, 100_000);
    let [gpu, cpu] = &scenario.groups[..] else { panic!("{:?}", scenario.groups) };
    assert_eq!((gpu.first, gpu.count, gpu.lanes_at_once_max), (0, 4, 3));
    assert_eq!((cpu.first, cpu.count, cpu.lanes_at_once_max), (4, 1, 2));
    assert_eq!(gpu.lanes, vec![(Modality::Visual, vec![0])]);
    let fault = &scenario.faults[0];
    assert_eq!((fault.at_ns, fault.device_first, fault.devices), (Some(3 * SECOND), 0, 2), "30 % of 4, rounded up");
    assert_eq!((scenario.loads[0].start_ns, scenario.loads[0].deadline_ns), (SECOND, Some(50_000_000)));
    assert_eq!(scenario.models[0].policy(2.0, Learned::default()).service_p50_ns, vec![(1, 2_000_000), (4, 4_000_000)]);
}

#[test]
fn tables_of_several_files_are_put_together() {
    let (topology, load) = GOOD.split_once("[[load]]").unwrap();
    let (topology, load) = (file(topology), file(&format!("[[load]]{load}")));
    let both = Scenario::parse(&[topology.clone(), load], &|_, _| Err(String::new())).unwrap();
    assert_eq!((both.loads.len(), both.groups.len()), (1, 2));
    let twice = Scenario::parse(&[topology.clone(), file("\nseconds = 3\n")], &|_, _| Err(String::new()));
    assert_eq!(twice.unwrap_err().to_string(), "small.toml:2: seconds: is given by another file, too");
    let alone = Scenario::parse(&[topology], &|_, _| Err(String::new())).unwrap_err().to_string();
    assert_eq!(alone, "small.toml: no loads; at least one [[load]] is expected");
}

#[test]
fn what_makes_no_sense_is_refused_with_its_line() {
    let cases = [
        ("seconds = 10", "seconds = 0", "small.toml:2: seconds: is 0; more than 0 is expected"),
        ("seconds = 10", "seconds = -1", "small.toml:2: seconds: is -1; more than 0 is expected"),
        ("seconds = 10", "", "small.toml: says nowhere for how many seconds"),
        ("seconds = 10", "seconds = 10\ntick_ms = 0", "small.toml:3: tick_ms: is 0; 0.1 to 1000 is expected"),
        ("p50_us = 1000", "p50_us = 0", "small.toml:16: profile: p50_us is 0; more than 0 is expected"),
        ("p50_us = 2000", "p50_us = -5", "small.toml:17: profile: p50_us is -5; more than 0 is expected"),
        ("p99_us = 2500", "p99_us = 1999", "small.toml:17: profile: p99_us is 1999, below p50_us of 2000"),
        ("jobs = 4", "jobs = 1", "small.toml:17: profile: jobs = 1 comes after 1; sizes rise from 1 on"),
        ("batch_max = 8", "batch_max = 0", "small.toml:14: batch_max: is 0; 1 to 1024 is expected"),
        ("count = 4", "count = 0", "small.toml:22: count: is 0; 1 to 100000 is expected"),
        (
            "lanes_at_once_max = 2\n",
            "",
            "small.toml:26: lanes_at_once_max: is missing; for a CPU it is the number of cores",
        ),
        ("deadline_ms = 50", "deadline_ms = 0.1", "small.toml:36: deadline_ms: is not longer than overhead_us"),
        ("start_s = 1", "start_s = 1\nend_s = 1", "small.toml:39: end_s: is not after start_s"),
        ("share = 0.3", "share = 1.3", "small.toml:43: share: is 1.3; 0 to 1 is expected"),
        ("share = 0.3", "index = 4", "small.toml:43: index: is 4; gpu has 4 devices, from 0"),
        ("restart_s = 2", "factor = 2", "small.toml:45: factor: does not belong to this kind of fault"),
        ("at_s = 3", "", "small.toml:40: at_s: either at_s or at = \"peak\" is expected"),
        ("name = \"cpu\"", "name = \"gpu\"", "small.toml:27: name: \"gpu\" was used before"),
        (
            "periodic_per_s = 25",
            "periodic_per_s = 0",
            "small.toml:37: arrivals: periodic_per_s is 0; 0.000001 to 1000000 is expected",
        ),
    ];
    for (from, to, expected) in cases {
        assert_eq!(error(from, to), expected, "{to}");
    }
}

#[test]
fn unknown_names_come_with_the_nearest() {
    let cases = [
        (
            "model = \"detector\"",
            "model = \"detectr\"",
            "small.toml:35: model: no model is called \"detectr\"; did you mean \"detector\"?",
        ),
        (
            "device = \"gpu\"",
            "device = \"gpus\"",
            "small.toml:42: device: no device is called \"gpus\"; did you mean \"gpu\"?",
        ),
        (
            "kind = \"table\"",
            "kind = \"tabel\"",
            "small.toml:9: unknown variant `tabel`, expected one of `table`, `proportional`, `fixed`; did you mean `table`?",
        ),
    ];
    for (from, to, expected) in cases {
        assert_eq!(error(from, to), expected);
    }
    let unknown = error("batch_max = 8", "bach_max = 8");
    assert!(unknown.starts_with("small.toml:14: unknown field `bach_max`"), "{unknown}");
    assert!(unknown.ends_with("did you mean `batch_max`?"), "{unknown}");
    let policy = error("kind = \"table\"", "kind = \"fixed\"\nrows = [{ visual = 0, audio = 0, fusion = 0 }]");
    assert_eq!(policy, "small.toml:10: rows: plan.rows[0]: gives nothing to any modality");
    let shares = error("[0, 200, 100, 50]", "[0, 500, 300, 200]");
    assert_eq!(
        shares,
        "small.toml:6: share_min_permille: share_min_permille: 1000 thousandths together; at most 900 may be promised"
    );
}

#[test]
fn a_world_without_devices_models_or_served_loads_is_refused() {
    let without = |header: &str| {
        let mut kept = String::new();
        for table in GOOD.split("\n\n").filter(|table| !table.starts_with(header)) {
            kept.push_str(table);
            kept.push_str("\n\n");
        }
        parse(&kept).unwrap_err().to_string()
    };
    assert_eq!(without("[[device]]"), "small.toml: no devices; at least one [[device]] is expected");
    assert_eq!(without("[[model]]"), "small.toml: no models; at least one [[model]] is expected");
    let other = "[[model]]\nname = \"other\"\nmodality = \"audio\"\nprofile = [{ jobs = 1, p50_us = 1, p99_us = 1 }]\n\n[[load]]";
    let unserved = parse(&GOOD.replace("[[load]]", other).replace("model = \"detector\"", "model = \"other\""));
    assert_eq!(unserved.unwrap_err().to_string(), "small.toml:40: model: no device has the model \"other\"");
}

#[test]
fn recorded_numbers_are_read_and_their_faults_named() {
    let trace =
        |name: &str| GOOD.replace("{ periodic_per_s = 25, jitter_ms = 4 }", &format!("{{ trace = \"{name}\" }}"));
    let scenario = parse(&trace("arrivals.csv")).unwrap();
    let Arrivals::Trace { offsets_ns } = &scenario.loads[0].arrivals else { panic!() };
    assert_eq!(offsets_ns[..], [1_000_000, 2_000_000]);
    let missing = parse(&trace("none.csv")).unwrap_err().to_string();
    assert_eq!(missing, "small.toml:37: arrivals: none.csv: No such file");
    let bad = parse(&trace("bad.csv")).unwrap_err().to_string();
    assert_eq!(bad, "bad.csv:3: offset_us: \"x\" is no number from 0 on");

    let start = GOOD.find("profile = [").unwrap();
    let end = GOOD.find("[[device]]").unwrap();
    let sampled = format!("{}service_samples = \"service.csv\"\n\n{}", &GOOD[..start], &GOOD[end..]);
    let scenario = parse(&sampled).unwrap();
    assert_eq!(
        scenario.models[0].policy(1.0, Learned::default()).service_p50_ns,
        vec![(1, 2_000_000)],
        "the profile is what was recorded"
    );
    let neither = format!("{}\n\n{}", &GOOD[..start], &GOOD[end..]);
    let neither = parse(&neither).unwrap_err().to_string();
    assert!(neither.contains("profile: is empty"), "{neither}");
}

#[test]
fn the_peak_is_where_the_most_work_is_expected() {
    let bursts = "{ bursts = { every_s = 4, for_s = 1, burst_per_s = 20, together = true } }";
    let text = GOOD.replace("{ periodic_per_s = 25, jitter_ms = 4 }", bursts);
    let peak_s = seconds(parse(&text).unwrap().peak_ns());
    assert!((1.0..1.02).contains(&peak_s), "the load starts at second 1 with a burst: {peak_s}");
    let day = "{ diurnal = { mean_per_s = 20, peak_over_mean = 3, day_s = 8 } }";
    let peak_s = seconds(parse(&GOOD.replace("{ periodic_per_s = 25, jitter_ms = 4 }", day)).unwrap().peak_ns());
    assert!((4.9..5.1).contains(&peak_s), "noon of a day that begins at second 1: {peak_s}");
}

#[test]
fn sites_share_devices_and_sources_evenly() {
    let sites = |count| GOOD.replace("seconds = 10", &format!("seconds = 10\nsites = {count}"));
    let wrong = parse(&sites(2)).unwrap_err().to_string();
    assert_eq!(wrong, "small.toml:27: count: is 1, which cannot be divided among 2 sites");
    let even = sites(2).replace("name = \"cpu\"", "name = \"cpu\"\ncount = 2");
    let scenario = parse(&even).unwrap();
    let site = |device| scenario.site_of(&scenario.groups[0], DeviceId(device));
    assert_eq!([0, 1, 2, 3].map(site), [0, 0, 1, 1]);
    assert_eq!(scenario.site_of(&scenario.groups[1], DeviceId(5)), 1);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,300}") {
        let _ = parse(&text);
    }

    /// A good file with something else in the place of a few bytes.
    #[test]
    fn no_change_makes_it_panic(at in 0..GOOD.len(), length in 0..12_usize, new in "[-\\[\\]{}=\"a-z0-9.\n ]{0,12}") {
        let end = (at + length).min(GOOD.len());
        if let Ok(scenario) = parse(&format!("{}{new}{}", &GOOD[..at], &GOOD[end..])) {
            prop_assert!(scenario.run_ns > 0 && !scenario.groups.is_empty() && !scenario.loads.is_empty());
        }
    }
}
