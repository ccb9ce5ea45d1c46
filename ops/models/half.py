#!/usr/bin/env python3
"""Makes a half-precision variant of a network: weights and arithmetic of 16-bit floats, inputs and outputs as they were.

Casts stand at the graph's edges, so that whoever feeds the network sees no difference. What stays in 32 bits, with casts
around it: operators whose results need the range or the digits (KEPT below), and with `--keep-before OP` everything that the
first operator of that kind is computed from, and itself (a logarithm of small numbers, for example). Weights outside the
range of 16 bits are refused rather than made infinite, but for the value that a Pad fills with (the least there is, before a
maximum), which becomes the outermost of 16 bits. The same input gives the same bytes.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Sums over many values, exponentials, ranges, and operators that exist in 32 bits only.
KEPT = {
    "ArgMax", "CumSum", "DFT", "Exp", "Log", "NonMaxSuppression", "Pow", "Range", "ReduceSum", "STFT", "Sigmoid",
    "Softmax", "TopK",
}
# Inputs that are 32-bit floats whatever the others are: regions of interest and scales of a resize.
ALWAYS_SINGLE = {"Resize": {1, 2}, "Upsample": {1}}
HALF_MAX = 65504.0


def elements(model):
    """The type of each value of the graph, by shape inference."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {constant.name: constant.data_type for constant in graph.initializer}
    for value in [*graph.input, *graph.output, *graph.value_info]:
        types[value.name] = value.type.tensor_type.elem_type
    return types


def kept_nodes(graph, before):
    """Indices of the nodes that stay in 32 bits."""
    maker = {output: index for index, node in enumerate(graph.node) for output in node.output}
    kept = {index for index, node in enumerate(graph.node) if node.op_type in KEPT}
    ends = [index for index, node in enumerate(graph.node) if node.op_type in before]
    for kind in before:
        if all(graph.node[index].op_type != kind for index in ends):
            sys.exit(f"half: --keep-before {kind}: the network has no such operator")
    while ends:
        index = ends.pop()
        kept.add(index)
        ends.extend(maker[name] for name in graph.node[index].input if name in maker and maker[name] not in kept)
    return kept


def halve(model, before=()):
    """A new model in half precision."""
    graph = model.graph
    for node in graph.node:
        if any(attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for attribute in node.attribute):
            sys.exit(f"half: {node.name} ({node.op_type}) holds a graph of its own; that is not converted")
    types = elements(model)
    single = {name for name, kind in types.items() if kind == TensorProto.FLOAT}
    constants = {constant.name: constant for constant in graph.initializer}
    inputs = {value.name for value in graph.input if value.name not in constants}
    outputs = {value.name for value in graph.output}
    kept = kept_nodes(graph, before)
    fillings = {node.input[2] for node in graph.node if node.op_type == "Pad" and len(node.input) > 2}

    # In which precision each value is computed: graph inputs and what kept nodes give in 32 bits.
    is_half = {}
    for index, node in enumerate(graph.node):
        for name in node.output:
            is_half[name] = name in single and index not in kept

    nodes, made, weights, refused = [], {}, {}, []

    def constant(name, half):
        """The name of a weight in the wanted precision."""
        if not half:
            weights.setdefault(name, constants[name])
            return name
        new = name + "_half"
        if new not in weights:
            values = numpy_helper.to_array(constants[name])
            if name in fillings:
                values = np.clip(values, -HALF_MAX, HALF_MAX)
            if values.size and np.abs(values).max() > HALF_MAX:
                refused.append(name)
            weights[new] = numpy_helper.from_array(values.astype(np.float16), new)
        return new

    def value(name, half):
        """The name of a value in the wanted precision, cast where it is made in the other."""
        if name in constants:
            return constant(name, half)
        if is_half.get(name, False) == half:
            # A value that is also an output of the graph is made under another name.
            return name + "_half" if half and name in outputs else name
        new = name + ("_half" if half else "_single")
        if new not in made:
            source = name + "_half" if is_half.get(name, False) and name in outputs else name
            to = TensorProto.FLOAT16 if half else TensorProto.FLOAT
            made[new] = True
            nodes.append(helper.make_node("Cast", [source], [new], name="cast_" + new, to=to))
        return new

    for index, node in enumerate(graph.node):
        if node.op_type == "Constant":
            sys.exit(f"half: {node.name} is a Constant node; make it an initializer")
        half = index not in kept
        always = ALWAYS_SINGLE.get(node.op_type, set())
        new = onnx.NodeProto()
        new.CopyFrom(node)
        for at, name in enumerate(node.input):
            if name in single:
                new.input[at] = value(name, half and at not in always)
            elif name in constants:
                weights.setdefault(name, constants[name])
        if half and node.op_type == "Cast":
            for attribute in new.attribute:
                if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.FLOAT16
        nodes.append(new)
        for at, name in enumerate(node.output):
            if name in outputs and is_half[name]:
                new.output[at] = name + "_half"
                nodes.append(helper.make_node("Cast", [name + "_half"], [name], name="cast_" + name, to=TensorProto.FLOAT))
    if refused:
        sys.exit(f"half: these weights do not fit 16 bits: {', '.join(refused)}")
    given = [value for value in graph.input if value.name in inputs]
    halved = helper.make_graph(nodes, graph.name, given, list(graph.output), list(weights.values()))
    result = helper.make_model(halved, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    result.producer_name = model.producer_name
    return result, len(kept)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="ONNX file in 32 bits")
    parser.add_argument("out", type=Path, help="ONNX file to write")
    parser.add_argument("--keep-before", action="append", default=[], metavar="OP", help="see above; several times")
    arguments = parser.parse_args()
    model, kept = halve(onnx.load(arguments.model), arguments.keep_before)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, arguments.out)
    print(f"half: {len(model.graph.node)} operators, {kept} of them in 32 bits, {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
