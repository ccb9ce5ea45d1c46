#!/usr/bin/env python3
"""Makes the folder that `gpu-check` compares with: real inputs, and the detector as data for PyTorch.

    ops/reference/gpu_inputs.py OUT

    street.jpg, speech.wav        what networks in half precision are asked
    network.json, weights.npz     the detector, node by node, for torch_compile.py, which needs no onnx
    expected.npz                  a real picture as the network's input, and what ONNX Runtime answers
    torch_compile.py

Paddings are folded into the convolutions after them and additions of constants into their biases, as ONNX Runtime does by
itself. Needs ffmpeg and the cache that ops/setup fills; a second or two.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.dont_write_bytecode = True


def default_cache():
    """The same rule as `cache_folder` in ops/lib.sh."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(os.environ.get("SENSORIUM_CACHE") or os.path.join(base, "sensorium"))


sys.path[:0] = [str(default_cache() / "python"), str(HERE)]
try:
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper
except ImportError as missing:
    sys.exit(f"gpu_inputs: {missing}; run ops/setup first")

import images

VIDEO, FRAME = "media/vtest.avi", 200
RECORDING = "media/librivox/sense_and_sensibility_01_austen_64kb-0870.wav"


def fail(node, what):
    sys.exit(f"gpu_inputs: {node.op_type} {node.name}: {what}, which torch_compile.py does not know")


class Export:
    """Reads a graph once, from its inputs to its outputs."""

    def __init__(self, graph):
        self.graph = graph
        self.constants = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
        self.uses = {}
        for node in graph.node:
            for name in node.input:
                self.uses[name] = self.uses.get(name, 0) + 1
        for value in graph.output:
            self.uses[value.name] = self.uses.get(value.name, 0) + 1
        self.paddings = {}  # value: (value before it, height, width, fill)
        self.sizes = {}  # values that are shapes: their known ends
        self.maker = {}  # value: its node in `nodes`
        self.nodes, self.weights = [], {}

    def put(self, op, node, inputs, **attributes):
        made = {"op": op, "inputs": inputs, "outputs": list(node.output)} | attributes
        self.nodes.append(made)
        self.maker.update({name: made for name in node.output})

    def weight(self, name):
        self.weights[name] = self.constants[name]
        return name

    def pad(self, node, fill):
        """The value before a padding that can be folded, and its height and width."""
        before = self.paddings.get(node.input[0])
        if before is None:
            return node.input[0], [0, 0]
        name, height, width, found = before
        if found != fill:
            fail(node, f"a padding with {found} before it")
        return name, [height, width]

    def convert(self, node):
        constants = self.constants
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        kind = node.op_type
        if kind == "Pad":
            pads = constants[node.input[1]].tolist()
            fill = float(constants[node.input[2]]) if len(node.input) > 2 and node.input[2] else 0.0
            if pads[:2] + pads[4:6] != [0] * 4 or pads[2:4] != pads[6:8] or self.uses[node.output[0]] != 1:
                fail(node, f"a padding of {pads}")
            self.paddings[node.output[0]] = (node.input[0], pads[2], pads[3], fill)
        elif kind == "Conv":
            if any(attributes.get("pads", [])):
                fail(node, "pads of its own")
            name, padding = self.pad(node, 0.0)
            bias = self.weight(node.input[2]) if len(node.input) > 2 else None
            self.put(
                "conv", node, [name], weight=self.weight(node.input[1]), bias=bias, padding=padding,
                stride=attributes.get("strides", [1, 1]), dilation=attributes.get("dilations", [1, 1]),
                groups=attributes.get("group", 1),
            )
        elif kind == "MaxPool":
            name, padding = self.pad(node, float("-inf"))
            kernel, stride = attributes["kernel_shape"], attributes["strides"]
            self.put("max_pool", node, [name], kernel=kernel, stride=stride, padding=padding)
        elif kind == "Add" and node.input[1] in constants:
            convolution = self.maker.get(node.input[0], {})
            values = constants[node.input[1]]
            if convolution.get("op") != "conv" or convolution["bias"] or self.uses[node.input[0]] != 1:
                fail(node, "a constant that is no bias")
            channels = self.weights[convolution["weight"]].shape[0]
            if values.size != channels or values.shape[-2:] != (1, 1):
                fail(node, f"a constant of {values.shape}")
            convolution["bias"] = node.input[1] + "_bias"
            self.weights[convolution["bias"]] = values.reshape(channels)
            convolution["outputs"] = list(node.output)
            self.maker[node.output[0]] = convolution
        elif kind == "Add":
            self.put("add", node, list(node.input))
        elif kind == "LeakyRelu":
            self.put("leaky_relu", node, list(node.input), slope=attributes.get("alpha", 0.01))
        elif kind == "Sigmoid":
            self.put("sigmoid", node, list(node.input))
        elif kind == "Shape" or (kind == "Slice" and node.input[0] in self.sizes):
            self.sizes[node.output[0]] = None
        elif kind == "Concat" and any(name in self.sizes for name in node.input):
            ends = constants.get(node.input[-1])
            if ends is None or len(node.input) != 2 or ends.size != 2:
                fail(node, "a computed shape")
            self.sizes[node.output[0]] = ends.tolist()
        elif kind == "Concat":
            self.put("concat", node, list(node.input), axis=attributes["axis"])
        elif kind == "Resize":
            size = self.sizes.get(node.input[3])
            way = (attributes.get("mode"), attributes.get("coordinate_transformation_mode"))
            if way != (b"linear", b"half_pixel") or not size:
                fail(node, f"{way} to {size}")
            self.put("resize", node, [node.input[0]], size=size)
        elif kind == "Split":
            self.put("split", node, [node.input[0]], sizes=constants[node.input[1]].tolist(), axis=attributes["axis"])
        elif kind == "Reshape":
            target = constants[node.input[1]].tolist()
            if len(target) != 3 or target[0] != 0 or target[2] != -1:
                fail(node, f"to {target}")
            self.put("flatten", node, [node.input[0]])
        elif kind == "Transpose":
            self.put("transpose", node, list(node.input), order=attributes["perm"])
        elif kind == "Identity":
            self.put("identity", node, list(node.input))
        else:
            fail(node, "an operator")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder to make")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    cache = default_cache()
    manifest = tomllib.loads((REPOSITORY / "cluster/models/nanodet/model.toml").read_text())
    file = cache / "models/nanodet/nanodet.onnx"
    model = onnx.load(file)
    export = Export(model.graph)
    for node in model.graph.node:
        export.convert(node)
    outputs = [entry["name"] for entry in manifest["output"]]
    network = {"input": manifest["input"][0]["name"], "outputs": outputs, "nodes": export.nodes}
    (out / "network.json").write_text(json.dumps(network, indent=1) + "\n")
    np.savez(out / "weights.npz", **export.weights)

    image = images.read_frames(cache / VIDEO, [FRAME])[0]
    picture = images.prepare(image, manifest["prepare"])
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    answers = session.run(outputs, {network["input"]: picture})
    np.savez(out / "expected.npz", input=picture, **{f"output_{at}": answer for at, answer in enumerate(answers)})

    height, width = image.shape[:2]
    encode = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    subprocess.run([*encode, "-i", "-", "-q:v", "2", str(out / "street.jpg")], input=image.tobytes(), check=True)
    shutil.copyfile(cache / RECORDING, out / "speech.wav")
    shutil.copyfile(HERE / "torch_compile.py", out / "torch_compile.py")
    print(f"gpu_inputs: {len(export.nodes)} operators, {len(export.weights)} weights, in {out}")


if __name__ == "__main__":
    main()
