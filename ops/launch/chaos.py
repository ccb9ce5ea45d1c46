"""Load on a cluster while faults are put in, by their schedule."""

import json
import signal
import subprocess
import time

from . import cluster as clusters
from .base import REPOSITORY, Trouble, say, warn

# How long the load may go on after its last job was due: deadlines, connections that are dialled again.
TAIL_S_MAX = 120
# How long all nodes may take to be whole again when the faults are over, and to answer what they have.
WHOLE_S_MAX = 120
# A repair that fails is tried again: the system may be short of everything just then.
REPAIR_ATTEMPTS_MAX = 3


class Injector:
    """Puts faults into a cluster and takes them out again. Knows what has to be undone."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.done = 0

    def begin(self, fault):
        """Gives what ends the fault, or None where nothing is to be ended."""
        cluster, target = self.cluster, fault.target
        if fault.kind == "kill-worker":
            cluster.kill_worker(target)
            end = None
        elif fault.kind == "kill-node":
            cluster.kill(target, signal.SIGKILL)
            end = lambda: cluster.restart(target, wait=False)  # noqa: E731
        elif fault.kind == "stop-node":
            cluster.kill(target, signal.SIGSTOP)
            end = lambda: cluster.kill(target, signal.SIGCONT)  # noqa: E731
        elif fault.kind == "partition":
            cluster.partition(target, True)
            end = lambda: cluster.partition(target, False)  # noqa: E731
        else:
            before = self.shape_of(target)
            cluster.shape(target, {"delay": f"{fault.delay_ms}ms", "loss": f"{fault.loss_percent}%"})
            end = lambda: self.shape_as(target, before)  # noqa: E731
        self.done += 1
        return end

    def shape_of(self, target):
        links = clusters.shaping.links_of(target, self.cluster.said["topology"], self.cluster.said["links"])
        return [(link, dict(link)) for link in links]

    def shape_as(self, target, before):
        for link, former in before:
            link.update(former)
        self.cluster.apply(self.cluster.network, [link for link, _ in before])


def load_command(cluster, sensorium, folder, options, jobs):
    """The load, which enters at the first edge and knows that node's parents as the ones to go to next."""
    nodes = cluster.nodes
    entry = next((name for name, node in nodes.items() if node["tier"] == "edge"), next(iter(nodes)))
    addresses = ",".join(nodes[name]["api"] for name in [entry, *nodes[entry]["parents"]])
    command = [sensorium, "load", "--json", "--node", addresses, "--bundle", cluster.state.client]
    command += ["--jobs", jobs, "--rate", options.rate, "--clients", options.clients, "--seed", options.seed]
    command += ["--deadline", options.deadline, "--record", folder / "jobs.jsonl"]
    command += ["--mix", options.mix] if options.mix else []
    return entry, [str(word) for word in command]


def run(cluster, sensorium, folder, options, jobs, faults):
    """Runs load and faults to their end; gives the sender's report (or None) and how many faults were put in."""
    entry, command = load_command(cluster, sensorium, folder, options, jobs)
    injector = Injector(cluster)
    with open(folder / "load.out", "w", encoding="utf-8") as out, open(folder / "load.err", "w", encoding="utf-8") as err:
        load = cluster.spawn(entry, command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=REPOSITORY)
        try:
            inject(injector, faults, load, folder / "faults.log")
            load.wait(timeout=max(0.0, jobs / options.rate - faults_end(faults)) + TAIL_S_MAX)
        except subprocess.TimeoutExpired:
            warn("chaos", f"the load did not end within {TAIL_S_MAX} s after its last job was due")
        finally:
            if load.poll() is None:
                load.kill()
            load.wait()
    if (folder / "load.err").stat().st_size:
        warn("chaos", (folder / "load.err").read_text(encoding="utf-8", errors="replace").strip())
    try:
        report = json.loads((folder / "load.out").read_text(encoding="utf-8"))
    except ValueError:
        report = None
    return report, injector.done


def faults_end(faults):
    return max((fault.at_s + fault.last_s for fault in faults), default=0.0)


def inject(injector, faults, load, log):
    """Every fault at its time, counted from now, and its end at its own."""
    began = time.monotonic()
    with open(log, "w", encoding="utf-8") as file:
        for fault in faults:
            wait(began + fault.at_s)
            if load.poll() is not None:
                warn("chaos", f"the load has ended with exit status {load.returncode}; no more faults")
                return
            line = f"{time.monotonic() - began:9.3f} s  {fault}"
            try:
                end = injector.begin(fault)
            except Trouble as trouble:
                warn("chaos", f"{fault}: {trouble}")
                continue
            print(line, file=file, flush=True)
            say("chaos", f"fault {injector.done} of {len(faults)}: {fault}")
            if end:
                wait(began + fault.at_s + fault.last_s)
                repair(end, fault)


def repair(end, fault):
    for attempt in range(1, REPAIR_ATTEMPTS_MAX + 1):
        try:
            return end()
        except Trouble as trouble:
            if attempt == REPAIR_ATTEMPTS_MAX:
                raise
            warn("chaos", f"{fault} could not be ended ({trouble}); once more")
            time.sleep(1)


def wait(until):
    time.sleep(max(0.0, until - time.monotonic()))


def settle(cluster):
    """Waits until every node is there with all its neighbours and has nothing left to answer; gives what is left."""
    cluster.await_ready(list(cluster.nodes), WHOLE_S_MAX)
    cluster.await_neighbours(WHOLE_S_MAX)
    until = time.monotonic() + WHOLE_S_MAX
    while True:
        left = {name: (cluster.ask(name) or {}).get("engine", {}).get("jobs_in_flight", 0) for name in cluster.nodes}
        if not any(left.values()) or time.monotonic() > until:
            return left
        time.sleep(0.2)
