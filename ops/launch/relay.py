#!/usr/bin/env python3
"""A link between two network namespaces, carried by this process, for kernels without netem.

    relay.py ORDERS NAMESPACE-A NAMESPACE-B DEVICE

Makes a tun device of that name in each namespace and carries packets between them. ORDERS is a JSON file: `delay_us`
(one way), `loss` (0 to 1), `rate_bps` (0 = unlimited), `cut`, `queue_packets_max`. It is read again on SIGHUP; a copy
with the suffix .done says what is in force. Started and ended by ops/cluster; the devices go with the process.

Packets keep their order. While nothing is lost on purpose, up to 64 KB that one sender sends at once pass as one piece,
as they do on a veth pair; with loss every packet is on its own, so that each is lost for itself.
"""

import ctypes
import fcntl
import json
import os
import random
import select
import signal
import struct
import sys
import time
from collections import deque

TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
# Checksums, and sends of several segments at once: TCP and UDP over IPv4 and IPv6. Older kernels lack UDP's.
OFFLOADS = (0x01 | 0x02 | 0x04 | 0x20 | 0x40, 0x01 | 0x02 | 0x04, 0x00)
CLONE_NEWNET = 0x40000000
PR_SET_TIMERSLACK = 29
# The header that tells how a piece is to be cut into packets; not part of what a link carries.
HEADER_BYTES = 10
PIECE_BYTES_MAX = 65_536 + HEADER_BYTES
# Pieces taken from a device before the other direction gets its turn.
TURN_PIECES_MAX = 64

libc = ctypes.CDLL(None, use_errno=True)


def enter(fd):
    if libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def device(namespace, name):
    """A new tun device in a namespace; it stays there when we go on."""
    inside = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    enter(inside)
    os.close(inside)
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
    return fd


class Direction:
    """What is on its way from one device to the other."""

    def __init__(self, source, target, seed):
        self.source, self.target = source, target
        self.random = random.Random(seed)
        self.waiting = deque()
        # When the last piece will have left a link of limited rate.
        self.busy_until = 0.0

    def take(self, orders):
        for _ in range(TURN_PIECES_MAX):
            try:
                piece = os.read(self.source, PIECE_BYTES_MAX)
            except (BlockingIOError, InterruptedError):
                return
            if orders["cut"] or (orders["loss"] and self.random.random() < orders["loss"]):
                continue
            if len(self.waiting) >= orders["queue_packets_max"]:
                continue
            leaves = time.monotonic()
            if orders["rate_bps"]:
                leaves = max(leaves, self.busy_until) + (len(piece) - HEADER_BYTES) * 8 / orders["rate_bps"]
                self.busy_until = leaves
            due = leaves + orders["delay_us"] / 1e6
            if self.waiting:
                due = max(due, self.waiting[-1][0])
            self.waiting.append((due, piece))

    def give(self):
        """Delivers what is due; gives when the next is, or None."""
        while self.waiting:
            due, piece = self.waiting[0]
            if due > time.monotonic():
                return due
            self.waiting.popleft()
            try:
                os.write(self.target, piece)
            except OSError:
                # The device is down or its queue is full: a packet is lost, as on every link.
                pass
        return None


def read_orders(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    return json.loads(text), text


def confirm(path, text):
    done = os.path.splitext(path)[0] + ".done"
    with open(done + ".new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(done + ".new", done)


def set_offloads(fds, orders):
    for flags in OFFLOADS if not orders["loss"] else OFFLOADS[-1:]:
        try:
            for fd in fds:
                fcntl.ioctl(fd, TUNSETOFFLOAD, flags)
            return
        except OSError:
            continue


def main():
    path, a, b, name = sys.argv[1:]
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    fds = [device(a, name), device(b, name)]
    enter(home)
    libc.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    wake_out, wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)
    signal.signal(signal.SIGHUP, lambda *_: None)
    directions = [Direction(fds[0], fds[1], 1), Direction(fds[1], fds[0], 2)]
    orders, text = read_orders(path)
    set_offloads(fds, orders)
    confirm(path, text)
    while True:
        dues = [due for due in (direction.give() for direction in directions) if due is not None]
        timeout = max(0.0, min(dues) - time.monotonic()) if dues else None
        readable, _, _ = select.select([*fds, wake_out], [], [], timeout)
        if wake_out in readable:
            os.read(wake_out, 64)
            orders, text = read_orders(path)
            set_offloads(fds, orders)
            confirm(path, text)
        for direction in directions:
            if direction.source in readable:
                direction.take(orders)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
