"""./dev demo and ./dev bench as they are: what they print, their JSON, and that nothing is left behind."""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import harness
from harness import BIN, check, run, wait_for

ROOT = pathlib.Path(__file__).resolve().parents[2]
EVENTS = ["path-cut", "node-kill-takeover", "node-return-resync", "failback", "switchover", "process-kill-restart", "leg-error",
          "partner-loss", "lone-owner-loss"]
CELLS = {"randwrite-4k-q1": "IOPS", "randwrite-4k-q16": "IOPS", "randread-4k-q1": "IOPS", "randread-4k-q16": "IOPS",
         "seqwrite-1m": "MB/s", "seqread-1m": "MB/s", "cacheread-4k-q16": "IOPS"}


class Folder(harness.Pair):
    """Only a folder: the program under test makes its own sandbox."""

    def up(self):
        return self

    def down(self, keep=False):
        check(not self.left_behind(), f"left behind: {self.left_behind()}")
        super().down(keep)

    def left_behind(self):
        """Processes whose environment names this folder, and what lies in it that was not asked for."""
        left = [str(path) for path in self.folder.iterdir() if path.suffix not in (".json", ".out")]
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if f"ZPAIR_SANDBOX={self.folder}" in (process / "environ").read_text(errors="replace"):
                    left.append((process / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue   # gone, or another user's
        return left


def _demo(pair, *options):
    return [str(part) for part in (BIN / "zpair", "sandbox", "demo", "--dir", pair.folder, *options)]


def test_demo(pair):
    """The demo carries all its events through, loses nothing, writes them for programs, and leaves nothing behind."""
    file = pair.folder / "demo.json"
    done = run(*_demo(pair, "--json", file), timeout=400)
    said = json.loads(file.read_text())
    check({"acknowledged", "lost", "corrupt", "events"} <= set(said), f"{said.keys()}")
    check({"detect", "import"} <= {part["part"] for part in said["parts"]["node-kill-takeover"]}, f"{said['parts']}")
    check(said["acknowledged"] > 0 and said["lost"] == 0 and said["corrupt"] == 0, f"{said}")
    check([event["name"] for event in said["events"]] == EVENTS, f"{said['events']}")
    for event in said["events"]:
        refuses = event["name"] == "lone-owner-loss"
        check(set(event) == {"name", "stall_ms", "goal_ms"}, f"{event}")
        check((event["goal_ms"] is None) == refuses and (event["stall_ms"] is None) == refuses, f"{event}")
    check(done.stdout.splitlines()[-1] == f"acknowledged {said['acknowledged']}, lost 0, corrupt 0", done.stdout[-300:])
    check("\033" not in done.stdout and "\r" not in done.stdout, "into a pipe it draws as on a terminal")


def test_demo_is_interrupted(pair):
    """Ctrl-C, SIGTERM and a closed terminal end the demo at once, exit 1, nothing left behind: while it makes the pair, and under load."""
    for moment, word in ((signal.SIGINT, "making a pair"), (signal.SIGTERM, "path1 is cut"), (signal.SIGHUP, "a client writes")):
        out = pair.folder / "demo.out"
        with open(out, "w") as file:
            demo = subprocess.Popen(_demo(pair, "--mirrors", "2"), stdout=file, stderr=subprocess.STDOUT)
        wait_for(f"the demo to say '{word}', or its end", lambda: word in out.read_text() or demo.poll() is not None, seconds=90)
        demo.send_signal(moment)
        check(demo.wait(60) == 1, f"{moment.name}: exit {demo.returncode}: {out.read_text()}")
        check("interrupted" in out.read_text() and "not verified" in out.read_text(), out.read_text())
        check(not pair.left_behind(), f"{moment.name}: left behind: {pair.left_behind()}")


def test_bench(pair):
    """The short benchmark names its cells, and value, limit and ratio of each belong together (tiny: the floors are not judged)."""
    file = pair.folder / "bench.json"
    done = subprocess.run([sys.executable, ROOT / "src" / "bench" / "short.py", "--seconds", "1", "--repeats", "1", "--json", file],
                          capture_output=True, text=True, timeout=400, env=dict(os.environ, ZPAIR_BIN=str(BIN), TMPDIR=str(pair.folder)))
    check(done.returncode == 0, f"exit {done.returncode}: {done.stderr}")
    cells = json.loads(file.read_text())["cells"]
    check({cell["name"]: cell["unit"] for cell in cells} == CELLS, f"{cells}")
    for cell in cells:
        check(set(cell) == {"name", "value", "limit", "ratio", "unit"}, f"{cell}")
        check(cell["value"] > 0 and cell["limit"] > 0, f"{cell}")
        # Each is rounded by itself: value and limit to a tenth, the ratio to a thousandth.
        rounding = 0.0006 + 0.06 * (1 + cell["ratio"]) / cell["limit"]
        check(abs(cell["ratio"] - cell["value"] / cell["limit"]) <= rounding, f"{cell}")
        row = re.search(rf"^{cell['name']} +(\d+) +(\d+) +{cell['unit']} +(\d+\.\d+)$", done.stdout, re.MULTILINE)
        check(row and abs(int(row[1]) - cell["value"]) <= 1 and abs(float(row[3]) - cell["ratio"]) < 0.011, f"{cell}: {done.stdout}")


for _test in (test_demo, test_demo_is_interrupted, test_bench):
    _test.pair = Folder
    _test.slow = True
