//! What comes before and after a node's models: rules first, then what the cache knows.
//!
//! All of it is local: nothing here asks another node, waits, or needs a worker, so it goes on when the node is cut off.
//! Without rules and for jobs that do not ask for a cache it costs two comparisons.

mod alerts;
mod counts;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use dashmap::DashMap;
use parking_lot::Mutex;
use sensorium_device::clock::now_ns;
use sensorium_pipelines::rules::{Facts, On, Rule, RuleSet, StreamState, StreamStates, Then};
use sensorium_wire::receipt::Stage;
use sensorium_wire::result::ModelResult;
use sensorium_wire::{
    AnswerHeader, BodyKind, Name, Outcome, Reason, Receipt, Rejection, SubmitHeader, Urgency, codec, limits,
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::answer::{AnswerPayload, Delivered};
use super::cache::{AnswerCache, CacheKey, CacheStatus, CachedAnswer, TenantKey};
use super::records::Record;
use super::{Admitted, Caller, CallerId, Engine, Reply};
use alerts::{About, Alerts};
use counts::Counts;

/// Long payloads that are hashed at once.
const HASHED_AT_ONCE_MAX: usize = 2;

/// The state of rules and cache.
pub(super) struct Edge {
    rules: RuleSet,
    /// By the rule's place.
    counts: Vec<Counts>,
    on_job: bool,
    on_result: bool,
    alerts: Mutex<Alerts>,
    streams: Mutex<StreamStates>,
    cache: Option<AnswerCache>,
    hashing: Arc<Semaphore>,
    tenants: DashMap<CallerId, Tenant>,
    tenant_keys: Mutex<HashMap<String, TenantKey>>,
    /// When the critical moment ends that was called last.
    critical_until_ns: AtomicU64,
}

#[derive(Clone)]
struct Tenant {
    key: TenantKey,
    name: Arc<str>,
}

/// What a job left for the rules on results.
pub(super) struct Evidence {
    header: SubmitHeader,
    caller: CallerId,
    payload_bytes: u64,
    result: Option<ModelResult>,
}

/// A rule as the status shows it.
#[derive(Clone, Debug, Serialize)]
pub struct RuleStatus {
    pub name: String,
    pub on: On,
    pub then: Then,
    /// How often it held.
    pub fired: u64,
    /// How often it asked for something that was not there, and so did not hold.
    pub failed: u64,
    /// 99 of 100 looks took no longer, in microseconds.
    pub p99_us: f64,
}

/// Rules and cache as the status shows them.
#[derive(Clone, Debug, Serialize)]
pub struct EdgeStatus {
    pub rules: Vec<RuleStatus>,
    /// Absent when the node keeps no answers.
    pub cache: Option<CacheStatus>,
}

impl Edge {
    pub(super) fn new(rules: RuleSet, cache_bytes_max: u64) -> Self {
        let any = |on| rules.on(on).next().is_some();
        Self {
            counts: rules.rules().iter().map(|_| Counts::default()).collect(),
            on_job: any(On::Job),
            on_result: any(On::Result),
            rules,
            alerts: Mutex::default(),
            streams: Mutex::default(),
            cache: AnswerCache::new(cache_bytes_max),
            hashing: Arc::new(Semaphore::new(HASHED_AT_ONCE_MAX)),
            tenants: DashMap::new(),
            tenant_keys: Mutex::default(),
            critical_until_ns: AtomicU64::new(0),
        }
    }

    /// A principal is new: `identity` is its tenant and name, with a slash between.
    pub(super) fn introduce(&self, caller: CallerId, identity: &str) {
        let name = identity.split('/').next().unwrap_or_default();
        let mut keys = self.tenant_keys.lock();
        let next = TenantKey(u32::try_from(keys.len()).unwrap_or(u32::MAX));
        let key = *keys.entry(name.to_owned()).or_insert(next);
        self.tenants.insert(caller, Tenant { key, name: name.into() });
    }

    /// Somebody called a critical moment.
    pub(super) fn critical_until(&self, until_ns: u64) {
        self.critical_until_ns.store(until_ns, Ordering::Relaxed);
    }

    fn tenant(&self, caller: CallerId) -> Option<Tenant> {
        self.tenants.get(&caller).map(|tenant| tenant.clone())
    }

    fn stream(&self, caller: CallerId, header: &SubmitHeader) -> Arc<StreamState> {
        if !self.rules.asks_stream() || header.stream == 0 {
            return Arc::default();
        }
        self.streams.lock().get((caller, header.session, header.stream))
    }

    /// Whether a rule holds, counted.
    fn holds(&self, at: usize, rule: &Rule, facts: &Facts<'_>) -> bool {
        let began_ns = now_ns();
        let held = rule.holds(facts);
        let counts = &self.counts[at];
        counts.took(now_ns().saturating_sub(began_ns));
        match held {
            Ok(held) => {
                counts.fired.fetch_add(u64::from(held), Ordering::Relaxed);
                held
            }
            Err(fault) => {
                if counts.failed.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::info!(rule = rule.name(), %fault, "a rule failed for the first time; it does not hold then");
                }
                false
            }
        }
    }
}

