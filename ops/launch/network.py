"""Network namespaces: one for each node, joined by links that follow the first parent of each node.

    sn-CLUSTER-edge-1 ──link0── sn-CLUSTER-regional-1 ──link1── sn-CLUSTER-central-1

Every node has one address (10.78.x.y/32, on its loopback device); the namespaces between route, whether the node inside
them runs or not. A link is one of

    netem  a veth pair; the kernel delays, drops and slows packets (tc netem)
    relay  two tun devices with a process between them that does the same (launch/relay.py), for kernels without netem
    veth   a bare veth pair, which can be cut but not shaped
"""

import itertools
import json
import os
import shutil
import sys
import time

from . import processes
from .base import REPOSITORY, Trouble, run

# How long a relay may take to make its devices or to do what it was told.
RELAY_S_MAX = 10
# Packets that netem or a relay holds for one direction of a link.
QUEUE_PACKETS_MAX = 20_000
MODES = ("netem", "relay", "veth")
UNSHAPED = {"delay_us": 0, "loss": 0.0, "rate_bps": 0, "cut": False}


def check_machine():
    """Whether this user and machine can have namespaces at all."""
    if os.geteuid() != 0:
        raise Trouble("--netns needs root: try again with sudo (or without --netns, on this machine's own addresses)")
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        raise Trouble(f"--netns needs {' and '.join(missing)}; install: apt-get install -y iproute2")


