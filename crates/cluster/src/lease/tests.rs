use super::*;

const MS: u64 = NS_PER_MS;
const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const TTL_MS: u64 = 1_000;
/// When a new table has been there for long enough.
const SETTLED_NS: u64 = LEASE_TTL_MS_MAX * MS;

fn table() -> LeaseTable {
    LeaseTable::new(0, TTL_MS, 0)
}

fn lease(epoch: u64) -> Result<Lease, LeaseRefusal> {
    Ok(Lease { epoch, ttl_ms: TTL_MS })
}

fn held(by: NodeId, left_ms: u64) -> Result<Lease, LeaseRefusal> {
    Err(LeaseRefusal::Held { by, left_ms })
}

#[test]
fn a_source_has_one_holder_and_a_new_one_gets_a_higher_epoch() {
    let (mut table, now) = (table(), SETTLED_NS);
    assert_eq!(table.ask(now, "cam", A, None), lease(1));
    assert_eq!(table.ask(now + 400 * MS, "cam", B, None), held(A, 600));
    assert_eq!(table.ask(now + 400 * MS, "cam", A, Some(1)), lease(1), "renewed");
    assert_eq!(table.ask(now + 1_399 * MS, "cam", B, Some(1)), held(A, 1), "somebody else's epoch");
    assert_eq!(table.ask(now + 1_400 * MS, "cam", B, None), lease(2));
    assert_eq!(table.ask(now + 1_400 * MS, "cam", A, Some(1)), held(B, 1_000), "too late");
    assert_eq!(table.ask(now, "mic", A, None), lease(1), "another source");
    let (by, epoch) = (B, 2);
    assert_eq!(table.holder(now + 1_500 * MS, "cam"), Some(Held { by, epoch, left_ms: 900 }));
    assert_eq!(table.holder(now + 9_000 * MS, "cam"), None);
}

#[test]
fn a_lapsed_lease_is_not_revived() {
    let (mut table, now) = (table(), SETTLED_NS);
    assert_eq!(table.ask(now, "cam", A, None), lease(1));
    assert_eq!(table.ask(now + TTL_MS * MS, "cam", A, Some(1)), lease(2));
    assert_eq!(table.ask(now + 1_100 * MS, "cam", A, None), held(A, 900), "one that was started anew waits as well");
}

#[test]
fn what_is_released_is_free_at_once_and_old_releases_do_nothing() {
    let (mut table, now) = (table(), SETTLED_NS);
    table.ask(now, "cam", A, None).unwrap();
    assert!(!table.release(now, "cam", B, 1));
    assert!(!table.release(now, "cam", A, 2));
    assert!(!table.release(now, "mic", A, 1));
    assert!(table.release(now, "cam", A, 1));
    assert_eq!(table.ask(now, "cam", B, None), lease(2));
    assert!(!table.release(now, "cam", A, 1), "it came twice");
    assert_eq!(table.ask(now, "cam", A, None), held(B, 1_000));
}

#[test]
fn a_lost_node_keeps_what_it_has_until_it_lapses() {
    let (mut table, now) = (table(), SETTLED_NS);
    table.ask(now, "cam", A, None).unwrap();
    table.ask(now, "mic", B, None).unwrap();
    let lost = table.lost(now + 300 * MS, A);
    assert_eq!(lost, [("cam".to_owned(), Held { by: A, epoch: 1, left_ms: 700 })]);
    assert_eq!(table.ask(now + 300 * MS, "cam", B, None), held(A, 700));
    assert!(table.lost(now + 1_000 * MS, A).is_empty());
}

