"""Frames of a video as arrays, and what the networks make of them: resize, normalise, boxes. numpy only."""

import subprocess
import sys

import numpy as np


def read_frames(path, numbers):
    """The frames with these numbers (from 0, rising) as uint8 arrays [height, width, 3] in RGB order.

    ffmpeg decodes and converts to rgb24 with its defaults, as the product's sources do.
    """
    probe = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-of", "csv=p=0"]
    decode = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(path), "-map", "0:v:0", "-frames:v", str(numbers[-1] + 1)]
    size_of = ["-show_entries", "stream=width,height", str(path)]
    try:
        size = subprocess.run(probe + size_of, check=True, capture_output=True, text=True).stdout
        width, height = map(int, size.strip().split(",")[:2])
        with subprocess.Popen(decode + ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"], stdout=subprocess.PIPE) as process:
            frames = []
            for number in range(numbers[-1] + 1):
                data = process.stdout.read(width * height * 3)
                if len(data) != width * height * 3:
                    sys.exit(f"record: {path} has no frame {number}")
                if number in numbers:
                    frames.append(np.frombuffer(data, np.uint8).reshape(height, width, 3))
            return frames
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"record: ffmpeg cannot read {path} ({error}); run ops/setup")


def axis_weights(source, target):
    """For each target position: the two source positions around its centre, and the weight of the second.

    Half-pixel centres: target centre (i + 0.5) lies at (i + 0.5) * source / target of the source, less 0.5.
    Positions outside are those of the border.
    """
    centre = (np.arange(target) + 0.5) * (source / target) - 0.5
    first = np.floor(centre)
    weight = (centre - first).astype(np.float32)
    low = np.clip(first, 0, source - 1).astype(int)
    high = np.clip(first + 1, 0, source - 1).astype(int)
    return low, high, weight


def resize_bilinear(image, width, height):
    """Bilinear, each axis on its own, without antialiasing; float32 [height, width, 3], 0 to 255."""
    image = image.astype(np.float32)
    low, high, weight = axis_weights(image.shape[0], height)
    weight = weight[:, None, None]
    rows = image[low] * (1 - weight) + image[high] * weight
    low, high, weight = axis_weights(image.shape[1], width)
    weight = weight[None, :, None]
    return rows[:, low] * (1 - weight) + rows[:, high] * weight


def fitted_size(image, step):
    """Width and height of the part of the network's input that shows the image; the rest is at the right and bottom."""
    height, width = image.shape[:2]
    if step.get("fit", "stretch") == "stretch":
        return step["width"], step["height"]
    scale = min(step["width"] / width, step["height"] / height)
    return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))


def prepare(image, step, dtype="f32"):
    """The network's input [1, …] for a manifest's `prepare` table with `step = "image"`."""
    fitted_width, fitted_height = fitted_size(image, step)
    pixels = np.empty((step["height"], step["width"], 3), np.float32)
    pixels[:] = np.float32(step["mean"] if step["channels"] == "rgb" else step["mean"][::-1])
    pixels[:fitted_height, :fitted_width] = resize_bilinear(image, fitted_width, fitted_height)
    if step["channels"] == "bgr":
        pixels = pixels[:, :, ::-1]
    pixels = (pixels - np.float32(step["mean"])) / np.float32(step["std"])
    if step["layout"] == "nchw":
        pixels = pixels.transpose(2, 0, 1)
    if dtype == "i32":
        return np.ascontiguousarray(np.rint(pixels[None]), np.int32)
    return np.ascontiguousarray(pixels[None], np.float32)


def overlap(box, others):
    """Intersection over union of one box with many."""
    left, top = np.maximum(box[0], others[:, 0]), np.maximum(box[1], others[:, 1])
    right, bottom = np.minimum(box[2], others[:, 2]), np.minimum(box[3], others[:, 3])
    shared = np.maximum(right - left, 0) * np.maximum(bottom - top, 0)
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    return shared / ((box[2] - box[0]) * (box[3] - box[1]) + areas - shared)


