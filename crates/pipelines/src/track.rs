//! Following objects from frame to frame: detections in, tracks with stable ids out.
//!
//! As in SORT and ByteTrack: where each known object should be now is predicted, detections with high scores are
//! assigned first, then the weak ones to objects that were just seen, and what is left may become new objects. The
//! assignment has the highest total overlap, by class. Everything is measured in time, not frames. It does not look at
//! pixels, so two objects of one class that hide each other for long may come out exchanged.

mod assign;
mod motion;

use sensorium_wire::event::Track;
use sensorium_wire::ids::Name;
use sensorium_wire::result::Detection;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{CheckpointError, Reader, Writer};
use assign::assign;
use motion::{Motion, iou, is_box};

/// Most objects that are followed at once, and most detections of a frame that are looked at (the best).
pub const TRACKS_MAX: usize = 256;
/// Longest time without anybody looking that objects outlast, in milliseconds. Beyond, what is there may be another.
pub const UNWATCHED_MS_MAX: u64 = 10_000;
const KIND: [u8; 4] = *b"STRK";
const VERSION: u16 = 1;

/// When detections belong together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrackSettings {
    /// Detections from this score on are assigned first. Default 0.5.
    pub high_score_min: f32,
    /// Weaker ones from this score on keep an object alive that was just seen. Default 0.1.
    pub low_score_min: f32,
    /// Score that starts a new object. Default 0.5.
    pub new_score_min: f32,
    /// Least overlap of a detection with the predicted box, 0 to 1: with a high score (default 0.2), with a low one
    /// (0.5), and with an object that is not confirmed yet (0.3).
    pub iou_min: f32,
    pub low_iou_min: f32,
    pub tentative_iou_min: f32,
    /// Frames in a row that confirm a new object. Default 3: one or two chance detections never show.
    pub hits_to_confirm: u32,
    /// How long an object may be hidden before it is given up, in milliseconds. Default 1,000.
    pub lost_ms_max: u64,
}

