"""What a cluster looks like, for people and for programs."""

from . import processes, shaping
from .cluster import neighbours

# A node that answers but whose devices are not ready.
STARTING = "starting"


def state_of(cluster, name, status):
    """What can be told of a node from here: up, starting, stopped, silent or down."""
    if not cluster.alive(name):
        return "down"
    if processes.is_stopped(cluster.process(name)):
        return "stopped"
    if status is None:
        return "silent"
    return "ready" if any(device["state"] == "ready" for device in status["devices"]) else STARTING


def collect(cluster):
    """Everything, as `status --json` prints it."""
    rows = []
    for name, node in cluster.nodes.items():
        status = cluster.ask(name)
        rows.append(
            {
                "name": name,
                "tier": node["tier"],
                "api": node["api"],
                "pid": cluster.process(name)["pid"] if cluster.alive(name) else None,
                "state": state_of(cluster, name, status),
                "neighbours": neighbours(status),
                "alerts": (status or {}).get("alerts", []),
                "in_flight": (status or {}).get("engine", {}).get("jobs_in_flight"),
                "log": str(cluster.state.log(name)),
            }
        )
    said = cluster.said
    return {
        "cluster": said["cluster"],
        "file": said["file"],
        "state": str(cluster.state.folder),
        "netns": said["netns"],
        "links": said["links"],
        "parted": said["parted"],
        "nodes": rows,
    }


def lines(collected):
    """The same for a person."""
    kind = "in network namespaces" if collected["netns"] else "on this machine's own addresses"
    yield f"{collected['cluster']} ({collected['file']}), {kind}, state in {collected['state']}"
    width = max(len(row["name"]) for row in collected["nodes"])
    for row in collected["nodes"]:
        process = f"process {row['pid']}" if row["pid"] else "no process"
        yield f"{row['name']:<{width}}  {row['tier']:<8}  {row['state']:<8}  api {row['api']}  {process}"
        for other in row["neighbours"]:
            trip = other.get("round_trip_us")
            trip = f"  round trip {trip / 1000:.2f} ms" if trip else ""
            reason = f"  ({other['reason']})" if other.get("reason") else ""
            yield f"{'':<{width}}    {other['name']:<{width}}  {other['standing']}{trip}{reason}"
        for alert in row["alerts"]:
            yield f"{'':<{width}}    ALERT: {alert}"
    for link in collected["links"]:
        yield f"link {shaping.describe(link)}"
    for a, b in collected["parted"]:
        yield f"parted: {a} and {b}"


def greeting(cluster, seconds):
    """What is said after a start."""
    said = cluster.said
    yield f"{said['cluster']} is up: {len(said['nodes'])} nodes, ready after {seconds:.1f} s"
    for name, node in cluster.nodes.items():
        yield f"  {name}: api {node['api']}, log {cluster.state.log(name)}"
    for link in said["links"]:
        yield f"  link {shaping.describe(link)} ({said['mode']})"
    first = next(iter(cluster.nodes))
    yield "talk to it, for example:"
    yield f"  ops/cluster exec {first} -- sensorium submit --model movenet PICTURE.png"
    if not said["netns"]:
        addresses = ",".join(node["api"] for node in cluster.nodes.values())
        yield f"  {said['binary']} load --node {addresses} --bundle {cluster.state.client}"
    yield "look at it with ops/cluster status, stop it with ops/cluster down"