def suppress(boxes, scores, classes, iou_max):
    """Greedy non-maximum suppression within each class; indices of what stays, best first."""
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        rivals = [other for other in kept if classes[other] == classes[index]]
        if not rivals or overlap(boxes[index], boxes[rivals]).max() <= iou_max:
            kept.append(index)
    return kept


def boxes_dfl(outputs, step, size):
    """Boxes in pixels of the network's input, scores and classes above the threshold, of a `detections_dfl` model.

    A side's distance from the cell's centre is a distribution over `bins` steps of one stride; its mean counts.
    """
    boxes, scores, classes = [], [], []
    for stride in step["strides"]:
        side = -(-size // stride)
        probabilities = next(o[0] for o in outputs if o.shape[1] == side * side and o.shape[2] != 4 * step["bins"])
        distances = next(o[0] for o in outputs if o.shape[1:] == (side * side, 4 * step["bins"]))
        best = probabilities.max(1)
        cells = np.where(best >= step["score_min"])[0]
        logits = distances[cells].reshape(-1, 4, step["bins"])
        weights = np.exp(logits - logits.max(2, keepdims=True))
        weights /= weights.sum(2, keepdims=True)
        sides = (weights * np.arange(step["bins"], dtype=np.float32)).sum(2) * stride
        x, y = (cells % side + 0.5) * stride, (cells // side + 0.5) * stride
        boxes.append(np.stack([x - sides[:, 0], y - sides[:, 1], x + sides[:, 2], y + sides[:, 3]], 1))
        scores.append(best[cells])
        classes.append(probabilities[cells].argmax(1))
    return np.concatenate(boxes), np.concatenate(scores), np.concatenate(classes)


def boxes_rows(outputs, step):
    """The same of a `detection_rows` model, whose rows are x1, y1, x2, y2, score, class."""
    rows = next(o[0] for o in outputs if o.ndim == 3 and o.shape[2] == 6)
    rows = rows[rows[:, 4] >= step["score_min"]]
    return rows[:, :4], rows[:, 4], rows[:, 5].round().astype(int)


def detect(session, manifest, labels, image):
    """Detections of one image, best first: box in the image's pixels (not clipped to it), score, class, label."""
    prepare_step, step = manifest["prepare"], manifest["interpret"]
    outputs = session.run(
        [output["name"] for output in manifest["output"]], {manifest["input"][0]["name"]: prepare(image, prepare_step)}
    )
    if step["step"] == "detections_dfl":
        boxes, scores, classes = boxes_dfl(outputs, step, prepare_step["width"])
    else:
        boxes, scores, classes = boxes_rows(outputs, step)
    scale = np.array([image.shape[1] / prepare_step["width"], image.shape[0] / prepare_step["height"]] * 2)
    return [
        {
            "box": [round(float(value), 3) for value in boxes[index] * scale],
            "score": round(float(scores[index]), 5),
            "class": int(classes[index]),
            "label": labels[int(classes[index])],
        }
        for index in suppress(boxes, scores, classes, step["iou_max"])[: step["detections_max"]]
    ]


def pose(session, manifest, labels, image):
    """Key points of one image in the order of the labels: place in the image's pixels (not clipped to it), score, label."""
    step, entry = manifest["prepare"], manifest["input"][0]
    (output,) = session.run([manifest["output"][0]["name"]], {entry["name"]: prepare(image, step, entry["dtype"])})
    fitted_width, fitted_height = fitted_size(image, step)
    across, down = image.shape[1] / fitted_width * step["width"], image.shape[0] / fitted_height * step["height"]
    return [
        {
            "x": round(float(x) * across, 3),
            "y": round(float(y) * down, 3),
            "score": round(float(score), 5),
            "label": label,
        }
        for (y, x, score), label in zip(output[0, 0], labels, strict=True)
    ]
