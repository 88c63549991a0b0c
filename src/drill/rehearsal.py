"""One rehearsal: the canary's volume, drill after drill under its load, and everything as it was again; what came of it is the certificate's body."""
import contextlib
import datetime
import fcntl
import os
import pathlib
import secrets
import shutil
import time

from canary import Load, boot_ns
from programs import Failed, uninterrupted
from stage import DrillFailed, Journal, Stage

VOLUME_BYTES = 64 << 20
PREFIX = "drill-"   # of the canaries' names
ORDINARY_SECONDS = 2.5   # of load before each drill: how long clients wait when nothing happens
EVENTS = ("owner-changed", "serving", "redundancy-lost", "redundancy-back", "leg-off", "leg-back", "resync-started", "resync-finished", "refused",
          "process-died", "process-hangs", "path-down", "path-up", "store-unavailable", "store-available", "partner-silent", "partner-alive")


class Rehearsal:
    def __init__(self, pair, pool, drills, folder, programs, sandbox, to_pair, tell):
        """folder: of this pool's rehearsals, for what must outlive an interruption; programs: the folder of zpair and zpair-load."""
        self.pair, self.pool, self.drills, self.tell = pair, pool, drills, tell
        self.folder, self.programs = pathlib.Path(folder), pathlib.Path(programs)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / "lock", "w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failed(f"another rehearsal of pool {pool} runs") from None
        except OSError as error:
            raise Failed(f"cannot work in {folder}: {error.strerror}") from None
        self.stage = Stage(pair, pool, self.programs / "zpair", sandbox, Journal(self.folder / "mend.json"), tell, to_pair)
        self._canary_file = self.folder / "canary"
        self._volume = None

    # --- beginning and end

    def tidy(self):
        """What an interrupted rehearsal left: broken things and its volume. Failed when somebody else rehearses, from another node perhaps."""
        if self.stage.journal.mends:
            self.tell("an interrupted drill left things broken: they are mended first")
            self.stage.mend()
            self.stage.in_sync()
        if self._canary_file.exists():
            self.tell("the volume of an interrupted drill is destroyed first")
            self._volume = self._canary_file.read_text().strip()
            self._destroy_volume()
        others = [volume["name"] for volume in self.pair.ask("GET", "/v1/volumes")["volumes"]
                  if volume["pool"] == self.pool and volume["name"].startswith(PREFIX)]
        if others:
            raise Failed(f"{self.pool}/{others[0]} is the volume of another drill, of the other node or another user perhaps: wait for its end, or destroy it")

    def run(self):
        """The certificate's body. Whatever ends it, close() leaves the pair as it was."""
        self.tidy()
        before = self.stage.now()
        self._refuse_unless_well(before)
        began = datetime.datetime.now(datetime.timezone.utc)
        began_s = time.monotonic()
        self._make_volume()
        results = []
        for number, drill in enumerate(self.drills):
            self.tell(f"[{number + 1}/{len(self.drills)}] {drill.name}: {drill.does}")
            results.append(self._perform(drill, before["owner"], at_s=time.monotonic() - began_s))
            self.tell(line_of(results[-1]))
            if not results[-1]["passed"] and not self._is_well_again():
                self.tell("the pair is not whole again: no further drill")
                break
        try:
            after = self.stage.now()
        except Failed:
            after = before | {"state": "unknown"}
        return {
            "began": began.isoformat(timespec="seconds"), "seconds": round(time.monotonic() - began_s, 1),
            "pool": {"name": self.pool, "owner": before["owner"], "mirrors": len(before["mirrors"]), "size_bytes": before.get("size_bytes"),
                     "epoch_before": before["epoch"], "epoch_after": after["epoch"], "state_after": after["state"]},
            "sandbox": self.stage.sandbox is not None,
            "planned": [drill.name for drill in self.drills],
            "drills": results,
            "totals": {key: sum(result["data"][key] for result in results) for key in ("acknowledged", "lost", "corrupt", "went_back", "failed_operations")},
            "passed": len(results) == len(self.drills) and all(result["passed"] for result in results),
        }

    def close(self):
        failures = []
        if self.stage.load is not None:
            self.stage.load.end_hard()
        for undo in (self.stage.mend, self._destroy_volume):
            try:
                undo()
            except (Failed, DrillFailed) as why:
                failures.append(str(why))
        if failures:
            raise Failed(f"not everything is as it was: {'; '.join(failures)}. The next zpair drill of this pool tries again")

    def _refuse_unless_well(self, pool):
        if pool["state"] != "online":
            raise Failed(f"pool {self.pool} is {pool['state']}: a rehearsal begins with a pair that is whole (zpair status {self.pool})")
        off = [f"{leg['node']}:{leg['drive']}" for mirror in pool["mirrors"] for leg in mirror["legs"] if not leg["in_sync"]]
        if off:
            raise Failed(f"{', '.join(off[:3])} is not in sync: a rehearsal begins with a pair that is whole (zpair status {self.pool})")

    def _is_well_again(self):
        try:
            self.stage.mend()
            self.stage.in_sync()
            return self.stage.now()["state"] == "online"
        except (Failed, DrillFailed):
            return False

    # --- the canary's volume

    def _make_volume(self):
        with uninterrupted():
            self._volume = PREFIX + secrets.token_hex(4)   # now: a create that answers late may have made it
            self._canary_file.write_text(self._volume + "\n")
            (self.folder / self._volume).mkdir()
        self.pair.create_volume(self.pool, self._volume, VOLUME_BYTES)

    def _destroy_volume(self):
        if self._volume:
            self.stage.wait("the pool", lambda: self.stage.now()["state"] in ("online", "degraded"), 60)
            self.pair.destroy_volume(self.pool, self._volume)
            self._canary_file.unlink(missing_ok=True)
            shutil.rmtree(self.folder / self._volume, ignore_errors=True)
            self._volume = None

    def _uri(self, home):
        """The volume at every node's socket that can be reached from here, as one client with a name (rule 10). The partner's first: a client on a
        node that hangs waits with it."""
        found = {}
        for node in self.pair.nodes():
            with contextlib.suppress(Failed):
                told = self.pair.volume(self.pool, self._volume, node)["nbd"]
                found |= {name: uri for name, uri in told.items() if uri}   # null: it does not know
        if not found:
            raise Failed(f"{self.pool}/{self._volume} has no address here: see zpair volume list")
        return ",".join(uri.replace("?", "@drill?", 1) for _, uri in sorted(found.items(), key=lambda one: one[0] == home))

    # --- one drill

    def _perform(self, drill, home, at_s):
        began_ms, began_s = round(time.time() * 1000), time.monotonic()
        load = self.stage.load = Load(self.programs / "zpair-load", self._uri(home), self.folder / self._volume)
        why, ordinary_ms, stall = None, 0, {"stall_ms": None, "ended_ns": 0}
        try:
            if not load.goes_on(20, 30):
                raise DrillFailed("the canary's client was not answered before anything was done")
            load.say("mark ordinary")
            time.sleep(ORDINARY_SECONDS)
            ordinary_ms = load.ask("stall")["stall_ms"]
            load.say(f"mark {drill.name}")
            with self.stage.mended_by("switchover", self.pool, "--to", home):
                try:
                    drill.run(self.stage)
                    self.stage.at_ease()
                finally:
                    stall = load.ask("stall")
                    load.say("end")
                self.stage.in_sync()
                self.stage.go_home(home)
        except (DrillFailed, Failed) as failure:
            why = str(failure)
        try:
            told = load.finish()
        except Failed as failure:
            why = why or str(failure)
            told = {"good": False, "volumes": [{"verified": False}]}
        self.stage.load = None
        parts = self._parts(began_ms, stall)
        bytes_copied, resync_seconds = self.stage.copied(began_ms)
        data = {key: told.get(key, 0) for key in ("acknowledged", "lost", "corrupt", "went_back", "failed_operations")}
        verified = all(volume["verified"] for volume in told["volumes"])
        if why is None and not told["good"]:
            why = "the canary could not be read back" if not verified else \
                f"lost {data['lost']}, corrupt {data['corrupt']}, went back {data['went_back']}, answered with an error {data['failed_operations']}"
        goal_met = None if drill.goal_ms is None or stall["stall_ms"] is None else stall["stall_ms"] <= drill.goal_ms + ordinary_ms
        return {
            "name": drill.name, "does": drill.does, "at_s": round(at_s, 1), "seconds": round(time.monotonic() - began_s, 1),
            "passed": why is None, "why": why, "stall_ms": stall["stall_ms"], "goal_ms": drill.goal_ms, "goal_met": goal_met, "ordinary_ms": ordinary_ms,
            "parts": parts, "resync": {"bytes": bytes_copied, "seconds": resync_seconds}, "data": data | {"verified": verified},
            "samples": load.samples, "events": self._events(began_ms),
        }

    def _parts(self, since_ms, stall):
        served = self.stage.events("serving", since_ms)
        if not served:
            return []
        longest = max(served, key=lambda event: sum(part["ms"] for part in event.get("parts", [])))
        parts = list(longest.get("parts", []))
        if stall["ended_ns"]:
            ended_ms = time.time() * 1000 - (boot_ns() - stall["ended_ns"]) / 1e6
            if 0 <= ended_ms - longest["time_ms"] < 10_000:
                parts.append({"part": "reconnect", "ms": round(ended_ms - longest["time_ms"], 1)})
        return parts

    def _events(self, since_ms):
        told = []
        for kind in EVENTS:
            told += self.stage.events(kind, since_ms)
        told.sort(key=lambda event: event["time_ms"])
        return [{"s": round((event["time_ms"] - since_ms) / 1000, 2), "node": event["node"], "kind": event["kind"], "text": event["text"]} for event in told]


def line_of(result):
    if not result["passed"]:
        return f"    FAILED: {result['why']}"
    text = f"    passed: acknowledged {result['data']['acknowledged']}, lost {result['data']['lost']}"
    if result["stall_ms"] is not None:
        text += f", clients waited {result['stall_ms']} ms at most"
    if result["goal_ms"] is not None:
        text += f" (goal {result['goal_ms']} ms{'' if result['goal_met'] else ': MISSED'})"
    if result["resync"]["bytes"]:
        text += f", {result['resync']['bytes'] / (1 << 20):.1f} MiB copied in {result['resync']['seconds']} s"
    return text


def machine():
    return {"cpu_count": os.cpu_count(), "kernel": os.uname().release, "node": os.uname().nodename}
