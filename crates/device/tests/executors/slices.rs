//! Jobs that run in slices: what they say, what they keep, and when they stop. Counted in runs of a network, never timed:
//! a network is at most made slower, and a slice must stop for that.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use sensorium_device::backend::{Backend, BackendError, CpuBackend, LoadOptions, NamedTensor, Network, Tensor};
use sensorium_device::executor::{Executor, SUSPENDED_JOBS_MAX, Slice};
use sensorium_models::Signature;
use sensorium_wire::BodyKind;
use sensorium_wire::rejection::Reason;
use sensorium_wire::result::ModelResult;

use crate::cache::cpu;
use crate::harness::{Job, Ran, run_one, run_slice, run_with};
use crate::media::spoken;
use crate::models::loaded;

/// Every step of the work uses it up.
const NONE_NS: u64 = 1;
const MILLISECOND_NS: u64 = 1_000_000;

/// A backend that counts runs of its networks and makes each of them last longer.
struct Paced {
    inner: CpuBackend,
    runs: Arc<AtomicUsize>,
    pause: Duration,
}

struct PacedNetwork {
    inner: Box<dyn Network>,
    runs: Arc<AtomicUsize>,
    pause: Duration,
}

impl Backend for Paced {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn load(&self, file: &Path, options: &LoadOptions<'_>) -> Result<Box<dyn Network>, BackendError> {
        let inner = self.inner.load(file, options)?;
        Ok(Box::new(PacedNetwork { inner, runs: Arc::clone(&self.runs), pause: self.pause }))
    }
}

impl Network for PacedNetwork {
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn run(&mut self, inputs: &[NamedTensor<'_>], wanted: &[&str]) -> Result<Vec<Tensor>, BackendError> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        thread::sleep(self.pause);
        self.inner.run(inputs, wanted)
    }
}

/// The transcript model, and how often its networks ran.
fn transcripts(pause: Duration) -> (Box<dyn Executor>, Arc<AtomicUsize>) {
    let runs = Arc::new(AtomicUsize::new(0));
    let backend = Paced { inner: cpu(), runs: Arc::clone(&runs), pause };
    (loaded(&backend, "moonshine"), runs)
}

fn text(ran: &Ran) -> String {
    assert!(!ran.unfinished);
    let ModelResult::Transcript { text, tokens } = ran.result() else { panic!("{ran:?}") };
    assert_eq!(ran.answer.as_ref().unwrap().work, tokens);
    text
}

/// A job that is run slice by slice.
struct Sliced {
    job: Job,
    /// The run that left it.
    left_by: u64,
    slices: usize,
    text: Option<String>,
}

impl Sliced {
    fn new(job: Job) -> Self {
        Self { job, left_by: 0, slices: 0, text: None }
    }

