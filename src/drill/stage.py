"""Where a drill plays: the pair with its canary, what was broken and has to be mended, and what may be waited for."""
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import time

from programs import ENDS, Failed, uninterrupted

SERVED_SECONDS = 90
IN_SYNC_SECONDS = 240
CALM_SECONDS = 2.0
AT_EASE_OPERATIONS = 50


class DrillFailed(Exception):
    """What the pair did, or did not do: one line."""
    exit_code = 1


class Journal:
    """What would mend the pair, on the disk before it is broken: the next drill does it when this one could not. Entries are the words of
    `zpair` commands."""

    def __init__(self, file):
        self._file = pathlib.Path(file)
        try:
            self.mends = json.loads(self._file.read_text())["mends"]
        except (OSError, ValueError, KeyError):
            self.mends = []

    def add(self, words):
        self.mends.append(list(words))
        self._write()

    def done(self, words):
        self.mends.remove(list(words))
        self._write()

    def _write(self):
        if not self.mends:
            self._file.unlink(missing_ok=True)
            return
        new = self._file.with_suffix(".new")
        with open(new, "w") as file:
            json.dump({"mends": self.mends}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._file)


def _signals_as_usual():
    """In a child: what it starts must neither inherit signals that are blocked while a mend runs, nor those that are ignored after the first."""
    for number in ENDS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class Stage:
    def __init__(self, pair, pool, zpair, sandbox, journal, tell, to_pair):
        """zpair: the program; sandbox: its folder, or None on a real pair; tell: takes a line for people; to_pair: options that lead zpair to it."""
        self.pair, self.pool, self.sandbox, self.journal, self.tell, self.to_pair = pair, pool, sandbox, journal, tell, to_pair
        self._zpair = zpair
        self.load = None

    # --- acting

    def command(self, *words, timeout=180):
        """`zpair …` on this pair, as an operator types it. Failed with its own words."""
        words = ["sandbox", words[1], self.sandbox, *words[2:]] if words[0] == "sandbox" else [*self.to_pair, *words]
        try:
            done = subprocess.run([str(self._zpair), *words], capture_output=True, text=True, timeout=timeout, start_new_session=True,
                                  preexec_fn=_signals_as_usual)
        except subprocess.TimeoutExpired:
            raise Failed(f"zpair {' '.join(words)} did not end within {timeout} s") from None
        if done.returncode != 0:
            raise Failed((done.stderr.strip() or done.stdout.strip() or f"zpair {' '.join(words)} ended with {done.returncode}").splitlines()[-1])
        return done.stdout

    @contextlib.contextmanager
    def mended_by(self, *words):
        """Until its end: should this drill be interrupted, this `zpair` command mends what it did."""
        with uninterrupted():
            self.journal.add(words)
        yield
        with uninterrupted():
            self.journal.done(words)

    @contextlib.contextmanager
    def broken(self, begin, end):
        """Between: the pair is broken by `zpair sandbox BEGIN`; whatever happens, `zpair sandbox END` mends it."""
        end = ["sandbox", *end]
        with uninterrupted():
            self.journal.add(end)
        try:
            self.command("sandbox", *begin)
            yield
        finally:
            with uninterrupted():
                self.command(*end)
                self.journal.done(end)

    def mend(self):
        """What an interrupted drill left behind, newest first. Each is tried even when another fails; Failed names what is left."""
        failures = []
        for words in reversed(list(self.journal.mends)):
            try:
                if words[0] == "switchover":
                    self.go_home(words[words.index("--to") + 1])
                else:
                    self.command(*words)
            except (Failed, DrillFailed) as why:
                failures.append(f"zpair {' '.join(words)}: {why}")
                if words[0] == "drive":   # perhaps nothing had been replaced yet; done again it would fail again
                    self.journal.done(words)
                continue
            self.journal.done(words)
        if failures:
            raise Failed(f"not mended: {'; '.join(failures)}")

    def go_home(self, node):
        self.wait("the pool", lambda: self.now()["state"] in ("online", "degraded"), SERVED_SECONDS)
        if self.now()["owner"] != node:
            self.in_sync()
            self.command("switchover", self.pool, "--to", node)
        self.served_by(node)

    # --- looking

    def now(self):
        return self.pair.pool(self.pool)

    def other(self, node):
        return "b" if node == "a" else "a"

    def legs(self, node=None):
        """[(mirror's name, leg)]"""
        return [(mirror["name"], leg) for mirror in self.now()["mirrors"] for leg in mirror["legs"] if node in (None, leg["node"])]

    def events(self, kind, since_ms):
        """Of this pool, from both nodes where they answer, oldest first."""
        found = {}
        for node in self.pair.nodes():
            try:
                events = self.pair.ask("GET", "/v1/events?since=0&wait_ms=0", node=node)["events"]
            except Failed:
                continue
            for event in events:
                if event["kind"] == kind and event["pool"] == self.pool and event["time_ms"] >= since_ms:
                    found[(event["time_ms"], event["node"], event["text"])] = event
        return [found[key] for key in sorted(found)]

    def wait(self, what, fact, seconds):
        end = time.monotonic() + seconds
        while True:
            try:
                if fact():
                    return
            except Failed:
                pass   # a node that is down does not answer
            if time.monotonic() > end:
                raise DrillFailed(f"{what} did not come within {seconds} s")
            time.sleep(0.2)

    def served_by(self, node):
        def fact():
            pool = self.now()
            return pool["owner"] == node and pool["state"] in ("online", "degraded")
        self.wait(f"{self.pool} on node {node}", fact, SERVED_SECONDS)

    def off_the_record(self, leg):
        def fact():
            return any(one["drive"] == leg["drive"] and not one["in_sync"] for _, one in self.legs(leg["node"]))
        self.wait(f"the shrink of {leg['drive']}", fact, SERVED_SECONDS)

    def in_sync(self):
        self.wait("every leg in sync", lambda: all(leg["in_sync"] for _, leg in self.legs()), IN_SYNC_SECONDS)

    def at_ease(self):
        """The canary's clients are answered."""
        if not self.load.goes_on(AT_EASE_OPERATIONS, SERVED_SECONDS):
            raise DrillFailed(f"the canary's client was not answered within {SERVED_SECONDS} s")

    def calm(self, seconds=CALM_SECONDS):
        time.sleep(seconds)

    def copied(self, since_ms):
        """(bytes, seconds) of the resyncs since."""
        told = [re.fullmatch(r"(\d+) bytes copied in ([\d.]+) s", event["text"]) for event in self.events("resync-finished", since_ms)]
        told = [match for match in told if match]
        return sum(int(match[1]) for match in told), round(sum(float(match[2]) for match in told), 1)
