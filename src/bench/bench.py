#!/usr/bin/python3
"""zpair-bench: what `zpair bench` runs; the line was checked there (src/cli/bench_line.cpp) and comes in these words.

  zpair-bench run TARGET --node NAME=SOCKET … --tools DIR [--quick] [--cells LIST] [--repeats N] [--seconds S] [--size BYTES]
                         [--overwrite] [--raw-dir DIR …] [--out DIR] [--json]
  zpair-bench compare A B [--json]

Exit: 0 done, 1 failed or interrupted, 2 usage. Read first: run.py (one run), figures.py (the arithmetic).
"""
import argparse
import json
import pathlib
import sys

import cells
import compare
import report
import table
from pair import Pair
from programs import ending, open_folder, uninterrupted
from progress import Progress
from run import Run, Target


def arguments_of(line):
    parser = argparse.ArgumentParser(prog="zpair bench")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("target")
    run.add_argument("--node", action="append", default=[])
    run.add_argument("--tools", required=True)
    run.add_argument("--quick", action="store_true")
    run.add_argument("--cells")
    run.add_argument("--repeats", type=int)
    run.add_argument("--seconds", type=float)
    run.add_argument("--size", type=int)
    run.add_argument("--overwrite", action="store_true")
    run.add_argument("--raw-dir", action="append", default=[])
    run.add_argument("--out")
    run.add_argument("--json", action="store_true")
    two = commands.add_parser("compare")
    two.add_argument("first")
    two.add_argument("second")
    two.add_argument("--json", action="store_true")
    return parser.parse_args(line)


def measure(asked):
    size_bytes = asked.size or (512 << 20 if asked.quick or asked.cells else 1 << 30)
    target = Target(asked.target, asked.overwrite, size_bytes)
    plan = cells.plan(asked.quick, asked.cells, asked.repeats, asked.seconds)
    out = open_folder(asked.out, "report.json") if asked.out else None   # now, not after twenty minutes
    run = Run(Pair(node.split("=", 1) for node in asked.node), target, plan, asked.tools, asked.raw_dir or ["/var/tmp"], Progress(sys.stderr))
    try:
        measured = run.measure()
    finally:
        with uninterrupted():
            run.progress.clear()
            run.close()
    if out:
        report.write(out, measured)
    sys.stdout.write(json.dumps(measured, indent=2) + "\n" if asked.json else table.of_run(measured) + (f"\nreport: {out / 'report.html'}\n" if out else ""))


def compared(asked):
    result = compare.of(report.read(asked.first), report.read(asked.second))
    sys.stdout.write(json.dumps(result, indent=2) + "\n" if asked.json else table.of_comparison(result))


def run(asked):
    (measure if asked.command == "run" else compared)(asked)


def main():
    return ending(lambda: run(arguments_of(sys.argv[1:])), "nothing is left behind")


if __name__ == "__main__":
    sys.exit(main())
