#!/usr/bin/env python3
"""Converts a TensorFlow.js graph model (model.json and *.bin) to ONNX, with numpy and onnx only.

TensorFlow keeps images as NHWC, ONNX convolutions want NCHW. The converter remembers in which of the two layouts a
tensor exists and transposes only when an operator needs the other one, so that convolutional networks come out
without transposes in between. It knows the operators of the models that ops/setup converts and refuses others.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tfjs_graph import GraphError, TfjsGraph, attribute

ELEMENT_TYPES = {"DT_FLOAT": TensorProto.FLOAT, "DT_INT32": TensorProto.INT32, "DT_BOOL": TensorProto.BOOL}
NHWC_TO_NCHW, NCHW_TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
END = np.iinfo(np.int64).max  # "to the end" of a Slice
FOLDED = {"Add": np.add, "AddV2": np.add, "Sub": np.subtract, "Mul": np.multiply}


class Converter:
    """One conversion: emits ONNX nodes for the graph's nodes, one after the other."""

    def __init__(self, graph):
        self.graph = graph
        self.emitted = []  # ONNX nodes
        self.initializers = {}  # ONNX constants by name
        self.constants = {}  # arrays by the name of the node whose value they are
        self.layouts = {}  # "node:output" -> {layout: ONNX name}
        self.count = 0

    # Names, constants and nodes of the ONNX graph.

    def fresh(self, base):
        self.count += 1
        return f"{base}_{self.count}"

    def initializer(self, array, base="c"):
        name = self.fresh(base)
        self.initializers[name] = np.array(array, order="C")
        return name

    def integers(self, *values):
        return self.initializer(np.array(values, np.int64))

    def emit(self, operator, inputs, outputs=1, **attributes):
        names = [self.fresh(operator.lower()) for _ in range(outputs)]
        self.emitted.append(helper.make_node(operator, inputs, names, name=names[0], **attributes))
        return names[0] if outputs == 1 else names

    # Tensors of the TensorFlow graph.

    @staticmethod
    def key(source):
        return source if ":" in source else source + ":0"

    def constant(self, source):
        """The array behind an input, or None when it is computed."""
        return self.constants.get(source.split(":")[0])

    def required_constant(self, source, node):
        value = self.constant(source)
        if value is None:
            raise GraphError(f"{node['op']} {node['name']}: input {source} must be a constant")
        return value

    def tensor(self, source, layout="NHWC"):
        """The ONNX name of an input in the wanted layout; transposes once when it exists only in the other."""
        known = self.layouts[self.key(source)]
        if layout not in known:
            other, permutation = ("NCHW", NCHW_TO_NHWC) if layout == "NHWC" else ("NHWC", NHWC_TO_NCHW)
            known[layout] = self.emit("Transpose", [known[other]], perm=permutation)
        return known[layout]

    def is_nchw(self, source):
        return "NCHW" in self.layouts[self.key(source)]

    def int64(self, source):
        value = self.constant(source)
        if value is not None:
            return self.initializer(value.astype(np.int64))
        return self.emit("Cast", [self.tensor(source)], to=TensorProto.INT64)

    def define(self, node, name, layout="NHWC", output=0):
        """Says that `name` is the node's output."""
        self.layouts[f"{node['name']}:{output}"] = {layout: name}

    # Operators.

    def convolution(self, node, inputs, depthwise):
        kernel = self.required_constant(inputs[1], node)
        if attribute(node, "data_format", "NHWC") != "NHWC":
            raise GraphError(f"{node['op']} {node['name']}: only NHWC is converted")
        options = {
            "strides": attribute(node, "strides")[1:3],
            "dilations": (attribute(node, "dilations") or [1, 1, 1, 1])[1:3],
            "kernel_shape": list(kernel.shape[:2]),
        }
        padding = attribute(node, "padding")
        if padding == "SAME":
            options["auto_pad"] = "SAME_UPPER"
        elif padding == "VALID":
            options["pads"] = [0, 0, 0, 0]
        else:
            raise GraphError(f"{node['op']} {node['name']}: padding {padding!r} is not converted")
        if depthwise:
            height, width, channels, multiplier = kernel.shape
            options["group"] = channels
            kernel = kernel.transpose(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width)
        else:
            kernel = kernel.transpose(3, 2, 0, 1)
        operands = [self.tensor(inputs[0], "NCHW"), self.initializer(kernel, "w")]
        fused = attribute(node, "fused_ops", []) or []
        if "BiasAdd" in fused:
            operands.append(self.initializer(self.required_constant(inputs[2], node).reshape(-1), "b"))
        result = self.emit("Conv", operands, **options)
        for operator in fused:
            if operator != "BiasAdd":
                result = self.activation(operator, result, node)
        self.define(node, result, "NCHW")

    def activation(self, operator, source, node):
        if operator == "Relu":
            return self.emit("Relu", [source])
        if operator == "Relu6":
            return self.emit("Clip", [source, self.initializer(np.float32(0)), self.initializer(np.float32(6))])
        if operator == "LeakyRelu":
            return self.emit("LeakyRelu", [source], alpha=float(attribute(node, "alpha", 0.2)))
        raise GraphError(f"{node['name']}: activation {operator} is not converted")

    def elementwise(self, node, inputs, operator):
        """An operator that works element by element, in NCHW where one of its inputs is. `operator` is an ONNX
        operator or a function from operand names to the result's name."""
        values = [self.constant(source) for source in inputs]
        if node["op"] in FOLDED and all(value is not None for value in values):
            folded = FOLDED[node["op"]](*values)
            self.constants[node["name"]] = folded
            self.define(node, self.initializer(folded))
            return
        fits = all(
            value.ndim in (0, 1, 4) if value is not None else self.is_nchw(source)
            for source, value in zip(inputs, values)
        )
        layout = "NCHW" if fits and any(map(self.is_nchw, inputs)) else "NHWC"
        operands = []
        for source, value in zip(inputs, values):
            if layout == "NHWC" or value is None:
                operands.append(self.tensor(source, layout))
            elif value.ndim == 1 and value.size > 1:  # one value per channel
                operands.append(self.initializer(value.reshape(-1, 1, 1)))
            else:
                operands.append(self.initializer(value.reshape(()) if value.size == 1 else value.transpose(0, 3, 1, 2)))
        result = operator(operands) if callable(operator) else self.emit(operator, operands)
        self.define(node, result, layout)

    def max_pool(self, node, inputs):
        options = {"kernel_shape": attribute(node, "ksize")[1:3], "strides": attribute(node, "strides")[1:3]}
        if attribute(node, "padding") == "SAME":
            options["auto_pad"] = "SAME_UPPER"
        self.define(node, self.emit("MaxPool", [self.tensor(inputs[0], "NCHW")], **options), "NCHW")

    def mean(self, node, inputs):
        axes = [int(axis) for axis in np.atleast_1d(self.required_constant(inputs[1], node))]
        keep = 1 if attribute(node, "keep_dims") else 0
        layout = "NCHW" if self.is_nchw(inputs[0]) and keep and sorted(axis % 4 for axis in axes) == [1, 2] else "NHWC"
        axes = [2, 3] if layout == "NCHW" else axes
        self.define(node, self.emit("ReduceMean", [self.tensor(inputs[0], layout)], axes=axes, keepdims=keep), layout)

    def resize(self, node, inputs):
        if attribute(node, "align_corners"):
            mode = "align_corners"
        else:
            mode = "half_pixel" if attribute(node, "half_pixel_centers") else "asymmetric"
        source = self.tensor(inputs[0], "NCHW")
        batch_and_channels = self.emit("Slice", [self.emit("Shape", [source]), self.integers(0), self.integers(2)])
        sizes = self.emit("Concat", [batch_and_channels, self.int64(inputs[1])], axis=0)
        result = self.emit("Resize", [source, "", "", sizes], mode="linear", coordinate_transformation_mode=mode)
        self.define(node, result, "NCHW")

    def concatenate(self, node, inputs):
        axis = int(self.required_constant(inputs[-1], node))
        parts = inputs[:-1]
        if all(map(self.is_nchw, parts)):
            names = [self.tensor(source, "NCHW") for source in parts]
            self.define(node, self.emit("Concat", names, axis=[0, 2, 3, 1][axis % 4]), "NCHW")
        else:
            self.define(node, self.emit("Concat", [self.tensor(source) for source in parts], axis=axis))

    def transpose(self, node, inputs):
        permutation = [int(axis) for axis in self.required_constant(inputs[1], node)]
        known = self.layouts[self.key(inputs[0])]
        if permutation == NHWC_TO_NCHW and "NCHW" in known:
            self.define(node, known["NCHW"])
        elif permutation == NCHW_TO_NHWC and "NCHW" not in known:
            # A tensor whose meaning is NCHW becomes NHWC: remember that the NCHW form is there already.
            self.define(node, known["NHWC"], "NCHW")
        else:
            self.define(node, self.emit("Transpose", [self.tensor(inputs[0])], perm=permutation))

    def pad(self, node, inputs):
        amounts = self.required_constant(inputs[1], node)
        value = [self.tensor(inputs[2])] if node["op"] == "PadV2" else []
        layout = "NCHW" if self.is_nchw(inputs[0]) else "NHWC"
        if layout == "NCHW":
            amounts = amounts[NHWC_TO_NCHW]
        source = self.tensor(inputs[0], layout)
        pads = self.initializer(amounts.T.reshape(-1).astype(np.int64))
        self.define(node, self.emit("Pad", [source, pads] + value), layout)

    def split(self, node, inputs):
        axis = int(self.required_constant(inputs[2], node))
        sizes = self.required_constant(inputs[1], node).astype(np.int64)
        source = self.tensor(inputs[0])
        parts = self.emit("Split", [source, self.initializer(sizes)], outputs=len(sizes), axis=axis)
        for output, part in enumerate(parts):
            self.define(node, part, output=output)

    def top_k(self, node, inputs):
        count = self.integers(int(self.required_constant(inputs[1], node)))
        values, indices = self.emit("TopK", [self.tensor(inputs[0]), count], outputs=2, axis=-1)
        self.define(node, values)
        self.define(node, self.emit("Cast", [indices], to=TensorProto.INT32), output=1)

    def strided_slice(self, node, inputs):
        begin, end, step = (self.required_constant(source, node) for source in inputs[1:4])
        if any(attribute(node, f"{mask}_mask", 0) for mask in ("ellipsis", "new_axis", "shrink_axis")):
            raise GraphError(f"StridedSlice {node['name']}: only begin_mask and end_mask are converted")
        begin_mask, end_mask = attribute(node, "begin_mask", 0), attribute(node, "end_mask", 0)
        starts = [0 if begin_mask >> axis & 1 else int(begin[axis]) for axis in range(len(begin))]
        ends = [END if end_mask >> axis & 1 else int(end[axis]) for axis in range(len(begin))]
        axes, steps = range(len(begin)), map(int, step)
        source = self.tensor(inputs[0])
        bounds = [self.integers(*values) for values in (starts, ends, axes, steps)]
        self.define(node, self.emit("Slice", [source] + bounds))

    def arg_max(self, node, inputs):
        # TensorFlow.js knows no 64-bit integers, whatever the node says.
        axis = int(self.required_constant(inputs[1], node))
        indices = self.emit("ArgMax", [self.tensor(inputs[0])], axis=axis, keepdims=0)
        self.define(node, self.emit("Cast", [indices], to=TensorProto.INT32))

    def pack(self, node, inputs):
        axis = attribute(node, "axis", 0)
        parts = [self.emit("Unsqueeze", [self.tensor(source), self.integers(axis)]) for source in inputs]
        self.define(node, self.emit("Concat", parts, axis=axis))

    def unpack(self, node, inputs):
        axis, source = attribute(node, "axis", 0), self.tensor(inputs[0])
        for output in range(attribute(node, "num")):
            index = self.initializer(np.array(output, np.int64))
            self.define(node, self.emit("Gather", [source, index], axis=axis), output=output)

    def squared_difference(self, operands):
        difference = self.emit("Sub", operands)
        return self.emit("Mul", [difference, difference])

    def sparse_to_dense(self, node, inputs):
        indices, shape, values, default = (self.required_constant(source, node) for source in inputs)
        dense = np.full(shape, default)
        dense[tuple(np.atleast_2d(indices).T)] = values
        self.constants[node["name"]] = dense
        self.define(node, self.initializer(dense))

    def convert_node(self, node, inputs, graph_inputs):
        """Emits what one TensorFlow node does."""
        operator, name = node["op"], node["name"]
        if operator == "Const":
            onnx_name = name.replace("/", "_")
            self.constants[name] = self.initializers[onnx_name] = self.graph.weights[name]
            self.define(node, onnx_name)
        elif operator == "Placeholder":
            entry = next(e for e in self.graph.signature["inputs"].values() if e["name"].split(":")[0] == name)
            onnx_name = name.replace("/", "_")
            graph_inputs.append(value_info(onnx_name, entry))
            self.define(node, onnx_name)
        elif operator == "Identity":
            self.layouts[name + ":0"] = self.layouts[self.key(inputs[0])]
        elif operator in ("_FusedConv2D", "Conv2D"):
            self.convolution(node, inputs, depthwise=False)
        elif operator in ("FusedDepthwiseConv2dNative", "DepthwiseConv2dNative"):
            self.convolution(node, inputs, depthwise=True)
        elif operator in ("Mul", "Sub", "Equal", "Sigmoid", "Relu", "Sqrt"):
            self.elementwise(node, inputs, operator)
        elif operator in ("Add", "AddV2"):
            self.elementwise(node, inputs, "Add")
        elif operator == "RealDiv":
            self.elementwise(node, inputs, "Div")
        elif operator == "SquaredDifference":
            self.elementwise(node, inputs, self.squared_difference)
        elif operator == "FloorDiv" and attribute(node, "T") in ("DT_INT32", 3):
            self.elementwise(node, inputs, "Div")
        elif operator == "FloorMod" and attribute(node, "T") in ("DT_INT32", 3):
            self.elementwise(node, inputs, "Mod")
        elif operator in ("Relu6", "LeakyRelu"):
            self.elementwise(node, inputs, lambda operands: self.activation(operator, operands[0], node))
        elif operator == "Cast":
            target = element_type(attribute(node, "DstT"))
            self.elementwise(node, inputs, lambda operands: self.emit("Cast", operands, to=target))
        elif operator == "ExpandDims":
            axis = np.atleast_1d(self.required_constant(inputs[1], node)).astype(np.int64)
            self.define(node, self.emit("Unsqueeze", [self.tensor(inputs[0]), self.initializer(axis)]))
        elif operator == "Squeeze":
            axes = self.integers(*attribute(node, "squeeze_dims"))
            self.define(node, self.emit("Squeeze", [self.tensor(inputs[0]), axes]))
        elif operator == "Reshape":
            self.define(node, self.emit("Reshape", [self.tensor(inputs[0]), self.int64(inputs[1])]))
        elif operator == "GatherV2":
            axis = int(self.required_constant(inputs[2], node))
            self.define(node, self.emit("Gather", [self.tensor(inputs[0]), self.tensor(inputs[1])], axis=axis))
        elif operator == "GatherNd":
            self.define(node, self.emit("GatherND", [self.tensor(inputs[0]), self.int64(inputs[1])]))
        elif operator in SHAPED:
            SHAPED[operator](self, node, inputs)
        else:
            raise GraphError(f"{name}: operator {operator} is not converted")

    def run(self):
        """The ONNX model."""
        graph_inputs, graph_outputs = [], []
        for name in self.graph.in_order():
            node = self.graph.nodes[name]
            inputs = [source for source in node.get("input", []) if not source.startswith("^")]
            self.convert_node(node, inputs, graph_inputs)
        for key, entry in self.graph.signature["outputs"].items():
            name = key.split(":")[0].replace("/", "_")
            source = self.tensor(entry["name"])
            self.emitted.append(helper.make_node("Identity", [source], [name], name="out_" + name))
            graph_outputs.append(value_info(name, entry))
        used = {source for node in self.emitted for source in node.input}
        constants = [numpy_helper.from_array(array, name) for name, array in self.initializers.items() if name in used]
        graph = helper.make_graph(self.emitted, "tfjs", graph_inputs, graph_outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], producer_name="tfjs2onnx")
        model.ir_version = 8
        return model


