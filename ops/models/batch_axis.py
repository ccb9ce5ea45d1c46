#!/usr/bin/env python3
"""Makes the first dimension of a network a free batch dimension `N`.

For a network whose input and outputs start with a batch dimension of 1 and whose Reshape nodes have constant targets:
a leading 1 in such a target becomes -1 (computed from the rest) or, where the target has a -1 already, 0 (copied).
"""

import argparse
import sys
from pathlib import Path

import onnx
from onnx import numpy_helper


def free_batch(model):
    """Changes the model in place."""
    graph = model.graph
    constants = {constant.name: constant for constant in graph.initializer}
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    for node in graph.node:
        if node.op_type != "Reshape":
            continue
        if node.input[1] not in constants:
            sys.exit(f"batch_axis: the target of {node.name} is computed; only constant targets can be changed")
        target = numpy_helper.to_array(constants[node.input[1]]).copy()
        if target[0] == 1:
            target[0] = 0 if -1 in target else -1
        # A constant of its own: one target may serve several nodes.
        name = node.name + "_shape"
        graph.initializer.append(numpy_helper.from_array(target, name))
        node.input[1] = name
    for output in graph.output:
        output.type.tensor_type.shape.dim[0].dim_param = "N"
    del graph.value_info[:]
    used = {source for node in graph.node for source in node.input}
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="ONNX file with a batch dimension of 1")
    parser.add_argument("out", type=Path, help="ONNX file to write")
    arguments = parser.parse_args()
    model = onnx.load(arguments.model)
    free_batch(model)
    onnx.checker.check_model(model)
    onnx.save(model, arguments.out)


if __name__ == "__main__":
    main()
