"""A pair of real processes for the cluster tests: the sandbox by its own commands, a verifying load, and waiting for facts.

A test is a function `test_*(pair)` in a `test_*.py` beside this file; `run.py` finds them. Its docstring's first line is the
promise that it shows. No sleeps for luck: wait_for() waits for a fact and says what it saw when the fact never came.
"""
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import tempfile
import time

BIN = pathlib.Path(os.environ["ZPAIR_BIN"])


class Failed(Exception):
    pass


class Skipped(Exception):
    pass


def check(condition, message):
    if not condition:
        raise Failed(message)


def wait_for(what, fact, seconds=30.0, every=0.05):
    """Polls fact() until it is true (its value is returned); at the end says what it waited for and the last value."""
    end = time.monotonic() + seconds
    value = None
    while time.monotonic() < end:
        value = fact()
        if value:
            return value
        time.sleep(every)
    raise Failed(f"waited {seconds:.0f} s for {what}, which never came (last: {value!r})")


def run(*command, timeout=120, ok=(0,)):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=timeout)
    if ok is not None and done.returncode not in ok:
        raise Failed(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done


def alive(pid):
    """Runs, or is paused; a zombie does not count."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Load:
    """A verifying load over every volume given: stamps blocks, reconnects for ever, checks the history at its end."""

    def __init__(self, folder, uris, writers=4, working_set="16M", rate=0):
        stem = folder / f"load-{time.monotonic_ns()}"
        self.result_file = stem.with_suffix(".json")
        self.state_file = stem.with_suffix(".state")
        self.log = open(folder / "load.log", "a")
        command = [BIN / "zpair-load", "run", *uris, "--state", self.state_file, "--json", self.result_file,
                   "--writers", str(writers), "--working-set", working_set, "--rate", str(rate), "--control", "-"]
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.log, text=True)

    def mark(self, name):
        """Ends the running measurement of the longest stall and starts one of this name."""
        self.process.stdin.write(f"mark {name}\n")
        self.process.stdin.flush()

    def operations(self):
        """How many operations each volume has answered at least; 0 until all of them are connected."""
        self.process.stdin.write("operations\n")
        self.process.stdin.flush()
        check(select.select([self.process.stdout], [], [], 30)[0], f"the load does not answer, see {self.log.name}")
        line = self.process.stdout.readline()
        check(line, f"the load ended by itself, see {self.log.name}")
        return int(line)

    def goes_on(self, operations=300, seconds=60):
        """Waits until every volume has answered this many more operations: I/O runs, or runs again."""
        least = self.operations() + operations
        wait_for(f"{operations} more operations on every volume", lambda: self.operations() >= least, seconds)

    def alive(self):
        return self.process.poll() is None

    def finish(self, timeout=120):
        """Stops the writers, verifies every block, and returns the result; raises when anything was lost or corrupt."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failed("the load did not finish: some request was never answered")
        result = json.loads(self.result_file.read_text()) if self.result_file.exists() else {}
        check(result, f"the load left no result (exit {self.process.returncode})")
        findings = [finding for volume in result["volumes"] for finding in volume["findings"]]
        errors = [volume["first_error"] for volume in result["volumes"] if volume["first_error"]]
        check(result["good"], f"lost {result['lost']}, corrupt {result['corrupt']}, went back {result['went_back']}: {(findings + errors)[:4]}")
        check(result["acknowledged"] > 0, "the load acknowledged nothing: the test showed nothing")
        return result

    def verify_at(self, uri):
        """Checks the finished load's whole history again, at this address of its one volume."""
        run(BIN / "zpair-load", "verify", uri, "--state", self.state_file)

    def stop_hard(self):
        if self.alive():
            self.process.kill()
            self.process.wait()


class Pair:
    def __init__(self, mirrors=2, pools=2, volume_size="64M", drive_size="256M", extra=(), folder=None):
        # Socket paths must stay short: straight under the system's folder for temporary files.
        self.folder = pathlib.Path(folder or tempfile.mkdtemp(prefix="zp."))
        self.dir = self.folder / "s"
        self.loads = []
        self.options = ["--pools", pools, "--mirrors", mirrors, "--volume-size", volume_size, "--drive-size", drive_size, *extra]

    def up(self):
        self.sandbox("up", *self.options, timeout=180)
        return self

    def sandbox(self, command, *arguments, timeout=120, ok=(0,)):
        return run(BIN / "zpair", "sandbox", command, self.dir, *arguments, timeout=timeout, ok=ok)

    def zpair(self, *arguments, timeout=120, ok=(0,)):
        return run(BIN / "zpair", "--sandbox", self.dir, *arguments, timeout=timeout, ok=ok)

    def zpair_json(self, *arguments):
        return json.loads(self.zpair(*arguments, "--json").stdout)

    def status(self):
        return json.loads(self.sandbox("status", "--json").stdout)

    def pool(self, name="tank-a"):
        for pool in self.status()["pools"]:
            if pool["name"] == name:
                return pool
        return {"name": name, "owner": None, "epoch": 0, "state": "unknown", "mirrors": []}

    def uris(self, node, pools=None, volumes=None):
        return [volume["nbd"][node] for volume in self.zpair_json("volume", "list")["volumes"]
                if (pools is None or volume["pool"] in pools) and (volumes is None or volume["name"] in volumes)]

    def load(self, node="b", pools=None, volumes=None, **options):
        return self.load_uris(self.uris(node, pools, volumes), **options)

    def load_uris(self, uris, **options):
        load = Load(self.folder, uris, **options)
        self.loads.append(load)
        return load

    def kill(self, target):
        self.sandbox("kill", target)

    def start(self, target):
        self.sandbox("start", target)

    def pause(self, target):
        self.sandbox("pause", target)

    def resume(self, target):
        self.sandbox("resume", target)

    def cut(self, what):
        self.sandbox("cut", what)

    def heal(self, what, reset=False):
        self.sandbox("heal", what, *(["--reset"] if reset else []))

    def wait_in_sync(self, seconds=90):
        self.sandbox("wait", "--in-sync", "--timeout", seconds, timeout=seconds + 20)

    def wait_owner(self, pool, node, seconds=20):
        return wait_for(f"{pool} served by {node}",
                        lambda: (lambda p: p if p["owner"] == node and p["state"] in ("online", "degraded") else None)(self.pool(pool)),
                        seconds)

    def path_state(self, name):
        return next(path["state"] for path in self.zpair_json("status")["paths"] if path["name"] == name)

    def rev(self, pool):
        return next(one["rev"] for one in self.zpair_json("status")["pools"] if one["name"] == pool)

    def degrades_nothing(self, load, pool, disturb):
        """Checks that disturb(), over within the hold window, leaves the record as it was; once more where this machine was too slow."""
        for _ in range(8):
            self.wait_in_sync()
            rev, began = self.rev(pool), time.monotonic()
            disturb()
            seconds = time.monotonic() - began
            load.goes_on()          # both legs took writes again, or the record was shrunk
            if self.rev(pool) == rev:
                return
            check(seconds > 0.55, f"{seconds:.2f} s of silence degraded {pool}")
        raise Failed(f"this machine takes {seconds:.2f} s for what has to be over in 0.55 s")

    def legs(self, pool="tank-a", node=None):
        return [leg for mirror in self.pool(pool)["mirrors"] for leg in mirror["legs"] if node in (None, leg["node"])]

    def in_sync(self, pool, node):
        return sum(leg["in_sync"] for leg in self.legs(pool, node))

    def told(self, pool):
        """The pool as `zpair status --json` has it."""
        return next(one for one in self.zpair_json("status")["pools"] if one["name"] == pool)

    def scrub(self, pool, seconds=120):
        self.zpair("pool", "scrub", pool)   # the status shows it from here on
        wait_for("the end of the scrub", lambda: self.told(pool)["scan"] is None, seconds)

    def counted(self, pool, leg, key):
        """A leg's counter, when it stands still: the counters of the status are seconds older than its scan, more under load."""
        def now():
            return sum(one.get(key) or 0 for mirror in self.told(pool)["mirrors"] for one in mirror["legs"]
                       if (one["node"], one["drive"]) == (leg["node"], leg["drive"]))
        before, count = None, now()
        while count != before:
            time.sleep(3)
            before, count = count, now()
        return count

    def events(self):
        return self.zpair_json("events")["events"]

    def leave(self):
        """Ends the loads, and leaves the pair for a look at it (run.py --keep)."""
        for load in self.loads:
            load.stop_hard()

    def down(self, keep=False):
        for load in self.loads:
            load.stop_hard()
        run(BIN / "zpair", "sandbox", "down", self.dir, "--delete", ok=None, timeout=120)
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def flip_bytes(leg, drive_bytes=256 << 20):
    """Spoils a part of what lies on a leg's file, past the labels and before the back labels."""
    with open(leg["file"], "r+b") as file:
        for offset in range(8 << 20, drive_bytes - (8 << 20), 1 << 20):
            file.seek(offset)
            block = bytearray(file.read(64 << 10))
            if any(block):
                file.seek(offset)
                file.write(bytes(byte ^ 0x55 for byte in block))


def stalls(result):
    """{event's name: longest stall in ms over all volumes}, from a load's marks."""
    longest = {}
    for volume in result["volumes"]:
        for event in volume["events"]:
            longest[event["name"]] = max(longest.get(event["name"], 0), event["stall_ms"])
    return longest
