//! How a box moves: a Kalman filter with constant velocity on centre, aspect ratio and height.
//!
//! Noise is diagonal and the four coordinates do not influence each other, so the usual 8-state filter falls apart into
//! four filters of two states each, with the same result. Noise is given per second, not per frame, so that the frame
//! rate may change; it scales with the box's height, because near objects move more pixels than far ones.

use crate::checkpoint::{CheckpointError, Reader, Writer};

/// Detectors place a box to about 5 % of its height.
const POSITION_STD_HEIGHTS: f32 = 0.05;
const ASPECT_STD: f32 = 0.1;
/// What a new object may do: 2 heights a second (a person who runs), growing by a third a second.
const NEW_SPEED_STD_HEIGHTS: f32 = 2.0;
const NEW_GROWTH_STD_HEIGHTS: f32 = 0.3;
/// Change of speed in one second, in heights per second.
const SPEED_CHANGE_HEIGHTS: f32 = 1.0;
const GROWTH_CHANGE_HEIGHTS: f32 = 0.2;
const ASPECT_CHANGE: f32 = 0.05;
const HEIGHT_MIN_PX: f32 = 1.0;
const ASPECT_MIN: f32 = 0.01;
const ASPECT_MAX: f32 = 100.0;
/// Boxes further out than this are not from an image; it also keeps the arithmetic finite.
const COORDINATE_MAX_PX: f32 = 1e6;
/// Largest speed or variance in a checkpoint.
const NUMBER_MAX: f32 = 1e15;

/// One coordinate and its speed, with their covariance.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    x: f32,
    v: f32,
    xx: f32,
    xv: f32,
    vv: f32,
}

impl Axis {
    fn new(x: f32, x_std: f32, v_std: f32) -> Self {
        Self { x, v: 0.0, xx: x_std * x_std, xv: 0.0, vv: v_std * v_std }
    }

    /// White noise acceleration: `change` is the standard deviation that the speed gains in one second.
    fn predict(&mut self, dt_s: f32, change: f32) {
        let q = change * change;
        self.x += self.v * dt_s;
        self.xx += 2.0 * dt_s * self.xv + dt_s * dt_s * self.vv + q * dt_s * dt_s * dt_s / 3.0;
        self.xv += dt_s * self.vv + q * dt_s * dt_s / 2.0;
        self.vv += q * dt_s;
    }

    fn correct(&mut self, measured: f32, std: f32) {
        let spread = self.xx + std * std;
        if spread <= 0.0 {
            return;
        }
        let (gain_x, gain_v) = (self.xx / spread, self.xv / spread);
        let off = measured - self.x;
        self.x += gain_x * off;
        self.v += gain_v * off;
        self.vv -= gain_v * self.xv;
        self.xv *= 1.0 - gain_x;
        self.xx *= 1.0 - gain_x;
    }
}

/// A box in motion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Motion {
    cx: Axis,
    cy: Axis,
    aspect: Axis,
    height: Axis,
}

/// Whether a box is one: finite, not turned inside out, within reach.
pub(crate) fn is_box(bbox: &[f32; 4]) -> bool {
    let [x1, y1, x2, y2] = *bbox;
    bbox.iter().all(|value| value.abs() <= COORDINATE_MAX_PX) && x2 - x1 > 0.0 && y2 - y1 > 0.0
}

/// Centre, aspect ratio and height.
fn measure(bbox: &[f32; 4]) -> [f32; 4] {
    let [x1, y1, x2, y2] = *bbox;
    let height = (y2 - y1).max(HEIGHT_MIN_PX);
    [f32::midpoint(x1, x2), f32::midpoint(y1, y2), ((x2 - x1) / height).clamp(ASPECT_MIN, ASPECT_MAX), height]
}

impl Motion {
    pub(crate) fn new(bbox: &[f32; 4]) -> Self {
        let [cx, cy, aspect, height] = measure(bbox);
        let (position, speed) = (POSITION_STD_HEIGHTS * height, NEW_SPEED_STD_HEIGHTS * height);
        Self {
            cx: Axis::new(cx, position, speed),
            cy: Axis::new(cy, position, speed),
            aspect: Axis::new(aspect, ASPECT_STD, ASPECT_CHANGE),
            height: Axis::new(height, position, NEW_GROWTH_STD_HEIGHTS * height),
        }
    }

    pub(crate) fn predict(&mut self, dt_s: f32) {
        let height = self.height.x;
        self.cx.predict(dt_s, SPEED_CHANGE_HEIGHTS * height);
        self.cy.predict(dt_s, SPEED_CHANGE_HEIGHTS * height);
        self.aspect.predict(dt_s, ASPECT_CHANGE);
        self.height.predict(dt_s, GROWTH_CHANGE_HEIGHTS * height);
        self.stay_in_range();
    }

