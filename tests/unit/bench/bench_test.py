#!/usr/bin/env python3
"""The benchmark without a pair: its arithmetic, its grid and time, fio's report, its line of progress, the report and the comparison."""
import io
import json
import pathlib
import random
import re
import sys
import tempfile
import unittest
import xml.etree.ElementTree

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "src" / "bench"))
import cells
import charts
import compare
import figures
import page
import pair
import programs
import progress
import report
import run
import table

TRIPS = [{"name": "loopback", "to_address": None, "kind": "loopback", "round_trips": 9, "latency_us": {"mean": 21, "p50": 20, "p99": 40, "p99_9": 90}}]


def sample(cell, per_second=1000.0, limit_per_second=4000.0, written_bytes=6):
    """What one turn gave; `written_bytes` on each side for each byte acknowledged."""
    reads, writes = cell.read_percent > 0, cell.read_percent < 100
    write_rate = per_second * cell.block_size_bytes * (100 - cell.read_percent) / 100
    side = int(write_rate * 5 * written_bytes)
    bins = {900_000: 500, 1_000_000: 480, 5_000_000: 19, 90_000_000: 1}
    return {"limit": {"per_second": limit_per_second, "bytes_per_second": limit_per_second * cell.block_size_bytes, "cpu_us_per_operation": 30.0,
                      "latency_us": {"mean": 250.0, "p50": 240.0, "p99": 400.0, "p99_9": 900.0}},
            "pair": {"per_second": per_second, "bytes_per_second": per_second * cell.block_size_bytes, "written_bytes_per_second": write_rate,
                     "errors": 0, "read_bins": bins if reads else {}, "write_bins": bins if writes else {}, "cpu_seconds": 0.5},
            "used": {"zpair-pool@a": {"cpu_seconds": 2.0, "written_bytes": side}, "zpaird@a": {"cpu_seconds": 0.1, "written_bytes": 0},
                     "zpaird@b": {"cpu_seconds": 0.4, "written_bytes": side}},
            "settled": True, "loaded_seconds": 5}


def made_up(chosen, rates, limits=None):
    """A whole report whose cells had these rates, repeat by repeat."""
    limits = limits or [4000.0] * len(rates)
    plan = cells.Plan(chosen, len(rates), 4)
    return {"format": 1, "began": "2026-01-02T03:04:05+00:00", "seconds": 100.0,
            "machine": {"cpu_count": 2, "cpu_model": "<model>", "memory_bytes": 8 << 30, "kernel": "6.1", "load_average_before": 0.1},
            "pair": {"pool": "tank-a", "volume": "bench-1", "volume_size_bytes": 1 << 29, "volume_block_size_bytes": 16384, "compression": "lz4", "mirrors": 2,
                     "owner": "a", "client_node": "a", "state_before": "online", "state_after": "online"},
            "method": {"repeats": plan.repeats, "seconds": plan.seconds, "ramp_seconds": plan.ramp_seconds, "limit_seconds": plan.limit_seconds,
                       "confidence_percent": 95, "load": "fio-3.33", "limit_files": ["/tmp/s"]},
            "round_trips": TRIPS, "notes": ["A <note> & more."],
            "cells": [run.cell_report(cell, [sample(cell, rate, limit) for rate, limit in zip(rates, limits)], TRIPS) for cell in chosen]}


