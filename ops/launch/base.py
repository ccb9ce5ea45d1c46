"""Saying things, failing clearly, running programs, and finding the binary."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# Longest wait for a program that should answer at once.
COMMAND_S_MAX = 30


class Trouble(Exception):
    """Something that the user can do something about; the text says what."""


def say(who, text):
    print(f"{who}: {text}", flush=True)


def warn(who, text):
    print(f"{who}: {text}", file=sys.stderr, flush=True)


def run(command, timeout_s=COMMAND_S_MAX, **options):
    """Runs a program to its end and gives its standard output; `Trouble` with its words when it fails."""
    command = [str(part) for part in command]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL, check=False, **options
        )
    except FileNotFoundError:
        raise Trouble(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Trouble(f"{shlex.join(command)} did not end within {timeout_s} s") from None
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
        raise Trouble(f"{shlex.join(command)}: {words}")
    return done.stdout


def binary(who):
    """The sensorium binary: SENSORIUM_BIN, or a release build, which is made when it is not up to date."""
    given = os.environ.get("SENSORIUM_BIN")
    if given:
        path = Path(given).resolve()
        if not os.access(path, os.X_OK):
            raise Trouble(f"SENSORIUM_BIN={given} is not a program")
        return path
    say(who, "building Sensorium (takes some minutes the first time)")
    try:
        built = subprocess.run(["cargo", "build", "--release", "--bin", "sensorium"], cwd=REPOSITORY, check=False)
    except FileNotFoundError:
        raise Trouble("cargo is not installed; install Rust, or name a binary: SENSORIUM_BIN=/usr/local/bin/sensorium") from None
    if built.returncode != 0:
        raise Trouble("the build failed")
    described = run(["cargo", "metadata", "--format-version", "1", "--no-deps", "--offline"], cwd=REPOSITORY)
    path = Path(json.loads(described)["target_directory"]) / "release" / "sensorium"
    if not path.exists():
        raise Trouble(f"the build left no {path}")
    return path


def main(who, body):
    """Runs a script's body: troubles become one line and exit status 1."""
    try:
        sys.exit(body())
    except Trouble as trouble:
        warn(who, str(trouble))
        sys.exit(1)
    except KeyboardInterrupt:
        warn(who, "interrupted")
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read along went away.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
