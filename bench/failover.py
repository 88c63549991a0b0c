#!/usr/bin/env python3
"""./dev bench failover: how long clients wait at a takeover and at a switchover, run after run, against the number of volumes, and where the time goes.

  failover.py [--runs 20] [--volumes 1,64,256] [--loaded 4] [--mirrors 12] [--json FILE]

For each number of volumes a sandbox of one pool (owner a), a verified load through node b's sockets on some of them. A run: node a is killed (b takes over), a returns and
is resynced, and the pool goes home by a switchover. Parts are of the event `serving` (docs/architecture.md).
"""
import argparse
import json
import os
import pathlib
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
os.environ.setdefault("ZPAIR_BIN", str(ROOT / "build" / "release" / "bin"))
sys.path.insert(0, str(ROOT / "tests" / "cluster"))
from harness import Pair, check, stalls, wait_for  # noqa: E402

VOLUME_SIZE = "8M"   # 256 of them fit


def parts_since(pair, since_ms):
    """Of the newest import after this time; None: not yet."""
    found = [event for event in pair.events() if event["kind"] == "serving" and event["time_ms"] > since_ms]
    return {one["part"]: one["ms"] for one in found[-1]["parts"]} if found else None


def newest_ms(pair):
    return max((event["time_ms"] for event in pair.events()), default=0)


def measure(volumes, asked):
    pair = Pair(mirrors=asked.mirrors, pools=1, volume_size=VOLUME_SIZE, drive_size="512M", extra=("--volumes", volumes, "--direct-paths"))
    seen = {"takeover": [], "switchover": []}
    try:
        pair.up()
        names = [f"vm{number}" for number in range(1, min(asked.loaded, volumes) + 1)]
        load = pair.load("b", ["tank-a"], names, writers=2, working_set="4M")
        load.goes_on()
        for run in range(asked.runs):
            for kind, owner in (("takeover", "b"), ("switchover", "a")):
                since = newest_ms(pair)
                load.mark(f"{kind}-{run}")
                if kind == "takeover":
                    pair.kill("a")
                else:
                    pair.zpair("switchover", "tank-a", "--to", "a")
                pair.wait_owner("tank-a", owner, seconds=60)
                load.goes_on()
                load.mark(f"after-{kind}-{run}")
                parts = wait_for("the event", lambda since=since: parts_since(pair, since))
                seen[kind].append({"parts": parts})
                if kind == "takeover":
                    pair.start("a")
                pair.wait_in_sync(240)
            print(f"  {volumes} volumes, run {run + 1} of {asked.runs}", file=sys.stderr, flush=True)
        waited = stalls(load.finish())
        for kind, runs in seen.items():
            for run, one in enumerate(runs):
                one["stall_ms"] = waited[f"{kind}-{run}"]
    finally:
        pair.down()
    return seen


def main():
    parser = argparse.ArgumentParser(prog="./dev bench failover")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--volumes", default="1,64,256")
    parser.add_argument("--loaded", type=int, default=4, help="of these volumes, how many have a client")
    parser.add_argument("--mirrors", type=int, default=12)
    parser.add_argument("--json")
    asked = parser.parse_args()
    result = []
    for volumes in map(int, asked.volumes.split(",")):
        seen = measure(volumes, asked)
        for kind, runs in seen.items():
            waits = [one["stall_ms"] for one in runs]
            names = list(dict.fromkeys(name for one in runs for name in one["parts"]))
            parts = {name: round(statistics.median(one["parts"].get(name, 0) for one in runs)) for name in names}
            result.append({"event": kind, "volumes": volumes, "runs": len(runs), "median_ms": round(statistics.median(waits)), "longest_ms": round(max(waits)), "parts_ms": parts})
    check(result, "nothing was measured")
    for one in result:
        print(f"{one['event']:<11} {one['volumes']:>4} volumes  median {one['median_ms']:>5} ms  longest {one['longest_ms']:>5} ms  "
              + " ".join(f"{name} {ms}" for name, ms in one["parts_ms"].items() if ms >= 5))
    if asked.json:
        pathlib.Path(asked.json).write_text(json.dumps({"mirrors": asked.mirrors, "cells": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
