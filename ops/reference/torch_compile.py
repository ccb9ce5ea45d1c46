#!/usr/bin/env python3
"""How fast PyTorch runs the detector: eagerly, and with torch.compile(mode="max-autotune"), in half precision.

    torch_compile.py --out FIGURES.json [--device cuda|cpu] [--seconds-max 200]

Needs torch and numpy only. The network lies beside it (ops/reference/gpu_inputs.py makes it); before anything is measured its
answer to a real picture in single precision must be ONNX Runtime's. Each rate is told twice: with the picture in the
device's memory already, and with copies from pinned memory and back, which is what Sensorium's own figures hold. What was
measured is written after each step, so that being ended loses only the rest.

Exit status: 0 done, 1 something failed (the figures say what), 3 there is no torch or no such device.
"""

import argparse
import json
import operator
import signal
import statistics
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
BATCHES = (32, 1, 8)  # the one that matters most first
WARM_UP_RUNS = 5
MEASURED_S = 2.0
RUNS_MAX = 2000
# Single precision on another library: the last digits differ, and what follows from them.
DIFFERENCE_MAX = 2e-3
# A step is not begun when less than this is left: compiling takes about as long.
STEP_S = {"eager": 10, "compiled": 30}
WITHOUT = 3


class OutOfTime(BaseException):
    """The limit came in the middle of a step. No Exception, which the compiler would take for its own."""


def build(torch, network, weights):
    """The network as a traced module: the same calls that a module written by hand would make."""
    import torch.fx
    import torch.nn.functional as F

    root = torch.nn.Module()
    graph = torch.fx.Graph()
    values = {network["input"]: graph.placeholder("picture")}
    names = {}

    def weight(name):
        if name not in names:
            names[name] = f"weight_{len(names)}"
            root.register_buffer(names[name], torch.from_numpy(weights[name].copy()))
        return graph.get_attr(names[name])

    for node in network["nodes"]:
        inputs = [values[name] for name in node["inputs"]]
        op, first = node["op"], inputs[0]
        if op == "conv":
            bias = weight(node["bias"]) if node["bias"] else None
            places = tuple(tuple(node[key]) for key in ("stride", "padding", "dilation"))
            made = graph.call_function(F.conv2d, (first, weight(node["weight"]), bias, *places, node["groups"]))
        elif op == "max_pool":
            places = tuple(tuple(node[key]) for key in ("kernel", "stride", "padding"))
            made = graph.call_function(F.max_pool2d, (first, *places))
        elif op == "add":
            made = graph.call_function(torch.add, (first, inputs[1]))
        elif op == "leaky_relu":
            made = graph.call_function(F.leaky_relu, (first, node["slope"]))
        elif op == "sigmoid":
            made = graph.call_function(torch.sigmoid, (first,))
        elif op == "concat":
            made = graph.call_function(torch.cat, (inputs, node["axis"]))
        elif op == "resize":
            options = {"size": tuple(node["size"]), "mode": "bilinear", "align_corners": False}
            made = graph.call_function(F.interpolate, (first,), options)
        elif op == "split":
            parts = graph.call_function(torch.split, (first, node["sizes"], node["axis"]))
            for at, name in enumerate(node["outputs"]):
                values[name] = graph.call_function(operator.getitem, (parts, at))
            continue
        elif op == "flatten":
            made = graph.call_function(torch.flatten, (first, 2))
        elif op == "transpose":
            made = graph.call_function(torch.permute, (first, tuple(node["order"])))
        elif op == "identity":
            made = first
        else:
            raise ValueError(f"an operator {op}")
        values[node["outputs"][0]] = made
    graph.output(tuple(values[name] for name in network["outputs"]))
    graph.lint()
    return torch.fx.GraphModule(root, graph).eval()