impl Default for TrackSettings {
    fn default() -> Self {
        Self {
            high_score_min: 0.5,
            low_score_min: 0.1,
            new_score_min: 0.5,
            iou_min: 0.2,
            low_iou_min: 0.5,
            tentative_iou_min: 0.3,
            hits_to_confirm: 3,
            lost_ms_max: 1_000,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Object {
    /// 0 until confirmed.
    id: u64,
    class: u32,
    label: Name<32>,
    score: f32,
    motion: Motion,
    hits: u32,
    first_frame: u64,
    seen_ms: u64,
    /// Seen in the last update.
    seen: bool,
}

/// Follows the objects of one video stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracker {
    settings: TrackSettings,
    objects: Vec<Object>,
    next_id: u64,
    now_ms: u64,
    new_tracks: u32,
}

impl Tracker {
    #[must_use]
    pub fn new(settings: TrackSettings) -> Self {
        Self { settings, objects: Vec::new(), next_id: 1, now_ms: 0, new_tracks: 0 }
    }

    /// Takes the detections of one frame and gives the confirmed objects that are seen in it, by id. Detections that are
    /// not boxes (not finite, inside out) are left out. A time before the last one counts as the last one.
    pub fn update(&mut self, t_ms: u64, frame: u64, detections: &[Detection]) -> Vec<Track> {
        self.advance(t_ms);
        let mut usable: Vec<&Detection> = detections
            .iter()
            .filter(|detection| detection.score >= self.settings.low_score_min && is_box(&detection.bbox))
            .collect();
        // Best first; the sort is stable, so equal scores stay in the detector's order.
        usable.sort_by(|a, b| b.score.total_cmp(&a.score));
        usable.truncate(TRACKS_MAX);
        let high = usable.partition_point(|detection| detection.score >= self.settings.high_score_min);
        let (high, low) = usable.split_at(high);

        let was_seen: Vec<bool> = self.objects.iter().map(|object| object.seen).collect();
        self.objects.iter_mut().for_each(|object| object.seen = false);
        let confirmed = self.indices(|_, object| object.id > 0);
        let left = self.associate(&confirmed, high, self.settings.iou_min);
        let just_seen = self.indices(|index, object| object.id > 0 && !object.seen && was_seen[index]);
        self.associate(&just_seen, low, self.settings.low_iou_min);
        let tentative = self.indices(|_, object| object.id == 0);
        let left = self.associate(&tentative, &left, self.settings.tentative_iou_min);

        self.confirm();
        self.objects.retain(|object| object.seen || object.id > 0);
        self.objects.iter_mut().filter(|object| !object.seen).for_each(|object| object.motion.keep_size());
        self.start(frame, &left);
        self.tracks(frame)
    }

    /// For `ms` after the last update nobody looked: that time does not count as being hidden, and objects are expected
    /// where they were. After more than [`UNWATCHED_MS_MAX`] they are given up as usual.
    pub fn unwatched(&mut self, ms: u64) {
        if ms <= UNWATCHED_MS_MAX {
            self.now_ms = self.now_ms.saturating_add(ms);
            self.objects.iter_mut().for_each(|object| object.seen_ms = object.seen_ms.saturating_add(ms));
        }
    }

    /// Objects that the last update confirmed.
    #[must_use]
    pub const fn new_tracks(&self) -> u32 {
        self.new_tracks
    }

    /// Speeds of the confirmed objects that the last update saw, in heights of their box per second.
    pub fn speeds(&self) -> impl Iterator<Item = f32> {
        self.objects
            .iter()
            .filter(|object| object.seen && object.id > 0)
            .map(|object| object.motion.speed_heights_per_s())
    }

    /// Moves everything to `t_ms` and gives up what was hidden for too long.
    fn advance(&mut self, t_ms: u64) {
        let t_ms = t_ms.max(self.now_ms);
        let lost_ms_max = self.settings.lost_ms_max;
        self.objects.retain(|object| t_ms - object.seen_ms <= lost_ms_max);
        #[expect(clippy::cast_precision_loss, reason = "what is followed was seen within seconds")]
        let dt_s = (t_ms - self.now_ms) as f32 / 1000.0;
        if dt_s > 0.0 {
            self.objects.iter_mut().for_each(|object| object.motion.predict(dt_s));
        }
        self.now_ms = t_ms;
        self.new_tracks = 0;
    }

    fn indices(&self, wanted: impl Fn(usize, &Object) -> bool) -> Vec<usize> {
        (0..self.objects.len()).filter(|index| wanted(*index, &self.objects[*index])).collect()
    }

    /// Assigns detections to objects and corrects those; gives the detections that are left over.
    fn associate<'a>(&mut self, objects: &[usize], detections: &[&'a Detection], iou_min: f32) -> Vec<&'a Detection> {
        let boxes: Vec<[f32; 4]> = objects.iter().map(|index| self.objects[*index].motion.bbox()).collect();
        let mut gains = Vec::with_capacity(objects.len() * detections.len());
        for (index, bbox) in objects.iter().zip(&boxes) {
            gains.extend(detections.iter().map(|detection| {
                let overlap = iou(bbox, &detection.bbox);
                if self.objects[*index].class == detection.class && overlap >= iou_min { overlap } else { 0.0 }
            }));
        }
        let columns = detections.len();
        let pairs = assign(objects.len(), columns, |row, column| gains[row * columns + column]);
        let mut taken = vec![false; columns];
        for (row, column) in pairs {
            taken[column] = true;
            let (object, detection) = (&mut self.objects[objects[row]], detections[column]);
            object.motion.correct(&detection.bbox);
            object.score = detection.score;
            object.seen = true;
            object.seen_ms = self.now_ms;
            object.hits = object.hits.saturating_add(1);
        }
        detections.iter().zip(taken).filter(|(_, taken)| !taken).map(|(detection, _)| *detection).collect()
    }

    fn confirm(&mut self) {
        for object in &mut self.objects {
            if object.id == 0 && object.seen && object.hits >= self.settings.hits_to_confirm {
                object.id = self.next_id;
                self.next_id += 1;
                self.new_tracks += 1;
            }
        }
    }

    fn start(&mut self, frame: u64, detections: &[&Detection]) {
        for detection in detections {
            if detection.score < self.settings.new_score_min || self.objects.len() >= TRACKS_MAX {
                continue;
            }
            self.objects.push(Object {
                id: 0,
                class: detection.class,
                label: detection.label,
                score: detection.score,
                motion: Motion::new(&detection.bbox),
                hits: 1,
                first_frame: frame,
                seen_ms: self.now_ms,
                seen: true,
            });
        }
        // Who asks for a single hit gets the object at once.
        self.confirm();
    }

    fn tracks(&self, frame: u64) -> Vec<Track> {
        let seen = self.objects.iter().filter(|object| object.seen && object.id > 0);
        let mut tracks: Vec<Track> = seen
            .map(|object| Track {
                id: object.id,
                bbox: object.motion.bbox(),
                score: object.score,
                class: object.class,
                label: object.label,
                age_frames: u32::try_from(frame.saturating_sub(object.first_frame)).unwrap_or(u32::MAX),
            })
            .collect();
        tracks.sort_unstable_by_key(|track| track.id);
        tracks
    }

    /// The state as flat bytes, below 64 KiB.
    #[must_use]
    pub fn checkpoint(&self) -> Vec<u8> {
        let mut writer = Writer::new(KIND, VERSION);
        writer.u64(self.next_id);
        writer.u64(self.now_ms);
        writer.u32(self.new_tracks);
        writer.count(self.objects.len());
        for object in &self.objects {
            writer.u64(object.id);
            writer.u32(object.class);
            writer.put(&object.label.0);
            writer.f32(object.score);
            object.motion.write(&mut writer);
            writer.u32(object.hits);
            writer.u64(object.first_frame);
            writer.u64(object.seen_ms);
            writer.bool(object.seen);
        }
        writer.finish()
    }

    /// Continues from a checkpoint.
    ///
    /// # Errors
    /// A [`CheckpointError`] that says what in the bytes is wrong.
    pub fn restore(settings: TrackSettings, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let mut reader = Reader::new(bytes, KIND, VERSION)?;
        let next_id = reader.u64("next id")?;
        let now_ms = reader.u64("time")?;
        let new_tracks = reader.u32("new tracks")?;
        let count = reader.count("number of tracks", TRACKS_MAX)?;
        let mut objects = Vec::with_capacity(count);
        for _ in 0..count {
            let object = Object {
                id: reader.u64("id")?,
                class: reader.u32("class")?,
                label: Name(reader.array("label")?),
                score: reader.f32("score")?,
                motion: Motion::read(&mut reader)?,
                hits: reader.u32("hits")?,
                first_frame: reader.u64("first frame")?,
                seen_ms: reader.u64("time of the last sight")?,
                seen: reader.bool("seen")?,
            };
            if object.id >= next_id || object.seen_ms > now_ms {
                return Err(CheckpointError::Invalid { what: "track from the future" });
            }
            objects.push(object);
        }
        reader.finish()?;
        // Ids count up from here for the life of a stream; half the range is never reached honestly.
        if next_id == 0 || next_id > u64::MAX / 2 {
            return Err(CheckpointError::Invalid { what: "next id" });
        }
        Ok(Self { settings, objects, next_id, now_ms, new_tracks })
    }
}

#[cfg(test)]
mod tests;
