"""Tests of what needs no cluster: python3 -m unittest discover -s ops/launch -t ops"""

import json
import os
import tempfile
import unittest
from pathlib import Path

from launch import account, faults, network, processes, shaping, topology
from launch.base import Trouble

NODES = [
    {"name": "edge-1", "tier": "edge", "parents": ["regional-1", "central-1"], "api": "127.0.0.1:1", "peer": "[::1]:2"},
    {"name": "regional-1", "tier": "regional", "parents": ["central-1"], "api": "127.0.0.1:3", "peer": "127.0.0.1:4"},
    {"name": "central-1", "tier": "central", "parents": [], "api": "127.0.0.1:5", "peer": "127.0.0.1:6"},
]
TOPOLOGY = {"cluster": "t", "timing": {"report_ms": 100}, "cost": {"edge": 1}, "nodes": [{**node, "options": {}} for node in NODES]}


class Shaping(unittest.TestCase):
    def setUp(self):
        self.links, self.addresses = network.plan(TOPOLOGY)

    def test_links_follow_first_parents_and_all_is_reached(self):
        self.assertEqual([(link["a"], link["b"]) for link in self.links], [("edge-1", "regional-1"), ("regional-1", "central-1")])
        self.assertEqual(network.ways(self.links, "edge-1")["central-1"][1], "regional-1")
        self.assertEqual(len({*self.addresses.values()}), 3)

    def test_nodes_without_parents_are_joined(self):
        alone = {"nodes": [{"name": name, "parents": []} for name in "abc"]}
        links, _ = network.plan(alone)
        self.assertEqual(sorted(network.ways(links, "a")), ["b", "c"])

    def test_the_largest_cluster_has_addresses_of_its_own(self):
        nodes = [{"name": "c", "parents": []}] + [{"name": f"e{n}", "parents": ["c"]} for n in range(255)]
        links, addresses = network.plan({"nodes": nodes})
        ends = [link[end] for link in links for end in ("a_address", "b_address")]
        self.assertEqual(len({*ends, *addresses.values()}), 2 * 255 + 256)

    def test_names_with_dashes_are_told_apart(self):
        self.assertEqual(shaping.pair("edge-1-regional-1", TOPOLOGY), ("edge-1", "regional-1"))
        self.assertEqual(shaping.pair("edge-regional-1", TOPOLOGY), ("edge", "regional-1"))
        for wrong in ("edge-1", "edge-2-regional-1", "", "-", "edge--regional"):
            with self.assertRaises(Trouble):
                shaping.pair(wrong, TOPOLOGY)

    def test_amounts_are_entered_where_they_belong(self):
        shaping.apply("delay", ["edge-regional=10ms"], TOPOLOGY, self.links)
        shaping.apply("loss", ["1%", "regional-1-central-1=2.5%"], TOPOLOGY, self.links)
        shaping.apply("rate", ["100mbit"], TOPOLOGY, self.links)
        self.assertEqual([link["delay_us"] for link in self.links], [5000, 0])
        self.assertEqual([link["loss"] for link in self.links], [0.01, 0.025])
        self.assertEqual([link["rate_bps"] for link in self.links], [100_000_000] * 2)

    def test_amounts_that_make_no_sense_are_refused(self):
        wrong = {"delay": ["10", "ms", "-1ms", "21s"], "loss": ["1", "101%", "x%"], "rate": ["100", "0mbit", "1tbit"]}
        for what, texts in wrong.items():
            for text in texts:
                with self.assertRaises(Trouble, msg=f"{what} {text}"):
                    shaping.apply(what, [text], TOPOLOGY, self.links)
        with self.assertRaisesRegex(Trouble, "no link edge-central"):
            shaping.apply("delay", ["edge-central=1ms"], TOPOLOGY, self.links)


class Files(unittest.TestCase):
    def test_written_topologies_are_toml(self):
        moved = topology.with_addresses(TOPOLOGY, {node["name"]: "10.0.0.1" for node in NODES})
        moved["nodes"][0]["options"] = {"load": ["a", "ü\"\\"], "plan": {"critical_share": 0.5, "x": {"y": True}}}
        text = topology.to_toml(moved)
        self.assertIn('peer = "10.0.0.1:2"', text)
        self.assertIn('load = ["a", "ü\\"\\\\"]', text)
        self.assertIn("plan = { critical_share = 0.5, x = { y = true } }", text)
        try:
            import tomllib
        except ImportError:
            return
        read = tomllib.loads(text)
        self.assertEqual(read["node"][0]["options"], moved["nodes"][0]["options"])

    def test_the_name_is_found_without_reading_the_rest(self):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "c.toml"
            file.write_text("# a\n  cluster = 'a.b-c'  # d\n[[node]\n", encoding="utf-8")
            self.assertEqual(topology.cluster_name(file), "a.b-c")
            file.write_text("[[node]]\nname = 'x'\n", encoding="utf-8")
            with self.assertRaises(Trouble):
                topology.cluster_name(file)