def choose_mode(asked):
    """The kind of links: what was asked for if this kernel has it, else netem, else relay."""
    if asked in ("relay", "veth"):
        return asked
    probe = f"sn-probe-{os.getpid()}"
    run(["ip", "netns", "add", probe])
    try:
        run(["tc", "-n", probe, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"])
        return "netem"
    except Trouble as trouble:
        if asked == "netem":
            raise Trouble(
                "this kernel has no netem (sch_netem); install it: apt-get install -y linux-modules-extra-$(uname -r), "
                "or use --link relay"
            ) from trouble
        if not os.path.exists("/dev/net/tun"):
            raise Trouble("this kernel has neither netem (sch_netem) nor /dev/net/tun; --link veth does without") from trouble
        return "relay"
    finally:
        run(["ip", "netns", "del", probe])


def namespace(cluster, node):
    return f"sn-{cluster}-{node}"


def existing():
    return {line.split()[0] for line in run(["ip", "netns", "list"]).splitlines() if line.strip()}


def plan(topology):
    """The links of a topology and the addresses of its nodes: `(links, addresses)`."""
    names = [node["name"] for node in topology["nodes"]]
    addresses = {name: f"10.78.{number // 250}.{number % 250 + 1}" for number, name in enumerate(names)}
    pairs = [(node["name"], node["parents"][0]) for node in topology["nodes"] if node["parents"]]
    # Several nodes without parents would be apart: they are joined in a row.
    tops = [node["name"] for node in topology["nodes"] if not node["parents"]]
    pairs += list(itertools.pairwise(tops))
    links = []
    for number, (a, b) in enumerate(pairs):
        net = f"10.79.{number // 64}"
        first = number % 64 * 4 + 1
        links.append(
            {"name": f"link{number}", "a": a, "b": b, "a_address": f"{net}.{first}", "b_address": f"{net}.{first + 1}", **UNSHAPED}
        )
    return links, addresses


def ways(links, start):
    """For every node that can be reached from `start`: the link and the node of the first step."""
    steps, queue = {}, [start]
    while queue:
        here = queue.pop(0)
        for link in links:
            for near, far in ((link["a"], link["b"]), (link["b"], link["a"])):
                if near == here and far != start and far not in steps:
                    steps[far] = steps.get(here, (link, far))
                    queue.append(far)
    return steps


class Network:
    """The namespaces and links of one cluster."""

    def __init__(self, cluster, mode, links, addresses, folder):
        self.cluster, self.mode, self.links, self.addresses, self.folder = cluster, mode, links, addresses, folder

    def of(self, node):
        return namespace(self.cluster, node)

    def create(self):
        """Makes everything; gives the relays' processes by the names of their links."""
        relays = {}
        for node in self.addresses:
            run(["ip", "netns", "add", self.of(node)])
            run(["ip", "-n", self.of(node), "link", "set", "lo", "up"])
            run(["ip", "-n", self.of(node), "addr", "add", f"{self.addresses[node]}/32", "dev", "lo"])
            run(["ip", "netns", "exec", self.of(node), "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])
        for link in self.links:
            a, b, name = self.of(link["a"]), self.of(link["b"]), link["name"]
            if self.mode == "relay":
                relays[name] = self.start_relay(link)
            else:
                run(["ip", "link", "add", name, "netns", a, "type", "veth", "peer", "name", name, "netns", b])
            for where, own, other in ((a, link["a_address"], link["b_address"]), (b, link["b_address"], link["a_address"])):
                run(["ip", "-n", where, "addr", "add", own, "peer", f"{other}/32", "dev", name])
                run(["ip", "-n", where, "link", "set", name, "up"])
        for node, own in self.addresses.items():
            for far, (link, _) in ways(self.links, node).items():
                gateway = link["b_address"] if link["a"] == node else link["a_address"]
                route = [f"{self.addresses[far]}/32", "via", gateway, "dev", link["name"], "src", own]
                run(["ip", "-n", self.of(node), "route", "replace", *route])
        for link in self.links:
            self.shape(link)
        return relays

    def start_relay(self, link):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write_orders(link)
        # A former relay's word that it did what this one is told.
        self.orders(link).with_suffix(".done").unlink(missing_ok=True)
        command = [sys.executable, REPOSITORY / "ops" / "launch" / "relay.py", self.orders(link)]
        process = processes.launch([*command, self.of(link["a"]), self.of(link["b"]), link["name"]], self.relay_log(link))
        self.await_relay(link, process)
        return process

    def orders(self, link):
        return self.folder / f"{link['name']}.json"

    def relay_log(self, link):
        return self.folder / f"{link['name']}.log"

    def write_orders(self, link):
        orders = {key: link[key] for key in UNSHAPED} | {"queue_packets_max": QUEUE_PACKETS_MAX}
        text = json.dumps(orders)
        fresh = self.orders(link).with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, self.orders(link))
        return text

    def await_relay(self, link, process):
        """Waits until the relay does what it was told last."""
        wanted = self.orders(link).read_text(encoding="utf-8")
        done = self.orders(link).with_suffix(".done")
        until = time.monotonic() + RELAY_S_MAX
        while not (done.exists() and done.read_text(encoding="utf-8") == wanted):
            if not processes.alive(process):
                raise Trouble(f"the relay of {link['name']} ended:\n{processes.last_lines(self.relay_log(link))}")
            if time.monotonic() > until:
                raise Trouble(f"the relay of {link['name']} did not do as told within {RELAY_S_MAX} s")
            time.sleep(0.005)

    def shape(self, link, relay=None):
        """Makes a link what its entry says it is."""
        if self.mode == "relay":
            if relay:
                self.write_orders(link)
                processes.send(relay, 1)
                self.await_relay(link, relay)
            return
        for end in (link["a"], link["b"]):
            device = ["dev", link["name"], "root"]
            discipline = self.discipline(link)
            if discipline:
                run(["tc", "-n", self.of(end), "qdisc", "replace", *device, *discipline])
            elif "qdisc noqueue" not in run(["tc", "-n", self.of(end), "qdisc", "show", "dev", link["name"]]):
                run(["tc", "-n", self.of(end), "qdisc", "del", *device])

    def discipline(self, link):
        """How `tc` is told; empty for a link that does nothing to packets."""
        if link["cut"]:
            # A queue that holds nothing drops everything, without telling the sender.
            return ["netem", "loss", "100%"] if self.mode == "netem" else ["pfifo", "limit", "0"]
        words = []
        if link["delay_us"]:
            words += ["delay", f"{link['delay_us']}us"]
        if link["loss"]:
            words += ["loss", f"{link['loss'] * 100:.6g}%"]
        if link["rate_bps"]:
            words += ["rate", f"{link['rate_bps']}bit"]
        if words and self.mode == "veth":
            raise Trouble("links of kind veth cannot be delayed, lossy or slow; use --link netem or --link relay")
        return ["netem", *words, "limit", str(QUEUE_PACKETS_MAX)] if words else []

    def between(self, a, b):
        """The link that joins two nodes, if one does."""
        return next((link for link in self.links if {link["a"], link["b"]} == {a, b}), None)

    def part(self, a, b, parted):
        """Drops, or lets through again, what two nodes without a common link send each other: in the namespace between."""
        if b not in ways(self.links, a):
            raise Trouble(f"there is no way between {a} and {b}")
        middle = self.of(ways(self.links, a)[b][1])
        for source, target in ((a, b), (b, a)):
            rule = ["from", self.addresses[source], "to", self.addresses[target], "blackhole"]
            if parted:
                run(["ip", "-n", middle, "rule", "add", "priority", "100", *rule])
            else:
                run(["ip", "-n", middle, "rule", "del", *rule])


def remove(cluster, nodes, relays):
    """Ends everything that lives in the namespaces of a cluster, and removes them. Nothing there is no error."""
    here = existing()
    for node in nodes:
        name = namespace(cluster, node)
        if name in here:
            inside = [int(pid) for pid in run(["ip", "netns", "pids", name]).split()]
            own = [{"pid": pid, "start_ticks": processes.start_ticks(pid), "boot": processes.boot_id()} for pid in inside]
            processes.end([process for process in own if process["start_ticks"] is not None], 1)
    processes.end(list(relays.values()), 2)
    for node in nodes:
        if namespace(cluster, node) in here:
            run(["ip", "netns", "del", namespace(cluster, node)])
