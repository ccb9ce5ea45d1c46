#!/usr/bin/env python3
"""Splits a network in two at one tensor: everything that the tensor is computed from, and all the rest.

The tensor must be the only thing that crosses: the second network may need nothing else of the first, and nothing of the
first one's inputs. Weights go where they are used. The same input gives the same bytes.
"""

import argparse
import sys
from pathlib import Path

import onnx


def split(model, tensor):
    """The two networks."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    weights = {constant.name for constant in graph.initializer}
    known = {value.name: value for value in [*graph.value_info, *graph.output]}
    if tensor not in known:
        sys.exit(f"split: the network computes no tensor {tensor}")
    maker = {output: index for index, node in enumerate(graph.node) for output in node.output}
    before, ends = set(), [maker[tensor]]
    while ends:
        index = ends.pop()
        if index not in before:
            before.add(index)
            ends.extend(maker[name] for name in graph.node[index].input if name in maker)
    inputs = [value for value in graph.input if value.name not in weights]
    first = [node for index, node in enumerate(graph.node) if index in before]
    second = [node for index, node in enumerate(graph.node) if index not in before]
    given = {name for node in first for name in node.output} | {value.name for value in inputs}
    crossing = sorted({name for node in second for name in node.input} & given | {v.name for v in graph.output} & given)
    if crossing != [tensor]:
        sys.exit(f"split: {', '.join(crossing)} would cross; expected {tensor} alone")
    return part(model, first, inputs, [known[tensor]]), part(model, second, [known[tensor]], graph.output)


def part(model, nodes, inputs, outputs):
    """A network of these nodes, with the weights that they use."""
    used = {name for node in nodes for name in node.input}
    weights = [constant for constant in model.graph.initializer if constant.name in used]
    graph = onnx.helper.make_graph(nodes, model.graph.name, inputs, outputs, weights)
    made = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(made, full_check=True)
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--at", required=True, help="the tensor that crosses")
    arguments = parser.parse_args()
    for made, path in zip(split(onnx.load(arguments.network), arguments.at), (arguments.first, arguments.second)):
        path.write_bytes(made.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
