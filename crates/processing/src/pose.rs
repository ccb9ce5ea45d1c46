//! From the output of a pose network to points of a body in source pixels.

use sensorium_wire::ids::ShortName;
use sensorium_wire::result::Keypoint;

use crate::error::ProcessingError;
use crate::image::SourceGeometry;

/// The points of one body, in the order of `labels`: rows of y, x (each 0 to 1 of the network's input, as MoveNet gives
/// them) and score. `input` is the width and height of the network's input in pixels. A point that the network puts
/// outside the image, or where letterboxing left it empty, comes to lie on the image's edge.
///
/// # Errors
/// When there are more or fewer rows than labels, or a value is not a finite number.
pub fn pose(
    rows: &[f32],
    input: (u32, u32),
    geometry: &SourceGeometry,
    labels: &[ShortName],
) -> Result<Vec<Keypoint>, ProcessingError> {
    let what = "of key points";
    let values = rows.len();
    let (rows, rest) = rows.as_chunks::<3>();
    if !rest.is_empty() || rows.len() != labels.len() {
        let problem = format!("{values} values are not y, x and score for each of {} labels", labels.len());
        return Err(ProcessingError::Output { what, problem });
    }
    if let Some(index) = rows.iter().position(|row| row.iter().any(|value| !value.is_finite())) {
        let problem = format!("the row of {} is {:?}", labels[index], rows[index]);
        return Err(ProcessingError::Output { what, problem });
    }
    #[expect(clippy::cast_precision_loss, reason = "sides of a network's input are far below 2^24 pixels")]
    let (width, height) = (input.0 as f32, input.1 as f32);
    let points = rows.iter().zip(labels).map(|([y, x, score], label)| {
        let (x, y) = (x * width, y * height);
        let [x, y, ..] = geometry.to_source([x, y, x, y]);
        Keypoint { x, y, score: score.clamp(0.0, 1.0), label: *label }
    });
    Ok(points.collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels() -> Vec<ShortName> {
        ["nose", "left eye"].iter().map(|label| ShortName::cut(label)).collect()
    }

    /// A frame of 768 × 576 in a network's input of 192 × 192: the lowest quarter is empty.
    const GEOMETRY: SourceGeometry = SourceGeometry { width: 768, height: 576, fitted_width: 192, fitted_height: 144 };

    #[test]
    fn points_come_back_to_where_they_are_in_the_source() {
        let points = pose(&[0.5, 0.25, 0.9, 0.75, 1.0, 0.1], (192, 192), &GEOMETRY, &labels()).unwrap();
        assert_eq!((points[0].x, points[0].y, points[0].score), (192.0, 384.0, 0.9));
        assert_eq!((points[1].x, points[1].y, points[1].label.as_str()), (768.0, 576.0, "left eye"));
        // Below the picture, left of it, and more than sure.
        let points = pose(&[0.9, -0.1, 1.5, 0.0, 0.0, 0.0], (192, 192), &GEOMETRY, &labels()).unwrap();
        assert_eq!((points[0].x, points[0].y, points[0].score), (0.0, 576.0, 1.0));
    }

    #[test]
    fn what_is_not_a_pose_is_said() {
        let problem = |rows: &[f32]| pose(rows, (192, 192), &GEOMETRY, &labels()).unwrap_err().to_string();
        assert!(problem(&[0.0; 3]).contains("3 values") && problem(&[0.0; 3]).contains("2 labels"));
        assert!(problem(&[0.0; 7]).contains("7 values"));
        let text = problem(&[0.0, 0.0, 0.0, f32::NAN, 0.0, 0.0]);
        assert!(text.contains("left eye") && text.contains("NaN"), "{text}");
    }

    proptest! {
        #[test]
        fn any_finite_output_gives_points_within_the_image(rows in proptest::collection::vec(-1e30_f32..1e30, 6)) {
            for point in pose(&rows, (192, 192), &GEOMETRY, &labels()).unwrap() {
                prop_assert!((0.0..=768.0).contains(&point.x) && (0.0..=576.0).contains(&point.y));
                prop_assert!((0.0..=1.0).contains(&point.score));
            }
        }
    }
}
