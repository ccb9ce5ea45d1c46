//! What an application has had of a session, so that nothing comes twice when the session goes on elsewhere.
//!
//! Who takes a session up goes on from a state that is up to a second old and finds again what came after it. Each kind
//! of event has an order of its own (frames, times); what is not beyond the last one that was had is left out.

use std::collections::VecDeque;

use sensorium_wire::ids::ShortName;
use sensorium_wire::{Event, EventBody, Modality};

/// Sounds that are remembered: more than can be active at once, each with its beginning and end.
const SOUNDS_MAX: usize = 128;
/// Notices that are remembered.
const NOTICES_MAX: usize = 16;

#[derive(Default)]
pub(crate) struct Seen {
    /// What the source was: video, sound, width, height.
    opened: Option<(bool, bool, u32, u32)>,
    detection: Option<u64>,
    track: Option<u64>,
    /// The end of a segment comes before the beginning of the next at the same time.
    speech: Option<(u64, bool)>,
    transcript: Option<u64>,
    fusion: Option<u64>,
    /// The latest end of a gap, by modality; and what it was when the session went on last. Gaps have no order: two
    /// parts tell of them, each when it is over.
    gaps: [Option<u64>; 3],
    gaps_before: [Option<u64>; 3],
    /// The session has gone on elsewhere. Until then nothing comes twice, and nothing is left out.
    resumed: bool,
    sounds: VecDeque<(bool, u64, ShortName)>,
    notices: VecDeque<String>,
    /// Events that the application has had: the number of the next one.
    pub(crate) events: u64,
    /// The latest session time that one of them spoke of.
    pub(crate) latest_ms: u64,
}

impl Seen {
    /// The session goes on elsewhere: from here on what was had may come again.
    pub(crate) fn goes_on(&mut self) {
        self.resumed = true;
        self.gaps_before = self.gaps;
    }

    /// What comes from here on has nothing to do with what was had, but for its numbers.
    pub(crate) fn begins_anew(&mut self) {
        *self = Self { events: self.events, latest_ms: self.latest_ms, ..Self::default() };
    }

    /// The event as the application gets it, with its number in the order of what it has had; `None` when it has had it.
    pub(crate) fn admit(&mut self, mut event: Event) -> Option<Event> {
        let is_new = self.is_new(&event.body);
        if self.resumed && !is_new {
            return None;
        }
        event.number = self.events;
        self.events += 1;
        // Where a session ended or goes on says nothing of what was had.
        if !matches!(event.body, EventBody::Closed { .. } | EventBody::Resumed { .. } | EventBody::Missed { .. }) {
            self.latest_ms = self.latest_ms.max(event.t_ms);
        }
        Some(event)
    }

