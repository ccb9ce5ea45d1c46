#!/usr/bin/env python3
"""Builds YAMNet as ONNX from the variables of its TensorFlow SavedModel, with numpy and onnx only.

The result takes `waveform` f32[N, 15600] (0.975 s at 16 kHz, -1 to 1) and gives `scores` f32[N, 521] and `embedding`
f32[N, 1024]. The spectrogram is part of the network: windows of 25 ms every 10 ms, a discrete Fourier transform as a
convolution, 64 mel bands from 125 to 7,500 Hz, log(x + 0.001). The body is MobileNet v1, its batch normalisation
folded into the convolutions. Source of the figures: YAMNet's published parameters.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tensor_bundle import BundleError, read_bundle

SAMPLES = 15_600
WINDOW_SAMPLES, HOP_SAMPLES, FFT_SIZE = 400, 160, 512
BINS = FFT_SIZE // 2 + 1
NYQUIST_HZ, MEL_LOWEST_HZ, MEL_HIGHEST_HZ = 8_000, 125.0, 7_500.0
FRAMES, BANDS = 96, 64
CLASSES, EMBEDDING = 521, 1024
NORM_EPSILON = 1e-4
# Strides of the thirteen pairs of depthwise and pointwise convolutions after the first convolution (stride 2).
STRIDES = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]


class Network:
    """Collects ONNX nodes and constants."""

    def __init__(self):
        self.nodes, self.constants, self.count = [], [], 0

    def constant(self, array, base="c"):
        self.count += 1
        name = f"{base}{self.count}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array) if array.ndim else array, name))
        return name

    def integers(self, *values):
        return self.constant(np.array(values))

    def emit(self, operator, inputs, output=None, **attributes):
        self.count += 1
        output = output or f"{operator.lower()}{self.count}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"n{self.count}", **attributes))
        return output


def fourier_kernel():
    """Real and imaginary part of a windowed Fourier transform as the kernel of a one-dimensional convolution."""
    sample = np.arange(WINDOW_SAMPLES)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * sample / WINDOW_SAMPLES)
    angle = 2 * np.pi * np.arange(BINS)[:, None] * sample[None] / FFT_SIZE
    return np.concatenate([np.cos(angle) * window, -np.sin(angle) * window])[:, None, :].astype(np.float32)


def mel_matrix():
    """Weights [bins, bands] of triangular mel bands; the bin at 0 Hz belongs to none."""

    def mel(hertz):
        return 1127 * np.log(1 + hertz / 700)

    bins = mel((np.arange(BINS) * NYQUIST_HZ / (BINS - 1))[1:])[:, None]
    edges = np.linspace(mel(MEL_LOWEST_HZ), mel(MEL_HIGHEST_HZ), BANDS + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    triangles = np.maximum(0, np.minimum(rising, falling))
    return np.vstack([np.zeros((1, BANDS)), triangles]).astype(np.float32)


def front_end(network):
    """From the waveform to the log-mel picture [N, 1, 96, 64]."""
    source = network.emit("Unsqueeze", ["waveform", network.integers(1)])
    spectrum = network.emit(
        "Conv", [source, network.constant(fourier_kernel(), "dft")],
        strides=[HOP_SAMPLES], kernel_shape=[WINDOW_SAMPLES], pads=[0, 0],
    )  # fmt: skip

    def channels(first, last):
        bounds = [network.integers(first), network.integers(last), network.integers(1)]
        return network.emit("Slice", [spectrum] + bounds)

    real, imaginary = channels(0, BINS), channels(BINS, 2 * BINS)
    squares = [network.emit("Mul", [part, part]) for part in (real, imaginary)]
    magnitude = network.emit("Sqrt", [network.emit("Add", squares)])
    magnitude = network.emit("Transpose", [magnitude], perm=[0, 2, 1])
    bands = network.emit("MatMul", [magnitude, network.constant(mel_matrix(), "mel")])
    offset = network.constant(np.float32(0.001).reshape(()))
    picture = network.emit("Log", [network.emit("Add", [bands, offset])])
    return network.emit("Unsqueeze", [picture, network.integers(1)])


def same_pads(size, stride):
    """TensorFlow's SAME padding of a 3x3 kernel; updates `size` to the output's."""
    before, after = [], []
    for axis in range(2):
        cells = -(-size[axis] // stride)
        total = max((cells - 1) * stride + 3 - size[axis], 0)
        before.append(total // 2)
        after.append(total - total // 2)
        size[axis] = cells
    return before + after


class Body:
    """The layers of the SavedModel, by number, folded into convolutions."""

    def __init__(self, network, variables):
        self.network, self.variables = network, variables
        first = next((name for name in variables if "_yamnet/layer_with_weights-0/kernel" in name), None)
        if first is None:
            raise BundleError("the variables are not YAMNet's: no first kernel")
        self.prefix = first.split("layer_with_weights-0")[0]
        self.size = [FRAMES, BANDS]

    def variable(self, layer, name):
        return self.variables[f"{self.prefix}layer_with_weights-{layer}/{name}/.ATTRIBUTES/VARIABLE_VALUE"]

    def convolution(self, source, kernel, norm_layer, stride, group=1):
        """Convolution, batch normalisation (folded) and ReLU."""
        scale = 1 / np.sqrt(self.variable(norm_layer, "moving_variance") + NORM_EPSILON)
        bias = self.variable(norm_layer, "beta") - self.variable(norm_layer, "moving_mean") * scale
        kernel = (kernel * scale[:, None, None, None]).astype(np.float32)
        operands = [source, self.network.constant(kernel, "w"), self.network.constant(bias.astype(np.float32), "b")]
        shape = list(kernel.shape[2:])
        pads = same_pads(self.size, stride) if shape[0] == 3 else [0, 0, 0, 0]
        result = self.network.emit(
            "Conv", operands, kernel_shape=shape, strides=[stride, stride], pads=pads, group=group
        )
        return self.network.emit("Relu", [result])

    def run(self, picture):
        """From the picture to `embedding` and `scores`."""
        kernel = self.variable(0, "kernel").transpose(3, 2, 0, 1)
        source, layer = self.convolution(picture, kernel, 1, 2), 2
        for stride in STRIDES:
            depthwise = self.variable(layer, "depthwise_kernel")
            group = depthwise.shape[2]
            source = self.convolution(source, depthwise.transpose(2, 3, 0, 1), layer + 1, stride, group)
            pointwise = self.variable(layer + 2, "kernel").transpose(3, 2, 0, 1)
            source = self.convolution(source, pointwise, layer + 3, 1)
            layer += 4
        pooled = self.network.emit("GlobalAveragePool", [source])
        embedding = self.network.emit("Squeeze", [pooled, self.network.integers(2, 3)], "embedding")
        weight = self.network.constant(self.variable(layer, "kernel"), "fc")
        bias = self.network.constant(self.variable(layer, "bias"), "fcb")
        self.network.emit("Sigmoid", [self.network.emit("Gemm", [embedding, weight, bias])], "scores")


def build(variables):
    """The ONNX model."""
    network = Network()
    Body(network, variables).run(front_end(network))
    graph = helper.make_graph(
        network.nodes,
        "yamnet",
        [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["N", SAMPLES])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", CLASSES]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", EMBEDDING]),
        ],
        network.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], producer_name="yamnet2onnx")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("variables", type=Path, help="the variables' path without .index")
    parser.add_argument("out", type=Path, help="ONNX file to write")
    arguments = parser.parse_args()
    try:
        model = build(read_bundle(arguments.variables))
    except (BundleError, OSError, KeyError) as error:
        sys.exit(f"yamnet2onnx: {error}")
    onnx.save(model, arguments.out)


if __name__ == "__main__":
    main()
