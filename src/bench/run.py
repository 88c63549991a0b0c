"""One run of the benchmark: a volume made and filled, rounds over the cells beside their limits, and everything taken away again."""
import datetime
import os
import pathlib
import secrets
import shutil
import tempfile
import time

import figures
import programs
from pair import used_between
from programs import Failed

MIB = 1 << 20
SMALLEST_BYTES = 64 * MIB
LARGEST_RAW_BYTES = 512 * MIB
ROUND_TRIP_SECONDS = 0.5
PART_OF = {"p50": 0.5, "p99": 0.99, "p99_9": 0.999}


class Target:
    """What the line asked for: a pool, and a volume of it that may be overwritten, or none: then one is made."""

    def __init__(self, text, overwrite, size_bytes):
        self.pool, _, self.volume = text.partition("/")
        if self.volume and not overwrite:
            raise Failed(f"a benchmark overwrites {text}: say so with --overwrite, or give only the pool {self.pool} and a volume is made and destroyed")
        if size_bytes < SMALLEST_BYTES:
            raise Failed(f"a volume of {size_bytes} bytes is too small to measure: give at least {SMALLEST_BYTES // MIB}M")
        self.size_bytes = size_bytes


class Run:
    def __init__(self, pair, target, plan, tools, raw_dirs, progress):
        """tools: the folder of zpair-raw-legs; raw_dirs: where the limit's files lie, one folder or two."""
        self.pair, self.target, self.plan, self.progress = pair, target, plan, progress
        self._tools, self._raw_dirs = pathlib.Path(tools), list(raw_dirs)
        self._scratch = []
        self._made = None
        self._samples = {cell: [] for cell in plan.cells}
        self.notes = []

    def measure(self):
        """The report (docs/api.md). Whatever ends it, close() takes away what was made."""
        began, began_s = datetime.datetime.now(datetime.timezone.utc), time.monotonic()
        fio_version = programs.fio_version()
        pool = self._look_at_pool()
        load = os.getloadavg()[0]
        client, key = self.pair.client_node(pool["owner"])
        self.progress.step("making a volume and the files of the limit")
        volume = self._make_volume(client, key)
        legs = self._make_legs(volume["size_bytes"])
        round_trips = self._round_trips()
        self.progress.step("filling the volume")
        uri = volume["nbd"][client]
        programs.fill(uri, volume["size_bytes"])
        self.pair.settle(self.target.pool, volume["name"])
        self._rounds(uri, volume, legs)
        after = self.pair.pool(self.target.pool)
        self._notes_of(pool, after, client)
        return {
            "format": 1, "began": began.isoformat(timespec="seconds"), "seconds": round(time.monotonic() - began_s, 1),
            "machine": machine(load),
            "pair": {"pool": self.target.pool, "volume": volume["name"], "volume_size_bytes": volume["size_bytes"],
                     "volume_block_size_bytes": volume.get("block_size_bytes"), "compression": volume.get("compression"),
                     "mirrors": len(pool["mirrors"]), "owner": pool["owner"], "client_node": client,
                     "state_before": pool["state"], "state_after": after["state"]},
            "method": {"repeats": self.plan.repeats, "seconds": self.plan.seconds, "ramp_seconds": self.plan.ramp_seconds,
                       "limit_seconds": self.plan.limit_seconds, "confidence_percent": round(100 * figures.CONFIDENCE),
                       "load": fio_version, "limit_files": [str(folder) for folder in self._raw_dirs]},
            "round_trips": round_trips,
            "cells": [cell_report(cell, samples, round_trips) for cell, samples in self._samples.items()],
            "notes": self.notes,
        }

    def close(self):
        """Each thing that was made goes, even when another cannot; what could not is told."""
        for folder in self._scratch:
            shutil.rmtree(folder, ignore_errors=True)
        self._scratch = []
        if self._made:
            name, self._made = self._made, None
            self.pair.destroy_volume(self.target.pool, name)

    def _look_at_pool(self):
        pool = self.pair.pool(self.target.pool)
        if pool["state"] not in ("online", "degraded"):
            raise Failed(f"pool {pool['name']} is {pool['state']}, and only one that is served can be measured: see zpair status {pool['name']}")
        return pool

    def _make_volume(self, client, key):
        pool, name = self.target.pool, self.target.volume
        if name:
            found = self.pair.volume(pool, name, key)
            if found.get("clients"):
                raise Failed(f"{pool}/{name} has clients ({found['clients']}): end them first, their data would be overwritten")
        else:
            self._made = name = f"bench-{secrets.token_hex(4)}"
            self.pair.create_volume(pool, name, self.target.size_bytes)
        volume = self.pair.volume(pool, name, key)
        if client not in volume["nbd"]:
            raise Failed(f"{pool}/{name} has no address on node {client}: see zpair volume list")
        return volume

    def _make_legs(self, volume_bytes):
        legs, size_bytes = [], min(volume_bytes, LARGEST_RAW_BYTES)
        for number in range(2):
            try:
                with programs.uninterrupted():
                    folder = pathlib.Path(tempfile.mkdtemp(prefix="zpair-bench-", dir=self._raw_dirs[number % len(self._raw_dirs)]))
                    self._scratch.append(folder)
                legs.append(fill_file(folder / "leg", size_bytes))
            except OSError as error:
                raise Failed(f"cannot make the file of a limit: {error}; give a folder with {2 * size_bytes // MIB} MiB free by --raw-dir") from None
        return legs

    def _round_trips(self):
        tool = self._tools / "zpair-round-trip"
        trips = [{"name": "loopback", "to_address": None} | programs.round_trip(tool, ROUND_TRIP_SECONDS)]
        for path in self.pair.status()["paths"]:
            try:
                trips.append({"name": path["name"], "to_address": path["partner_address"]} |
                             programs.round_trip(tool, ROUND_TRIP_SECONDS, path["partner_address"]))
            except Failed as why:
                self.notes.append(f"The round trip on {path['name']} is not known: {why}")
        return trips

    def _rounds(self, uri, volume, legs):
        turn = 0
        for number in range(self.plan.repeats):
            for cell in self.plan.cells:
                self.progress.turn(turn, self.plan, number, cell, self._samples[cell])
                self._samples[cell].append(self._turn(uri, volume, legs, cell))
                turn += 1
        self.progress.turn(turn, self.plan, self.plan.repeats - 1, None, [])

    def _turn(self, uri, volume, legs, cell):
        limit = programs.raw_cell(self._tools / "zpair-raw-legs", legs, cell, self.plan.limit_seconds)
        before = self.pair.usage(self.target.pool)
        pair = programs.fio_cell(uri, cell, volume["size_bytes"], self.plan.seconds, self.plan.ramp_seconds)
        if pair["errors"]:
            raise Failed(f"cell {cell.name}: the volume answered with error {pair['errors']}: see zpair status {self.target.pool}")
        settled = cell.read_percent == 100 or self.pair.settle(self.target.pool, volume["name"])
        used = used_between(before, self.pair.usage(self.target.pool))
        return {"limit": limit, "pair": pair, "used": used, "settled": settled, "loaded_seconds": self.plan.seconds + self.plan.ramp_seconds}

    def _notes_of(self, before, after, client):
        if (before["owner"], before["epoch"], before["rev"]) != (after["owner"], after["epoch"], after["rev"]):
            self.notes.append("The pool changed while it was measured (a leg left or came back, or its owner changed): zpair events tells what happened. Measure again.")
        if before["state"] != "online":
            self.notes.append(f"The pool was {before['state']}: writes went to fewer legs than they do when all is well.")
        if before.get("scan") or after.get("scan"):
            self.notes.append("A resync or scrub ran beside the measurement and took its part of the drives.")
        if client != before["owner"]:
            self.notes.append(f"The client ran on node {client} and the pool is served by node {before['owner']}: every request went over the paths.")


