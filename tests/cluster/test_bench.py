"""zpair bench against a real pair: a tiny run, its refusals, and that Ctrl-C leaves nothing behind."""
import json
import os
import pathlib
import signal
import subprocess

from harness import BIN, check, run, wait_for

RUN = ["bench", "tank-a", "--cells", "randwrite-4k-j2,seqread-1m-j1", "--seconds", "0.5", "--repeats", "2", "--size", "64M"]


def _volumes(pair):
    return {(volume["pool"], volume["name"]) for volume in pair.zpair_json("volume", "list")["volumes"]}


def _processes(pair):
    """The command lines of the benchmark and of what it started."""
    lines = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue   # gone
        if str(pair.folder) in line and ("zpair-bench" in line or line.startswith("fio ") or "zpair-raw-legs" in line):
            lines.append(line)
    return lines


def _left_behind(pair):
    """Volumes, files and processes of the benchmark."""
    return [name for _, name in _volumes(pair) if name.startswith("bench-")] + [str(path) for path in pair.dir.glob("zpair-bench-*")] + _processes(pair)


def _interrupt(pair, before, moment, word):
    """Signals a run while its fio with this word is at work: it ends, and leaves nothing."""
    bench = subprocess.Popen([str(part) for part in (BIN / "zpair", "--sandbox", pair.dir, *RUN)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(f"fio with {word}", lambda: any(line.startswith("fio ") and word in line for line in _processes(pair)) or bench.poll() is not None)
    bench.send_signal(moment)
    _, said = bench.communicate(timeout=60)
    check(bench.returncode == 1 and "interrupted" in said, f"{moment.name}: exit {bench.returncode}: {said}")
    check(not _left_behind(pair) and _volumes(pair) == before, f"{moment.name}: left behind: {_left_behind(pair)}")


def test_zpair_bench(pair):
    """A tiny run measures its cells beside their limits, writes both reports, and leaves nothing behind; a signal, or no fio, leaves nothing either."""
    before = _volumes(pair)
    out = pair.folder / "out"
    text = pair.zpair(*RUN, "--out", out).stdout
    report = json.loads((out / "report.json").read_text())
    check([cell["name"] for cell in report["cells"]] == ["randwrite-4k-j2", "seqread-1m-j1"], f"{report['cells']}")
    for cell in report["cells"]:
        check(len(cell["per_second"]["repeats"]) == 2 and cell["per_second"]["mean"] > 0 and cell["limit"]["per_second"]["mean"] > 0, f"{cell}")
        latency = cell["latency_us"]
        check(0 < latency["p50"] <= latency["p99"] <= latency["p99_9"], f"{latency}")
        check({"zpair-pool@a", "zpaird@a", "zpaird@b", "fio"} == set(cell["cpu_us_per_operation"]), f"{cell['cpu_us_per_operation']}")
        check(cell["name"] in text and cell["name"] in (out / "report.html").read_text(), text)
    written = report["cells"][0]["written_bytes_per_acknowledged_byte"]
    check(written and written["mean"] >= 1.8, f"two copies of every byte were acknowledged, and {written} written")
    check({trip["kind"] for trip in report["round_trips"]} == {"loopback", "path"}, f"{report['round_trips']}")
    check(not _left_behind(pair) and _volumes(pair) == before, f"left behind: {_left_behind(pair)}")

    said = run(BIN / "zpair", "bench", "compare", out, out).stdout
    check("No gain and no loss" in said, said)
    for code, word, *command in ((1, "--overwrite", "bench", "tank-a/vm1"), (1, "no pool", "bench", "nix"), (2, "names no cell", "bench", "tank-a", "--cells", "x")):
        refused = pair.zpair(*command, ok=(code,)).stderr
        check(word in refused and len(refused.splitlines()) == 1, f"{command}: {refused}")

    _interrupt(pair, before, signal.SIGINT, "--name=cell")

    # Without fio, or its engine for NBD, it refuses before it makes anything, and names the package.
    empty, lame = pair.folder / "empty", pair.folder / "lame"
    for folder in (empty, lame):
        folder.mkdir()
    (lame / "fio").write_text("#!/bin/sh\nexit 1\n")
    (lame / "fio").chmod(0o755)
    for path, word in ((empty, "fio is not installed"), (lame, "no nbd engine")):
        done = subprocess.run([str(part) for part in (BIN / "zpair", "--sandbox", pair.dir, *RUN)], capture_output=True, text=True,
                              env=dict(os.environ, PATH=str(path)))
        check(done.returncode == 1 and word in done.stderr and "apt install" in done.stderr, f"{done.returncode}: {done.stderr}")
    check(not _left_behind(pair), f"{_left_behind(pair)}")


test_zpair_bench.options = {"pools": 1}
test_zpair_bench.slow = True   # a minute: `./dev test` is to stay below 25


def test_zpair_bench_is_interrupted(pair):
    """SIGTERM and SIGHUP too end a run at once and leave nothing, while the volume is filled and while a cell is measured."""
    before = _volumes(pair)
    for moment, word in ((signal.SIGTERM, "--name=fill"), (signal.SIGHUP, "--name=cell"), (signal.SIGINT, "--name=fill")):
        _interrupt(pair, before, moment, word)


test_zpair_bench_is_interrupted.options = {"pools": 1}
test_zpair_bench_is_interrupted.slow = True
