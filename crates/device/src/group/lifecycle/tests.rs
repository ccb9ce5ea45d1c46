use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const PLAN: Plan =
    Plan { link: Link::Host, ranks: 3, form_ms_max: 1000, wait_ms_max: 200, pulse_ms: 100, pulse_values: 8 };

/// Members as they should be, but for those that hang, and time.
struct World {
    group: Lifecycle,
    now_ms: u64,
    seats: Vec<Option<u64>>,
    hangs: Vec<bool>,
    orders: Vec<VecDeque<Order>>,
    next_seat: u64,
    broken: Vec<String>,
    /// Orders that each member has not answered, abort left out.
    unanswered_max: usize,
}

impl World {
    fn new(plan: Plan) -> Self {
        let ranks = plan.ranks as usize;
        Self {
            group: Lifecycle::new(plan, 40),
            now_ms: 0,
            seats: vec![None; ranks],
            hangs: vec![false; ranks],
            orders: vec![VecDeque::new(); ranks],
            next_seat: 0,
            broken: Vec::new(),
            unanswered_max: 0,
        }
    }

    fn tell(&mut self, event: Event) {
        for command in self.group.handle(self.now_ms, event) {
            match command {
                Command::Send { rank, order } => self.order(rank as usize, order),
                Command::Form(orders) => {
                    for (rank, order) in orders.into_iter().enumerate() {
                        self.order(rank, order);
                    }
                }
                Command::Broken { reason } => self.broken.push(reason),
                Command::Ready => {}
            }
        }
    }

    fn order(&mut self, rank: usize, order: Order) {
        assert!(self.seats[rank].is_some(), "an order to an empty seat: {order:?}");
        self.orders[rank].push_back(order);
        self.unanswered_max = self.unanswered_max.max(self.orders[rank].len());
    }

    fn join(&mut self, rank: usize) {
        self.next_seat += 1;
        self.seats[rank] = Some(self.next_seat);
        self.orders[rank].clear();
        self.hangs[rank] = false;
        self.tell(Event::Joined { rank: u32::try_from(rank).unwrap(), seat: self.next_seat });
    }

    fn leave(&mut self, rank: usize) {
        if let Some(seat) = self.seats[rank].take() {
            self.orders[rank].clear();
            self.tell(Event::Left { rank: u32::try_from(rank).unwrap(), seat, reason: "killed".to_owned() });
        }
    }

    /// One order of one member is answered as a sound member does; false if there was none.
    fn answer(&mut self, rank: usize) -> bool {
        let (Some(seat), false) = (self.seats[rank], self.hangs[rank]) else { return false };
        let Some(order) = self.orders[rank].pop_front() else { return false };
        let generation = order.generation();
        // An exchange with a member that does not take part ends with its limit, or with what the node says.
        let is_alone = (0..self.seats.len()).any(|other| self.seats[other].is_none() || self.hangs[other]);
        let report = match order {
            Order::MakeId { .. } => Report::Id { generation, id: vec![1; 128] },
            Order::Form { .. } => Report::Formed { generation, us: 1 },
            Order::Exercise { .. } if is_alone => Report::failed(generation, "timed out"),
            Order::Exercise { sequence, .. } => {
                Report::Exercised { generation, sequence, broadcast_us: 1.0, all_gather_us: 2.0 }
            }
            Order::Abort { .. } => Report::Aborted { generation },
        };
        self.tell(Event::Said { rank: u32::try_from(rank).unwrap(), seat, report });
        true
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            if (0..self.seats.len()).filter(|rank| self.answer(*rank)).count() == 0 {
                return;
            }
        }
        panic!("members talk without end");
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.now_ms += 10;
            self.tell(Event::Tick);
            self.settle();
        }
    }
}

fn all(plan: Plan) -> World {
    let mut world = World::new(plan);
    for rank in 0..world.seats.len() {
        world.join(rank);
        world.settle();
    }
    world
}

#[test]
fn it_is_ready_when_all_are_there_and_have_exchanged() {
    let mut world = World::new(PLAN);
    world.join(0);
    world.join(2);
    world.pass(5000);
    assert_eq!((world.group.state(), world.group.generation()), (State::Forming, 40));
    assert_eq!(world.group.held_up_by(), (vec![1], vec![]));
    world.join(1);
    world.settle();
    assert_eq!((world.group.state(), world.group.generation()), (State::Ready, 41));
    assert_eq!(world.group.pulse(), (Some(Pulse { broadcast_us: 1.0, all_gather_us: 2.0 }), 1));
    world.pass(1000);
    assert_eq!(world.group.pulse().1, 11);
    let nccl = all(Plan { link: Link::Nccl, ranks: 1, ..PLAN });
    assert_eq!(nccl.group.state(), State::Ready);
}

