"""A cluster on this machine: started, asked, disturbed and stopped."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time

from . import network, processes, shaping, topology
from .base import REPOSITORY, Trouble, run, say, warn

# How long all nodes may take to load their models, and then to find each other.
READY_S_MAX = 180
NEIGHBOURS_S_MAX = 30
# A node that stops answers what it accepted, for at most 30 s.
STOP_S_MAX = 40
# How long a node may take to say how it is.
STATUS_S_MAX = 10
# How long a node's worker may take to be there again, before it can be killed.
WORKER_S_MAX = 30


class Cluster:
    """What a state folder says, and what can be done with it."""

    def __init__(self, state, who="cluster"):
        self.state, self.who = state, who
        self.said = state.read()

    # ------------------------------------------------------------ what there is

    def must_be_up(self):
        if not self.said:
            raise Trouble(f"no cluster is up in {self.state.folder}; start one with ops/cluster up FILE.toml")
        return self

    @property
    def nodes(self):
        return {node["name"]: node for node in self.said["topology"]["nodes"]}

    def node(self, name):
        if name not in self.nodes:
            raise Trouble(f"there is no node {name}; there are {', '.join(self.nodes)}")
        return self.nodes[name]

    def process(self, name):
        return self.said["nodes"].get(name)

    def alive(self, name):
        return processes.alive(self.process(name))

    @property
    def network(self):
        if not self.said["netns"]:
            raise Trouble("this cluster runs without network namespaces; links can be shaped and cut with up --netns only")
        said = self.said
        return network.Network(said["cluster"], said["mode"], said["links"], said["addresses"], self.state.links)

    def inside(self, name, command):
        """A command as it is run where the node is."""
        prefix = ["ip", "netns", "exec", network.namespace(self.said["cluster"], name)] if self.said["netns"] else []
        return [*prefix, *command]

    def environment(self, name):
        """So that commands find the node, and the binary that it runs."""
        path = f"{os.path.dirname(self.said['binary'])}:{os.environ.get('PATH', '')}"
        return {**os.environ, "SENSORIUM_DATA": str(self.state.data(name)), "PATH": path}

    def save(self):
        self.state.write(self.said)

    # ------------------------------------------------------------ up

    def refuse_if_up(self):
        if self.said and any(processes.alive(process) for process in self.said["nodes"].values()):
            raise Trouble(
                f"{self.said['cluster']} is up already ({self.said['file']}, state in {self.state.folder}); "
                "ops/cluster status shows it, ops/cluster down stops it"
            )

    def up(self, sensorium, file, netns, link_mode, asked):
        """Starts everything and waits until it is one cluster. What was begun is undone when that fails."""
        if self.said:
            say(self.who, "removing what a cluster that is gone left behind")
            self.down()
        read = topology.read(sensorium, file)
        links, addresses = [], {}
        if netns:
            network.check_machine()
            links, addresses = network.plan(read)
            for what, texts in asked.items():
                shaping.apply(what, texts, read, links)
            taken = [network.namespace(read["cluster"], name) for name in addresses]
            taken = sorted(network.existing().intersection(taken))
            if taken:
                raise Trouble(
                    f"the network namespace {taken[0]} is there already: a cluster of this name was started with another "
                    f"--state, or is left over; remove it with: ip netns del {taken[0]}"
                )
            link_mode = network.choose_mode(link_mode)
            read = topology.with_addresses(read, addresses)
        elif any(asked.values()):
            raise Trouble("--delay, --loss and --rate need --netns")
        else:
            check_ports(read)
        self.said = {
            "cluster": read["cluster"],
            "file": os.path.abspath(file),
            "binary": str(sensorium),
            "netns": netns,
            "mode": link_mode,
            "topology": read,
            "links": links,
            "addresses": addresses,
            "parted": [],
            "relays": {},
            "nodes": {},
        }
        began = time.monotonic()
        try:
            self.save()
            self.make_certificates()
            self.state.topology.write_text(topology.to_toml(read), encoding="utf-8")
            if netns:
                self.said["relays"] = self.network.create()
                self.save()
            for name in self.nodes:
                self.state.log(name).unlink(missing_ok=True)
                self.start(name)
            self.await_ready(list(self.nodes))
            self.await_neighbours()
        except BaseException:
            warn(self.who, "taking down what was started")
            self.down()
            raise
        return time.monotonic() - began

    def make_certificates(self):
        """A new authority for every start: nothing expires, and nobody of a former cluster gets in."""
        sensorium, state = self.said["binary"], self.state
        for folder in (state.ca, state.client):
            shutil.rmtree(folder, ignore_errors=True)
        run([sensorium, "ca", "init", "--out", state.ca])
        issue = [sensorium, "ca", "issue", "--ca", state.ca]
        roles = [word for role in ("submit", "critical", "operate") for word in ("--role", role)]
        run([*issue, "--name", "operator", *roles, "--out", state.client])
        for name, node in self.nodes.items():
            certificates = state.data(name) / "certificates"
            shutil.rmtree(certificates, ignore_errors=True)
            host = node["api"].rpartition(":")[0].strip("[]")
            of_node = ["--name", name, "--role", "peer", "--tier", node["tier"], "--host", host]
            run([*issue, *of_node, "--out", certificates / "node"])
            shutil.copytree(state.client, certificates / "client")

    def start(self, name):
        """Starts a node's process."""
        data = self.state.data(name)
        # What a node that was killed left would be taken for the new one's.
        (data / "node.json").unlink(missing_ok=True)
        command = [self.said["binary"], "node", "--cluster", self.state.topology, "--name", name, "--data", data]
        self.said["nodes"][name] = processes.launch(self.inside(name, command), self.state.log(name), cwd=REPOSITORY)
        self.save()

    def ask(self, name, timeout_s=STATUS_S_MAX):
        """A node's status; None when it does not say."""
        if not self.alive(name) or processes.is_stopped(self.process(name)):
            return None
        command = self.inside(name, [self.said["binary"], "status", "--json", "--data", self.state.data(name)])
        try:
            return json.loads(run(command, timeout_s))
        except (Trouble, ValueError):
            return None

    def await_ready(self, names, patience_s=READY_S_MAX):
        """Waits until a device of each node is ready."""
        until = time.monotonic() + patience_s
        for name in names:
            while not is_ready(self.ask(name)):
                if not self.alive(name):
                    raise Trouble(f"{name} ended before it was ready; its log ends with\n{self.log_end(name)}")
                if time.monotonic() > until:
                    raise Trouble(f"{name} was not ready after {patience_s} s; its log ends with\n{self.log_end(name)}")
                time.sleep(0.1)

    def await_neighbours(self, patience_s=NEIGHBOURS_S_MAX):
        """Waits until every node that runs has all its neighbours, and they are alive."""
        until = time.monotonic() + patience_s
        for name in self.nodes:
            missing = self.missing_neighbours(name)
            while missing:
                if not self.alive(name):
                    raise Trouble(f"{name} ended; its log ends with\n{self.log_end(name)}")
                if time.monotonic() > until:
                    raise Trouble(
                        f"{name} has not found {', '.join(missing)} after {patience_s} s; its log ends with\n{self.log_end(name)}"
                    )
                time.sleep(0.1)
                missing = self.missing_neighbours(name)

    def missing_neighbours(self, name):
        children = [node["name"] for node in self.nodes.values() if name in node["parents"]]
        wanted = [*self.nodes[name]["parents"], *children]
        standing = {entry["name"]: entry["standing"] for entry in neighbours(self.ask(name))}
        return [other for other in wanted if standing.get(other) != "alive"]

    def log_end(self, name):
        return processes.last_lines(self.state.log(name)) or "  (nothing)"

    # ------------------------------------------------------------ down

    def down(self):
        """Stops and removes everything; whether there was anything. Logs and data folders stay."""
        if not self.said:
            return False
        stubborn = processes.end(list(self.said["nodes"].values()), STOP_S_MAX)
        if stubborn:
            warn(self.who, f"{stubborn} nodes did not stop within {STOP_S_MAX} s and were ended")
        if self.said["netns"]:
            network.check_machine()
            network.remove(self.said["cluster"], self.said["addresses"], self.said["relays"])
        self.state.forget()
        self.said = None
        return True

    # ------------------------------------------------------------ disturbances

    def kill(self, name, number):
        self.node(name)
        if not processes.send(self.process(name), number):
            raise Trouble(f"{name} does not run")
        if number == signal.SIGKILL:
            processes.await_end([self.process(name)], processes.KILL_S_MAX)

    def kill_worker(self, name):
        """Kills a worker process of a node, once there is one."""
        self.node(name)
        until = time.monotonic() + WORKER_S_MAX
        while True:
            found = processes.workers(self.process(name)) if self.alive(name) else []
            if found:
                os.kill(found[0], signal.SIGKILL)
                return found[0]
            if time.monotonic() > until:
                raise Trouble(f"{name} has had no worker for {WORKER_S_MAX} s")
            time.sleep(0.05)

    def restart(self, name, wait=True):
        """Stops a node if it runs, and starts it again."""
        self.node(name)
        processes.end([self.process(name)], STOP_S_MAX)
        self.start(name)
        if wait:
            self.await_ready([name])

    def shape(self, where, asked):
        """Changes the links between two nodes or tiers."""
        net, links = self.network, self.said["links"]
        meant = shaping.links_of(where, self.said["topology"], links)
        for what, text in asked.items():
            key, reader = shaping.READERS[what]
            for link in meant:
                link[key] = reader(text)
        self.apply(net, meant)
        return meant

    def partition(self, where, parted):
        """Cuts or mends what lies between two nodes or tiers. Nodes without a link of their own are parted in between."""
        net, links = self.network, self.said["links"]
        a, b = shaping.pair(where, self.said["topology"])
        if a in self.nodes and b in self.nodes and not net.between(a, b):
            entry = sorted([a, b])
            if (entry in self.said["parted"]) != parted:
                net.part(a, b, parted)
                self.said["parted"] = [other for other in self.said["parted"] if other != entry] + [entry] * parted
                self.save()
            return
        meant = shaping.links_of(where, self.said["topology"], links)
        for link in meant:
            link["cut"] = parted
        self.apply(net, meant)

    def apply(self, net, links):
        for link in links:
            net.shape(link, self.said["relays"].get(link["name"]))
        self.save()

    def execute(self, name, command):
        """Becomes a command that runs where the node is."""
        self.node(name)
        words = self.inside(name, command)
        try:
            os.execvpe(words[0], words, self.environment(name))
        except OSError as error:
            raise Trouble(f"{words[0]}: {error.strerror}") from None

    def spawn(self, name, command, **options):
        """The same as a child."""
        return subprocess.Popen(self.inside(name, command), env=self.environment(name), **options)


def is_ready(status):
    return any(device["state"] == "ready" for device in (status or {}).get("devices", []))


def neighbours(status):
    """The nodes that a node is connected with, as it sees them."""
    return ((status or {}).get("cluster") or {}).get("neighbours", [])


def check_ports(read):
    """Whether the addresses of a cluster file are free on this machine."""
    for node in read["nodes"]:
        for role in ("api", "peer"):
            host, _, port = node[role].rpartition(":")
            host = host.strip("[]")
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as trial:
                try:
                    trial.bind((host, int(port)))
                except OSError as error:
                    raise Trouble(
                        f"{node['name']}: {role} = {node[role]}: {error.strerror}; without --netns all addresses have to be "
                        "this machine's, and free"
                    ) from None