def machine(load):
    cpus = [line.split(":", 1)[1].strip() for line in _text("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    memory = next((int(line.split()[1]) * 1024 for line in _text("/proc/meminfo").splitlines() if line.startswith("MemTotal:")), None)
    return {"cpu_count": os.cpu_count(), "cpu_model": cpus[0] if cpus else None, "memory_bytes": memory, "kernel": os.uname().release,
            "load_average_before": round(load, 2)}


def _text(file):
    try:
        return pathlib.Path(file).read_text()
    except OSError:
        return ""


def fill_file(file, size_bytes):
    with open(file, "wb") as leg:
        for at in range(0, size_bytes, MIB):
            leg.write(os.urandom(min(MIB, size_bytes - at)))
        leg.flush()
        os.fsync(leg.fileno())
    return file


# --- from samples to the report ---

def cell_report(cell, samples, round_trips=()):
    pairs, limits = [sample["pair"] for sample in samples], [sample["limit"] for sample in samples]
    rates, limit_rates = [one["per_second"] for one in pairs], [one["per_second"] for one in limits]
    latency = latency_us(pairs, ("read_bins", "write_bins"))
    best_us = best_latency_us(cell, limits, round_trips)
    return {
        "name": cell.name, "pattern": cell.pattern, "block_size_bytes": cell.block_size_bytes, "jobs": cell.jobs,
        "read_percent": cell.read_percent,
        "per_second": figures.summary(rates), "bytes_per_second": figures.summary([one["bytes_per_second"] for one in pairs], 0),
        "latency_us": latency,
        "read_latency_us": latency_us(pairs, ("read_bins",)) if cell.pattern == "mixed" else None,
        "write_latency_us": latency_us(pairs, ("write_bins",)) if cell.pattern == "mixed" else None,
        "cpu_us_per_operation": cpu_us(samples),
        "written_bytes_per_acknowledged_byte": written_per_byte(cell, samples),
        "limit": {"per_second": figures.summary(limit_rates), "bytes_per_second": figures.summary([one["bytes_per_second"] for one in limits], 0),
                  "latency_us": _mean_of([one["latency_us"] for one in limits]),
                  "cpu_us_per_operation": _rounded_mean([one["cpu_us_per_operation"] for one in limits]),
                  "best_latency_us": best_us},
        "share_percent": figures.share_percent(rates, limit_rates),
        "latency_share_percent": round(100 * best_us / latency["mean"], 1) if latency and best_us else None,
    }


def latency_us(pairs, keys):
    """The mean with its interval over the repeats; percentiles of all their requests together."""
    means, merged = [], {}
    for pair in pairs:
        bins = {}
        for key in keys:
            for ns, count in pair[key].items():
                bins[ns] = bins.get(ns, 0) + count
                merged[ns] = merged.get(ns, 0) + count
        if bins:
            means.append(sum(ns * count for ns, count in bins.items()) / sum(bins.values()) / 1000)
    if not merged:
        return None
    of_means = figures.summary(means)
    return {key: of_means[key] for key in ("mean", "low", "high")} | \
        {name: round(figures.percentile(merged, part) / 1000, 1) for name, part in PART_OF.items()}


def best_latency_us(cell, limits, round_trips):
    """What no pair can beat: the raw operation, and for what is written one round trip to the other node (here, over loopback)."""
    raw = _mean_of([one["latency_us"] for one in limits])
    if raw is None:
        return None
    paths = [trip for trip in round_trips if trip["kind"] == "path"] or list(round_trips)
    trip_us = min((trip["latency_us"]["p50"] for trip in paths), default=0)
    return round(raw["mean"] + trip_us * (100 - cell.read_percent) / 100, 1)


def cpu_us(samples):
    """Microseconds of CPU that each process takes for one operation, fio's too; what is done later is in it (the settling)."""
    names = sorted({name for sample in samples for name in sample["used"]})
    done = [sample["pair"]["per_second"] * sample["loaded_seconds"] for sample in samples]
    result = {name: _rounded_mean([1e6 * sample["used"][name]["cpu_seconds"] / count
                                   for sample, count in zip(samples, done) if name in sample["used"] and count]) for name in names}
    return result | {"fio": _rounded_mean([1e6 * sample["pair"]["cpu_seconds"] / count for sample, count in zip(samples, done) if count])}


def written_per_byte(cell, samples):
    """To both legs' drives, for each byte acknowledged: 2 were the least. Null for reads, where a repeat did not settle, and where
    one side's processes do not tell."""
    seen = [{name.split("@")[1] for name in sample["used"]} for sample in samples]
    if cell.read_percent == 100 or not all(sample["settled"] for sample in samples) or any(nodes != {"a", "b"} for nodes in seen):
        return None
    ratios = []
    for sample in samples:
        acknowledged = sample["pair"]["written_bytes_per_second"] * sample["loaded_seconds"]
        if acknowledged:
            ratios.append(sum(process["written_bytes"] for process in sample["used"].values()) / acknowledged)
    return figures.summary(ratios, 2)


def _rounded_mean(values):
    values = [value for value in values if value is not None]
    return round(sum(values) / len(values), 1) if values else None


def _mean_of(summaries):
    summaries = [one for one in summaries if one]
    return {key: _rounded_mean([one[key] for one in summaries]) for key in summaries[0]} if summaries else None