class Intervals(unittest.TestCase):
    def test_students_bounds_are_those_of_the_printed_tables(self):
        for degrees, bound in ((1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042), (1000, 1.962)):
            self.assertAlmostEqual(figures.student_bound(0.95, degrees), bound, places=3)
        self.assertAlmostEqual(figures.student_bound(0.99, 4), 4.604, places=3)

    def test_an_interval_holds_the_true_value_as_often_as_it_says(self):
        source, within = random.Random(7), 0
        for _ in range(2000):
            interval = figures.summary([1000 * source.lognormvariate(0, 0.1) for _ in range(5)], digits=6)
            within += interval["low"] <= 1000 <= interval["high"]
        self.assertGreater(within / 2000, 0.93)
        self.assertLess(within / 2000, 0.97)

    def test_one_repeat_has_no_interval_and_none_no_summary(self):
        self.assertEqual(figures.summary([5.0]), {"mean": 5.0, "low": None, "high": None, "repeats": [5.0]})
        self.assertIsNone(figures.summary([]))
        self.assertEqual(figures.summary([0.0, 0.0])["mean"], 0.0)

    def test_a_share_is_taken_turn_by_turn(self):
        # The machine was twice as fast in the second turn, for both: the share is certain.
        share = figures.share_percent([1000, 2000], [4000, 8000])
        self.assertEqual((share["mean"], share["low"], share["high"]), (25.0, 25.0, 25.0))
        self.assertIsNone(figures.share_percent([1000], [0]))

    def test_percentiles_of_a_histogram(self):
        bins = {10: 50, 20: 49, 400: 1}
        self.assertEqual([figures.percentile(bins, part) for part in (0.5, 0.51, 0.99, 0.999)], [10, 20, 20, 400])
        self.assertIsNone(figures.percentile({}, 0.5))


class Comparison(unittest.TestCase):
    GRID = cells.DEFAULT

    def noisy(self, seed, factor=1.0, limit_factor=1.0, repeats=5):
        source = random.Random(seed)
        first = made_up(self.GRID, [1000.0] * repeats)
        for cell in first["cells"]:
            rates = [1000 * factor * source.lognormvariate(0, 0.04) for _ in range(repeats)]
            limits = [4000 * limit_factor * source.lognormvariate(0, 0.03) for _ in range(repeats)]
            cell["per_second"], cell["share_percent"] = figures.summary(rates), figures.share_percent(rates, limits)
        return first

    def test_a_run_compared_with_itself_claims_nothing(self):
        result = compare.of(self.noisy(1), self.noisy(1))
        self.assertEqual({cell["verdict"] for cell in result["cells"]}, {"same"})
        self.assertTrue(result["sentence"].startswith("No gain and no loss"), result["sentence"])

    def test_equal_runs_with_noise_claim_nothing_in_19_of_20(self):
        claims = sum(not compare.of(self.noisy(seed), self.noisy(seed + 1000))["sentence"].startswith("No gain") for seed in range(40))
        self.assertLessEqual(claims, 2)

    def test_a_planted_gain_and_a_planted_loss_are_claimed_with_their_intervals(self):
        for factor, word in ((1.4, "faster"), (0.7, "slower")):
            result = compare.of(self.noisy(1), self.noisy(2, factor))
            self.assertEqual([cell["verdict"] for cell in result["cells"]], [word] * len(self.GRID))
            self.assertIn(f"{word} in {len(self.GRID)} of the {len(self.GRID)} cells", result["sentence"])
            inside = sum(cell["low_percent"] <= 100 * (factor - 1) <= cell["high_percent"] for cell in result["cells"])
            self.assertGreaterEqual(inside, len(self.GRID) - 1)

    def test_a_gain_in_one_cell_is_claimed_for_that_cell_alone(self):
        first, second = self.noisy(1), self.noisy(2)
        second["cells"][3] = self.noisy(3, 1.5)["cells"][3]
        result = compare.of(first, second)
        self.assertEqual([cell["name"] for cell in result["cells"] if cell["verdict"] != "same"], [self.GRID[3].name])
        self.assertRegex(result["sentence"], rf"faster in 1 of the \d+ cells, most in {self.GRID[3].name}: \+\d+ % .*; the other \d+ show no difference")

    def test_a_faster_machine_is_no_gain(self):
        result = compare.of(self.noisy(1), self.noisy(2, 1.4, 1.4))
        self.assertEqual({cell["verdict"] for cell in result["cells"]}, {"same"})
        self.assertTrue(any("may be the machine" in note for note in result["notes"]), result["notes"])

    def test_differences_too_small_to_mean_anything_are_not_claimed(self):
        self.assertEqual(figures.verdict((0.01, 0.009, 0.011), (0.01, 0.009, 0.011)), "same")
        self.assertEqual(figures.verdict((0.05, 0.03, 0.07), (0.05, 0.03, 0.07)), "faster")

    def test_without_repeats_or_common_cells_nothing_is_claimed(self):
        single = compare.of(made_up(cells.QUICK, [1000.0]), made_up(cells.QUICK, [2000.0]))
        self.assertEqual({(cell["verdict"], cell["gain_percent"], cell["low_percent"]) for cell in single["cells"]}, {("same", 100.0, None)})
        other = made_up([cells.Cell("randread", "8k", 2)], [1.0, 1.0])
        self.assertIn("no cell in common", compare.of(made_up(cells.QUICK, [1.0, 1.0]), other)["sentence"])

    def test_runs_of_different_machines_or_volumes_say_so(self):
        first, second = made_up(cells.QUICK, [1.0, 1.0]), made_up(cells.QUICK[1:], [1.0, 1.0])
        second["machine"]["cpu_count"] = 64
        notes = " ".join(compare.of(first, second)["notes"])
        self.assertIn("differ in cpu count: 2 and 64", notes)
        self.assertIn("1 cells are in one run only", notes)


