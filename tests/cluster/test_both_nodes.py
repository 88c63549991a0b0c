"""Both nodes die at once: in the middle of a resync, a grow, a takeover, a switchover; and both come back."""
import random
import subprocess
import time

from harness import BIN, check, wait_for


def _served_and_in_sync(pair, pool="tank-a"):
    wait_for(f"{pool} served by either node", lambda: pair.pool(pool)["state"] in ("online", "degraded"), seconds=60)
    pair.wait_in_sync()


def _kill_both_and_start(pair):
    pair.kill("both")
    pair.start("both")
    _served_and_in_sync(pair)


def _leg_states(pair, node):
    return {leg["state"] for leg in pair.legs("tank-a", node)}


def _absence(pair, seconds):
    """Node b misses writes for a while, and is back: the owner resyncs it."""
    pair.kill("b")
    wait_for("b's legs off the record", lambda: pair.legs("tank-a") and pair.in_sync("tank-a", "b") == 0)
    time.sleep(seconds)


def _during_resync(pair, chance):
    _absence(pair, 3)
    for leg in pair.legs("tank-a", "a"):   # reads take long: the resync can be met in its middle
        pair.sandbox("fault", f"a:{leg['drive']}", "latency-us 20000 0 0")
    pair.start("b")
    wait_for("a running resync", lambda: "resyncing" in _leg_states(pair, "b"), seconds=40, every=0.02)
    time.sleep(chance.uniform(0, 0.5))
    check(pair.in_sync("tank-a", "b") < len(pair.legs("tank-a", "b")), "the resync was over before the kill: nothing was shown")


def _during_grow(pair, chance):
    _absence(pair, 0.5)
    since_ms = time.time() * 1000
    pair.start("b")
    wait_for("the end of the copying", lambda: any(
        event["kind"] == "resync-finished" and event["time_ms"] >= since_ms for event in pair.events()), seconds=40, every=0.01)


def _during_takeover(pair, chance):
    pair.kill(pair.pool("tank-a")["owner"])
    time.sleep(chance.uniform(0.2, 2.5))


def _during_switchover(pair, chance):
    other = "b" if pair.pool("tank-a")["owner"] == "a" else "a"
    move = subprocess.Popen([str(BIN / "zpair"), "--sandbox", str(pair.dir), "switchover", "tank-a", "--to", other],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(chance.uniform(0.02, 0.6))
    pair.kill("both")
    move.wait(60)


def _killed(pair, moment, turns, seed):
    chance = random.Random(seed)
    load = pair.load("a", ["tank-a"])
    load.goes_on()
    for turn in range(turns):
        moment(pair, chance)
        _kill_both_and_start(pair)
        if moment in (_during_resync, _during_grow) and pair.pool("tank-a")["owner"] != "a":
            pair.zpair("failback", "tank-a")
        load.goes_on()
    load.finish()


def test_both_killed_during_resync(pair):
    """Both nodes killed in the middle of a resync: serves again, nothing lost, nobody asked."""
    _killed(pair, _during_resync, 2, 1)


def test_both_killed_during_grow(pair):
    """Both nodes killed as the resync has just finished and the record grows: the same."""
    _killed(pair, _during_grow, 3, 2)


def test_both_killed_during_takeover(pair):
    """The partner killed in the middle of its takeover: the same."""
    _killed(pair, _during_takeover, 3, 3)


def test_both_killed_during_switchover(pair):
    """Both nodes killed in the middle of a switchover: the same."""
    _killed(pair, _during_switchover, 4, 4)


def test_power_cuts_in_bad_moments(pair):
    """All four moments with drives that lose their unflushed writes (a kill is a power cut)."""
    for seed, moment in enumerate((_during_switchover, _during_takeover)):
        _killed(pair, moment, 2, 10 + seed)
    if pair.pool("tank-a")["owner"] != "a":
        pair.zpair("failback", "tank-a")
    for seed, moment in enumerate((_during_resync, _during_grow)):
        _killed(pair, moment, 1, 20 + seed)


for _test in (test_both_killed_during_resync, test_both_killed_during_grow, test_both_killed_during_takeover,
              test_both_killed_during_switchover):
    _test.options = {"pools": 1}
test_power_cuts_in_bad_moments.options = {"pools": 1, "extra": ("--volatile-cache",)}
del _test


def test_both_return_five_seconds_apart(pair):
    """Both nodes die in sync and return 5 s apart: nothing resyncs, pools at home, nothing lost."""
    load = pair.load("a")
    load.goes_on()
    pair.kill("both")
    since_ms = time.time() * 1000
    pair.start("b")
    time.sleep(5)
    pair.start("a")
    pair.wait_owner("tank-a", "a", seconds=40)
    pair.wait_owner("tank-b", "b", seconds=40)
    load.finish()
    bad = [event["text"] for event in pair.events()
           if event["time_ms"] >= since_ms and event["kind"] in ("resync-started", "leg-off", "redundancy-lost")]
    check(not bad, f"something resynced: {bad}")
    check(all(pool["state"] == "online" for pool in pair.status()["pools"]), "not online")
