//! Answers kept for jobs that say how old an answer may be: the same payload for the same model, asked again.
//!
//! An entry is found by everything that decides the answer: tenant, model and version, how the payload is to be read,
//! and the payload's SHA-256, which this node has computed itself before it stored anything. Tenants share nothing. Lives
//! in memory only, within a number of bytes; what is asked for seldom goes first.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use sensorium_scheduler::ModelKey;
use sensorium_wire::ids::ShortName;
use sensorium_wire::{AnswerHeader, SubmitHeader, limits};
use serde::Serialize;

use super::models::ModelInfo;

/// Bytes that an entry is counted with besides its payload: key, header and the cache's own tables.
const ENTRY_BYTES: u64 = 1024;
/// Longest answer that is kept, in bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// A tenant, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TenantKey(pub(super) u32);

/// Whose answer it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Answering {
    /// A version of a model of this node.
    Own(ModelKey, u32),
    /// What another node gave for a model and a version (0 = the current one), by the names in the header.
    Elsewhere(ShortName, u32),
}

/// Everything that decides an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CacheKey {
    tenant: TenantKey,
    answering: Answering,
    payload_bytes: u64,
    pub(super) digest: [u8; 32],
    shape: [u32; limits::RANK_MAX],
    sample_rate_hz: u32,
    rank: u8,
    /// Codes of payload kind, element type and pixel format.
    codes: [u8; 3],
}

impl CacheKey {
    /// The key of a job; `None` when it does not ask for a cache, or when its answer depends on more than its payload: on
    /// a state that travels with it, or on its place in a stream.
    pub(super) fn new(tenant: TenantKey, model: &ModelInfo, header: &SubmitHeader, payload_bytes: u64) -> Option<Self> {
        Self::of(tenant, Answering::Own(model.key, model.version), header, payload_bytes)
    }

    /// The same for an answer of another node.
    pub(super) fn elsewhere(tenant: TenantKey, header: &SubmitHeader, payload_bytes: u64) -> Option<Self> {
        Self::of(tenant, Answering::Elsewhere(header.model, header.model_version), header, payload_bytes)
    }

    fn of(tenant: TenantKey, answering: Answering, header: &SubmitHeader, payload_bytes: u64) -> Option<Self> {
        let asks = header.freshness_us > 0 && header.digest != [0; 32];
        (asks && header.state_bytes == 0 && header.stream == 0).then_some(Self {
            tenant,
            answering,
            payload_bytes,
            digest: header.digest,
            shape: header.shape,
            sample_rate_hz: header.sample_rate_hz,
            rank: header.rank,
            codes: [header.payload as u8, header.dtype as u8, header.pixels as u8],
        })
    }
}

/// An answer and when it was made.
#[derive(Clone)]
pub(super) struct CachedAnswer {
    pub(super) header: AnswerHeader,
    pub(super) payload: Bytes,
    pub(super) made_ns: u64,
}

#[derive(Clone)]
struct Weights;

impl Weighter<CacheKey, CachedAnswer> for Weights {
    fn weight(&self, _: &CacheKey, answer: &CachedAnswer) -> u64 {
        ENTRY_BYTES + answer.payload.len() as u64
    }
}

/// What the status shows of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CacheStatus {
    pub hits: u64,
    /// Looked for and not there, or too old.
    pub misses: u64,
    pub entries: u64,
    pub bytes: u64,
    pub bytes_max: u64,
}

/// See the module.
pub(super) struct AnswerCache {
    entries: Cache<CacheKey, CachedAnswer, Weights>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl AnswerCache {
    /// `None` for a cache of no bytes.
    pub(super) fn new(bytes_max: u64) -> Option<Self> {
        if bytes_max == 0 {
            return None;
        }
        let items = usize::try_from(bytes_max / (4 * ENTRY_BYTES)).unwrap_or(usize::MAX).clamp(16, 1 << 20);
        // One shard: the bound holds for the whole, and one thread does nearly all of the asking.
        let options = OptionsBuilder::new()
            .shards(1)
            .estimated_items_capacity(items)
            .weight_capacity(bytes_max)
            .build()
            .expect("both capacities are set");
        let entries = Cache::with_options(options, Weights, DefaultHashBuilder::default(), DefaultLifecycle::default());
        Some(Self { entries, hits: AtomicU64::new(0), misses: AtomicU64::new(0) })
    }

    /// The answer for the first of some keys that has one which is not older than `freshness_us`, and its age in
    /// nanoseconds.
    pub(super) fn find<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a CacheKey>,
        now_ns: u64,
        freshness_us: u64,
    ) -> Option<(CachedAnswer, u64)> {
        let fresh = keys.into_iter().find_map(|key| {
            let answer = self.entries.get(key)?;
            let age_ns = now_ns.saturating_sub(answer.made_ns);
            (age_ns <= freshness_us.saturating_mul(1000)).then_some((answer, age_ns))
        });
        let counter = if fresh.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        fresh
    }

    /// Keeps an answer in the place of an older one, unless it is long.
    pub(super) fn store(&self, key: CacheKey, answer: CachedAnswer) {
        if answer.payload.len() as u64 <= ANSWER_BYTES_MAX {
            self.entries.insert(key, answer);
        }
    }

    pub(super) fn status(&self) -> CacheStatus {
        CacheStatus {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            entries: self.entries.len() as u64,
            bytes: self.entries.weight(),
            bytes_max: self.entries.capacity(),
        }
    }
}