class Processes(unittest.TestCase):
    def test_another_process_with_the_same_id_is_not_taken_for_ours(self):
        own = {"pid": os.getpid(), "start_ticks": processes.start_ticks(os.getpid()), "boot": processes.boot_id()}
        self.assertTrue(processes.alive(own))
        self.assertFalse(processes.alive({**own, "start_ticks": own["start_ticks"] - 1}))
        self.assertFalse(processes.alive({**own, "boot": "another"}))
        self.assertFalse(processes.send({**own, "boot": "another"}, 9))

    def test_a_process_that_ends_at_once_is_known_and_gone(self):
        with tempfile.TemporaryDirectory() as folder:
            process = processes.launch(["true"], Path(folder) / "log")
            self.assertTrue(processes.await_end([process], 10))


class Faults(unittest.TestCase):
    def plan(self, seed, count=40, links=()):
        return [str(fault) for fault in faults.schedule(TOPOLOGY, seed, count, 200.0, list(links))]

    def test_the_seed_decides(self):
        self.assertEqual(self.plan(7), self.plan(7))
        self.assertNotEqual(self.plan(7), self.plan(8))

    def test_no_two_overlap_and_all_end_in_time(self):
        for seed in range(50):
            planned = faults.schedule(TOPOLOGY, seed, 40, 200.0, [("edge-1", "regional-1")])
            ends = [fault.at_s + fault.last_s for fault in planned]
            self.assertTrue(all(end < nxt.at_s for end, nxt in zip(ends, planned[1:])))
            self.assertLess(ends[-1], 200.0)

    def test_links_are_disturbed_only_where_there_are_some(self):
        self.assertFalse(any(kind in line for line in self.plan(1) for kind in faults.NETNS))
        lines = self.plan(1, links=[("edge-1", "regional-1")])
        self.assertTrue(all(any(kind in line for line in lines) for kind in (*faults.PLAIN, *faults.NETNS)))

    def test_the_numbers_are_the_same_in_every_version_of_python(self):
        first = faults.schedule(TOPOLOGY, 7, 4, 200.0, [])[0]
        self.assertEqual(str(first), "    7.935 s  kill-node    edge-1  for 0.833 s")


class Account(unittest.TestCase):
    ENDING = {"outcome": "result", "wrong": False, "on_time": True}

    def of(self, endings):
        with tempfile.TemporaryDirectory() as folder:
            record = Path(folder) / "jobs.jsonl"
            record.write_text("".join(json.dumps({"job": str(n), **ending}) + "\n" for n, ending in endings), encoding="utf-8")
            return account.of(record)

    def report(self, counts):
        return {**{name: counts[name] for name in account.OUTCOMES}, "twice": 0, "stray": 0}

    def test_one_outcome_each_is_well(self):
        counts = self.of([(1, self.ENDING), (2, {**self.ENDING, "outcome": "expired", "on_time": False})])
        found = account.problems(counts, self.report(counts), 2, 3, 3, {"edge-1": 0})
        self.assertEqual(found, [])
        line = account.verdict(7, counts, self.report(counts), 3, found)
        self.assertTrue(line.startswith("ok seed=7 jobs=2 result=1 refused=0 expired=1"), line)
        self.assertIn("lost=0 twice=0", line)

    def test_everything_else_is_not(self):
        good = [(1, self.ENDING), (2, self.ENDING)]
        cases = {
            "have an ending": ([(1, self.ENDING)], {}),
            "no outcome": ([(1, self.ENDING), (2, {**self.ENDING, "outcome": "lost"})], {}),
            "answered twice": ([*good, (2, self.ENDING)], {}),
            "another job's answer": ([(1, self.ENDING), (2, {**self.ENDING, "wrong": True})], {}),
            "no job ended": ([(n, {**self.ENDING, "outcome": "refused"}) for n in (1, 2)], {}),
            "could be put in": (good, {"faults_done": 2}),
            "in flight": (good, {"left": {"edge-1": 4}}),
            "did not report": (good, {"report": None}),
        }
        for words, (endings, more) in cases.items():
            counts = self.of(endings)
            arguments = {"report": self.report(counts), "jobs": 2, "faults": 3, "faults_done": 3, "left": {}, **more}
            found = account.problems(counts, **arguments)
            self.assertTrue(any(words in problem for problem in found), f"{words}: {found}")
            self.assertTrue(account.verdict(7, counts, arguments["report"], 3, found).startswith("FAILED"))
        counts = self.of(good)
        found = account.problems(counts, {**self.report(counts), "result": 1}, 2, 3, 3, {})
        self.assertTrue(any("differs" in problem for problem in found))


if __name__ == "__main__":
    unittest.main()
