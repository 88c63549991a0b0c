#!/usr/bin/env python3
"""./dev soak drills: `zpair drill all` on a sandbox, again and again, until each drill has passed twenty times. Resumable: counts are in a
file, and a run goes on where the last one stopped. A failure leaves its sandbox and its certificate.

  soak_drills.py [--times N] [--counts FILE] [--seconds S]
"""
import argparse
import json
import pathlib
import sys
import time

from harness import BIN, Failed, Pair, run

OPTIONS = {"pools": 1, "mirrors": 2, "drive_size": "256M", "extra": ("--volatile-cache",)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--counts", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2] / "build" / "soak-drills.json")
    parser.add_argument("--seconds", type=float, default=4 * 3600, help="stop after so long; the next run goes on")
    asked = parser.parse_args()
    counts = json.loads(asked.counts.read_text()) if asked.counts.exists() else {}
    names = [drill["name"] for drill in json.loads(run(BIN / "zpair", "drill", "list", "--json").stdout)["drills"]]
    end = time.monotonic() + asked.seconds
    pair = Pair(**OPTIONS)
    try:
        pair.up()
        while min(counts.get(name, 0) for name in names) < asked.times and time.monotonic() < end:
            least = min(counts.get(name, 0) for name in names)
            wanted = [name for name in names if counts.get(name, 0) == least]
            done = run(BIN / "zpair", "--sandbox", pair.dir, "drill", *wanted, "--pool", "tank-a", "--key", pair.folder / "key.pem", "--out", pair.folder / "out", "--json",
                       ok=None, timeout=3600)
            body = json.loads(done.stdout)["certificate"] if done.returncode in (0, 1) and done.stdout.startswith("{") else None
            for drill in body["drills"] if body else []:
                if drill["passed"]:
                    counts[drill["name"]] = counts.get(drill["name"], 0) + 1
            asked.counts.parent.mkdir(parents=True, exist_ok=True)
            asked.counts.write_text(json.dumps(counts, indent=1) + "\n")
            if done.returncode != 0:
                failed = [f"{drill['name']}: {drill['why']}" for drill in body["drills"] if not drill["passed"]] if body else [done.stderr.strip()[-500:]]
                raise Failed("; ".join(failed))
            print(f"    {min(counts.get(name, 0) for name in names)} of {asked.times} rounds, {sum(counts.values())} drills passed", flush=True)
            pair.wait_in_sync()
    except (Failed, json.JSONDecodeError) as error:
        print(f"FAILED: {error}\nleft as it is: {pair.folder} (out: the certificate). When looked at: {BIN / 'zpair'} sandbox down {pair.dir} --delete", flush=True)
        return 1
    pair.down()
    least = min(counts.get(name, 0) for name in names)
    print(f"{'ok' if least >= asked.times else 'not ended'}: each drill passed {least} times or more: {counts}", flush=True)
    return 0 if least >= asked.times else 1


if __name__ == "__main__":
    sys.exit(main())
