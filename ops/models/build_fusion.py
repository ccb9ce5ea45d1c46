#!/usr/bin/env python3
"""Builds the fusion network: evidence of one second -> probabilities of events, and intensity.

The network is small enough to be written by hand, and it is: no recording with labelled events was available to
train on, and weights with reasons can be checked and changed by a reader. One hidden layer of ReLU units, each a
question about the evidence ("is somebody speaking?"), then a logistic layer. Four hidden units are conjunctions: they
answer only when two modalities agree, because each modality alone cannot reach their threshold.

With `--reference FILE` the network is also run by ONNX Runtime on named situations, the answers are checked against
what the situation means, and written as a reference for other implementations.
"""

import argparse
import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

EVENTS = ["quiet", "conversation", "traffic", "crowd", "alarm", "impact"]

# Hidden units: name -> (bias, {feature: weight}). A unit is max(0, bias + sum of weight * feature).
HIDDEN = {
    # Somebody speaks: the voice detector is the best witness; YAMNet's speech classes and recognised words confirm.
    # The bias ignores a voice in less than a fifth of the window, which is often a false alarm.
    "voice": (-0.3, {"speech_ratio": 1.0, "sound_speech": 0.8, "words_per_second": 0.4}),
    # How full the scene is. One or two persons give nothing (2 * 0.1 + 1 * 0.1 - 0.3 = 0), ten give 2.7.
    "people": (-0.3, {"person_count_mean": 2.0, "person_count_max": 1.0}),
    # Any person at all, for conversation: one person gives 0.5, and more persons add little.
    "somebody": (0.0, {"person_count_mean": 2.5, "person_count_max": 2.5}),
    # Vehicles in sight. Half a vehicle on average is a detector's flicker (5 * 0.05 - 0.25 = 0).
    "vehicles": (-0.25, {"vehicle_count_mean": 5.0}),
    # Vehicles heard. YAMNet gives "Vehicle" up to about 0.1 for any broadband noise: the bias drops that.
    "vehicle_sound": (-0.2, {"sound_vehicle": 1.5}),
    # A crowd heard: cheering, applause, chatter.
    "crowd_sound": (-0.2, {"sound_crowd": 1.5}),
    # An alarm heard. Bare tones count a little less: instruments and phones make them too, and music argues against.
    "siren": (-0.2, {"sound_alarm": 1.6, "sound_tone": 1.2, "sound_music": -0.6}),
    # A bang heard; it counts more when it is loud, because quiet clicks get such classes too.
    "bang": (-0.35, {"sound_impact": 2.0, "loudness": 0.3}),
    # Fast or sudden movement: running persons move about one box height per second or more.
    "motion": (-0.5, {"track_speed_max": 1.0, "track_speed_mean": 0.5, "new_tracks": 0.5}),
    # Loud: nothing below -30 dBFS, 1 at full scale.
    "loud": (-1.0, {"loudness": 2.0}),
    # Anything at all, to argue against "quiet". Loudness enters with a small weight: rooms have a noise floor.
    "activity": (
        -0.25,
        {
            "person_count_mean": 1.5, "vehicle_count_mean": 1.5, "new_tracks": 0.5, "track_speed_max": 0.3,
            "speech_ratio": 1.0, "sound_speech": 0.5, "sound_music": 1.0, "sound_alarm": 1.5, "sound_vehicle": 1.3,
            "sound_crowd": 1.0, "sound_impact": 1.5, "sound_tone": 1.5, "loudness": 0.4,
        },
    ),
    # Conjunctions. Weights of each side sum to 1 and the threshold is 1, so one side alone never opens the unit.
    "alarm_and_motion": (-1.0, {"sound_alarm": 1.0, "track_speed_max": 0.6, "new_tracks": 0.4}),
    "impact_and_motion": (-1.0, {"sound_impact": 1.0, "track_speed_max": 0.6, "new_tracks": 0.4}),
    "crowd_seen_and_heard": (-1.0, {"sound_crowd": 1.0, "person_count_max": 1.0}),
    "traffic_seen_and_heard": (-1.0, {"sound_vehicle": 1.0, "vehicle_count_mean": 1.0}),
}

