#!/usr/bin/python3
"""zpair-tune: what `zpair tune` runs; the line was checked there (src/cli/tune_line.cpp) and comes in these words.

  zpair-tune show|diff|apply|undo [WORD …] --node NAME=SOCKET … [--pool POOL] [--profile PROFILE] [--json]
  zpair-tune try WORD … --for CELLS …   zpair-tune search --for CELLS [--guard CELLS] [--names LIST] [--minutes M] [--harm PERCENT] [--out DIR] …

Exit: 0 done, 1 failed or interrupted, 2 usage. Read first: settings.py (profiles), trial.py (one comparison), search.py.
"""
import argparse
import json
import pathlib
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "bench"))   # the pair by its API, fio, the arithmetic: shared with zpair bench

import cells  # noqa: E402
import page  # noqa: E402
import search  # noqa: E402
import settings  # noqa: E402
import trial  # noqa: E402
from pair import Pair  # noqa: E402
from programs import Failed, Usage, ending, open_folder, uninterrupted  # noqa: E402
from progress import Progress  # noqa: E402
from table import percent, table  # noqa: E402

VOLUME_BYTES = 256 << 20   # or less, in a small pool
LEAST_VOLUME_BYTES = 32 << 20
STATE_FILE = "search.json"


def arguments_of(line):
    parser = argparse.ArgumentParser(prog="zpair tune")
    parser.add_argument("command", choices=["show", "diff", "apply", "undo", "try", "search"])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--node", action="append", default=[])
    parser.add_argument("--pool")
    parser.add_argument("--profile")
    parser.add_argument("--for", dest="wanted")
    parser.add_argument("--guard")
    parser.add_argument("--names")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--harm", type=float, default=3)
    parser.add_argument("--out")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(line)


def say(text):
    sys.stdout.write(text + "\n")


