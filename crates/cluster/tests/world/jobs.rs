//! Jobs that are handed on, each node deciding by its own view.

use rand::Rng;
use sensorium_cluster::{Ask, HOPS_MAX, Here, ModelId, NodeId, candidates, rank};
use sensorium_wire::Urgency;

use crate::world::{Broken, COST, HEALED_NS, Happening, MODELS, MS, World};

#[derive(Clone, Debug)]
pub(crate) struct Job {
    model: ModelId,
    urgency: Urgency,
    budget_us: u64,
    visited: Vec<NodeId>,
    hops_left: u8,
}

impl World {
    pub(crate) fn submit(&mut self, node: usize) {
        let job = Job {
            model: ModelId(self.chance.random_range(0..MODELS)),
            urgency: Urgency::ALL[self.chance.random_range(0..4)],
            budget_us: self.chance.random_range(1_000..2_000_000),
            visited: Vec::new(),
            hops_left: HOPS_MAX,
        };
        if self.now_ns < HEALED_NS + 4_000 * MS {
            self.jobs_open += 1;
            self.after(0, Happening::JobAt { node, job: Box::new(job) });
        }
    }

    pub(crate) fn job_at(&mut self, node: usize, mut job: Job) {
        self.jobs_open -= 1;
        let (id, name) = (self.nodes[node].id, self.nodes[node].spec.name.clone());
        if job.visited.contains(&id) {
            return self.complain(format!("a job came to {name} and was there before"));
        }
        if job.visited.len() > usize::from(HOPS_MAX) {
            return self.complain(format!("a job was handed on {} times", job.visited.len()));
        }
        if !self.nodes[node].up {
            return;
        }
        self.story.jobs_by_hops[job.visited.len()] += 1;
        let view = self.nodes[node].membership.view(self.local_ns(node));
        let visited = if self.broken == Broken::ForgetsWhereJobsWere { &[] } else { &job.visited[..] };
        let ask = Ask {
            budget_us: job.budget_us,
            payload_bytes: self.chance.random_range(0..100_000),
            urgency: job.urgency,
            visited,
            hops_left: job.hops_left,
            light: self.chance.random_bool(0.5),
            stick_to: None,
        };
        // The node's own queue differs from what it last told others.
        let here_us = self.chance.random_range(1_000..3_000_000);
        let here = Here { predicted_us: self.chance.random_bool(0.5).then_some(here_us) };
        let mut found = candidates(&view, job.model, &ask, here, &COST, |_| 0);
        rank(&ask, &mut found);
        // Now and then the first choice is gone, and the fallback is taken.
        let at = usize::from(found.len() > 1 && self.chance.random_bool(0.2));
        let Some(via) = found.get(at).and_then(|candidate| candidate.via) else { return };
        job.visited.push(id);
        job.hops_left -= 1;
        let delay_ns = self.delay_ns();
        let next = self.index(via);
        self.jobs_open += 1;
        self.after(delay_ns, Happening::JobAt { node: next, job: Box::new(job) });
    }
}
