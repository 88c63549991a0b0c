#!/usr/bin/env python3
"""./dev bench peers: zpair beside what others offer for two copies of a volume, in one run, with the same fio cells and the same promise: a write is
answered when two copies of it are durable.

  peers.py [--only NAME,…] [--cells NAME,…] [--seconds 5] [--repeats 3] [--folder DIR] [--json FILE] [--chart FILE]

Each peer is started, filled, measured in turns with the raw two-leg limit, and stopped; the ratios to that limit are what can be compared. Needs the
packages of `peers:` in packaging/deps, which `./dev bench peers` installs. Prints a table in Markdown.
"""
import argparse
import json
import pathlib
import shutil
import statistics
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src" / "bench")]

import chart  # noqa: E402
import programs  # noqa: E402
from ceph import Ceph  # noqa: E402
from gluster import Gluster  # noqa: E402
from qemu import Mirror, Quorum  # noqa: E402
from short import CELLS, raw, value_of  # noqa: E402
from zpair import Zpair  # noqa: E402

PEERS = {"zpair": Zpair, "ceph": Ceph, "gluster": Gluster, "qemu-mirror": Mirror, "qemu-quorum": Quorum}
VOLUME_BYTES = 512 << 20
WARM_SECONDS = 1


def fio(peer, cell, seconds):
    """fio's report of this cell on the peer's volume."""
    _, rw, block_bytes, depth, _ = cell
    writes = "write" in rw
    said = programs.run(["fio", "--name=cell", *peer.engine(writes), f"--rw={rw}", f"--bs={block_bytes}", f"--iodepth={depth}", f"--size={VOLUME_BYTES}",
                         "--time_based", f"--runtime={round(seconds * 1000)}ms", "--refill_buffers", "--randrepeat=0", "--norandommap", "--output-format=json"],
                        timeout=seconds + 120)
    return json.loads(said[said.index("{"):])["jobs"][0]["write" if writes else "read"]


def measure(peer, cell, legs, tool, asked):
    """One cell of one peer, each repeat after its limit."""
    unit = cell[4]
    fio(peer, cell, WARM_SECONDS)
    values, limits, latencies, cpu, operations = [], [], [], 0, 0
    for _ in range(asked.repeats):
        limits.append(raw(tool, legs, cell, asked.seconds))
        before = peer.cpu_seconds()
        side = fio(peer, cell, asked.seconds)
        cpu += peer.cpu_seconds() - before
        operations += side["total_ios"]
        values.append(value_of(unit, side["iops"], side["bw_bytes"]))
        latencies.append(side["lat_ns"]["mean"] / 1000)
    if operations == 0:
        raise programs.Failed(f"{peer.name}: nothing was done in {cell[0]}")
    value, limit = statistics.median(values), statistics.median(limits)
    return {"peer": peer.name, "cell": cell[0], "unit": unit, "value": round(value, 1), "low": round(min(values), 1), "high": round(max(values), 1),
            "limit": round(limit, 1), "ratio": round(value / limit, 3), "mean_us": round(statistics.median(latencies), 1),
            "cpu_us_per_operation": round(cpu / operations * 1e6, 1)}


def run_peer(make, folder, legs, tool, cells, asked):
    peer = make(folder, VOLUME_BYTES)
    missing = peer.missing()
    if missing:
        raise programs.Failed(f"{', '.join(missing)} not installed: run this as ./dev bench peers, which installs them")
    try:
        peer.start()
        programs.run(["fio", "--name=fill", *peer.engine(False), "--rw=write", "--bs=1M", "--iodepth=4", f"--size={VOLUME_BYTES}", "--refill_buffers",
                      "--output-format=json"])
        found = []
        for cell in cells:
            found.append(measure(peer, cell, legs, tool, asked))
            print(f"  {peer.name}: {cell[0]} {found[-1]['value']:.0f} {cell[4]}, {found[-1]['ratio']:.2f} of the limit", file=sys.stderr, flush=True)
        return found, {"name": peer.name, "durable": peer.durable, "reads_from": peer.reads_from}
    finally:
        peer.stop()


def table(results, peers, cells):
    lines = ["| | " + " | ".join(peer["name"] for peer in peers) + " |", "| --- |" + " --- |" * len(peers)]
    for name, _, _, _, unit in cells:
        row = {one["peer"]: one for one in results if one["cell"] == name}
        for what, text in ((f"{name}, {unit}", lambda one: f"{one['value']:.0f} ({one['low']:.0f} to {one['high']:.0f})"),
                           ("of the limit", lambda one: f"**{one['ratio']:.2f}**"), ("mean, us", lambda one: f"{one['mean_us']:.0f}"),
                           ("CPU, us an operation", lambda one: f"{one['cpu_us_per_operation']:.0f}")):
            lines.append(f"| {what} | " + " | ".join(text(row[peer["name"]]) if peer["name"] in row else "" for peer in peers) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(prog="./dev bench peers")
    parser.add_argument("--only", default=",".join(PEERS), help="of " + ", ".join(PEERS))
    parser.add_argument("--cells", default=",".join(cell[0] for cell in CELLS), help="of " + ", ".join(cell[0] for cell in CELLS))
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=pathlib.Path, help="where all drives are made: on the disk that is to be measured (15 GB)")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--chart", type=pathlib.Path, help="an SVG of the ratios")
    asked = parser.parse_args()
    names, wanted = asked.only.split(","), asked.cells.split(",")
    cells = [cell for cell in CELLS if cell[0] in wanted]
    unknown = [name for name in names if name not in PEERS] + [name for name in wanted if name not in [cell[0] for cell in CELLS]]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    programs.end_in_order()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="zpp.", dir=asked.folder))
    tool = ROOT / "build" / "release" / "bin" / "zpair-raw-legs"
    results, peers, failed = [], [], []
    try:
        legs = [folder / "raw-a", folder / "raw-b"]
        for leg in legs:
            programs.run(["dd", "if=/dev/urandom", f"of={leg}", "bs=1M", f"count={VOLUME_BYTES >> 20}", "status=none"])
        for name in names:
            try:
                found, about = run_peer(PEERS[name], folder / name, legs, tool, cells, asked)
            except programs.Failed as error:
                print(f"bench: {error}", file=sys.stderr)
                failed.append(name)
                continue
            results += found
            peers.append(about)
            shutil.rmtree(folder / name, ignore_errors=True)
    except programs.Interrupted as signal:
        sys.exit(f"bench: interrupted by {signal}")
    finally:
        if not failed:
            shutil.rmtree(folder, ignore_errors=True)
    if not results:
        sys.exit("bench: nothing was measured")
    print(table(results, peers, cells))
    print()
    for peer in peers:
        print(f"- {peer['name']}: {peer['durable']}; reads: {peer['reads_from']}.")
    if asked.json:
        asked.json.write_text(json.dumps({"seconds": asked.seconds, "repeats": asked.repeats, "peers": peers, "results": results}, indent=1) + "\n")
    if asked.chart:
        asked.chart.write_text(chart.ratios(results, [peer["name"] for peer in peers], [cell[0] for cell in cells]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
