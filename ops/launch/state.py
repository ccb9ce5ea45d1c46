"""The state folder of a cluster: what was started, and everything that belongs to it.

    STATE/cluster.json     what runs, while something does
    STATE/topology.toml    the file that the nodes read
    STATE/ca, STATE/client the authority, and a client's bundle with the roles submit, critical and operate
    STATE/nodes/NAME       the nodes' data folders
    STATE/logs/NAME.log    what they said
    STATE/links            links between network namespaces that are carried by a process
    STATE/lock             held while a command changes something
"""

import fcntl
import json
import os
from contextlib import contextmanager
from pathlib import Path

from . import processes
from .base import Trouble

FORMAT = 1


def root():
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "sensorium" / "cluster"


def find(file=None, state=None, name=None):
    """The folder that is meant: given, or by the cluster's name, or the only cluster that is up."""
    from . import topology

    if state:
        return State(Path(state))
    if name or file:
        return State(root() / (name or topology.cluster_name(file)))
    up = [folder for folder in sorted(root().glob("*")) if State(folder).read()]
    if len(up) == 1:
        return State(up[0])
    if not up:
        raise Trouble("no cluster is up; start one with ops/cluster up FILE.toml (or say which with --state DIR)")
    names = ", ".join(folder.name for folder in up)
    raise Trouble(f"several clusters are up ({names}); say which with --cluster NAME or --state DIR")


class State:
    """A state folder. What it says is a plain dictionary."""

    def __init__(self, folder):
        self.folder = Path(os.path.abspath(folder))
        self.file = self.folder / "cluster.json"
        self.topology = self.folder / "topology.toml"
        self.client = self.folder / "client"
        self.ca = self.folder / "ca"
        self.links = self.folder / "links"

    def data(self, node):
        return self.folder / "nodes" / node

    def log(self, node):
        return self.folder / "logs" / f"{node}.log"

    def read(self):
        """What was started; None when nothing was."""
        try:
            text = self.file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            said = json.loads(text)
        except ValueError:
            said = None
        if not isinstance(said, dict) or said.get("format") != FORMAT:
            raise Trouble(f"{self.file}: not what this version of ops/cluster writes; stop what runs and remove it")
        return said

    def write(self, said):
        """Beside and renamed, so that a reader never sees half of it."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps({"format": FORMAT, **said}, indent=1), encoding="utf-8")
        os.replace(fresh, self.file)

    def forget(self):
        self.file.unlink(missing_ok=True)

    @contextmanager
    def changing(self):
        """Holds the folder's lock: one command at a time changes something."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / "lock", "w", encoding="utf-8")
        except OSError as error:
            raise Trouble(f"{self.folder}: {error.strerror}; choose another folder with --state DIR") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Trouble(f"another command is at work on {self.folder}; try again when it is done") from None
            yield


def running(said):
    """Whether any process of the cluster lives."""
    return any(processes.alive(process) for process in said["nodes"].values())