# Events and intensity: name -> (bias, {hidden unit: weight}), through the logistic function.
# Biases near -3 make an event without evidence about 5 % likely, so that thresholds at 0.5 stay quiet.
OUTPUTS = {
    # Quiet is the absence of everything: likely (0.95) with no activity, gone as soon as something happens.
    "quiet": (3.0, {"activity": -6.0, "voice": -4.0, "siren": -4.0, "bang": -4.0, "motion": -3.0}),
    # A voice makes a conversation likely; somebody in sight makes it likelier; a loud crowd makes it something else.
    "conversation": (-3.0, {"voice": 3.5, "somebody": 0.5, "crowd_sound": -1.5}),
    # Seen vehicles count most: a camera on a road works without a microphone, and the other way round.
    "traffic": (-3.0, {"vehicles": 4.0, "vehicle_sound": 3.5, "traffic_seen_and_heard": 6.0}),
    # Seven or more persons are a crowd by sight alone; cheering is one by sound alone; both together surely.
    "crowd": (-3.0, {"people": 2.2, "crowd_sound": 3.5, "crowd_seen_and_heard": 6.0}),
    # An alarm is heard. Movement with it raises the probability but is not needed.
    "alarm": (-3.5, {"siren": 6.5, "alarm_and_motion": 6.0}),
    # An impact is heard; loudness and sudden movement confirm.
    "impact": (-3.5, {"bang": 4.5, "loud": 1.0, "impact_and_motion": 6.0}),
    # Intensity: what deserves attention, whatever its name. Alarm and impact weigh most; persons, movement and
    # loudness raise it a little; two modalities that agree raise it sharply (weights of 8).
    "intensity": (
        -3.2,
        {
            "siren": 2.6, "bang": 2.2, "people": 0.5, "crowd_sound": 0.8, "voice": 0.3, "motion": 1.2, "loud": 0.8,
            "alarm_and_motion": 8.0, "impact_and_motion": 8.0, "crowd_seen_and_heard": 8.0,
            "traffic_seen_and_heard": 4.0,
        },
    ),
}

# Situations: name -> (evidence, expectations). An expectation is (output, lowest, highest).
SITUATIONS = {
    "nothing at all": ({}, [("quiet", 0.9, 1), ("intensity", 0, 0.06), ("alarm", 0, 0.1), ("crowd", 0, 0.1)]),
    "an empty room with a fan": ({"loudness": 0.3, "sound_vehicle": 0.1}, [("quiet", 0.8, 1), ("traffic", 0, 0.1)]),
    "two persons talking": (
        {
            "person_count_mean": 0.2, "person_count_max": 0.2, "track_speed_mean": 0.05, "track_speed_max": 0.1,
            "speech_ratio": 0.9, "words_per_second": 0.6, "sound_speech": 0.95, "loudness": 0.6,
        },
        [("conversation", 0.85, 1), ("quiet", 0, 0.1), ("alarm", 0, 0.1), ("crowd", 0, 0.2), ("intensity", 0, 0.2)],
    ),
    "a voice, no camera": (
        {"speech_ratio": 0.9, "sound_speech": 0.9, "words_per_second": 0.5, "loudness": 0.6},
        [("conversation", 0.7, 1), ("intensity", 0, 0.2)],
    ),
    "pedestrians in a street, silent": (
        {
            "person_count_mean": 0.55, "person_count_max": 0.7, "vehicle_count_mean": 0.15, "new_tracks": 0.2,
            "track_speed_mean": 0.4, "track_speed_max": 0.7,
        },
        [("crowd", 0.5, 1), ("quiet", 0, 0.1), ("conversation", 0, 0.3), ("alarm", 0, 0.1), ("intensity", 0, 0.4)],
    ),
    "traffic seen": (
        {"vehicle_count_mean": 0.4, "track_speed_mean": 0.6, "track_speed_max": 0.8},
        [("traffic", 0.9, 1), ("quiet", 0, 0.1)],
    ),
    "traffic heard": ({"sound_vehicle": 0.8, "loudness": 0.6}, [("traffic", 0.5, 1), ("quiet", 0, 0.1)]),
    "a cheering crowd": (
        {
            "person_count_mean": 0.9, "person_count_max": 1.0, "track_speed_mean": 0.3, "track_speed_max": 0.6,
            "sound_crowd": 0.8, "loudness": 0.8,
        },
        [("crowd", 0.98, 1), ("intensity", 0.95, 1), ("quiet", 0, 0.05)],
    ),
    "an alarm in an empty room": (
        {"sound_alarm": 0.8, "sound_tone": 0.3, "loudness": 0.7},
        [("alarm", 0.9, 1), ("intensity", 0.3, 0.75), ("quiet", 0, 0.05)],
    ),
    "a bare tone": (
        {"sound_tone": 0.8, "loudness": 0.7},
        [("alarm", 0.5, 1), ("quiet", 0, 0.1), ("intensity", 0.15, 0.6)],
    ),
    "an alarm and people running": (
        {
            "person_count_mean": 0.3, "person_count_max": 0.5, "new_tracks": 0.6, "track_speed_mean": 0.7,
            "track_speed_max": 1.0, "sound_alarm": 0.8, "loudness": 0.8,
        },
        [("alarm", 0.98, 1), ("intensity", 0.95, 1)],
    ),
    "a bang": ({"sound_impact": 0.7, "loudness": 0.9}, [("impact", 0.85, 1), ("intensity", 0.15, 0.7)]),
    "a bang and people running": (
        {
            "person_count_mean": 0.3, "person_count_max": 0.5, "new_tracks": 0.8, "track_speed_mean": 0.8,
            "track_speed_max": 1.0, "sound_impact": 0.7, "loudness": 0.9,
        },
        [("impact", 0.98, 1), ("intensity", 0.95, 1)],
    ),
    "music": ({"sound_music": 0.9, "sound_tone": 0.1, "loudness": 0.7}, [("alarm", 0, 0.1), ("quiet", 0, 0.1)]),
}


