#!/usr/bin/env python3
"""Records what every model says about known inputs, as a reference for the tests of the product.

The code here shares nothing with the product but the manifests, the weights and ONNX Runtime. Run it after a model or
its manifest has changed, and read the difference before committing it:

    ops/setup && ops/reference/record.py

Each file of tests/data/reference/ names its inputs with their SHA-256 and the versions of the tools.
"""

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True  # no __pycache__ folders among the sources


def default_cache():
    """The same rule as `cache_folder` in ops/lib.sh."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(os.environ.get("SENSORIUM_CACHE") or os.path.join(base, "sensorium"))


sys.path[:0] = [str(default_cache() / "python"), str(REPOSITORY / "ops/models"), str(Path(__file__).resolve().parent)]
try:
    import numpy
    import onnxruntime
except ImportError as missing:
    sys.exit(f"record: {missing}; run ops/setup first")

import build_fusion
import images
import sounds

VTEST_FRAMES = list(range(0, 281, 40))
BUNNY_FRAMES = [60]
# Persons for MoveNet: video, frame, and the part of the frame that is looked at: x, y, width, height; None is all of it.
PERSONS = [
    ("media/vtest.avi", 0, (467, 149, 94, 94)),
    ("media/vtest.avi", 200, (567, 251, 132, 132)),
    ("media/vtest.avi", 200, (663, 243, 105, 124)),
    ("media/vtest.avi", 240, (210, 150, 81, 81)),
    ("media/vtest.avi", 280, (44, 137, 165, 85)),
    ("media/carphone_pristine.mp4", 0, None),
    ("media/carphone_pristine.mp4", 40, None),
]
RECORDINGS = "media/librivox/sense_and_sensibility_01_austen_64kb-{}.wav"
SPEAKER = ["0870", "0880", "0890", "0920", "0930"]
VOICE_RECORDINGS = ["0870", "0890"]
# Sounds for YAMNet: name, file, first sample, windows. Lengths are whole windows, so that nothing is left over.
YAMNET_SOUNDS = [
    ("speech", RECORDINGS.format("0870"), 4_800, 12),
    ("two-tone", "media/demo.wav", 320_000, 4),
    ("noise floor", "media/demo.wav", 0, 4),
]
SEGMENT_MARGIN_MS = 200


class Recorder:
    """Finds inputs, opens networks and writes the JSON files."""

    def __init__(self, cache, out):
        self.cache, self.out = cache, out
        ffmpeg = subprocess.run(["ffmpeg", "-version"], check=True, capture_output=True, text=True).stdout
        self.tools = {
            "onnxruntime": onnxruntime.__version__,
            "numpy": numpy.__version__,
            "ffmpeg": ffmpeg.split()[2],
        }

    def manifest(self, name):
        return tomllib.loads((REPOSITORY / "cluster/models" / name / "model.toml").read_text())

    def file(self, manifest, role):
        """The path of a model's file: beside the manifest or in the cache."""
        entry = next(entry for entry in manifest["file"] if entry["role"] == role)
        beside = REPOSITORY / "cluster/models" / manifest["name"] / entry["path"]
        path = beside if beside.exists() else self.cache / "models" / manifest["name"] / entry["path"]
        if sha256(path) != entry["sha256"]:
            sys.exit(f"record: {path} is not the file that {manifest['name']}/model.toml lists; run ops/setup --verify")
        return path

    def session(self, manifest, role="network"):
        """The network on one thread of the processor, which is how the product runs it."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = str(self.file(manifest, role))
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def input(self, relative):
        """Name and checksum of a file of the cache, for the record."""
        return {"file": relative, "sha256": sha256(self.cache / relative)}

    def write(self, name, **content):
        manifest = self.manifest(name)
        record = {"model": name, "version": manifest["version"], "tools": self.tools} | content
        (self.out / f"{name}.json").write_text(layout(record) + "\n")
        print(f"record: {name} … ok")

    # One method for each kind of model.

    def detections(self, name):
        manifest = self.manifest(name)
        session = self.session(manifest)
        labels = self.file(manifest, "labels").read_text().split("\n")
        frames = []
        for relative, numbers in (("media/vtest.avi", VTEST_FRAMES), ("media/bigbuckbunny.mp4", BUNNY_FRAMES)):
            for number, image in zip(numbers, images.read_frames(self.cache / relative, numbers)):
                flat = images.prepare(image, manifest["prepare"]).reshape(-1)
                picks = range(101, flat.size, flat.size // 12 + 137)  # spread over rows, columns and channels
                frames.append(
                    self.input(relative)
                    | {
                        "frame": number,
                        "width": image.shape[1],
                        "height": image.shape[0],
                        "rgb24_sha256": hashlib.sha256(image.tobytes()).hexdigest(),
                        "prepared": [[index, round(float(flat[index]), 5)] for index in picks],
                        "detections": images.detect(session, manifest, labels, image),
                    }
                )
        self.write(
            name,
            boxes="x1, y1, x2, y2 in pixels of the frame, not clipped to it",
            prepared="[index, value] of elements of the network's input",
            score_min=manifest["interpret"]["score_min"],
            iou_max=manifest["interpret"]["iou_max"],
            frames=frames,
        )

    def poses(self):
        manifest = self.manifest("movenet")
        session = self.session(manifest)
        labels = self.file(manifest, "labels").read_text().splitlines()
        persons = []
        for relative, number, part in PERSONS:
            (image,) = images.read_frames(self.cache / relative, [number])
            height, width = image.shape[:2]
            x, y, part_width, part_height = part or (0, 0, width, height)
            image = image[y : y + part_height, x : x + part_width]
            persons.append(
                self.input(relative)
                | {
                    "frame": number,
                    "width": width,
                    "height": height,
                    "part": [x, y, part_width, part_height],
                    "rgb24_sha256": hashlib.sha256(image.tobytes()).hexdigest(),
                    "keypoints": images.pose(session, manifest, labels, image),
                }
            )
        self.write(
            "movenet",
            part="x, y, width and height of the part of the frame that is given to the model",
            keypoints="x and y in pixels of the part, not clipped to it",
            persons=persons,
        )

    def speech(self):
        manifest = self.manifest("silero-vad")
        session = self.session(manifest)
        recordings = []
        for number in VOICE_RECORDINGS:
            relative = RECORDINGS.format(number)
            samples = sounds.read_wav(self.cache / relative)
            probabilities = sounds.speech_probabilities(session, samples, manifest["prepare"])
            recordings.append(
                self.input(relative)
                | {"samples": len(samples), "probabilities": [round(value, 5) for value in probabilities]}
            )
        self.write("silero-vad", window_ms=32, last_window="filled up with silence", recordings=recordings)

    def kinds_of_sound(self):
        manifest = self.manifest("yamnet")
        session = self.session(manifest)
        with open(self.file(manifest, "labels"), newline="") as file:
            labels = [row[2] for row in csv.reader(file)][1:]
        step, results = manifest["prepare"], []
        for name, relative, start, windows in YAMNET_SOUNDS:
            length = step["window_samples"] + (windows - 1) * step["hop_samples"]
            batch = sounds.cut_windows(sounds.read_wav(self.cache / relative, start, length), step)
            (scores,) = session.run(["scores"], {"waveform": batch})
            mean = scores.mean(0)
            best = numpy.argsort(-mean, kind="stable")[:5]
            results.append(
                {"name": name}
                | self.input(relative)
                | {
                    "start_sample": start,
                    "samples": length,
                    "windows": windows,
                    "classes": [
                        {"class": int(i), "score": round(float(mean[i]), 5), "label": labels[i]} for i in best
                    ],
                }
            )
        self.write("yamnet", scores="mean over windows, five best", sounds=results)

    def transcripts(self):
        manifest = self.manifest("moonshine")
        transcriber = sounds.Transcriber(
            self.session(manifest, "encoder"),
            self.session(manifest, "decoder"),
            self.file(manifest, "tokenizer"),
            manifest["interpret"],
        )
        spoken = {}
        for line in (self.cache / "media/librivox/transcription").read_text().splitlines():
            text, _, name = line.rpartition("(")
            spoken[name.rstrip(") ")] = text.replace("<s>", "").replace("</s>", "").strip()

        def entry(relative, spoken_text, start=0, length=None):
            samples = sounds.read_wav(self.cache / relative, start, length)
            tokens = transcriber.tokens(samples)
            text = transcriber.text(tokens)
            return self.input(relative) | {
                "start_sample": start,
                "samples": len(samples),
                "text": text,
                "normalised": sounds.normalise(text),
                "spoken": spoken_text,
                "word_errors": sounds.word_errors(sounds.normalise(text), spoken_text),
                "tokens": tokens,
            }

        recordings = []
        for number in SPEAKER:
            relative = RECORDINGS.format(number)
            recordings.append(entry(relative, spoken[Path(relative).stem]))
        truth = json.loads((self.cache / "media/demo.truth.json").read_text())
        segments = []
        for speech in truth["speech"]:
            start_ms, end_ms = speech["start_ms"] - SEGMENT_MARGIN_MS, speech["end_ms"] + SEGMENT_MARGIN_MS
            segments.append(entry("media/demo.wav", speech["text"], start_ms * 16, (end_ms - start_ms) * 16))
        self.write("moonshine", recordings=recordings, demo_segments=segments)

    def fusion(self):
        manifest = self.manifest("fusion")
        features = build_fusion.read_features(REPOSITORY / "cluster/models/fusion/evidence.toml")
        model = build_fusion.build(features)
        if hashlib.sha256(model.SerializeToString()).hexdigest() != manifest["file"][0]["sha256"]:
            sys.exit("record: build_fusion.py makes another network than fusion/model.toml lists; update both")
        situations = build_fusion.check_situations(model, features)
        self.write("fusion", features=features, events=build_fusion.EVENTS, situations=situations)


def sha256(path):
    if not path.is_file():
        sys.exit(f"record: {path} is missing; run ops/setup")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def layout(value, depth=0):
    """JSON with one line for each small or innermost value, so that differences stay readable."""
    flat = json.dumps(value, ensure_ascii=False)
    nested = isinstance(value, (dict, list)) and any(
        isinstance(item, (dict, list)) for item in (value.values() if isinstance(value, dict) else value)
    )
    if not nested or len(flat) < 200:
        return flat
    pad = " " * (depth + 1)
    if isinstance(value, dict):
        lines = [f"{json.dumps(key)}: {layout(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(pad + line for line in lines) + "\n" + " " * depth + "}"
    return "[\n" + ",\n".join(pad + layout(item, depth + 1) for item in value) + "\n" + " " * depth + "]"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", help="only these (default: all)")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "tests/data/reference", help="default: %(default)s")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(default_cache(), arguments.out)
    known = {
        "nanodet": lambda: recorder.detections("nanodet"),
        "centernet": lambda: recorder.detections("centernet"),
        "movenet": recorder.poses,
        "silero-vad": recorder.speech,
        "yamnet": recorder.kinds_of_sound,
        "moonshine": recorder.transcripts,
        "fusion": recorder.fusion,
    }
    unknown = set(arguments.models) - set(known)
    if unknown:
        parser.error(f"unknown model {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    for name in arguments.models or known:
        known[name]()


if __name__ == "__main__":
    main()
