#!/usr/bin/env python3
"""The drill without a pair: the certificate's seal, its page and verdict, the choice of drills, what is kept of an interrupted one."""
import copy
import json
import pathlib
import sys
import tempfile
import unittest
import xml.etree.ElementTree

sys.dont_write_bytecode = True
SOURCES = pathlib.Path(__file__).resolve().parents[3] / "src"
sys.path[:0] = [str(SOURCES / "drill"), str(SOURCES / "bench")]
import certificate
import certificate_page
import drills
from programs import Failed
from stage import Journal


def drill(name, **changes):
    return {"name": name, "does": f"does {name} <b>", "at_s": 0, "seconds": 8.0, "passed": True, "why": None, "stall_ms": 120, "goal_ms": 300, "goal_met": True,
            "ordinary_ms": 20, "parts": [{"part": "detect", "ms": 90.5}], "resync": {"bytes": 3 << 20, "seconds": 0.4},
            "data": {"acknowledged": 1000, "lost": 0, "corrupt": 0, "went_back": 0, "failed_operations": 0, "verified": True},
            "samples": [[0.1, 20, 5.0], [0.2, 0, 105.0]], "events": [{"s": 0.15, "node": "a", "kind": "serving", "text": "a < b"}]} | changes


def body(*results, passed=True):
    return {"format": 1, "version": "zpair 0.1.0", "machine": {"node": "n", "cpu_count": 2, "kernel": "6"}, "began": "2026-01-01T00:00:00+00:00", "seconds": 9.0,
            "pool": {"name": "tank-ä", "owner": "a", "mirrors": 2, "size_bytes": 1, "epoch_before": 1, "epoch_after": 2, "state_after": "online"}, "sandbox": True,
            "planned": [result["name"] for result in results], "drills": list(results), "passed": passed,
            "totals": {key: sum(result["data"][key] for result in results) for key in ("acknowledged", "lost", "corrupt", "went_back", "failed_operations")}}


class Seal(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.key = pathlib.Path(self.folder.name, "keys", "key.pem")
        certificate.prepare_key(self.key)
        self.sealed = json.loads(json.dumps(certificate.seal(body(drill("path-loss")), self.key)))   # as it is read from its file

    def tearDown(self):
        self.folder.cleanup()

    def test_holds_for_what_was_sealed_and_names_its_key(self):
        by = certificate.verify(self.sealed)
        self.assertTrue(by.startswith("SHA256:"))
        self.assertEqual(by, certificate.verify(self.sealed, self.key))   # a private key's file names its public part
        self.assertEqual(self.key.stat().st_mode & 0o777, 0o600)

    def test_breaks_at_any_change(self):
        def lost(one):
            one["certificate"]["drills"][0]["data"]["lost"] = 1
        def passed(one):
            one["certificate"]["passed"] = 1   # not true
        def added(one):
            one["certificate"]["note"] = ""
        def gone(one):
            del one["certificate"]["drills"][0]["events"]
        def fraction(one):
            one["certificate"]["seconds"] = 9.000001
        def signature(one):
            one["seal"]["signature"] = "A" + one["seal"]["signature"][1:] if one["seal"]["signature"][0] != "A" else "B" + one["seal"]["signature"][1:]
        def no_signature(one):
            one["seal"]["signature"] = "%"
        for change in (lost, passed, added, gone, fraction, signature, no_signature):
            changed = copy.deepcopy(self.sealed)
            change(changed)
            with self.subTest(change.__name__), self.assertRaises(Failed):
                certificate.verify(changed)

    def test_with_a_new_hash_needs_the_key(self):
        changed = copy.deepcopy(self.sealed)
        changed["certificate"]["totals"]["lost"] = 7
        changed["seal"]["sha256"] = __import__("hashlib").sha256(certificate.agreed_form(changed["certificate"])).hexdigest()
        with self.assertRaisesRegex(Failed, "signature does not fit"):
            certificate.verify(changed)

    def test_wants_a_key_that_can_seal(self):
        wrong = pathlib.Path(self.folder.name, "wrong.pem")
        wrong.write_text("no key")
        with self.assertRaises(Failed):
            certificate.prepare_key(wrong)

    def test_of_somebody_else_is_told_apart(self):
        other = pathlib.Path(self.folder.name, "other.pem")
        certificate.prepare_key(other)
        forged = certificate.seal(self.sealed["certificate"], other)
        self.assertNotEqual(certificate.verify(forged), certificate.verify(self.sealed))
        with self.assertRaisesRegex(Failed, "another key"):
            certificate.verify(forged, self.key)

    def test_is_not_read_from_anything_else(self):
        for text in ("", "[]", "{}", '{"certificate": {"format": 99}, "seal": {}}'):
            file = pathlib.Path(self.folder.name, "certificate.json")
            file.write_text(text)
            with self.subTest(text), self.assertRaisesRegex(Failed, "no certificate"):
                certificate.read(self.folder.name)


class Page(unittest.TestCase):
    def page(self, *results, **options):
        with tempfile.TemporaryDirectory() as folder:
            certificate.prepare_key(pathlib.Path(folder, "key"))
            text = certificate_page.of(certificate.seal(body(*results, **options), pathlib.Path(folder, "key")))
        start = text.index("<body>")
        xml.etree.ElementTree.fromstring(text[start:text.index("</body>") + 7])
        self.assertNotIn("http:", text.replace("http://www.w3.org", ""))
        return text

    def test_is_whole_and_escapes_what_it_is_told(self):
        text = self.page(drill("path-loss"), drill("lone-survivor", goal_ms=None, goal_met=None, stall_ms=None, samples=[], events=[], parts=[]))
        self.assertIn("2,000 acknowledged writes none was lost", text)
        self.assertIn("does path-loss &lt;b&gt;", text)
        self.assertIn("as long as it lasts", text)

    def test_of_a_failure_says_so_first(self):
        data = {"acknowledged": 10, "lost": 3, "corrupt": 0, "went_back": 0, "failed_operations": 0, "verified": True}
        failed = drill("owner-loss", passed=False, why="lost 3", data=data)
        text = self.page(drill("path-loss"), failed, passed=False)
        self.assertIn("The rehearsal failed: owner-loss: lost 3", text)
        self.assertIn('<p class="stamp bad">failed', text)
        told = certificate_page.verdict(body(drill("path-loss"), failed, passed=False))
        self.assertTrue(told.startswith("FAILED: 1 of 2"))
        self.assertIn("lost 3", told)

    def test_tells_missed_goals(self):
        self.assertIn("1 missed the goal", certificate_page.verdict(body(drill("switchover", stall_ms=900, goal_met=False))))


class Choice(unittest.TestCase):
    def test_is_in_one_order_and_all_is_each(self):
        self.assertEqual([one.name for one in drills.chosen(["owner-loss", "path-loss"])], ["path-loss", "owner-loss"])
        self.assertEqual([one.name for one in drills.chosen(["all", "path-loss"])], list(drills.DRILLS))
        with self.assertRaises(KeyError):
            drills.chosen(["path-los"])

    def test_on_servers_only_what_commands_do(self):
        self.assertEqual([one.name for one in drills.DRILLS.values() if one.anywhere], ["switchover"])


class WhatMends(unittest.TestCase):
    def test_outlives_the_drill_until_it_is_done(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "mend.json")
            journal = Journal(file)
            journal.add(["start", "a"])
            journal.add(["heal", "path1"])
            journal.done(["start", "a"])
            self.assertEqual(Journal(file).mends, [["heal", "path1"]])
            Journal(file).done(["heal", "path1"])
            self.assertFalse(file.exists())


if __name__ == "__main__":
    unittest.main()
