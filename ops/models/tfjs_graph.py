"""Reads a TensorFlow.js graph model: model.json with its nodes, and the weight files beside it. Converts nothing."""

import base64
import json
from pathlib import Path

import numpy as np

STORED_TYPES = {"float32": np.float32, "int32": np.int32, "bool": np.bool_, "uint8": np.uint8}


class GraphError(Exception):
    """The model is not what this reader understands."""


class TfjsGraph:
    """Nodes by name, weights by name, and the signature that names inputs and outputs."""

    def __init__(self, path):
        path = Path(path)
        try:
            document = json.loads(path.read_text())
            self.nodes = {node["name"]: node for node in document["modelTopology"]["node"]}
            self.signature = document["signature"]
            manifest = document["weightsManifest"]
        except (OSError, ValueError, KeyError) as error:
            raise GraphError(f"{path} is not a TensorFlow.js graph model with a signature: {error!r}") from error
        self.weights = {}
        for group in manifest:
            stored = b"".join((path.parent / part).read_bytes() for part in group["paths"])
            self._read_weights(group["weights"], stored)

    def _read_weights(self, entries, stored):
        """Cuts one weight file into arrays; half-precision weights become single precision."""
        offset = 0
        for entry in entries:
            quantization = entry.get("quantization")
            if quantization and quantization["dtype"] != "float16":
                raise GraphError(f"weight {entry['name']} is stored as {quantization['dtype']}; only float16 is read")
            dtype = STORED_TYPES[entry["dtype"]]
            stored_dtype = np.dtype(np.float16 if quantization else dtype)
            count = int(np.prod(entry["shape"])) if entry["shape"] else 1
            end = offset + count * stored_dtype.itemsize
            array = np.frombuffer(stored[offset:end], stored_dtype)
            self.weights[entry["name"]] = array.astype(dtype).reshape(entry["shape"])
            offset = end
        if offset != len(stored):
            raise GraphError(f"the weights take {offset} bytes, the files hold {len(stored)}")

    def in_order(self):
        """Node names, every node after its inputs."""
        done, order = set(), []
        for root in self.nodes:
            stack = [(root, False)]
            while stack:
                name, inputs_done = stack.pop()
                if inputs_done:
                    order.append(name)
                elif name not in done:
                    done.add(name)
                    stack.append((name, True))
                    inputs = [source.lstrip("^").split(":")[0] for source in self.nodes[name].get("input", [])]
                    stack.extend((source, False) for source in reversed(inputs))
        return order


def attribute(node, name, default=None):
    """One attribute of a node as a plain Python value."""
    value = node.get("attr", {}).get(name)
    if value is None:
        return default
    kind, content = next(iter(value.items()))
    if kind == "s":
        return base64.b64decode(content).decode()
    if kind == "i":
        return int(content)
    if kind == "list":
        if not content:
            return []
        kind, items = next(iter(content.items()))
        return [int(item) if kind == "i" else base64.b64decode(item).decode() for item in items]
    return content