SHAPED = {
    "ArgMax": Converter.arg_max,
    "Pack": Converter.pack,
    "Unpack": Converter.unpack,
    "MaxPool": Converter.max_pool,
    "Mean": Converter.mean,
    "ResizeBilinear": Converter.resize,
    "ConcatV2": Converter.concatenate,
    "Transpose": Converter.transpose,
    "Pad": Converter.pad,
    "PadV2": Converter.pad,
    "SplitV": Converter.split,
    "TopKV2": Converter.top_k,
    "StridedSlice": Converter.strided_slice,
    "SparseToDense": Converter.sparse_to_dense,
}


def element_type(name):
    if name not in ELEMENT_TYPES:
        raise GraphError(f"element type {name} is not converted")
    return ELEMENT_TYPES[name]


def value_info(name, entry):
    """The declaration of an input or output of the model."""
    shape = [int(dimension["size"]) for dimension in entry["tensorShape"]["dim"]]
    return helper.make_tensor_value_info(name, element_type(entry["dtype"]), shape)


def prune(model):
    """Drops nodes and constants that no output needs."""
    graph = model.graph
    needed, kept = {output.name for output in graph.output}, []
    for node in reversed(graph.node):
        if any(output in needed for output in node.output):
            kept.append(node)
            needed.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    constants = [constant for constant in graph.initializer if constant.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(constants)


def make_pads_explicit(model):
    """Replaces auto_pad by the pads that it means; explicit pads are what execution providers optimise."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in list(inferred.value_info) + list(inferred.input)
    }
    for node in model.graph.node:
        attributes = {entry.name: entry for entry in node.attribute}
        if "auto_pad" not in attributes:
            continue
        shape = shapes.get(node.input[0])
        if not shape or len(shape) != 4 or 0 in shape[2:]:
            continue
        kernel = list(attributes["kernel_shape"].ints)
        strides = list(attributes["strides"].ints) if "strides" in attributes else [1, 1]
        dilations = list(attributes["dilations"].ints) if "dilations" in attributes else [1, 1]
        before, after = [], []
        for axis in range(2):
            cells = -(-shape[2 + axis] // strides[axis])
            reach = (cells - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
            total = max(reach - shape[2 + axis], 0)
            before.append(total // 2)
            after.append(total - total // 2)
        node.attribute.remove(attributes["auto_pad"])
        node.attribute.append(helper.make_attribute("pads", before + after))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="model.json; its weight files lie beside it")
    parser.add_argument("out", type=Path, help="ONNX file to write")
    arguments = parser.parse_args()
    try:
        model = Converter(TfjsGraph(arguments.model)).run()
    except GraphError as error:
        sys.exit(f"tfjs2onnx: {error}")
    prune(model)
    make_pads_explicit(model)
    onnx.checker.check_model(model)
    onnx.save(model, arguments.out)


if __name__ == "__main__":
    main()