class Grid(unittest.TestCase):
    def test_the_default_has_every_pattern_at_every_number_of_jobs_with_small_and_large_blocks(self):
        self.assertEqual(len(cells.DEFAULT), 30)
        for pattern in cells.FIO_RW:
            for jobs in (1, 8, 16):
                sizes = {cell.size for cell in cells.DEFAULT if (cell.pattern, cell.jobs) == (pattern, jobs)}
                self.assertEqual(sizes, {"4k", "1m" if pattern.startswith("seq") else "128k"})

    def test_quick_takes_two_minutes_and_the_default_twenty(self):
        self.assertLess(cells.plan(True, None, None, None).all_seconds, 120)
        self.assertGreater(cells.plan(True, None, None, None).all_seconds, 80)
        self.assertLess(cells.plan(False, None, None, None).all_seconds, 1200)
        self.assertGreater(cells.plan(False, None, None, None).all_seconds, 900)

    def test_cells_are_chosen_by_name_and_by_pattern(self):
        self.assertEqual([cell.name for cell in cells.chosen("randwrite-4k-j16,randread-4k-*")],
                         ["randwrite-4k-j16", "randread-4k-j1", "randread-4k-j8", "randread-4k-j16"])
        odd = cells.chosen("mixed-16k-j3")[0]
        self.assertEqual((odd.block_size_bytes, odd.jobs, odd.read_percent, odd.in_words), (16384, 3, 70, "random, 70 % read, 30 % write, 16 KiB, 3 clients"))
        for wrong in ("", "randwrite", "randwrite-4k", "wrong-4k-j1", "randwrite-4k-j0", "randwrite-4k-j9999", "randwrite-64m-j1", "randread-*,x"):
            with self.assertRaises(cells.NoSuchCell, msg=wrong):
                cells.chosen(wrong)

    def test_fios_line_says_what_the_cell_is(self):
        lines = {}
        remembered, programs._last_json, programs.run = (programs._last_json, programs.run), lambda text: {"jobs": [FIO]}, lambda command: lines.update(last=command) or ""
        try:
            programs.fio_cell("nbd+unix:///x", cells.Cell("seqwrite", "1m", 8), 512 << 20, 3.5, 1)
            seq = lines["last"]
            programs.fio_cell("nbd+unix:///x", cells.Cell("mixed", "4k", 1), 512 << 20, 3.5, 1)
        finally:
            programs._last_json, programs.run = remembered
        for word in ("--ioengine=nbd", "--rw=write", "--bs=1048576", "--numjobs=8", f"--size={64 << 20}", f"--offset_increment={64 << 20}", "--runtime=3500ms",
                     "--ramp_time=1000ms", "--refill_buffers", "--group_reporting", "--output-format=json+"):
            self.assertIn(word, seq)
        self.assertIn("--rwmixread=70", lines["last"])
        self.assertNotIn("--numjobs=1", lines["last"])