#[test]
fn a_lost_member_breaks_it_until_its_successor_is_there() {
    let mut world = all(PLAN);
    world.leave(1);
    assert_eq!(world.group.state(), State::Broken);
    assert_eq!(world.broken, ["rank 1 is gone: killed"]);
    world.settle();
    world.join(1);
    world.settle();
    assert_eq!(world.group.state(), State::Broken, "the restart table has not spoken");
    world.tell(Event::Retry);
    world.settle();
    assert_eq!((world.group.state(), world.group.generation()), (State::Ready, 42));
    assert_eq!(world.group.last_reason(), Some("rank 1 is gone: killed"));
    // Allowed before its successor is there: it forms as soon as that is.
    world.leave(0);
    world.tell(Event::Retry);
    world.pass(100);
    assert_eq!(world.group.state(), State::Forming);
    world.join(0);
    world.settle();
    assert_eq!((world.group.state(), world.broken.len()), (State::Ready, 2));
}

#[test]
fn a_member_that_hangs_is_told_once_and_holds_nobody_else_up() {
    let mut world = all(PLAN);
    world.hangs[2] = true;
    world.pass(2000);
    assert_eq!((world.group.state(), world.broken.len()), (State::Broken, 1));
    world.tell(Event::Retry);
    world.pass(60_000);
    assert_eq!(world.broken.len(), 1, "{:?}", world.broken);
    assert_eq!(world.group.held_up_by(), (vec![], vec![2]));
    assert_eq!(world.orders[2].len(), 2, "an exercise and an abort: {:?}", world.orders[2]);
    world.hangs[2] = false;
    world.settle();
    assert_eq!((world.group.state(), world.group.generation()), (State::Ready, 42));
}

#[test]
fn silence_while_coming_together_has_a_limit() {
    let mut world = World::new(Plan { link: Link::Nccl, ..PLAN });
    for rank in 0..3 {
        world.join(rank);
    }
    for rank in 0..3 {
        while world.orders[rank].front().is_some_and(|order| matches!(order, Order::Abort { .. })) {
            world.answer(rank);
        }
    }
    world.hangs[0] = true;
    world.pass(2000);
    assert_eq!(world.broken.len(), 1);
    assert!(world.broken[0].ends_with("while making an identifier"), "{:?}", world.broken);
}

#[test]
fn nonsense_and_the_past_are_told_apart() {
    let mut world = all(PLAN);
    let seat = world.seats[0].unwrap();
    let said = |report| Event::Said { rank: 0, seat, report };
    world.tell(said(Report::failed(40, "long ago")));
    world.tell(Event::Said { rank: 9, seat, report: Report::Formed { generation: 41, us: 1 } });
    world.tell(Event::Said { rank: 0, seat: seat + 7, report: Report::Formed { generation: 41, us: 1 } });
    world.tell(Event::Left { rank: 0, seat: seat + 7, reason: "another".to_owned() });
    assert_eq!(world.group.state(), State::Ready);
    world.tell(said(Report::Formed { generation: 41, us: 1 }));
    assert_eq!(world.group.state(), State::Broken);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Join(usize),
    Leave(usize),
    Hang(usize),
    Wake(usize),
    Answer(usize),
    Retry,
    Pass(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let rank = 0_usize..3;
    prop_oneof![
        2 => rank.clone().prop_map(Step::Join),
        1 => rank.clone().prop_map(Step::Leave),
        1 => rank.clone().prop_map(Step::Hang),
        1 => rank.clone().prop_map(Step::Wake),
        12 => rank.prop_map(Step::Answer),
        2 => Just(Step::Retry),
        2 => (10_u64..400).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]
    /// Whatever happens in whatever order: no member is owed more than a few orders, and once all are well and a retry is
    /// allowed, the group is ready in bounded time.
    #[test]
    fn it_always_comes_back(
        steps in proptest::collection::vec(any_step(), 0..120),
        link in prop_oneof![Just(Link::Host), Just(Link::Nccl)],
    ) {
        let mut world = World::new(Plan { link, ..PLAN });
        let mut generation = 0;
        for step in steps {
            match step {
                Step::Join(rank) => world.join(rank),
                Step::Leave(rank) => world.leave(rank),
                Step::Hang(rank) => world.hangs[rank] = true,
                Step::Wake(rank) => world.hangs[rank] = false,
                Step::Answer(rank) => { world.answer(rank); }
                Step::Retry => world.tell(Event::Retry),
                Step::Pass(ms) => {
                    world.now_ms += ms;
                    world.tell(Event::Tick);
                }
            }
            prop_assert!(world.group.generation() >= generation);
            generation = world.group.generation();
        }
        prop_assert!(world.unanswered_max <= 3, "{}", world.unanswered_max);
        world.hangs.fill(false);
        for rank in 0..3 {
            if world.seats[rank].is_none() {
                world.join(rank);
            }
        }
        for _ in 0..4 {
            world.pass(2000);
            world.tell(Event::Retry);
            world.settle();
        }
        prop_assert_eq!(world.group.state(), State::Ready, "{:?}", world.group);
    }
}
