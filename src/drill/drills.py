"""The drills: what each does to the pair, what it needs, and what the pair must do. Afterwards the rehearsal waits until all legs are in sync
and moves the pool home; what else a drill changes it puts back itself, and notes how before (Stage.broken, Stage.mended_by)."""
import dataclasses
import os
import time
import typing

from stage import DrillFailed

HELD_SECONDS = 10   # of what lasts: a partition, a store out of reach


@dataclasses.dataclass(frozen=True)
class Drill:
    name: str
    does: str                      # for people, before it is done
    goal_ms: typing.Optional[int]  # how long clients may wait at most; None: as long as it lasts
    seconds: int                   # about how long it takes
    run: typing.Callable
    anywhere: bool = False         # on a real pair too: by commands alone

    @property
    def needs(self):
        return "any pair" if self.anywhere else "a sandbox"


DRILLS = {}


def drill(name, does, goal_ms, seconds, anywhere=False):
    def keep(run):
        DRILLS[name] = Drill(name, does, goal_ms, seconds, run, anywhere)
        return run
    return keep


@drill("switchover", "moves the pool to the other node and home again, planned", 700, 10, anywhere=True)
def switchover(stage):
    owner = stage.now()["owner"]
    for node in (stage.other(owner), owner):
        stage.command("switchover", stage.pool, "--to", node)
        stage.served_by(node)
        stage.at_ease()
        stage.calm()


@drill("path-loss", "cuts one path (a dead switch), and heals it", 300, 8)
def path_loss(stage):
    with stage.broken(("cut", "path1"), ("heal", "path1")):
        stage.calm(3)
        if not all(leg["in_sync"] for _, leg in stage.legs()):
            raise DrillFailed("a leg was given up for one path")


@drill("partition", f"cuts both paths for {HELD_SECONDS} s: the owner goes on alone, the partner takes nothing", 2000, 25)
def partition(stage):
    before = stage.now()
    with stage.broken(("cut", "paths"), ("heal", "paths")):
        stage.calm(HELD_SECONDS)
        if (stage.now()["owner"], stage.now()["epoch"]) != (before["owner"], before["epoch"]):
            raise DrillFailed("the pool changed its owner in a partition")


@drill("partner-loss", "kills the partner's node: the owner goes on, the node returns and is resynced", 2000, 25)
def partner_loss(stage):
    partner = stage.other(stage.now()["owner"])
    with stage.broken(("kill", partner), ("start", partner)):
        stage.wait("the shrink", lambda: not any(leg["in_sync"] for _, leg in stage.legs(partner)), 30)
        stage.at_ease()
        stage.calm()


@drill("owner-loss", "kills the owner's node: the partner takes over by itself; then everything goes home", 2000, 40)
def owner_loss(stage):
    owner = stage.now()["owner"]
    with stage.broken(("kill", owner), ("start", owner)):
        stage.served_by(stage.other(owner))
        stage.at_ease()
        stage.calm()


@drill("hung-owner", f"stops every process of the owner's node for {HELD_SECONDS} s, as a hang does; then everything goes home", 2000, 45)
def hung_owner(stage):
    owner = stage.now()["owner"]
    with stage.broken(("pause", owner), ("resume", owner)):
        stage.served_by(stage.other(owner))
        stage.at_ease()
        stage.calm(HELD_SECONDS)


@drill("process-crash", "kills the pool's process: it is started again in place", 1000, 10)
def process_crash(stage):
    before = stage.now()
    stage.command("sandbox", "kill", f"pool:{stage.pool}")
    stage.wait("the restart", lambda: stage.now()["epoch"] > before["epoch"] and stage.now()["state"] in ("online", "degraded"), 30)
    if stage.now()["owner"] != before["owner"]:
        raise DrillFailed("the pool changed its owner for a process that died")


@drill("lone-survivor", "kills the partner, then the owner, and starts the partner alone: it must refuse, for it lacks writes", None, 45)
def lone_survivor(stage):
    owner = stage.now()["owner"]
    partner = stage.other(owner)
    with stage.broken(("kill", partner), ("start", partner)):
        stage.wait("the shrink", lambda: not any(leg["in_sync"] for _, leg in stage.legs(partner)), 30)
        stage.at_ease()
        with stage.broken(("kill", owner), ("start", owner)):
            stage.command("sandbox", "start", partner)
            stage.wait("the refusal", lambda: stage.now()["state"] == "down", 60)
            stage.calm(3)
            if stage.now()["state"] in ("online", "degraded"):
                raise DrillFailed("the partner serves the pool without its newest writes")
    stage.wait("the pool", lambda: stage.now()["state"] in ("online", "degraded"), 60)


@drill("both-power-loss", "kills both nodes at once and starts them: the pool serves again, nobody is asked", None, 40)
def both_power_loss(stage):
    with stage.broken(("kill", "both"), ("start", "both")):
        stage.calm()
    stage.wait("the pool", lambda: stage.now()["state"] in ("online", "degraded"), 60)