def read_features(path):
    """The feature names in the order of the network's input."""
    with open(path, "rb") as file:
        return [feature["name"] for feature in tomllib.load(file)["feature"]]


def dense_layer(units, inputs):
    """Weights [inputs, units] and biases [units] of one layer written as a table."""
    weight = np.zeros((len(inputs), len(units)), np.float32)
    bias = np.zeros(len(units), np.float32)
    for column, (unit_bias, row) in enumerate(units):
        bias[column] = unit_bias
        for name, value in row.items():
            if name not in inputs:
                sys.exit(f"build_fusion: the weights name {name!r}, which is not one of {inputs}")
            weight[inputs.index(name), column] = value
    return weight, bias


def build(features):
    """The ONNX model."""
    hidden = list(HIDDEN)
    layers = {
        "hidden": dense_layer(list(HIDDEN.values()), features),
        "events": dense_layer([OUTPUTS[event] for event in EVENTS], hidden),
        "intensity": dense_layer([OUTPUTS["intensity"]], hidden),
    }
    initializers = []
    for name, (weight, bias) in layers.items():
        initializers.append(numpy_helper.from_array(weight, f"{name}_weight"))
        initializers.append(numpy_helper.from_array(bias, f"{name}_bias"))

    def dense(source, name, target):
        return helper.make_node("Gemm", [source, f"{name}_weight", f"{name}_bias"], [target], name=target)

    nodes = [
        dense("evidence", "hidden", "hidden_sum"),
        helper.make_node("Relu", ["hidden_sum"], ["hidden"], name="hidden"),
        dense("hidden", "events", "events_sum"),
        helper.make_node("Sigmoid", ["events_sum"], ["events"], name="events"),
        dense("hidden", "intensity", "intensity_sum"),
        helper.make_node("Sigmoid", ["intensity_sum"], ["intensity"], name="intensity"),
    ]
    graph = helper.make_graph(
        nodes,
        "fusion",
        [helper.make_tensor_value_info("evidence", TensorProto.FLOAT, ["N", len(features)])],
        [
            helper.make_tensor_value_info("events", TensorProto.FLOAT, ["N", len(EVENTS)]),
            helper.make_tensor_value_info("intensity", TensorProto.FLOAT, ["N", 1]),
        ],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], producer_name="build_fusion")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def check_situations(model, features):
    """Runs the situations and returns the reference; ends the program when an expectation does not hold."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    evidence = np.zeros((len(SITUATIONS), len(features)), np.float32)
    for row, (values, _) in enumerate(SITUATIONS.values()):
        for name, value in values.items():
            evidence[row, features.index(name)] = value
    events, intensity = session.run(["events", "intensity"], {"evidence": evidence})

    situations, broken = [], []
    for row, (name, (_, expectations)) in enumerate(SITUATIONS.items()):
        answers = dict(zip(EVENTS, map(float, events[row]))) | {"intensity": float(intensity[row, 0])}
        for output, lowest, highest in expectations:
            if not lowest <= answers[output] <= highest:
                broken.append(f"{name}: {output} is {answers[output]:.3f}, expected {lowest} to {highest}")
        situations.append(
            {
                "name": name,
                "evidence": [round(float(value), 6) for value in evidence[row]],
                "events": [round(float(value), 6) for value in events[row]],
                "intensity": round(float(intensity[row, 0]), 6),
            }
        )
    if broken:
        sys.exit("build_fusion: the weights do not say what the situations mean:\n  " + "\n  ".join(broken))
    return situations


def main():
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="ONNX file to write")
    parser.add_argument("--evidence", type=Path, default=here.parents[1] / "cluster/models/fusion/evidence.toml",
                        help="table of features (default: %(default)s)")
    parser.add_argument("--reference", type=Path, help="run the named situations, check them and write them as JSON")
    arguments = parser.parse_args()

    features = read_features(arguments.evidence)
    model = build(features)
    if arguments.reference:
        situations = check_situations(model, features)
        reference = {"features": features, "events": EVENTS, "tolerance": 1e-5, "situations": situations}
        arguments.reference.write_text(json.dumps(reference, indent=1) + "\n")
    onnx.save(model, arguments.out)


if __name__ == "__main__":
    main()
