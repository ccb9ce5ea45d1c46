"""Cluster files: read and checked by `sensorium topology`, written with other addresses for network namespaces."""

import json
import re
from pathlib import Path

from .base import Trouble, run


def read(sensorium, file):
    """The checked contents of a cluster file."""
    if not Path(file).is_file():
        raise Trouble(f"{file}: there is no such file; cluster/three-tier.toml is an example")
    topology = json.loads(run([sensorium, "topology", file, "--json"]))
    for name in [topology["cluster"], *(node["name"] for node in topology["nodes"])]:
        if name.startswith("."):
            raise Trouble(f"{file}: the name {name!r} begins with a dot, which folders are not given here")
    return topology


def cluster_name(file):
    """The name in a cluster file, without checking the rest: enough to find what runs, also when the file has changed."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise Trouble(f"{file}: {error.strerror}") from None
    found = re.search(r"""^\s*cluster\s*=\s*["']([A-Za-z0-9._-]+)["']""", text, re.MULTILINE)
    if not found:
        raise Trouble(f"{file}: has no line cluster = \"NAME\"")
    return found.group(1)


def with_addresses(topology, addresses):
    """The same cluster with other IP addresses; ports stay."""
    nodes = []
    for node in topology["nodes"]:
        moved = dict(node)
        for role in ("api", "peer"):
            moved[role] = f"{addresses[node['name']]}:{node[role].rpartition(':')[2]}"
        nodes.append(moved)
    return {**topology, "nodes": nodes}


def to_toml(topology):
    """A cluster file. Every node has its options in full, so there are no `defaults`."""
    lines = ["# Written by ops/cluster; made again at every start.", f"cluster = {value(topology['cluster'])}"]
    for table in ("timing", "cost"):
        lines += ["", f"[{table}]"] + [f"{key} = {value(item)}" for key, item in topology[table].items()]
    for node in topology["nodes"]:
        lines += ["", "[[node]]"]
        lines += [f"{key} = {value(item)}" for key, item in node.items() if key != "options"]
        if node["options"]:
            lines += ["[node.options]"] + [f"{quoted(key)} = {value(item)}" for key, item in node["options"].items()]
    return "\n".join(lines) + "\n"


def quoted(key):
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def value(item):
    """A value as TOML writes it. JSON's strings are TOML's, once characters are not split into surrogates."""
    if isinstance(item, dict):
        return "{ " + ", ".join(f"{quoted(key)} = {value(inner)}" for key, inner in item.items()) + " }"
    if isinstance(item, list):
        return "[" + ", ".join(value(inner) for inner in item) + "]"
    if isinstance(item, str):
        return json.dumps(item, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(item)