class Work:
    def __init__(self, asked):
        self.asked = asked
        self.pair = Pair(node.split("=", 1) for node in asked.node)
        self.pool = self.pair.pool_named(asked.pool)

    def tunables(self):
        return self.pair.ask("GET", f"/v1/tunables?pool={self.pool}")["tunables"]

    # --- looking

    def show(self):
        profile = settings.profile(self.asked.profile) if self.asked.profile else None
        rows = settings.rows(self.tunables(), profile)
        if self.asked.json:
            say(json.dumps({"pool": self.pool, "settings": rows, "fixed": profile.fixed if profile else [], "advice": profile.advice if profile else []}, indent=2))
            return
        heads = ["SETTING", "VALUE", "DEFAULT"] + ([profile.name.upper()] if profile else []) + ["UNIT", "MEANING"]
        text = [[row["name"] + ("*" if row["kept"] is not None else ""), str(row["value"]), str(row["default"])]
                + ([str(row["profile"]) if row["profile"] is not None else ""] if profile else []) + [row["unit"], row["meaning"]] for row in rows]
        say("\n".join(table_of_words([heads, *text])))
        say("* the pool's own: it has it on either node, and after every import")
        if profile:
            say("\nOut of reach in the packaged library (they are static there):")
            say("\n".join("  " + line for line in table_of_words([["SETTING", "IS", f"{profile.name.upper()} WOULD SAY"],
                                                                *([one["name"], one["is"], one["would_be"]] for one in profile.fixed)])))
            say("\n" + "\n".join(profile.advice))

    def diff(self):
        changes = settings.differences(self.tunables(), settings.wanted(self.asked.words))
        if self.asked.json:
            say(json.dumps({"pool": self.pool, "differences": [{"name": name, "value": now, "wanted": then} for name, now, then in changes]}, indent=2))
        elif changes:
            say("\n".join(table_of_words([["SETTING", "NOW", "THEN"], *([name, str(now), str(then)] for name, now, then in changes)])))
        else:
            say("no difference")

    # --- changing

    def apply(self):
        values = settings.wanted(self.asked.words)
        changes = settings.differences(self.tunables(), values)
        trial.keep(self.pair, self.pool, values)
        self._tell_changes(changes)

    def undo(self):
        before = {one["name"]: one["value"] for one in self.tunables()}
        with uninterrupted():
            after = self.pair.ask("POST", "/v1/tune", {"pool": self.pool, "undo": True})["tunables"]
        self._tell_changes([(one["name"], before[one["name"]], one["value"]) for one in after if one["value"] != before[one["name"]]])

    def _tell_changes(self, changes):
        if self.asked.json:
            say(json.dumps({"pool": self.pool, "changed": [{"name": name, "before": before, "value": value} for name, before, value in changes]}, indent=2))
            return
        say("\n".join(f"{name}: {before} -> {value}" for name, before, value in changes) or "it is so already")
        if changes:
            say("in force, and the pool's own from now on; zpair tune undo takes it back")

    # --- measuring

    def _cells(self, text):
        return cells.chosen(text) if text else []

    def _bench(self):
        free_bytes = self.pair.pool(self.pool).get("free_bytes") or 0
        size_bytes = min(VOLUME_BYTES, free_bytes // 4 >> 20 << 20)
        if size_bytes < LEAST_VOLUME_BYTES:
            raise Failed(f"pool {self.pool} has {free_bytes >> 20} MiB free: too little for a volume to measure with ({4 * LEAST_VOLUME_BYTES >> 20} MiB)")
        return trial.Bench(self.pair, self.pool, size_bytes, self.asked.seconds)

    def _measured(self, work):
        progress = Progress(sys.stderr)
        bench = self._bench()
        try:
            progress.step("making and filling a volume")
            bench.open()
            work(bench, progress)
        finally:
            with uninterrupted():
                progress.clear()
                bench.close()

    def try_it(self):
        """The values in turns with those of now, which stay."""
        wanted = self._cells(self.asked.wanted or "randwrite-4k-j1,randwrite-4k-j16,seqread-1m-j1")
        tunables = self.tunables()
        now = {one["name"]: one for one in tunables}
        values = settings.wanted(self.asked.words)
        settings.differences(tunables, values)   # for its errors
        first = {name: now[name]["value"] for name in values}
        second = {name: now[name]["default"] if value is None else value for name, value in values.items()}
        result = {}

        def work(bench, progress):
            try:
                result.update(trial.compare(bench, wanted, first, second, self.asked.pairs, progress.step))
            finally:
                trial.end_of_trials(self.pair, self.pool, values)

        self._measured(work)
        gains = trial.gains(result)
        if self.asked.json:
            say(json.dumps({"pool": self.pool, "cells": [{"name": name, **gains[name], "before": rates["first"], "after": rates["second"]}
                                                         for name, rates in result.items()]}, indent=2))
            return
        rows = [["cell", "now/s", "then/s", "gain", "from", "to"]]
        rows += [[name, f"{mean(rates['first']):.0f}", f"{mean(rates['second']):.0f}", *(percent(gains[name][key]) for key in
                 ("gain_percent", "low_percent", "high_percent"))] for name, rates in result.items()]
        say("\n".join(table(rows, left=1)) + f"\n{self.asked.pairs} turns of each; nothing was changed")

    def search(self):
        if not self.asked.wanted:
            raise Usage("what shall gain? --for CELLS, as in randwrite-4k-j16 (see zpair bench --help)")
        profile = settings.profile(self.asked.profile or "nvme")
        names = self.asked.names.split(",") if self.asked.names else [one.name for one in profile.settings.values() if len(one.tries) > 1]
        without = [name for name in names if name not in profile.settings or len(profile.settings[name].tries) < 2]
        if without:
            raise Failed(f"profile {profile.name} says no values to try for {without[0]}")
        tunables = self.tunables()
        tries = {name: list(profile.settings[name].tries) for name in names}
        for name, values in tries.items():
            for value in values:
                settings.differences(tunables, {name: value})   # for its errors
        guard = self._cells(self.asked.guard or "randwrite-4k-j1,randread-4k-j16,seqwrite-1m-j1")
        plan = search.Plan(self._cells(self.asked.wanted), guard, tries, self.asked.pairs, self.asked.harm)
        out = open_folder(self.asked.out, STATE_FILE) if self.asked.out else None
        found = {}

        def work(bench, progress):
            def tell(text, last=True):
                if last and not self.asked.json:
                    progress.clear()
                    say(text)
                    sys.stdout.flush()
                elif not last:
                    progress.step(text)
            one = search.Search(bench, plan, tunables, out / STATE_FILE if out else None, tell)
            done = one.resume()
            if done:
                tell(f"{done} values were tried before: goes on")
            end = None if self.asked.minutes is None else time.monotonic() + 60 * self.asked.minutes
            one.run(lambda: end is not None and time.monotonic() > end)
            found["search"] = one

        self._measured(work)
        one = found["search"]
        report = {"pool": self.pool, "state": one.state, "changes": [{"name": name, "before": before, "value": value} for name, (before, value) in one.changes().items()],
                  "left": len(one.steps_left())}
        if out:
            (out / "search.html").write_text(html_of(report), encoding="utf-8")
        if self.asked.json:
            say(json.dumps(report, indent=2))
            return
        say("\n".join(f"{name}: {before} -> {value}" for name, (before, value) in one.changes().items()) or "nothing was found that gains beyond the noise")
        if out:
            say(f"report: {out / 'search.html'}")


def mean(values):
    return sum(values) / len(values)


def table_of_words(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]


def html_of(report):
    """The search as one page, in the benchmark's dress."""
    escape, css = page.escape, (HERE.parent / "bench" / "page.css").read_text()
    cells_tried = sorted({name for step in report["state"]["steps"] for name in step["gains"]})
    head = "".join(f"<th>{escape(text)}</th>" for text in ["setting", "value", *cells_tried, "verdict"])
    body = ""
    for step in report["state"]["steps"]:
        gains = [step["gains"].get(name) for name in cells_tried]
        texts = ["-" if one is None or one["gain_percent"] is None else f"{percent(one['gain_percent'])} ({percent(one['low_percent'])} to {percent(one['high_percent'])})"
                 for one in gains]
        body += "<tr>" + "".join(f"<td>{escape(str(text))}</td>" for text in [step["name"], step["value"], *texts, step["verdict"]]) + "</tr>\n"
    changes = "".join(f"<li>{escape(one['name'])}: {one['before']} → {one['value']}</li>" for one in report["changes"]) or "<li>nothing gained beyond the noise</li>"
    left = f"<p>{report['left']} values are not tried yet.</p>" if report["left"] else ""
    return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>zpair search for settings of {escape(report['pool'])}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n"
            f"<header><h1>zpair tune search</h1><p>Pool {escape(report['pool'])}: gains over what was best so far, in turns, with their interval.</p></header>\n"
            f"<section><h2>What stayed</h2><ul>{changes}</ul>{left}</section>\n"
            f"<section><h2>What was tried</h2><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></section>\n</main>\n</body>\n</html>\n")


def run(asked):
    work = Work(asked)
    {"show": work.show, "diff": work.diff, "apply": work.apply, "undo": work.undo, "try": work.try_it, "search": work.search}[asked.command]()


def main():
    return ending(lambda: run(arguments_of(sys.argv[1:])), "the settings are as they were best, the volume is gone, and the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
