use proptest::prelude::*;

use super::*;

fn report() -> LoadReport {
    LoadReport {
        instance: 0x0102_0304_0506_0708,
        number: 9,
        sent_us: 1_000_000,
        echo_us: 999_000,
        echo_delay_us: 258,
        entries: vec![LoadEntry {
            model: ModelId(0x1112_1314_1516_1718),
            node: NodeId(0x2122_2324_2526_2728),
            tier: Tier::Regional,
            hops: 1,
            service_us: 5_000,
            typical_us: 4_000,
            queue_us: 3,
            way_us: 0xA0B0_C0D0,
        }],
    }
}

fn bytes(report: &LoadReport) -> Vec<u8> {
    let mut bytes = Vec::new();
    report.encode(&mut bytes);
    bytes
}

#[test]
fn the_bytes_are_those_of_the_description() {
    #[rustfmt::skip]
    let golden: &[u8] = &[
        b'S', b'N', b'L', b'R', 1, 1,
        0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01,
        9, 0, 0, 0, 0, 0, 0, 0,
        0x40, 0x42, 0x0F, 0, 0, 0, 0, 0,
        0x58, 0x3E, 0x0F, 0, 0, 0, 0, 0,
        0x02, 0x01, 0, 0,
        0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,
        0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21,
        1, 1,
        0x88, 0x13, 0, 0,
        0xA0, 0x0F, 0, 0,
        3, 0, 0, 0,
        0xD0, 0xC0, 0xB0, 0xA0,
    ];
    assert_eq!(bytes(&report()), golden);
    assert_eq!(LoadReport::decode(golden), Some(report()));
}

#[test]
fn the_largest_report_fits_and_what_is_too_much_is_left_out() {
    let mut large = report();
    large.entries = vec![large.entries[0]; ENTRIES_MAX + 8];
    let encoded = bytes(&large);
    assert_eq!(encoded.len(), HEAD_BYTES + ENTRIES_MAX * ENTRY_BYTES);
    assert_eq!(LoadReport::decode(&encoded).unwrap().entries.len(), ENTRIES_MAX);
}

#[test]
fn what_is_not_exactly_a_report_is_none() {
    let good = bytes(&report());
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        LoadReport::decode(&bytes)
    };
    assert_eq!(changed(0, b'X'), None, "magic");
    assert_eq!(changed(4, 2), None, "version");
    assert_eq!(changed(5, 0), None, "bytes left over");
    assert_eq!(changed(5, 2), None, "too few bytes");
    assert_eq!(changed(5, 33), None, "too many entries");
    assert_eq!(changed(HEAD_BYTES + 16, 3), None, "tier");
    assert_eq!(changed(HEAD_BYTES + 17, HOPS_MAX), None, "hops");
    assert!((0..good.len()).all(|length| LoadReport::decode(&good[..length]).is_none()));
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..1300)) {
        prop_assert!(LoadReport::decode(&bytes).is_none_or(|report| report.entries.len() <= ENTRIES_MAX));
    }

    /// What is read is written the same: there are no two forms of one report.
    #[test]
    fn a_damaged_report_is_none_or_another_report(at in 0usize..76, byte in any::<u8>(), cut in 0usize..80) {
        let mut damaged = bytes(&report());
        damaged[at] = byte;
        damaged.truncate(cut.max(1));
        if let Some(read) = LoadReport::decode(&damaged) {
            prop_assert_eq!(bytes(&read), damaged);
        }
    }

    #[test]
    fn a_report_survives_a_round_trip(
        numbers in any::<[u64; 4]>(),
        delay in any::<u32>(),
        entries in prop::collection::vec((any::<[u64; 2]>(), 0usize..3, 0..HOPS_MAX, any::<[u32; 4]>()), 0..=ENTRIES_MAX),
    ) {
        let entry = |(ids, tier, hops, times): ([u64; 2], usize, u8, [u32; 4])| LoadEntry {
            model: ModelId(ids[0]),
            node: NodeId(ids[1]),
            tier: Tier::ALL[tier],
            hops,
            service_us: times[0],
            typical_us: times[1],
            queue_us: times[2],
            way_us: times[3],
        };
        let report = LoadReport {
            instance: numbers[0],
            number: numbers[1],
            sent_us: numbers[2],
            echo_us: numbers[3],
            echo_delay_us: delay,
            entries: entries.into_iter().map(entry).collect(),
        };
        let encoded = bytes(&report);
        prop_assert!(encoded.len() <= REPORT_BYTES_MAX);
        prop_assert_eq!(LoadReport::decode(&encoded), Some(report));
    }
}
