#!/usr/bin/env python3
"""The short benchmark (`./dev bench`): fio over NBD against a sandbox, next to the raw two-leg limit, in the same run. What lies in the pair's
cache is read next to `nbdkit file`, which serves from the page cache.

Each cell is measured in turns (limit, pair, limit, pair ...), so that what else the machine does meets both; the medians make
the ratio. Nothing here judges: the floors stand in docs/performance.md.
"""
import argparse
import contextlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import programs

CELLS = [  # name, fio's rw, block size, in flight, unit
    ("randwrite-4k-q1", "randwrite", 4096, 1, "IOPS"),
    ("randwrite-4k-q16", "randwrite", 4096, 16, "IOPS"),
    ("randread-4k-q1", "randread", 4096, 1, "IOPS"),
    ("randread-4k-q16", "randread", 4096, 16, "IOPS"),
    ("seqwrite-1m", "write", 1 << 20, 4, "MB/s"),
    ("seqread-1m", "read", 1 << 20, 4, "MB/s"),
]


CACHED = ("cacheread-4k-q16", "randread", 4096, 16, "IOPS")
CACHED_SIZE = "64M"   # within a sandbox's cache


def run(*command):
    return programs.run(command)


def value_of(unit, per_second, bytes_per_second):
    return per_second if unit == "IOPS" else bytes_per_second / 1e6


def raw(tool, legs, cell, seconds):
    _, rw, block, depth, unit = cell
    answer = programs.raw_legs(tool, legs, "read" if "read" in rw else "write", block, depth, seconds, rw in ("read", "write"))
    return value_of(unit, answer["per_second"], answer["bytes_per_second"])


def pair(uri, cell, seconds, size):
    _, rw, block, depth, unit = cell
    side = programs.fio(uri, rw, block, size, seconds, depth=depth)["read" if "read" in rw else "write"]
    return value_of(unit, side["iops"], side["bw_bytes"])


@contextlib.contextmanager
def nbdkit(file):
    """Its URI."""
    socket = file.parent / "nbdkit"
    with subprocess.Popen(["nbdkit", "--foreground", "--exit-with-parent", "--unix", str(socket), "file", str(file)]) as server:
        try:
            end = time.monotonic() + 10
            while not socket.exists():
                if time.monotonic() > end or server.poll() is not None:
                    raise programs.Failed("nbdkit did not start")
                time.sleep(0.05)
            yield f"nbd+unix:///?socket={socket}"
        finally:
            server.terminate()


def measure_cached(uri, file, seconds, repeats):
    """(pair's rates, nbdkit's), in turns; both have read all of it before."""
    with nbdkit(file) as other:
        for warm in (uri, other, uri, other):
            programs.fio(warm, "read", 1 << 16, CACHED_SIZE, 1, depth=4)   # small enough to be kept
        turns = [(pair(other, CACHED, seconds, CACHED_SIZE), pair(uri, CACHED, seconds, CACHED_SIZE)) for _ in range(repeats)]
    return [value for _, value in turns], [limit for limit, _ in turns]


def fill_holes(file):
    """A sparse file's first write of each place makes the host's file system allocate it, in the flush: no drive does that."""
    descriptor = os.open(file, os.O_RDWR)
    size, at, zeroes = os.fstat(descriptor).st_size, 0, bytes(1 << 20)
    while at < size:
        hole = os.lseek(descriptor, at, os.SEEK_HOLE)
        if hole >= size:
            break
        try:
            at = os.lseek(descriptor, hole, os.SEEK_DATA)
        except OSError:   # no data behind it
            at = size
        for offset in range(hole, at, len(zeroes)):
            os.pwrite(descriptor, zeroes[:min(len(zeroes), at - offset)], offset)
    os.fsync(descriptor)
    os.close(descriptor)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", help="write the cells to this file")
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cells", help="comma-separated names")
    arguments = parser.parse_args()
    binaries = pathlib.Path(os.environ["ZPAIR_BIN"])
    folder = pathlib.Path(tempfile.mkdtemp(prefix="zpb."))
    zpair = binaries / "zpair"
    sandbox = folder / "s"
    try:
        run(zpair, "sandbox", "up", sandbox, "--pools", 1, "--volume-size", "512M", "--drive-size", "128M", "--direct-paths")
        run(zpair, "sandbox", "down", sandbox)
        for drive in sorted((sandbox / "drives").glob("*/*")):
            fill_holes(drive)
        run(zpair, "sandbox", "up", sandbox)
        run(zpair, "sandbox", "wait", sandbox, "--in-sync")
        volume = json.loads(run(zpair, "--sandbox", sandbox, "volume", "list", "--json"))["volumes"][0]
        uri = volume["nbd"]["a"]
        legs = [folder / "raw-a", folder / "raw-b"]
        for leg in legs:
            run("dd", "if=/dev/urandom", f"of={leg}", "bs=1M", "count=512", "status=none")
        pair(uri, ("fill", "write", 1 << 20, 4, "MB/s"), 8, "512M")   # preconditioned
        cells = []
        wanted = arguments.cells.split(",") if arguments.cells else None
        print(f"{'cell':18} {'pair':>10} {'limit':>10} {'unit':>6} {'ratio':>6}")
        for cell in (*CELLS, CACHED):
            if wanted and cell[0] not in wanted:
                continue
            limits, values = [], []
            if cell is CACHED:
                values, limits = measure_cached(uri, legs[0], arguments.seconds, arguments.repeats)
            else:
                for _ in range(arguments.repeats):
                    limits.append(raw(binaries / "zpair-raw-legs", legs, cell, arguments.seconds))
                    values.append(pair(uri, cell, arguments.seconds, "512M"))
            limit, value = statistics.median(limits), statistics.median(values)
            cells.append({"name": cell[0], "value": round(value, 1), "limit": round(limit, 1), "ratio": round(value / limit, 3), "unit": cell[4]})
            print(f"{cell[0]:18} {value:10.0f} {limit:10.0f} {cell[4]:>6} {value / limit:6.2f}", flush=True)
        if any(cell["name"] == CACHED[0] for cell in cells):
            print(f"(the limit of {CACHED[0]}: nbdkit's file plugin, from the page cache)")
        if arguments.json:
            pathlib.Path(arguments.json).write_text(json.dumps({"cells": cells}, indent=2) + "\n")
    except programs.Failed as error:
        sys.exit(f"bench: {error}")
    finally:
        subprocess.run([str(zpair), "sandbox", "down", str(sandbox), "--delete"], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