FIO = {"error": 0, "read": {"iops": 700.0, "bw_bytes": 2867200, "lat_ns": {"mean": 1, "bins": {"1000": 7}}},
       "write": {"iops": 300.0, "bw_bytes": 1228800, "lat_ns": {"mean": 1, "bins": {"2000": 3}}}}


class Samples(unittest.TestCase):
    def test_fios_report_has_both_directions(self):
        self.assertEqual(programs.sample_of(FIO), {"per_second": 1000.0, "bytes_per_second": 4096000, "written_bytes_per_second": 1228800, "errors": 0,
                                                   "read_bins": {1000: 7}, "write_bins": {2000: 3}})
        idle = {"read": {"iops": 0, "bw_bytes": 0, "lat_ns": {"mean": 0}}, "write": FIO["write"]}
        self.assertEqual(programs.sample_of(idle)["read_bins"], {})

    def test_a_cells_figures_belong_together(self):
        cell = cells.Cell("randwrite", "4k", 1)
        told = run.cell_report(cell, [sample(cell, 1000), sample(cell, 1100)], TRIPS)
        self.assertAlmostEqual(told["share_percent"]["mean"], 100 * (1000 * 1100) ** 0.5 / 4000, places=1)
        self.assertEqual({key: told["latency_us"][key] for key in ("p50", "p99", "p99_9")}, {"p50": 900.0, "p99": 5000.0, "p99_9": 5000.0})
        # 2.0 s of CPU for 5 s at 1000/s and at 1100/s: 400 and 364 us.
        self.assertEqual(told["cpu_us_per_operation"]["zpair-pool@a"], 381.8)
        self.assertEqual(told["cpu_us_per_operation"]["fio"], 95.5)
        self.assertEqual(told["written_bytes_per_acknowledged_byte"]["mean"], 12.0)   # six on either side
        # No pair beats the raw operation and one round trip: 250 + 20 us.
        self.assertEqual(told["limit"]["best_latency_us"], 270.0)
        self.assertAlmostEqual(told["latency_share_percent"], 100 * 270 / told["latency_us"]["mean"], delta=0.1)

    def test_bytes_written_are_not_made_up(self):
        cell = cells.Cell("randwrite", "4k", 1)
        unsettled = sample(cell) | {"settled": False}
        one_side = sample(cell)
        one_side["used"].pop("zpaird@b")
        for turn in (unsettled, one_side):
            self.assertIsNone(run.cell_report(cell, [sample(cell), turn])["written_bytes_per_acknowledged_byte"])
        reads = cells.Cell("randread", "4k", 1)
        self.assertIsNone(run.cell_report(reads, [sample(reads)])["written_bytes_per_acknowledged_byte"])

    def test_reads_and_writes_of_mixed_cells_have_latencies_of_their_own(self):
        mixed = cells.Cell("mixed", "4k", 8)
        told = run.cell_report(mixed, [sample(mixed)])
        self.assertIsNotNone(told["read_latency_us"])
        self.assertIsNotNone(told["write_latency_us"])

    def test_a_process_that_was_replaced_is_not_counted(self):
        before = {"zpaird@a": {"pid": 1, "cpu_ms": 100, "written_bytes": 10}, "zpair-pool@a": {"pid": 2, "cpu_ms": 900, "written_bytes": 50}}
        after = {"zpaird@a": {"pid": 1, "cpu_ms": 350, "written_bytes": 30}, "zpair-pool@b": {"pid": 3, "cpu_ms": 5, "written_bytes": 5},
                 "zpair-pool@a": {"pid": 4, "cpu_ms": 7, "written_bytes": 1}}
        self.assertEqual(pair.used_between(before, after), {"zpaird@a": {"cpu_seconds": 0.25, "written_bytes": 20}})

    def test_a_volume_is_overwritten_only_when_that_was_said(self):
        with self.assertRaisesRegex(programs.Failed, "--overwrite"):
            run.Target("tank-a/vm1", False, 1 << 30)
        self.assertEqual(run.Target("tank-a/vm1", True, 1 << 30).volume, "vm1")
        self.assertEqual(run.Target("tank-a", False, 1 << 30).volume, "")
        with self.assertRaisesRegex(programs.Failed, "too small"):
            run.Target("tank-a", False, 1 << 20)


