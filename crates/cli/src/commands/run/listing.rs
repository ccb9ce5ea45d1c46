//! Events for a person: what changed, when, and how long the answer took; at the end a summary.

use std::collections::{BTreeMap, BTreeSet};

use sensorium_wire::{Event, EventBody, Receipt};

use crate::show::duration;

/// Collects what the summary tells.
#[derive(Default)]
pub(in crate::commands) struct Listing {
    shown: BTreeSet<u64>,
    objects: BTreeMap<String, BTreeSet<u64>>,
    /// The longest that each kind of sound was heard in one go, in milliseconds.
    sounds: BTreeMap<String, u64>,
    transcripts: Vec<(u64, u64, String)>,
    speech_ms: u64,
    peak: Option<(f32, u64, String)>,
    event: Option<String>,
    /// Node time of each kind of answer, in nanoseconds.
    latencies: BTreeMap<&'static str, Vec<u64>>,
    closed: Option<(u64, u64, u64)>,
}

impl Listing {
    /// The lines to print for an event; most events are only counted.
    pub(in crate::commands) fn event(&mut self, event: &Event) -> Vec<String> {
        let kind = match &event.body {
            EventBody::Detection { .. } => Some("objects in a frame"),
            EventBody::Speech { .. } => Some("speech found"),
            EventBody::Sound { .. } => Some("sound named"),
            EventBody::Transcript { .. } => Some("speech to text"),
            EventBody::Fusion { .. } => Some("fusion"),
            EventBody::Opened { .. }
            | EventBody::Track { .. }
            | EventBody::Gap { .. }
            | EventBody::Notice { .. }
            | EventBody::Closed { .. }
            | EventBody::Resumed { .. }
            | EventBody::Missed { .. } => None,
        };
        if let (Some(kind), Some(receipt)) = (kind, &event.receipt) {
            self.latencies.entry(kind).or_default().push(receipt.node_ns);
        }
        let took = event.receipt.as_ref().map_or_else(String::new, took);
        self.lines(event).into_iter().map(|text| format!("{}  {text}{took}", clock(event.t_ms))).collect()
    }