    fn is_new(&mut self, body: &EventBody) -> bool {
        match body {
            EventBody::Opened { video, audio, width, height, .. } => {
                let now = Some((*video, *audio, *width, *height));
                std::mem::replace(&mut self.opened, now) != now
            }
            EventBody::Detection { frame, .. } => advance(&mut self.detection, *frame),
            EventBody::Track { frame, .. } => advance(&mut self.track, *frame),
            EventBody::Speech { active, start_ms, end_ms } => {
                advance(&mut self.speech, if *active { (*start_ms, true) } else { (*end_ms, false) })
            }
            EventBody::Transcript { end_ms, r#final, .. } => !r#final || advance(&mut self.transcript, *end_ms),
            EventBody::Fusion { start_ms, .. } => advance(&mut self.fusion, *start_ms),
            EventBody::Gap { modality, end_ms, .. } => {
                let known = [Modality::Visual, Modality::Audio, Modality::Fusion];
                let at = known.iter().position(|known| known.name() == modality.as_str());
                at.is_none_or(|at| {
                    self.gaps[at] = self.gaps[at].max(Some(*end_ms));
                    self.gaps_before[at] < Some(*end_ms)
                })
            }
            EventBody::Sound { active, start_ms, label, .. } => {
                remember(&mut self.sounds, (*active, *start_ms, *label), SOUNDS_MAX)
            }
            EventBody::Notice { text } => remember(&mut self.notices, text.clone(), NOTICES_MAX),
            EventBody::Closed { .. } | EventBody::Resumed { .. } | EventBody::Missed { .. } => true,
        }
    }
}

fn advance<T: Copy + PartialOrd>(last: &mut Option<T>, next: T) -> bool {
    let beyond = last.is_none_or(|last| next > last);
    if beyond {
        *last = Some(next);
    }
    beyond
}

fn remember<T: PartialEq>(had: &mut VecDeque<T>, one: T, count_max: usize) -> bool {
    if had.contains(&one) {
        return false;
    }
    had.push_back(one);
    if had.len() > count_max {
        had.pop_front();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64, t_ms: u64, body: EventBody) -> Event {
        Event { t_ms, number, body, receipt: None }
    }

    #[test]
    fn what_was_had_does_not_come_again_and_numbers_have_no_holes() {
        let detection = |frame: u64| EventBody::Detection { frame, detections: Vec::new() };
        let speech = |active, start_ms, end_ms| EventBody::Speech { active, start_ms, end_ms };
        let sound = |active| EventBody::Sound {
            active,
            start_ms: 300,
            end_ms: 900,
            label: ShortName::cut("Siren"),
            score: 0.5,
        };
        let words = |start_ms, end_ms| EventBody::Transcript { start_ms, end_ms, r#final: true, text: "a".to_owned() };
        let node = ShortName::cut("two");
        let mut seen = Seen::default();
        let had = [
            (0, detection(0)),
            (100, detection(1)),
            (200, speech(true, 200, 200)),
            (900, speech(false, 200, 900)),
            (900, speech(true, 900, 900)),
            (900, words(200, 900)),
            (300, sound(true)),
            (200, detection(2)),
        ];
        for (number, (t_ms, body)) in (0..).zip(had.clone()) {
            assert_eq!(seen.admit(event(number, t_ms, body)).map(|event| event.number), Some(number));
        }
        assert_eq!(seen.latest_ms, 900);
        seen.goes_on();
        let resumed = EventBody::Resumed { epoch: 2, from_ms: 100, node };
        assert_eq!(seen.admit(event(8, 100, resumed)).map(|event| event.number), Some(8));
        for (t_ms, body) in had {
            assert_eq!(seen.admit(event(9, t_ms, body)), None);
        }
        for (number, body) in (9..).zip([detection(3), sound(false), speech(false, 900, 1_400), words(900, 1_400)]) {
            assert_eq!(seen.admit(event(40 + number, 1_400, body)).map(|event| event.number), Some(number));
        }
    }

    #[test]
    fn what_begins_anew_is_not_compared_with_what_was_had() {
        let detection = |frame: u64| EventBody::Detection { frame, detections: Vec::new() };
        let opened = |width| EventBody::Opened {
            video: true,
            audio: false,
            width,
            height: 2,
            frame_rate: 1.0,
            sample_rate_hz: 0,
            duration_ms: 0,
        };
        let mut seen = Seen::default();
        for body in [opened(1), detection(7)] {
            assert!(seen.admit(event(0, 0, body)).is_some());
        }
        seen.goes_on();
        for body in [opened(1), detection(3)] {
            assert!(seen.admit(event(0, 0, body)).is_none());
        }
        assert!(seen.admit(event(0, 0, opened(3))).is_some(), "another shape is news");
        seen.begins_anew();
        assert_eq!(seen.admit(event(0, 0, detection(3))).map(|event| event.number), Some(3));
    }

    #[test]
    fn gaps_that_two_parts_tell_of_are_both_had_and_not_again() {
        let gap = |start_ms: u64, reason: &str| EventBody::Gap {
            modality: ShortName::cut("visual"),
            start_ms,
            end_ms: start_ms + 40,
            units: 1,
            reason: reason.to_owned(),
        };
        let mut seen = Seen::default();
        let gaps = [gap(400, "the detector is behind"), gap(200, "deadline_expired"), gap(400, "deadline_expired")];
        for body in gaps.clone() {
            assert!(seen.admit(event(0, 0, body)).is_some(), "two parts, in the order in which they noticed");
        }
        seen.goes_on();
        for body in gaps {
            assert!(seen.admit(event(0, 0, body)).is_none());
        }
        assert!(seen.admit(event(0, 0, gap(900, "a"))).is_some());
        assert!(seen.admit(event(0, 0, gap(700, "b"))).is_some());
    }
}