class Shown(unittest.TestCase):
    def test_progress_tells_the_time_left_from_the_turns_so_far(self):
        plan = cells.Plan(cells.QUICK, 3, 2)
        first = progress.line_of(0, plan, 0, cells.QUICK[0], [], 0)
        self.assertIn("0/18  round 1 of 3  randwrite-4k-j1", first)
        later = progress.line_of(9, plan, 1, cells.QUICK[3], [sample(cells.QUICK[3], 1234)], 45)
        self.assertIn("█" * 10 + "░" * 10 + "  9/18  round 2 of 3", later)
        self.assertIn("last 1234/s  45 s left", later)
        self.assertIn("0 s left", progress.line_of(18, plan, 2, None, [], 90))

    def test_progress_goes_to_terminals_only(self):
        silent = io.StringIO()
        progress.Progress(silent).step("filling the volume")
        self.assertEqual(silent.getvalue(), "")

    def test_the_table_has_every_cell_and_every_figure(self):
        text = table.of_run(made_up(cells.QUICK, [1000.0, 1100.0, 1050.0]))
        for cell in cells.QUICK:
            self.assertRegex(text, rf"(?m)^{cell.name} +1049 +± 13 % +\d+\.\d +\d+ +900 +5000 +5000 +4000 +26 % +\d+ +(-|12\.0)$")
        self.assertIn("note: A <note> & more.", text)

    def test_the_page_is_well_formed_and_needs_no_network(self):
        for grid in (cells.DEFAULT, cells.QUICK, [cells.Cell("randread", "4k", 1)]):
            text = page.of(made_up(grid, [1000.0, 1100.0]))
            for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
                xml.etree.ElementTree.fromstring(svg)
            self.assertNotRegex(text, r"https?://|<script|@import|url\(|<link|src=")
            self.assertNotIn("<note>", text)
            self.assertIn("A &lt;note&gt; &amp; more.", text)
            self.assertIn("prefers-color-scheme: dark", text)
            for cell in grid:
                self.assertIn(f">{cell.name}</td>", text)

    def test_the_page_of_one_repeat_or_nothing_measured_does_without_what_is_not_known(self):
        bare = made_up([cells.Cell("randwrite", "4k", 1)], [1000.0])
        bare["cells"][0].update(share_percent=None, latency_us=None, written_bytes_per_acknowledged_byte=None, cpu_us_per_operation={"fio": None})
        bare["pair"]["volume_block_size_bytes"] = None
        page.of(bare)
        table.of_run(bare)

    def test_a_report_is_read_back_and_what_is_none_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            place = programs.open_folder(pathlib.Path(folder) / "new" / "out", "report.json")
            with self.assertRaisesRegex(programs.Failed, "did not end"):
                report.read(place)
            told = made_up(cells.QUICK, [1000.0, 1100.0])
            report.write(place, told)
            self.assertEqual(report.read(place), json.loads(json.dumps(told)))
            self.assertEqual(report.read(place / "report.json")["format"], 1)
            (place / "report.json").write_text('{"format": 99, "cells": []}')
            with self.assertRaisesRegex(programs.Failed, "another version"):
                report.read(place)
            with self.assertRaisesRegex(programs.Failed, "cannot read"):
                report.read(place / "nowhere")
            with self.assertRaisesRegex(programs.Failed, "cannot write"):
                programs.open_folder(place / "report.json", "report.json")

    def test_numbers_are_said_as_people_say_them(self):
        self.assertEqual([charts.short(value) for value in (3.14159, 99.9, 640, 1234, 42_800, 2_500_000)], ["3.14", "99.9", "640", "1.23k", "42.8k", "2.5M"])
        self.assertEqual([charts.duration(value) for value in (100, 1000, 12_345, 2_000_000)], ["100 us", "1 ms", "12.3 ms", "2 s"])


if __name__ == "__main__":
    unittest.main()