    pub(crate) fn correct(&mut self, bbox: &[f32; 4]) {
        let [cx, cy, aspect, height] = measure(bbox);
        let std = POSITION_STD_HEIGHTS * height;
        self.cx.correct(cx, std);
        self.cy.correct(cy, std);
        self.aspect.correct(aspect, ASPECT_STD);
        self.height.correct(height, std);
        self.stay_in_range();
    }

    /// An object that is not seen keeps its size: what its box did while it vanished says little about it.
    pub(crate) fn keep_size(&mut self) {
        self.aspect.v = 0.0;
        self.height.v = 0.0;
    }

    pub(crate) fn bbox(&self) -> [f32; 4] {
        let (half_width, half_height) = (self.aspect.x * self.height.x / 2.0, self.height.x / 2.0);
        [self.cx.x - half_width, self.cy.x - half_height, self.cx.x + half_width, self.cy.x + half_height]
    }

    /// Speed of the centre, in heights of the box per second.
    pub(crate) fn speed_heights_per_s(&self) -> f32 {
        self.cx.v.hypot(self.cy.v) / self.height.x
    }

    fn stay_in_range(&mut self) {
        self.cx.x = self.cx.x.clamp(-COORDINATE_MAX_PX, COORDINATE_MAX_PX);
        self.cy.x = self.cy.x.clamp(-COORDINATE_MAX_PX, COORDINATE_MAX_PX);
        self.aspect.x = self.aspect.x.clamp(ASPECT_MIN, ASPECT_MAX);
        self.height.x = self.height.x.clamp(HEIGHT_MIN_PX, COORDINATE_MAX_PX);
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        for axis in [&self.cx, &self.cy, &self.aspect, &self.height] {
            for value in [axis.x, axis.v, axis.xx, axis.xv, axis.vv] {
                writer.f32(value);
            }
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, CheckpointError> {
        let mut axis = || -> Result<Axis, CheckpointError> {
            let axis = Axis {
                x: reader.f32("position")?,
                v: reader.f32("speed")?,
                xx: reader.f32("variance")?,
                xv: reader.f32("covariance")?,
                vv: reader.f32("variance")?,
            };
            // Far above anything a filter reaches; from there on the arithmetic would overflow.
            let within = |value: f32| (0.0..=NUMBER_MAX).contains(&value);
            if !(within(axis.xx) && within(axis.vv) && within(axis.xv.abs()) && within(axis.v.abs())) {
                return Err(CheckpointError::Invalid { what: "variance" });
            }
            Ok(axis)
        };
        let mut motion = Self { cx: axis()?, cy: axis()?, aspect: axis()?, height: axis()? };
        motion.stay_in_range();
        Ok(motion)
    }
}

/// Intersection over union of two boxes.
pub(crate) fn iou(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let width = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let height = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let shared = width * height;
    let area = |bbox: &[f32; 4]| (bbox[2] - bbox[0]).max(0.0) * (bbox[3] - bbox[1]).max(0.0);
    let union = area(a) + area(b) - shared;
    if union > 0.0 { shared / union } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_walk_is_learned_and_continued() {
        let at = |t: f32| [100.0 + 50.0 * t, 200.0, 140.0 + 50.0 * t, 300.0];
        let mut motion = Motion::new(&at(0.0));
        for step in 1_u8..=20 {
            motion.predict(0.1);
            motion.correct(&at(f32::from(step) * 0.1));
        }
        assert!((motion.speed_heights_per_s() - 0.5).abs() < 0.02, "{}", motion.speed_heights_per_s());
        motion.keep_size();
        for _ in 0..5 {
            motion.predict(0.1);
        }
        assert!(iou(&motion.bbox(), &at(2.5)) > 0.9, "{:?}", motion.bbox());
    }

    #[test]
    fn overlap_is_a_share_of_the_union() {
        assert_eq!(iou(&[0.0, 0.0, 2.0, 2.0], &[1.0, 0.0, 3.0, 2.0]), 1.0 / 3.0);
        assert_eq!(iou(&[0.0, 0.0, 1.0, 1.0], &[2.0, 2.0, 3.0, 3.0]), 0.0);
        assert_eq!(iou(&[0.0; 4], &[0.0; 4]), 0.0);
    }

    #[test]
    fn what_is_not_a_box_is_noticed() {
        assert!(is_box(&[0.0, 0.0, 1.0, 1.0]));
        for wrong in
            [[f32::NAN, 0.0, 1.0, 1.0], [0.0, 0.0, f32::INFINITY, 1.0], [1.0, 0.0, 1.0, 1.0], [0.0, 2.0, 1.0, 1.0]]
        {
            assert!(!is_box(&wrong), "{wrong:?}");
        }
    }
}