@drill("witness-loss", "kills the witness: nothing may happen", 0, 10)
def witness_loss(stage):
    with stage.broken(("kill", "witness"), ("start", "witness")):
        stage.calm(4)
        stage.at_ease()


@drill("quorum-loss", f"cuts both nodes off the store for {HELD_SECONDS} s: clients are answered as before", 0, 20)
def quorum_loss(stage):
    with stage.broken(("cut", "store:a"), ("heal", "store:a")), stage.broken(("cut", "store:b"), ("heal", "store:b")):
        stage.calm(HELD_SECONDS)
        stage.at_ease()


def a_leg(stage, node):
    return stage.legs(node)[0][1]


def shrunk(stage, fault):
    """A leg of the partner with this fault leaves the pool, and comes back when it is well."""
    leg = a_leg(stage, stage.other(stage.now()["owner"]))
    drive = f"{leg['node']}:{leg['drive']}"
    with stage.broken(("fault", drive, fault), ("fault", drive, "clear")):
        stage.off_the_record(leg)
        stage.at_ease()
        stage.calm()


@drill("failing-leg", "lets one drive answer every write with an error: its mirror goes on with the other leg", 2000, 25)
def failing_leg(stage):
    shrunk(stage, "write-errors on")


@drill("slow-leg", "lets one drive take 5 s for what took it 1 ms: its mirror goes on with the other leg", 2000, 25)
def slow_leg(stage):
    shrunk(stage, "slow 5000")


@drill("drive-loss", "lets one drive answer nothing but errors, as one that is pulled out", 2000, 25)
def drive_loss(stage):
    shrunk(stage, "read-errors on;write-errors on;flush-errors on")


@drill("lost-cache", "lets one drive lose what it had completed and not flushed, as at a power cut", 2000, 15)
def lost_cache(stage):
    leg = a_leg(stage, stage.other(stage.now()["owner"]))
    stage.command("sandbox", "fault", f"{leg['node']}:{leg['drive']}", "lose-cache")
    stage.at_ease()


def checksum_errors(stage, leg):
    """When the counter stands still: the status is seconds old."""
    def count():
        return sum(one.get("checksum_errors") or 0 for _, one in stage.legs(leg["node"]) if one["drive"] == leg["drive"])
    before, now = None, count()
    while before != now:
        time.sleep(3)
        before, now = now, count()
    return now


def scrub(stage):
    stage.command("pool", "scrub", stage.pool)
    stage.wait("the end of the scrub", lambda: stage.now()["scan"] is None, 600)


@drill("corruption", "changes bytes of one drive behind everybody's back: reads stay right, one scrub finds and heals all", 0, 40)
def corruption(stage):
    leg = a_leg(stage, stage.now()["owner"])
    before = checksum_errors(stage, leg)
    with stage.mended_by("pool", "scrub", stage.pool):
        flip(leg["file"])
        scrub(stage)
    found = checksum_errors(stage, leg)
    if found == before:
        raise DrillFailed("changed bytes were not found")
    scrub(stage)
    if checksum_errors(stage, leg) != found:
        raise DrillFailed("what the first scrub found was not healed")


def flip(file):
    size, label = os.path.getsize(file), 8 << 20   # labels lie at both ends
    with open(file, "r+b") as drive:
        for at in range(label, size - label, 1 << 20):
            drive.seek(at)
            piece = drive.read(64 << 10)
            if any(piece):
                drive.seek(at)
                drive.write(bytes(byte ^ 0x55 for byte in piece))


def _replaced(stage, out, into):
    in_sync = {leg["file"]: leg["in_sync"] for _, leg in stage.legs()}
    return in_sync.get(into, False) and out not in in_sync


@drill("replace-drive", "puts another drive in the place of one, under load, and the first one back", 2000, 45)
def replace_drive(stage):
    leg = a_leg(stage, stage.other(stage.now()["owner"]))
    old, new = f"{leg['node']}:{leg['file']}", f"{leg['file']}-spare"
    with open(new, "wb") as file:
        file.truncate(os.path.getsize(leg["file"]))
    drive_of = lambda file: next(f"{one['node']}:{one['drive']}" for _, one in stage.legs(leg["node"]) if one["file"] == file)  # noqa: E731
    with stage.mended_by("drive", "replace", stage.pool, f"{leg['node']}:{os.path.basename(new)}", old, "--force"):
        for out, into in ((leg["file"], new), (new, leg["file"])):
            stage.command("drive", "replace", stage.pool, drive_of(out), f"{leg['node']}:{into}", "--force")
            stage.wait(f"{into} in the place of {out}", lambda into=into, out=out: _replaced(stage, out, into), 240)
    os.unlink(new)


def chosen(names):
    """Drills by their names, in the order of this file; `all` is each of them. KeyError names one that there is not."""
    for name in names:
        if name != "all" and name not in DRILLS:
            raise KeyError(name)
    return [one for name, one in DRILLS.items() if "all" in names or name in names]
