"""What is asked of links on the command line: `edge-regional=10ms`, `1%`, `edge-1-regional-1=100mbit`."""

import re

from .base import Trouble

TIERS = ("edge", "regional", "central")
DELAY_US_MAX = 10_000_000
RATE_BPS_MAX = 100_000_000_000


def delay_us(text):
    """A round trip, in microseconds one way: half of it."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", text)
    if not found:
        raise Trouble(f"--delay {text}: a time is expected, such as 10ms, 500us or 1s")
    us = float(found.group(1)) * {"us": 1, "ms": 1_000, "s": 1_000_000}[found.group(2)] / 2
    if us > DELAY_US_MAX:
        raise Trouble(f"--delay {text}: at most 20s is expected")
    return round(us)


def loss(text):
    """Which part of the packets, 0 to 1, each way."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)%", text)
    if not found or float(found.group(1)) > 100:
        raise Trouble(f"--loss {text}: 0% to 100% is expected, such as 1% or 0.1%")
    return float(found.group(1)) / 100


def rate_bps(text):
    """Bits a second, each way."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(kbit|mbit|gbit)", text)
    bps = float(found.group(1)) * {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}[found.group(2)] if found else 0
    if not 1_000 <= bps <= RATE_BPS_MAX:
        raise Trouble(f"--rate {text}: 1kbit to 100gbit is expected, such as 100mbit")
    return round(bps)


READERS = {"delay": ("delay_us", delay_us), "loss": ("loss", loss), "rate": ("rate_bps", rate_bps)}


def pair(text, topology):
    """The two ends in `A-B`: names of nodes or tiers, which may hold dashes themselves."""
    known = {node["name"] for node in topology["nodes"]} | set(TIERS)
    cuts = [at for at, letter in enumerate(text) if letter == "-"]
    found = [(text[:at], text[at + 1 :]) for at in cuts if text[:at] in known and text[at + 1 :] in known]
    if len(found) != 1:
        names = ", ".join(node["name"] for node in topology["nodes"])
        raise Trouble(f"{text}: two nodes or tiers are expected, as A-B; nodes: {names}; tiers: {', '.join(TIERS)}")
    return found[0]


def members(end, topology):
    return {node["name"] for node in topology["nodes"] if end in (node["name"], node["tier"])}


def links_of(text, topology, links):
    """The links that `A-B` means."""
    a, b = (members(end, topology) for end in pair(text, topology))
    meant = [link for link in links if (link["a"] in a and link["b"] in b) or (link["a"] in b and link["b"] in a)]
    if not meant:
        there = ", ".join(f"{link['a']}-{link['b']}" for link in links) or "none"
        raise Trouble(f"there is no link {text}; links follow the first parent of each node: {there}")
    return meant


def apply(what, asked, topology, links):
    """Enters `--delay`, `--loss` and `--rate` into the links: for all of them, or for those between A and B."""
    key, reader = READERS[what]
    for text in asked:
        where, equals, amount = text.rpartition("=")
        read = reader(amount)
        for link in links_of(where, topology, links) if equals else links:
            link[key] = read


def describe(link):
    """What a link does, for a person."""
    words = []
    if link["delay_us"]:
        words.append(f"{link['delay_us'] * 2 / 1000:g} ms there and back")
    if link["loss"]:
        words.append(f"{link['loss'] * 100:g} % lost each way")
    if link["rate_bps"]:
        words.append(f"{link['rate_bps'] / 1e6:g} Mbit/s")
    if link["cut"]:
        words.append("CUT")
    return f"{link['a']} - {link['b']}: {', '.join(words) or 'as it is'}"
