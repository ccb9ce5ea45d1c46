"""Processes that outlive the script which started them.

A process is remembered by its id and the time of its start, so that another process which has got the same id since,
or a machine that was started anew, is never taken for it.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

# Those that this script started: kept so that their ends can be taken note of.
CHILDREN = []
# How long the system may take to end a process that was sent SIGKILL.
KILL_S_MAX = 10


def boot_id():
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid):
    """When the process was started, in clock ticks after the machine's start; None when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # PID (NAME) STATE …; the name may hold anything.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def launch(command, log, **options):
    """Starts a process of its own session and gives what is needed to find it again."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as out:
        started = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
    CHILDREN.append(started)
    # It is our child and was not waited for, so its entry is there even if it has ended.
    stat = Path(f"/proc/{started.pid}/stat").read_text().rpartition(")")[2].split()
    return {"pid": started.pid, "start_ticks": int(stat[19]), "boot": boot_id()}


def alive(process):
    if not process or process["boot"] != boot_id():
        return False
    CHILDREN[:] = [child for child in CHILDREN if child.poll() is None]
    return start_ticks(process["pid"]) == process["start_ticks"]


def is_stopped(process):
    """Whether it was sent SIGSTOP."""
    try:
        return Path(f"/proc/{process['pid']}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def send(process, number):
    """Sends a signal; whether there was anybody to get it."""
    if not alive(process):
        return False
    try:
        os.kill(process["pid"], number)
    except ProcessLookupError:
        return False
    return True


def end(processes, patience_s):
    """Asks all to stop, waits, and ends those that do not. Gives how many had to be ended."""
    for process in processes:
        # A stopped process hears SIGTERM only when it goes on.
        if send(process, signal.SIGTERM):
            send(process, signal.SIGCONT)
    await_end(processes, patience_s)
    stubborn = [process for process in processes if send(process, signal.SIGKILL)]
    await_end(stubborn, KILL_S_MAX)
    return len(stubborn)


def await_end(processes, patience_s):
    """Whether all have ended in time."""
    until = time.monotonic() + patience_s
    while any(alive(process) for process in processes):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def workers(process):
    """Ids of the worker processes of a node."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if parent == process["pid"] and b"worker" in words and start_ticks(entry.name) is not None:
            found.append(int(entry.name))
    return sorted(found)


def last_lines(log, count=20):
    """The end of a log, for a person."""
    try:
        with open(log, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16384))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return "\n".join(f"  {line}" for line in lines[-count:])