class Bench:
    """Measures and notes."""

    def __init__(self, torch, arguments):
        self.torch, self.arguments = torch, arguments
        self.began = time.monotonic()
        self.found = {"values": {}, "error": None}

    def left(self):
        return self.arguments.seconds_max - (time.monotonic() - self.began)

    def note(self, name, value):
        self.found["values"][name] = value
        self.write()

    def fail(self, error):
        self.found["error"] = self.found["error"] or error
        self.write()

    def write(self):
        part = self.arguments.out.with_suffix(".part")
        part.write_text(json.dumps(self.found, indent=1) + "\n")
        part.replace(self.arguments.out)

    def wait(self):
        if self.arguments.device == "cuda":
            self.torch.cuda.synchronize()

    def time(self, name, rows, run):
        """Notes the median of a run, and the rate."""
        end = time.monotonic() + MEASURED_S
        for _ in range(WARM_UP_RUNS):
            run()
            self.wait()
            if time.monotonic() > end:
                break
        times, end = [], time.monotonic() + MEASURED_S
        while not times or (time.monotonic() < end and len(times) < RUNS_MAX):
            start = time.perf_counter()
            run()
            self.wait()
            times.append(time.perf_counter() - start)
        median = statistics.median(times)
        self.note(f"{name}_ms_median", median * 1e3)
        self.note(f"{name}_frames_per_s", rows / median)

    def measure(self, name, module, picture):
        """A batch of one picture, in half precision where the device has it."""
        torch, device = self.torch, self.arguments.device
        for rows in BATCHES:
            label = f"{name}_batch_{rows}"
            if self.left() < STEP_S[name]:
                self.note(f"{label}_left_out", "no time was left")
                continue
            try:
                signal.setitimer(signal.ITIMER_REAL, max(1.0, self.left()))
                batch = picture.repeat(rows, 1, 1, 1)
                batch = batch.pin_memory() if device == "cuda" else batch
                kept = batch.to(device, self.dtype).contiguous(memory_format=torch.channels_last)
                start = time.monotonic()
                module(kept)
                self.wait()
                self.note(f"{label}_first_s", time.monotonic() - start)
                self.time(label, rows, lambda: module(kept))
                back = [torch.empty(part.shape, dtype=torch.float32, pin_memory=device == "cuda") for part in module(kept)]

                def with_copies():
                    up = batch.to(device, non_blocking=True).to(self.dtype)
                    parts = module(up.contiguous(memory_format=torch.channels_last))
                    for place, part in zip(back, parts):
                        place.copy_(part.float(), non_blocking=True)

                self.time(f"{label}_with_copies", rows, with_copies)
            except OutOfTime:
                self.note(f"{label}_left_out", "not done in time")
            except Exception as error:  # the other batches may work all the same
                self.fail(f"{label}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:400])
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)


def largest_difference(found, expected):
    """Over all outputs, absolute for small values and relative for large ones."""
    import numpy as np

    worst = 0.0
    for one, other in zip(found, expected):
        one = one.float().cpu().numpy()
        if one.shape != other.shape:
            return float("inf")
        worst = max(worst, float(np.max(np.abs(one - other) / np.maximum(1.0, np.abs(other)))))
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds-max", type=float, default=200.0, help="no step is begun after it")
    arguments = parser.parse_args()
    try:
        import numpy as np
        import torch
    except ImportError as missing:
        print(f"torch_compile: {missing}")
        return WITHOUT
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("torch_compile: this PyTorch sees no GPU")
        return WITHOUT

    def out_of_time(*_):
        raise OutOfTime

    signal.signal(signal.SIGALRM, out_of_time)
    bench = Bench(torch, arguments)
    bench.note("torch", torch.__version__)
    bench.note("torch_cuda", str(torch.version.cuda))
    network = json.loads((HERE / "network.json").read_text())
    with np.load(HERE / "weights.npz") as weights:
        module = build(torch, network, weights)
    with np.load(HERE / "expected.npz") as recorded:
        picture = torch.from_numpy(recorded["input"])
        expected = [recorded[f"output_{at}"] for at in range(len(network["outputs"]))]
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    with torch.inference_mode():
        module = module.to(arguments.device)
        difference = largest_difference(module(picture.to(arguments.device)), expected)
        bench.note("largest_difference", difference)
        if not difference <= DIFFERENCE_MAX:
            bench.fail(f"its answers are {difference} from ONNX Runtime's; at most {DIFFERENCE_MAX} is expected")
            return 1
        # The processor has no half precision worth the name.
        bench.dtype = torch.float16 if arguments.device == "cuda" else torch.float32
        bench.note("dtype", str(bench.dtype).removeprefix("torch."))
        module = module.to(bench.dtype)
        for name, weight in module.named_buffers():
            if weight.dim() == 4:
                setattr(module, name, weight.contiguous(memory_format=torch.channels_last))
        half = largest_difference(module(picture.to(arguments.device, bench.dtype)), expected)
        bench.note("largest_difference_in_dtype", half)
        torch.backends.cudnn.benchmark = True
        bench.measure("eager", module, picture)
        if not hasattr(torch, "compile"):
            bench.note("compiled_left_out", f"PyTorch {torch.__version__} has no torch.compile")
            return 0
        compiled = torch.compile(module, mode="max-autotune", dynamic=False)
        bench.measure("compiled", compiled, picture)
    return 0 if bench.found["error"] is None else 1


if __name__ == "__main__":
    sys.exit(main())