impl Engine {
    /// The answer that needs no model: a rule's, or one that the cache has. `None` when the job is to be admitted; so is
    /// one that admission will refuse.
    pub(crate) fn at_once(
        &self,
        caller: Caller,
        header: &SubmitHeader,
        payload_bytes: u64,
        header_ns: u64,
    ) -> Option<Delivered> {
        let edge = &self.edge;
        let asks_cache = header.freshness_us > 0 && edge.cache.is_some();
        if !edge.on_job && !asks_cache {
            return None;
        }
        let refused = header.check(payload_bytes).is_err()
            || header.budget_us == 0
            || (header.urgency == Urgency::Critical && !caller.critical)
            || self.draining.load(Ordering::Relaxed);
        if refused {
            return None;
        }
        let tenant = edge.tenant(caller.id)?;
        let answer = self.ask_rules(caller.id, &tenant, header, payload_bytes);
        let mut answer = answer.or_else(|| self.ask_cache(&tenant, header, payload_bytes))?;
        let receipt = &mut answer.header.receipt;
        receipt.node_ns = now_ns().saturating_sub(header_ns);
        receipt.stage_ns[Stage::Admit as usize] = receipt.node_ns;
        Some(answer)
    }

    fn ask_rules(
        &self,
        caller: CallerId,
        tenant: &Tenant,
        header: &SubmitHeader,
        payload_bytes: u64,
    ) -> Option<Delivered> {
        let edge = &self.edge;
        if !edge.on_job {
            return None;
        }
        let (stream, now_ms) = (edge.stream(caller, header), now_ns() / 1_000_000);
        let facts = Facts { tenant: &tenant.name, header, payload_bytes, stream: &stream, now_ms, result: None };
        for (at, rule) in edge.rules.on(On::Job) {
            if !edge.holds(at, rule, &facts) {
                continue;
            }
            match rule.then() {
                Then::Alert | Then::CriticalMoment => self.act(at, rule, caller, &facts),
                Then::Answer => {
                    let receipt = self.receipt_of_rule(rule);
                    let header = AnswerHeader {
                        job_id: header.job_id,
                        outcome: Outcome::Result,
                        body: BodyKind::Text,
                        receipt,
                        ..AnswerHeader::default()
                    };
                    let payload = AnswerPayload::Bytes(Bytes::copy_from_slice(rule.text().as_bytes()));
                    return Some(Delivered { header, payload });
                }
                Then::Refuse => {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed);
                    let rejection = Rejection::new(Reason::Rule, rule.text());
                    let mut answer = Delivered::rejection(header.job_id, Outcome::Refused, rejection, self.node);
                    answer.header.receipt = self.receipt_of_rule(rule);
                    return Some(answer);
                }
            }
        }
        None
    }

    fn receipt_of_rule(&self, rule: &Rule) -> Receipt {
        Receipt { node: self.node, variant: Name::cut(&format!("rule:{}", rule.name())), ..Receipt::default() }
    }

    /// What a rule that holds does besides answering.
    fn act(&self, at: usize, rule: &Rule, caller: CallerId, facts: &Facts<'_>) {
        if rule.then() == Then::CriticalMoment {
            return self.extend_critical_moment(rule.for_ms());
        }
        let SubmitHeader { session, stream, model, .. } = *facts.header;
        let text = || {
            let (name, text, tenant) = (rule.name(), rule.text(), facts.tenant);
            format!("rule {name}: {text}; model {model}, tenant {tenant}, session {session}, stream {stream}")
        };
        let about = About { rule: at, caller, session, stream };
        let first = self.edge.alerts.lock().raise(facts.now_ms, rule.for_ms(), about, text);
        if first {
            tracing::warn!("{}", text());
        }
    }

    /// A rule calls a critical moment: it makes one longer that was called before, never shorter, and renews its own only
    /// when a tenth of it is over, for it may hold for every frame.
    fn extend_critical_moment(&self, for_ms: u64) {
        let for_ns = for_ms.saturating_mul(1_000_000);
        let until_ns = now_ns().saturating_add(for_ns);
        if until_ns > self.edge.critical_until_ns.load(Ordering::Relaxed).saturating_add(for_ns / 10) {
            self.critical_moment(for_ms);
        }
    }

    fn ask_cache(&self, tenant: &Tenant, header: &SubmitHeader, payload_bytes: u64) -> Option<Delivered> {
        let cache = self.edge.cache.as_ref()?;
        let own = self.cache_key(tenant.key, header, payload_bytes);
        let elsewhere = CacheKey::elsewhere(tenant.key, header, payload_bytes);
        let (found, age_ns) = cache.find(own.iter().chain(&elsewhere), now_ns(), header.freshness_us)?;
        let before = found.header.receipt;
        let receipt = Receipt {
            node: self.node,
            device: before.device,
            lane: before.lane,
            cached: 1,
            model_version: before.model_version,
            age_ms: u32::try_from(age_ns / 1_000_000).unwrap_or(u32::MAX),
            variant: before.variant,
            ..Receipt::default()
        };
        let hops = AnswerHeader::default().hops;
        let header = AnswerHeader { job_id: header.job_id, receipt, hops, ..found.header };
        Some(Delivered { header, payload: AnswerPayload::Bytes(found.payload) })
    }

    fn cache_key(&self, tenant: TenantKey, header: &SubmitHeader, payload_bytes: u64) -> Option<CacheKey> {
        let model = self.models.find(header.model.as_str())?;
        let version_fits = header.model_version == 0 || header.model_version == model.version;
        CacheKey::new(tenant, model, header, payload_bytes).filter(|_| version_fits)
    }

    /// Queues a job whose payload is complete, as [`Self::submit`] does. One whose answer is to be kept is first held
    /// to its digest: the payload that lies here is hashed, a long one on another thread, and a job whose digest is another
    /// payload's is refused.
    pub(crate) async fn verify_and_submit(&self, mut admitted: Box<Admitted>, reply: Reply) {
        let (header, header_ns) = (admitted.header, admitted.header_ns());
        let key = self.edge.cache.as_ref().and_then(|_| {
            let tenant = self.edge.tenant(admitted.caller)?;
            self.cache_key(tenant.key, &header, admitted.input_bytes)
        });
        let Some(key) = key else { return self.submit(*admitted, reply) };
        let digest = if admitted.input_bytes <= limits::COALESCED_PAYLOAD_BYTES_MAX {
            digest_of(&admitted)
        } else {
            let _turn = self.edge.hashing.acquire().await;
            let hashed = tokio::task::spawn_blocking(move || {
                let digest = digest_of(&admitted);
                (admitted, digest)
            });
            let Ok((returned, digest)) = hashed.await else {
                let rejection = Rejection::new(Reason::Internal, "the payload could not be hashed");
                return self.refuse(&header, reply, rejection, header_ns);
            };
            admitted = returned;
            digest
        };
        if digest != key.digest {
            let shown = |digest: &[u8]| digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
            let detail = format!(
                "the payload's SHA-256 begins with {}, the header's digest with {}",
                shown(&digest),
                shown(&key.digest)
            );
            return self.refuse(&header, reply, Rejection::new(Reason::InvalidPayload, detail), header_ns);
        }
        admitted.cache = Some(Box::new(key));
        self.submit(*admitted, reply);
    }

    /// Looks at a result before it goes out: keeps it where it was asked for, and gives what rules are to look at. A
    /// result that comes too late for its client is looked at, too.
    pub(super) fn look(&self, record: &mut Record, answer: &AnswerHeader, bytes: u64) -> Option<Box<Evidence>> {
        let edge = &self.edge;
        let rules = edge.on_result || (edge.rules.asks_stream() && record.header.stream != 0);
        if answer.outcome != Outcome::Result || (record.cache.is_none() && !rules) {
            return None;
        }
        let body = record.output.read(bytes);
        if let (Some(cache), Some(key)) = (&edge.cache, record.cache.take()) {
            let payload = Bytes::copy_from_slice(body);
            cache.store(*key, CachedAnswer { header: *answer, payload, made_ns: now_ns() });
        }
        let result = match answer.body {
            // A worker is not trusted: what is no result is not looked at.
            BodyKind::Result if rules => Some(codec::decode(body)?),
            BodyKind::Result | BodyKind::Empty | BodyKind::Text | BodyKind::Tensor => None,
        };
        let (header, caller) = (record.header, record.caller);
        let payload_bytes = record.row.as_ref().map_or(record.input_bytes, |row| row.payload_bytes);
        rules.then(|| Box::new(Evidence { header, caller, payload_bytes, result }))
    }

    /// Asks the rules on results about one that another node has given.
    pub fn conclude_from_elsewhere(
        &self,
        caller: CallerId,
        header: &SubmitHeader,
        payload_bytes: u64,
        answer: (&AnswerHeader, &Bytes),
    ) {
        let rules = self.edge.on_result || (self.edge.rules.asks_stream() && header.stream != 0);
        if answer.0.outcome != Outcome::Result || !rules {
            return;
        }
        // Another node is not trusted: what is no result is not looked at.
        let result = match answer.0.body {
            BodyKind::Result => codec::decode(answer.1),
            BodyKind::Empty | BodyKind::Text | BodyKind::Tensor => None,
        };
        self.conclude(&Evidence { header: *header, caller, payload_bytes, result });
    }

    /// Keeps an answer of another node that was asked for here, if the digest is the payload's: the same job is answered
    /// here next time, also when this node is cut off. `asked_ns` is when the job came. A long payload is hashed on
    /// another thread, and none at all while others are.
    pub fn keep_from_elsewhere(
        self: &Arc<Self>,
        caller: CallerId,
        asked_ns: u64,
        header: &SubmitHeader,
        payload: Vec<Bytes>,
        answer: (&AnswerHeader, &Bytes),
    ) {
        let payload_bytes = payload.iter().map(|piece| piece.len() as u64).sum();
        if self.edge.cache.is_none() || answer.0.outcome != Outcome::Result {
            return;
        }
        let Some(tenant) = self.edge.tenant(caller) else { return };
        let Some(key) = CacheKey::elsewhere(tenant.key, header, payload_bytes) else { return };
        // The answer may have been old where it came from.
        let made_ns = asked_ns.saturating_sub(u64::from(answer.0.receipt.age_ms) * 1_000_000);
        let kept = CachedAnswer { header: *answer.0, payload: answer.1.clone(), made_ns };
        let (engine, long) = (Arc::clone(self), payload_bytes > limits::COALESCED_PAYLOAD_BYTES_MAX);
        let keep = move || {
            let mut digest = Sha256::new();
            payload.iter().for_each(|piece| digest.update(piece));
            if let (Some(cache), true) = (&engine.edge.cache, key.digest[..] == digest.finalize()[..]) {
                cache.store(key, kept);
            }
        };
        if !long {
            return keep();
        }
        if let Ok(turn) = Arc::clone(&self.edge.hashing).try_acquire_owned() {
            tokio::task::spawn_blocking(move || {
                keep();
                drop(turn);
            });
        }
    }

    /// Asks the rules on results, and remembers the result for those that come. Not under the scheduler's lock.
    pub(super) fn conclude(&self, evidence: &Evidence) {
        let edge = &self.edge;
        let Evidence { header, caller, payload_bytes, result } = evidence;
        let Some(tenant) = edge.tenant(*caller) else { return };
        let (stream, now_ms) = (edge.stream(*caller, header), now_ns() / 1_000_000);
        let facts = Facts {
            tenant: &tenant.name,
            header,
            payload_bytes: *payload_bytes,
            stream: &stream,
            now_ms,
            result: result.as_ref(),
        };
        for (at, rule) in edge.rules.on(On::Result) {
            if edge.holds(at, rule, &facts) {
                self.act(at, rule, *caller, &facts);
            }
        }
        drop(stream);
        if edge.rules.asks_stream() && header.stream != 0 {
            edge.streams.lock().note((*caller, header.session, header.stream), now_ms, result.as_ref());
        }
    }

    /// What rules say now, in sentences.
    pub fn rule_alerts(&self) -> Vec<String> {
        self.edge.alerts.lock().sentences(now_ns() / 1_000_000)
    }

    /// Rules and cache now.
    pub fn edge_status(&self) -> EdgeStatus {
        let rules = self.edge.rules.rules().iter().zip(&self.edge.counts).map(|(rule, counts)| RuleStatus {
            name: rule.name().to_owned(),
            on: rule.on(),
            then: rule.then(),
            fired: counts.fired.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
            #[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
            p99_us: counts.p99_ns() as f64 / 1000.0,
        });
        EdgeStatus { rules: rules.collect(), cache: self.edge.cache.as_ref().map(AnswerCache::status) }
    }
}

fn digest_of(admitted: &Admitted) -> [u8; 32] {
    Sha256::digest(admitted.input.read(admitted.input_bytes)).into()
}
