"""The account of a run, made from the record of every job alone and not from what the sender says of itself."""

import json

OUTCOMES = ("result", "refused", "expired", "failed", "cancelled")


def of(record):
    """Counts of a record: jobs by outcome, lost, answered twice, with another's answer."""
    counts = {name: 0 for name in ("jobs", *OUTCOMES, "lost", "twice", "wrong", "on_time")}
    seen = set()
    with open(record, encoding="utf-8") as lines:
        for line in lines:
            ending = json.loads(line)
            if ending["job"] in seen:
                counts["twice"] += 1
                continue
            seen.add(ending["job"])
            counts["jobs"] += 1
            # Anything that is no outcome is a job without one.
            counts[ending["outcome"] if ending["outcome"] in OUTCOMES else "lost"] += 1
            counts["wrong"] += bool(ending["wrong"])
            counts["on_time"] += bool(ending["on_time"])
    return counts


def problems(counts, report, jobs, faults, faults_done, left):
    """What is wrong, each in a sentence; empty when every job had exactly one outcome."""
    found = []
    if report is None:
        found.append("the load did not report to its end")
    if counts["jobs"] != jobs:
        found.append(f"{jobs} jobs were to be sent, {counts['jobs']} have an ending")
    if counts["lost"]:
        found.append(f"{counts['lost']} jobs have no outcome")
    if counts["twice"] or (report and report["twice"]):
        found.append("jobs were answered twice")
    if counts["wrong"]:
        found.append(f"{counts['wrong']} jobs got another job's answer")
    if report and any(report[name] != counts[name] for name in OUTCOMES):
        found.append("the sender's own account differs from the record")
    if not counts["result"]:
        found.append("no job ended in a result")
    if faults_done != faults:
        found.append(f"{faults} faults were planned, {faults_done} could be put in")
    found += [f"{node} still has {count} jobs in flight" for node, count in left.items() if count]
    return found


def verdict(seed, counts, report, faults_done, found):
    """The last line."""
    stray = report["stray"] if report else 0
    twice = counts["twice"] + (report["twice"] if report else 0)
    numbers = [f"seed={seed}", f"jobs={counts['jobs']}", *(f"{name}={counts[name]}" for name in OUTCOMES)]
    numbers += [f"on_time={counts['on_time']}", f"lost={counts['lost']}", f"twice={twice}", f"wrong={counts['wrong']}"]
    numbers += [f"stray={stray}", f"faults={faults_done}"]
    return f"{'FAILED' if found else 'ok'} {' '.join(numbers)}"