#[cfg(test)]
mod tests {
    use sensorium_wire::{Dtype, Modality, Name, PayloadKind, PixelFormat};

    use super::*;

    fn model(key: u32, version: u32) -> ModelInfo {
        ModelInfo {
            key: ModelKey(key),
            name: "echo".to_owned(),
            version,
            modality: Modality::Visual,
            batch_max: 1,
            run_ms_max: 1_000,
            slice_ms: 0,
            output_bytes_max: 0,
            next: None,
            is_stage: false,
            input_bytes: 0,
        }
    }

    fn header() -> SubmitHeader {
        SubmitHeader { freshness_us: 1_000_000, digest: [7; 32], ..SubmitHeader::default() }
    }

    fn key(header: &SubmitHeader) -> CacheKey {
        CacheKey::new(TenantKey(1), &model(1, 1), header, 16).unwrap()
    }

    fn answer(bytes: usize, made_ns: u64) -> CachedAnswer {
        CachedAnswer { header: AnswerHeader::default(), payload: vec![1; bytes].into(), made_ns }
    }

    #[test]
    fn everything_that_decides_an_answer_is_in_the_key() {
        let same = key(&header());
        let changes: [fn(&mut SubmitHeader); 8] = [
            |header| header.digest[31] = 8,
            |header| header.shape[1] = 2,
            |header| header.rank = 1,
            |header| header.dtype = Dtype::I8,
            |header| header.payload = PayloadKind::Pcm,
            |header| header.pixels = PixelFormat::Bgr24,
            |header| header.sample_rate_hz = 8_000,
            |header| header.digest[0] = 0,
        ];
        for change in changes {
            let mut header = header();
            change(&mut header);
            assert_ne!(key(&header), same, "{header:?}");
        }
        assert_ne!(CacheKey::new(TenantKey(2), &model(1, 1), &header(), 16).unwrap(), same);
        assert_ne!(CacheKey::new(TenantKey(1), &model(2, 1), &header(), 16).unwrap(), same);
        assert_ne!(CacheKey::new(TenantKey(1), &model(1, 2), &header(), 16).unwrap(), same);
        assert_ne!(CacheKey::new(TenantKey(1), &model(1, 1), &header(), 17).unwrap(), same);
        let elsewhere = |header: &SubmitHeader| CacheKey::elsewhere(TenantKey(1), header, 16).unwrap();
        assert_ne!(elsewhere(&header()), same);
        assert_ne!(elsewhere(&SubmitHeader { model: Name::cut("other"), ..header() }), elsewhere(&header()));
        assert_ne!(elsewhere(&SubmitHeader { model_version: 2, ..header() }), elsewhere(&header()));
        // What the client notes about a job decides nothing.
        let noted = SubmitHeader { session: 4, sequence: 9, budget_us: 3, attempt: 2, freshness_us: 5, ..header() };
        assert_eq!(key(&noted), same);
    }

    #[test]
    fn what_depends_on_more_than_the_payload_has_no_key() {
        let has_key = |header: SubmitHeader| CacheKey::new(TenantKey(1), &model(1, 1), &header, 16).is_some();
        assert!(has_key(header()));
        assert!(!has_key(SubmitHeader { freshness_us: 0, ..header() }));
        assert!(!has_key(SubmitHeader { digest: [0; 32], ..header() }));
        assert!(!has_key(SubmitHeader { state_bytes: 1, ..header() }));
        assert!(!has_key(SubmitHeader { stream: 1, ..header() }));
    }

    #[test]
    fn an_answer_is_found_while_it_is_fresh() {
        let cache = AnswerCache::new(1 << 20).unwrap();
        let key = key(&header());
        assert!(cache.find([&key], 5_000, 1_000).is_none());
        cache.store(key.clone(), answer(10, 5_000));
        assert_eq!(cache.find([&key], 1_005_000, 1_000).unwrap().1, 1_000_000);
        assert!(cache.find([&key], 1_005_001, 1_000).is_none(), "a nanosecond too old");
        assert!(cache.find([&key], u64::MAX, u64::MAX).is_some());
        cache.store(key.clone(), answer(10, 9_000_000));
        assert!(cache.find([&key], 9_000_001, 1).is_some(), "the newer one took the older one's place");
        let status = cache.status();
        assert_eq!((status.hits, status.misses, status.entries), (3, 2, 1));
        assert_eq!((status.bytes, status.bytes_max), (ENTRY_BYTES + 10, 1 << 20));
    }

    #[test]
    fn it_never_holds_more_than_it_may() {
        assert!(AnswerCache::new(0).is_none());
        let cache = AnswerCache::new(64 << 10).unwrap();
        for number in 0..1_000_u32 {
            let mut header = header();
            header.shape[0] = number;
            cache.store(key(&header), answer(usize::try_from(number % 5).unwrap() * 1_000, 0));
            let status = cache.status();
            assert!(status.bytes <= 64 << 10 && status.entries <= 64, "{status:?}");
        }
        assert!(cache.status().entries > 10);
        let before = cache.status();
        let other = key(&SubmitHeader { digest: [9; 32], ..header() });
        cache.store(other.clone(), answer(65 << 10, 0));
        assert!(cache.find([&other], 0, 1).is_none(), "larger than all of it");
        assert!(cache.status().bytes <= before.bytes_max);
    }
}