#[test]
fn a_grantor_that_was_started_adopts_but_grants_nothing_new_for_a_while() {
    let mut table = LeaseTable::new(0, TTL_MS, 100);
    assert_eq!(table.ask(0, "cam", A, None), Err(LeaseRefusal::Starting { left_ms: 2_000 }));
    assert_eq!(table.ask(10 * MS, "cam", A, Some(7)), lease(7), "what it claims to hold");
    assert_eq!(table.ask(20 * MS, "cam", B, Some(6)), held(A, 990), "an older claim");
    assert_eq!(table.ask(20 * MS, "cam", B, None), held(A, 990));
    assert_eq!(table.ask(30 * MS, "cam", B, Some(8)), lease(8), "a newer claim");
    assert_eq!(table.ask(40 * MS, "cam", A, Some(7)), held(B, 990));
    assert_eq!(table.ask(1_030 * MS, "cam", A, Some(7)), Err(LeaseRefusal::Starting { left_ms: 970 }));
    assert_eq!(table.ask(2_000 * MS, "cam", A, Some(7)), lease(101), "above the floor");
    // Now claims count for the epoch only.
    assert_eq!(table.ask(2_000 * MS, "cam", B, Some(900)), held(A, 1_000));
    assert_eq!(table.ask(3_000 * MS, "cam", B, Some(900)), lease(901));
    assert_eq!(table.ask(4_000 * MS, "cam", B, Some(u64::MAX)), lease(902), "not believed");
}

#[test]
fn the_table_is_bounded_and_forgotten_epochs_do_not_come_again() {
    let (mut table, now) = (table(), SETTLED_NS);
    for round in 0..3 {
        assert!(table.ask(now, "first", A, None).is_ok());
        assert!(table.release(now, "first", A, round + 1));
    }
    for source in 0..LEASES_MAX {
        assert!(table.ask(now, &format!("s{source}"), A, None).is_ok(), "{source}");
    }
    assert_eq!(table.sources.len(), LEASES_MAX);
    assert_eq!(table.ask(now, "more", A, None), Err(LeaseRefusal::Full));
    assert!(table.ask(now, "s0", A, Some(1)).is_ok() || table.ask(now, "s0", A, Some(4)).is_ok(), "renewing goes on");
    let late = now + TTL_MS * MS;
    assert_eq!(table.ask(late, "first", A, None), lease(4));
    assert_eq!(table.ask(now, "", A, None), Err(LeaseRefusal::Name { bytes: 0 }));
    assert_eq!(table.ask(now, &"x".repeat(129), A, None), Err(LeaseRefusal::Name { bytes: 129 }));
}

#[test]
fn a_holding_is_valid_from_the_answer_until_the_question_plus_the_lease_less_the_guard() {
    let mut holding = Holding::new();
    assert_eq!((holding.epoch(0), holding.claim(0)), (None, None));
    let lease = |epoch| Lease { epoch, ttl_ms: TTL_MS };
    assert!(holding.granted(150 * MS, 100 * MS, lease(3)));
    assert_eq!((holding.until_ns(), holding.renew_ns()), (1_065 * MS, 100 * MS + 1_000 * MS / 3));
    assert_eq!(holding.epoch(1_065 * MS - 1), Some(3));
    assert_eq!(holding.epoch(1_065 * MS), None);
    assert!(holding.granted(500 * MS, 450 * MS, lease(3)), "renewed");
    assert!(holding.granted(501 * MS, 200 * MS, lease(3)), "an earlier question answered later takes nothing away");
    assert_eq!(holding.until_ns(), 1_415 * MS);
    assert!(holding.granted(502 * MS, 500 * MS, lease(2)), "an older epoch changes nothing");
    assert_eq!(holding.epoch(502 * MS), Some(3));
    assert!(!holding.granted(1_415 * MS, 1_400 * MS, lease(3)), "a renewal after the lapse is too late");
    assert!(!holding.granted(9_000 * MS, 1_500 * MS, lease(4)), "an answer after its own lease");
    assert!(holding.granted(9_000 * MS, 8_999 * MS, lease(5)));
    assert!(holding.epoch(9_000 * MS) == Some(5));
}

#[test]
fn what_was_given_up_is_not_brought_back_by_a_late_answer() {
    let mut holding = Holding::new();
    holding.granted(0, 0, Lease { epoch: 3, ttl_ms: TTL_MS });
    assert_eq!(holding.give_up(100 * MS), Some(3));
    assert_eq!(holding.epoch(100 * MS), None);
    assert!(!holding.granted(110 * MS, 90 * MS, Lease { epoch: 4, ttl_ms: TTL_MS }));
    assert!(holding.granted(130 * MS, 120 * MS, Lease { epoch: 5, ttl_ms: TTL_MS }));
    assert_eq!(Holding::new().give_up(0), None);
}