    fn lines(&mut self, event: &Event) -> Vec<String> {
        match &event.body {
            EventBody::Opened { video, audio, width, height, frame_rate, duration_ms, .. } => {
                let mut parts = Vec::new();
                if *video {
                    parts.push(format!("video {width}x{height} at {frame_rate:.3} frames/s"));
                }
                if *audio {
                    parts.push("sound".to_owned());
                }
                vec![format!("opened: {}, {}", parts.join(" and "), clock(*duration_ms).trim())]
            }
            EventBody::Detection { .. } => Vec::new(),
            EventBody::Track { tracks, .. } => {
                let mut lines = Vec::new();
                for track in tracks {
                    let label = track.label.as_str().to_owned();
                    self.objects.entry(label.clone()).or_default().insert(track.id);
                    if self.shown.insert(track.id) {
                        let (x, y) = ((track.bbox[0] + track.bbox[2]) / 2.0, (track.bbox[1] + track.bbox[3]) / 2.0);
                        lines.push(format!(
                            "seen   {label} #{} at {x:.0}, {y:.0} ({:.0} %)",
                            track.id,
                            track.score * 100.0
                        ));
                    }
                }
                lines
            }
            EventBody::Sound { active, start_ms, end_ms, label, score } => {
                let longest = self.sounds.entry(label.as_str().to_owned()).or_default();
                *longest = (*longest).max(end_ms.saturating_sub(*start_ms));
                if *active { vec![format!("heard  {label} ({:.0} %)", score * 100.0)] } else { Vec::new() }
            }
            EventBody::Speech { active, start_ms, end_ms } => {
                if *active {
                    return vec!["speech begins".to_owned()];
                }
                self.speech_ms += end_ms - start_ms;
                vec![format!("speech ends after {}", duration((end_ms - start_ms) * 1_000_000))]
            }
            EventBody::Transcript { start_ms, end_ms, r#final, text } => {
                if *r#final {
                    self.transcripts.push((*start_ms, *end_ms, text.clone()));
                }
                vec![format!("said   \u{201c}{text}\u{201d}")]
            }
            EventBody::Fusion { events, intensity, start_ms, .. } => {
                let Some(best) = events.iter().max_by(|a, b| a.score.total_cmp(&b.score)) else { return Vec::new() };
                let name = best.label.as_str().to_owned();
                if self.peak.as_ref().is_none_or(|(peak, ..)| intensity > peak) {
                    self.peak = Some((*intensity, *start_ms, name.clone()));
                }
                if self.event.as_ref() == Some(&name) {
                    return Vec::new();
                }
                self.event = Some(name.clone());
                vec![format!("moment {name} ({:.0} %), intensity {intensity:.2}", best.score * 100.0)]
            }
            EventBody::Gap { modality, start_ms, end_ms, units, reason } => vec![format!(
                "gap    {modality}: {units} not looked at, {} long: {reason}",
                duration((end_ms - start_ms) * 1_000_000)
            )],
            EventBody::Notice { text } => vec![format!("note   {text}")],
            EventBody::Missed { events } => vec![format!("missed {events} events: this watcher is too slow")],
            EventBody::Resumed { node, epoch, .. } => {
                vec![format!("goes on at {node} (epoch {epoch})")]
            }
            EventBody::Closed { frames, audio_ms, gaps, .. } => {
                self.closed = Some((*frames, *audio_ms, *gaps));
                Vec::new()
            }
        }
    }

    /// What it all came to.
    pub(super) fn summary(&self) -> Vec<String> {
        let mut lines = vec![String::new()];
        let (frames, audio_ms, gaps) = self.closed.unwrap_or_default();
        let gaps = if gaps == 0 { "nothing left out".to_owned() } else { format!("{gaps} gaps") };
        lines.push(format!(
            "Looked at {frames} frames and listened to {} of sound; {gaps}.",
            duration(audio_ms * 1_000_000)
        ));
        let mut objects: Vec<_> = self.objects.iter().map(|(label, ids)| (ids.len(), label)).collect();
        objects.sort_by(|a, b| b.cmp(a));
        let objects: Vec<_> = objects.iter().map(|(count, label)| format!("{count} × {label}")).collect();
        lines.push(format!("Seen:   {}", if objects.is_empty() { "nothing".to_owned() } else { objects.join(", ") }));
        let mut sounds: Vec<_> = self.sounds.iter().map(|(label, ms)| (*ms, label.as_str())).collect();
        sounds.sort_by(|a, b| b.cmp(a));
        let sounds: Vec<_> = sounds.iter().take(6).map(|(_, label)| *label).collect();
        lines.push(format!("Heard:  {}", if sounds.is_empty() { "nothing".to_owned() } else { sounds.join(", ") }));
        if self.transcripts.is_empty() {
            lines.push("Said:   nothing".to_owned());
        }
        for (start_ms, _, text) in &self.transcripts {
            lines.push(format!("Said:   at {} \u{201c}{text}\u{201d}", clock(*start_ms).trim()));
        }
        if let Some((intensity, at_ms, name)) = &self.peak {
            lines.push(format!("Moment: most intense at {} ({name}, intensity {intensity:.2})", clock(*at_ms).trim()));
        }
        for (kind, latencies) in &self.latencies {
            let mut sorted = latencies.clone();
            sorted.sort_unstable();
            let at = |percent: usize| duration(sorted[(sorted.len() - 1) * percent / 100]);
            lines.push(format!(
                "Took:   {kind}: {} at the median, {} at the 99th percentile ({} answers)",
                at(50),
                at(99),
                sorted.len()
            ));
        }
        lines
    }
}

fn took(receipt: &Receipt) -> String {
    format!("  [{}, {} queued]", duration(receipt.node_ns), duration(receipt.stage_ns[2]))
}

/// `m:ss.t`, aligned.
fn clock(t_ms: u64) -> String {
    format!("{:>4}:{:02}.{}", t_ms / 60_000, t_ms / 1000 % 60, t_ms % 1000 / 100)
}
