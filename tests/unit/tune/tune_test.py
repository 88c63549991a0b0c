#!/usr/bin/env python3
"""Tuning without a pair: profiles, what a line asks for, and what a search keeps of measurements that somebody made up."""
import json
import math
import pathlib
import random
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
SRC = pathlib.Path(__file__).resolve().parents[3] / "src"
sys.path[:0] = [str(SRC / "tune"), str(SRC / "bench")]
import cells
import search
import settings
import trial
import tune
from programs import Failed

TUNABLES = [{"name": name, "value": value, "default": value, "kept": None, "least": 0, "most": 1000, "unit": "commands", "meaning": "…"}
            for name, value in (("queue", 1), ("delay", 10))]


class Profiles(unittest.TestCase):
    def test_ours_are_whole(self):
        self.assertEqual(settings.names(), ["nvme", "stock"])
        for name in settings.names():
            for setting in settings.profile(name).settings.values():
                self.assertTrue(setting.reason, setting.name)
                self.assertTrue(not setting.tries or setting.value in setting.tries, setting.name)
        self.assertEqual(set(settings.profile("nvme").settings), set(settings.profile("stock").settings))

    def test_a_file_of_the_same_form_is_one(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "mine.toml"
            file.write_text('[[setting]]\nname = "queue"\nvalue = 3\n')
            self.assertEqual(settings.profile(str(file)).settings["queue"].value, 3)
            for text, says in (('[[setting]]\nname = "queue"\nvalue = "3"\n', "whole number"), ('[[setting]]\nname = "q"\nvalue = 3\nvalu = 4\n', "valu"),
                               ("", "holds settings"), ("[[", "cannot be read")):
                file.write_text(text)
                with self.assertRaisesRegex(Failed, says):
                    settings.profile(str(file))
        with self.assertRaisesRegex(Failed, "no profile nothing: nvme, stock"):
            settings.profile("nothing")

    def test_what_a_line_asks_for(self):
        self.assertEqual(settings.wanted(["queue=3", "delay=default"]), {"queue": 3, "delay": None})
        self.assertEqual(settings.wanted(["stock"])["zfs_txg_timeout"], 5)
        for words in (["queue"], ["nvme", "queue=3"], ["queue=-3"], ["=3"], ["queue="]):
            with self.assertRaises(Failed):
                settings.wanted(words)

    def test_differences_name_what_is_wrong(self):
        self.assertEqual(settings.differences(TUNABLES, {"queue": 4, "delay": 10}), [("queue", 1, 4)])
        self.assertEqual(settings.differences(TUNABLES, {"queue": None}), [])
        for values, says in (({"other": 1}, "no tunable other"), ({"queue": 1001}, "takes 0 to 1000 commands, not 1001")):
            with self.assertRaisesRegex(Failed, says):
                settings.differences(TUNABLES, values)


class MadeUpPair:
    """Its speed is what `rate` says of its settings, with noise; keeps what the API would keep."""
    def __init__(self, rate, noise=0.03, seed=1):
        self.rate, self.noise, self.random = rate, noise, random.Random(seed)
        self.kept, self.live = {}, {one["name"]: one["default"] for one in TUNABLES}
        self.changes = 0

    def ask(self, method, path, body):
        assert (method, path) == ("POST", "/v1/tune"), path
        for name, value in body["set"].items():
            if not body.get("try"):
                self.kept[name] = value
                self.changes += 1
            self.live[name] = value if value is not None else self.kept.get(name, next(one["default"] for one in TUNABLES if one["name"] == name))
        return {"tunables": []}


class MadeUpBench:
    def __init__(self, pair):
        self.pair, self.pool = pair, "tank"

    def measure(self, cell):
        return self.pair.rate(cell.name, self.pair.live) * math.exp(self.pair.random.gauss(0, self.pair.noise))


def searched(pair, tries, wanted="randwrite-4k-j16", guard="seqwrite-1m-j1", file=None, pairs=5, is_over=lambda: False):
    trial.SETTLE_SECONDS = 0
    plan = search.Plan(cells.chosen(wanted), cells.chosen(guard), tries, pairs, 3)
    one = search.Search(MadeUpBench(pair), plan, TUNABLES, file, lambda text, last=True: None)
    one.resume()
    one.run(is_over)
    return one


class Searches(unittest.TestCase):
    def test_a_planted_bad_value_is_found(self):
        pair = MadeUpPair(lambda cell, live: 1000 * min(live["queue"], 16))
        one = searched(pair, {"queue": [1, 4, 16, 32], "delay": [10, 20]})
        self.assertEqual(one.changes(), {"queue": (1, 16)})
        self.assertEqual((pair.kept, pair.live["queue"], pair.live["delay"], pair.changes), ({"queue": 16}, 16, 10, 1))

    def test_noise_alone_is_no_gain(self):
        kept = 0
        for seed in range(40):
            pair = MadeUpPair(lambda cell, live: 1000, noise=0.05, seed=seed)
            kept += bool(searched(pair, {"queue": [1, 2, 4], "delay": [10, 20]}).changes())
        self.assertLessEqual(kept, 4)

    def test_what_harms_a_guarded_cell_does_not_stay(self):
        pair = MadeUpPair(lambda cell, live: 1000 * live["queue"] if cell.startswith("rand") else 1000 / live["queue"])
        one = searched(pair, {"queue": [1, 2]})
        self.assertEqual((one.changes(), pair.kept, pair.live["queue"]), ({}, {}, 1))
        self.assertRegex(one.state["steps"][-1]["verdict"], "harms seqwrite-1m-j1")

    def test_it_goes_on_where_it_was_interrupted(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "search.json"
            left = iter([False, False, True])
            pair = MadeUpPair(lambda cell, live: 1000 * live["queue"])
            one = searched(pair, {"queue": [1, 2, 4, 8]}, file=file, is_over=lambda: next(left))
            self.assertEqual((len(one.state["steps"]), pair.kept), (2, {"queue": 2}))
            two = searched(pair, {"queue": [1, 2, 4, 8]}, file=file)
            self.assertEqual((len(two.state["steps"]), two.changes()), (4, {"queue": (1, 8)}))
            three = searched(pair, {"queue": [1, 2]}, file=file)   # another plan: from the beginning
            self.assertEqual(len(three.state["steps"]), 2)
            self.assertIn("queue", tune.html_of({"pool": "tank", "state": two.state, "changes": [], "left": 0}))
            json.loads(file.read_text())

    def test_an_error_in_the_middle_leaves_what_gained(self):
        pair = MadeUpPair(lambda cell, live: 1000 * live["queue"] if live["queue"] < 8 else 1 / 0)
        with self.assertRaises(ZeroDivisionError):
            searched(pair, {"queue": [1, 4, 8]})
        self.assertEqual((pair.kept, pair.live["queue"]), ({"queue": 4}, 4))


if __name__ == "__main__":
    unittest.main()