    /// Runs one slice under a number that no other run has.
    fn advance(&mut self, executor: &mut dyn Executor, run: &mut u64, budget_ns: u64) -> Ran {
        assert!(self.text.is_none(), "a finished job wants no more runs");
        *run += 1;
        let ran = run_slice(executor, &self.job, Slice { run: *run, continues: self.left_by, budget_ns });
        let (fresh, times) = (self.left_by == 0, ran.times);
        self.left_by = *run;
        self.slices += 1;
        assert!(times.infer_ns > 0 && (times.interpret_ns > 0) != ran.unfinished, "{times:?}");
        assert!(times.prepare_ns > 0 || !fresh, "{times:?}");
        if ran.unfinished {
            let answer = ran.answer.as_ref().unwrap();
            assert!(answer.body == BodyKind::Empty && answer.bytes == 0, "no output yet: {answer:?}");
        } else {
            self.text = Some(text(&ran));
        }
        ran
    }
}

/// Runs all jobs to their ends, a slice of each in turn.
fn in_turns(executor: &mut dyn Executor, jobs: &mut [Sliced], run: &mut u64, budget_ns: u64) {
    while jobs.iter().any(|job| job.text.is_none()) {
        for job in jobs.iter_mut().filter(|job| job.text.is_none()) {
            job.advance(executor, run, budget_ns);
        }
        assert!(*run < 10_000, "no end in sight");
    }
}

#[test]
fn in_slices_the_text_is_the_same_and_nothing_is_done_twice() {
    let (mut executor, runs) = transcripts(Duration::ZERO);
    let job = Job::wav(spoken("0880").wav);
    let whole = text(&run_one(executor.as_mut(), &job));
    let steps = runs.swap(0, Ordering::Relaxed);
    assert!(steps > 10, "an encoder and a decoder for every token: {steps}");
    let mut run = 0;
    for budget_ns in [NONE_NS, 5 * MILLISECOND_NS, u64::MAX] {
        let mut sliced = Sliced::new(job.clone());
        while sliced.text.is_none() {
            let before = runs.load(Ordering::Relaxed);
            let ran = sliced.advance(executor.as_mut(), &mut run, budget_ns);
            assert!(runs.load(Ordering::Relaxed) > before, "every slice makes a step");
            assert!(sliced.slices == 1 || ran.times.prepare_ns == 0, "prepared once");
        }
        assert_eq!(sliced.text.as_deref(), Some(&*whole));
        assert_eq!(runs.swap(0, Ordering::Relaxed), steps, "budget {budget_ns}");
        match budget_ns {
            NONE_NS => assert_eq!(sliced.slices, steps, "one step a slice, the encoder's among them"),
            u64::MAX => assert_eq!(sliced.slices, 1),
            _ => assert!((1..=steps).contains(&sliced.slices)),
        }
    }
    // A job that was left may be run to its end in one go.
    let mut sliced = Sliced::new(job);
    sliced.advance(executor.as_mut(), &mut run, NONE_NS);
    sliced.advance(executor.as_mut(), &mut run, 0);
    assert_eq!(sliced.text, Some(whole));
    assert_eq!(runs.load(Ordering::Relaxed), steps);
}

#[test]
fn utterances_that_take_turns_keep_their_own_texts() {
    let (mut executor, _) = transcripts(Duration::ZERO);
    let jobs = ["0870", "0880"].map(|number| Job::wav(spoken(number).wav));
    let whole = jobs.each_ref().map(|job| text(&run_one(executor.as_mut(), job)));
    assert_ne!(whole[0], whole[1]);
    let mut sliced = jobs.map(Sliced::new);
    // Unevenly: what was left first is not always what goes on next.
    let mut run = 0;
    for turn in [0, 1, 1, 0, 0, 0, 1, 0, 1, 1] {
        let ran = sliced[turn].advance(executor.as_mut(), &mut run, NONE_NS);
        assert!(ran.unfinished);
    }
    in_turns(executor.as_mut(), &mut sliced, &mut run, NONE_NS);
    for (sliced, whole) in sliced.iter().zip(&whole) {
        assert_eq!(sliced.text.as_ref(), Some(whole));
    }
}

#[test]
fn an_utterance_whose_work_was_dropped_still_ends_with_its_text() {
    const DROPPED: usize = 2;
    let (mut executor, _) = transcripts(Duration::ZERO);
    let samples = spoken("0870").samples;
    let jobs: Vec<_> =
        samples.windows(24_000).step_by(6_000).take(SUSPENDED_JOBS_MAX + DROPPED).map(Job::pcm).collect();
    assert_eq!(jobs.len(), SUSPENDED_JOBS_MAX + DROPPED);
    let whole: Vec<_> = jobs.iter().map(|job| text(&run_one(executor.as_mut(), job))).collect();
    let mut sliced: Vec<_> = jobs.into_iter().map(Sliced::new).collect();
    in_turns(executor.as_mut(), &mut sliced, &mut 0, NONE_NS);
    for (index, (sliced, whole)) in sliced.iter().zip(&whole).enumerate() {
        assert_eq!(sliced.text.as_ref(), Some(whole), "{index}");
        // Started over, a job is not left again: or all of them would push each other out for ever.
        assert_eq!(sliced.slices == 2, index < DROPPED, "{index}: {} slices", sliced.slices);
    }
    // The same for work of another worker, which was never here.
    let slice = Slice { run: 20_000, continues: 19_999, budget_ns: NONE_NS };
    assert_eq!(text(&run_slice(executor.as_mut(), &sliced[0].job, slice)), whole[0]);
}

#[test]
fn a_slice_stops_after_the_step_in_which_its_time_is_up() {
    const PAUSE_NS: u64 = 10 * MILLISECOND_NS;
    let (mut executor, runs) = transcripts(Duration::from_nanos(PAUSE_NS));
    let job = Job::pcm(&spoken("0880").samples[..32_000]);
    let whole = text(&run_one(executor.as_mut(), &job));
    let mut sliced = Sliced::new(job);
    let mut run = 0;
    let mut shorter = false;
    while sliced.text.is_none() {
        runs.store(0, Ordering::Relaxed);
        sliced.advance(executor.as_mut(), &mut run, 25 * MILLISECOND_NS);
        // Two steps may end before the 25 ms do, three cannot; a machine that is busy makes fewer.
        let steps = runs.load(Ordering::Relaxed);
        assert!((1..=3).contains(&steps), "{steps}");
        shorter |= sliced.text.is_none();
    }
    assert!(shorter && sliced.text == Some(whole));
}

#[test]
fn what_cannot_be_sliced_or_done_ends_in_one_slice() {
    let slice = Slice { run: 1, continues: 0, budget_ns: NONE_NS };
    let backend = cpu();
    for model in ["silero-vad", "yamnet", "moonshine"] {
        let mut executor = loaded(&backend, model);
        let empty = run_slice(executor.as_mut(), &Job::pcm(&[]), slice);
        assert!(!empty.unfinished, "{model}");
        empty.refused(Reason::InvalidPayload, "");
    }
    let job = Job::pcm(&spoken("0870").samples[..16_000]);
    for model in ["silero-vad", "yamnet"] {
        let mut executor = loaded(&backend, model);
        let ran = run_slice(executor.as_mut(), &job, slice);
        assert!(!ran.unfinished);
        assert_eq!(ran.result(), run_one(executor.as_mut(), &job).result(), "{model}");
    }
    // Without a number to be continued by, a job is not left.
    let mut executor = loaded(&backend, "moonshine");
    let ran = run_slice(executor.as_mut(), &job, Slice { run: 0, ..slice });
    assert_eq!(text(&ran), text(&run_with(executor.as_mut(), std::slice::from_ref(&job), 16 << 10)[0]));
}
