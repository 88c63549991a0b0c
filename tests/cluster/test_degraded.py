"""The partner dies, a leg fails, both nodes fail: what may go on, what must refuse, what comes back."""
import os
import time

from harness import check, run, stalls, wait_for


def _wait_degraded(pair, pool, node):
    wait_for(f"{pool} without {node}'s legs", lambda: pair.in_sync(pool, node) == 0 and pair.pool(pool)["mirrors"])


def test_partner_killed_then_owner(pair):
    """Partner dies, owner goes on, owner dies: the partner alone refuses; with the owner back nothing is lost."""
    load = pair.load("a", ["tank-a"])
    load.goes_on()
    load.mark("partner-loss")
    pair.kill("b")
    _wait_degraded(pair, "tank-a", "b")
    load.goes_on()
    pair.kill("a")
    pair.start("b")
    wait_for("a refusal that names a's legs", lambda: any(
        pool["name"] == "tank-a" and pool["state"] == "down" and "a" in pool.get("status", "")
        for pool in pair.zpair_json("status")["pools"]), seconds=40)
    check(pair.pool("tank-a")["state"] == "down", "b serves a pool whose newest writes it never saw")
    load.mark("owner-returns")
    pair.start("a")
    pair.wait_owner("tank-a", "a", seconds=40)
    pair.wait_in_sync()
    load.finish()


def test_partner_then_witness(pair):
    """Partner killed, then the witness: the owner goes on; its restart waits for the store and serves when it is back."""
    load = pair.load("a", ["tank-a"])
    load.goes_on()
    pair.kill("b")
    _wait_degraded(pair, "tank-a", "b")
    pair.kill("witness")
    time.sleep(3)
    load.mark("store-less")
    pair.kill("pool:tank-a")
    wait_for("it says that it waits for the store", lambda: any(
        pool["name"] == "tank-a" and "store" in (pool.get("status") or "") for pool in pair.zpair_json("status")["pools"]))
    pair.start("witness")
    began = time.monotonic()
    pair.wait_owner("tank-a", "a", seconds=15)
    print(f"    served {time.monotonic() - began:.1f} s after the witness's return (goal: 2)")
    load.goes_on()
    load.finish()


def test_partner_returns_and_resyncs_little(pair):
    """Resync after a 10 s absence copies what was written meanwhile, not the pool; reads and writes go on."""
    # Most of the pool is older than the absence: a volume of random bytes that nobody writes any more.
    pair.zpair("volume", "create", "tank-a/old", "192M")
    uri = next(volume["nbd"]["a"] for volume in pair.zpair_json("volume", "list")["volumes"] if volume["name"] == "old")
    source = pair.folder / "random"
    source.write_bytes(os.urandom(192 << 20))
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, uri)
    load = pair.load("a", volumes=["vm1"], pools=["tank-a"], working_set="8M", rate=100)
    load.goes_on()
    pair.kill("b")
    _wait_degraded(pair, "tank-a", "b")
    time.sleep(10)
    since_ms = time.time() * 1000
    load.mark("resync")
    pair.start("b")
    pair.wait_in_sync()
    load.mark("after")
    result = load.finish()
    check(stalls(result)["resync"] <= 2000, f"I/O stood still during the resync: {stalls(result)}")
    pool = next(pool for pool in pair.zpair_json("status")["pools"] if pool["name"] == "tank-a")
    copied_bytes = sum(int(event["text"].split()[0]) for event in pair.events()
                       if event["kind"] == "resync-finished" and event["pool"] == "tank-a" and event["time_ms"] >= since_ms)
    print(f"    copied {copied_bytes >> 20} MiB, allocated {pool['allocated_bytes'] >> 20} MiB")
    check(0 < copied_bytes < pool["allocated_bytes"] / 2, f"copied {copied_bytes} of {pool['allocated_bytes']} allocated")


test_partner_returns_and_resyncs_little.options = {"pools": 1}


def test_partner_dies_again_and_again(pair):
    """The partner dies three times within a minute: its legs return at once each time, and `status` blames no drive."""
    load = pair.load("a", ["tank-a"])
    for _ in range(3):
        load.goes_on()
        pair.kill("b")
        _wait_degraded(pair, "tank-a", "b")
        pair.start("b")

        def back():
            pool = next(pool for pool in pair.zpair_json("status")["pools"] if pool["name"] == "tank-a")
            check("Mend or replace" not in (pool["action"] or ""), f"blames a drive: {pool['action']}")
            legs = [leg for mirror in pool["mirrors"] for leg in mirror["legs"] if leg["node"] == "b"]
            check(not any("backing off" in leg["why"] for leg in legs), f"backs off: {legs[0]['why']}")
            return all(leg["in_sync"] for leg in legs)

        wait_for("b's legs in sync", back, seconds=60)
    load.finish()


test_partner_dies_again_and_again.options = {"pools": 1}


def test_zpaird_of_the_partner_restarted(pair):
    """zpaird of the partner killed and restarted at once: its legs are back within the hold window, nothing shrunk."""
    load = pair.load("a", ["tank-a"])
    load.goes_on()

    def restart():
        pair.kill("zpaird:b")
        pair.start("zpaird:b")

    pair.degrades_nothing(load, "tank-a", restart)
    load.finish()


def test_both_nodes_killed(pair):
    """Both nodes killed at once under load, both started: serves, nothing lost, nobody asked."""
    load = pair.load("a")
    load.goes_on()
    pair.kill("both")
    pair.start("both")
    pair.wait_owner("tank-a", "a", seconds=60)
    pair.wait_owner("tank-b", "b", seconds=60)
    pair.wait_in_sync()
    load.finish()


def test_both_nodes_lose_power_with_volatile_caches(pair):
    """The same with drives that lose every unflushed write (a kill is a power cut)."""
    test_both_nodes_killed(pair)


test_both_nodes_lose_power_with_volatile_caches.options = {"extra": ("--volatile-cache",)}


def test_one_of_two_returns(pair):
    """Both nodes down with all legs in sync, one returns: it serves both pools."""
    load = pair.load("b")
    load.goes_on()
    pair.kill("both")
    pair.start("b")
    pair.wait_owner("tank-a", "b", seconds=60)
    pair.wait_owner("tank-b", "b", seconds=60)
    pair.start("a")
    pair.wait_in_sync()
    load.finish()


def test_clean_down_and_up(pair):
    """Down and up again: pools at home, nothing resyncs, and stock zdb finds no fault in the exported pool."""
    load = pair.load("a")
    load.goes_on()
    load.finish()
    pair.sandbox("down")
    drives = pair.dir / "drives"
    done = run("zdb", "-e", "-p", drives / "a", "-p", drives / "b", "-b", "tank-a", ok=None, timeout=120)
    check(done.returncode == 0, f"zdb: {done.stderr[-400:]}")
    check("No leaks" in done.stdout, done.stdout[-400:])
    pair.sandbox("up")
    pair.wait_owner("tank-a", "a", seconds=60)
    pair.wait_owner("tank-b", "b", seconds=60)


def test_override_of_the_operator(pair):
    """Partner killed, writes go on, owner killed, partner started: refuses and shows the sides; the override serves, is logged, and
    the former owner comes back as a side of new legs; nothing of the accepted history is lost."""
    lost = pair.load("a", ["tank-a"])
    lost.goes_on()
    pair.kill("b")
    _wait_degraded(pair, "tank-a", "b")
    lost.goes_on()
    pair.kill("a")
    lost.stop_hard()                     # what it had acknowledged from here on is what the operator gives up
    pair.start("b")
    wait_for("the refusal", lambda: pair.pool("tank-a")["state"] == "down", seconds=40)
    refused = pair.zpair("pool", "import", "tank-a", ok=(3,))
    check("side b: last complete txg" in refused.stderr and "s old" in refused.stderr, f"b's side is not shown: {refused.stderr}")
    check("side a: not in reach" in refused.stderr, f"a's side is not shown: {refused.stderr}")
    epoch = pair.pool("tank-a")["epoch"]
    done = pair.zpair("pool", "import", "tank-a", "--accept-data-loss")
    check("side b: last complete txg" in done.stdout, done.stdout)
    pool = pair.wait_owner("tank-a", "b")
    check(pool["epoch"] > epoch, "no new epoch")
    check(any(event["kind"] == "override" and "side b: last complete txg" in event["text"] for event in pair.events()), "no event tells it")
    load = pair.load("b", ["tank-a"])
    load.goes_on()
    load.finish()
    pair.start("a")
    pair.wait_in_sync()
    copied = [event["text"] for event in pair.events() if event["kind"] == "resync-started"]
    check(sum("new and gets everything" in text for text in copied) == 2, f"a's legs did not come back as new ones: {copied}")
    pool = pair.pool("tank-a")
    check(pool["owner"] == "b" and pool["state"] == "online", f"{pool['owner']}, {pool['state']}")
    pair.kill("b")                       # what a's new legs hold is all that is left
    pair.wait_owner("tank-a", "a")
    load.verify_at(pair.uris("a", ["tank-a"])[0])
    pair.start("b")
    pair.wait_in_sync()
    pair.sandbox("down")
    drives = pair.dir / "drives"
    done = run("zdb", "-e", "-p", drives / "a", "-p", drives / "b", "-b", "tank-a", ok=None, timeout=120)
    check(done.returncode == 0 and "No leaks" in done.stdout, f"zdb: {done.stderr[-400:]} {done.stdout[-400:]}")


def test_override_wants_a_complete_side(pair):
    """A drive of the partner had failed before its node did: its side is incomplete, and refused unless corruption is accepted too."""
    load = pair.load("a", ["tank-a"])
    load.goes_on()
    drive = pair.legs("tank-a", "b")[0]["drive"]
    pair.sandbox("fault", f"b:{drive}", "write-errors on")
    wait_for("that leg off the record", lambda: pair.in_sync("tank-a", "b") == 1)
    load.goes_on()
    pair.kill("b")
    _wait_degraded(pair, "tank-a", "b")
    load.goes_on()
    pair.kill("a")
    load.stop_hard()
    pair.start("b")
    wait_for("the refusal", lambda: pair.pool("tank-a")["state"] == "down", seconds=40)
    epoch = pair.pool("tank-a")["epoch"]
    refused = pair.zpair("pool", "import", "tank-a", "--accept-data-loss", ok=(3,))
    check("incomplete" in refused.stderr and "--accept-corruption" in refused.stderr, refused.stderr)
    check(pair.pool("tank-a")["epoch"] == epoch, "something changed")


def test_override_of_a_side_in_mid_resync(pair):
    """The owner dies in the middle of the partner's resync: that side is refused until corruption is accepted too; then it serves at a
    new epoch, the event says what was named, and the former owner comes back as a side of new legs."""
    load = pair.load("a", ["tank-a"])
    load.goes_on()
    pair.kill("b")
    _wait_degraded(pair, "tank-a", "b")
    time.sleep(3)
    for leg in pair.legs("tank-a", "a"):   # reads take long: the resync can be met in its middle
        pair.sandbox("fault", f"a:{leg['drive']}", "latency-us 20000 0 0")
    pair.start("b")
    # Not before every leg is back: a side of which one leg is still offline in the other's tree cannot be imported at all.
    wait_for("a running resync", lambda: pair.told("tank-a")["scan"] is not None, seconds=40, every=0.02)
    pair.kill("a")
    load.stop_hard()
    wait_for("the refusal", lambda: pair.pool("tank-a")["state"] == "down", seconds=40)
    check(pair.in_sync("tank-a", "b") == 0, "the resync was over before the kill: nothing was shown")
    epoch = pair.pool("tank-a")["epoch"]
    refused = pair.zpair("pool", "import", "tank-a", "--accept-data-loss", ok=(3,))
    check("mid-resync" in refused.stderr and "--accept-corruption" in refused.stderr, refused.stderr)
    pool = pair.pool("tank-a")
    check((pool["state"], pool["epoch"]) == ("down", epoch), f"the refusal changed something: {pool['state']}, epoch {pool['epoch']}")
    done = pair.zpair("pool", "import", "tank-a", "--accept-data-loss", "--accept-corruption", ok=None)
    check(done.returncode == 0 and "mid-resync" in done.stdout, f"{done.stdout}{done.stderr} {[event['text'] for event in pair.events()[-6:]]}")
    pool = pair.wait_owner("tank-a", "b")
    check(pool["epoch"] > epoch, "no new epoch")
    check(any(event["kind"] == "override" and "mid-resync" in event["text"] for event in pair.events()), "no event tells it")
    pair.zpair("volume", "create", "tank-a/after", "16M")   # what is written from here on is safe again
    after = pair.load("b", ["tank-a"], ["after"], working_set="4M")
    after.goes_on()
    pair.start("a")
    pair.wait_in_sync()
    copied = [event["text"] for event in pair.events() if event["kind"] == "resync-started"]
    check(sum("new and gets everything" in text for text in copied) == 2, f"a's legs did not come back as new ones: {copied}")
    after.finish()
    pair.kill("b")                       # what a's new legs hold is all that is left
    pair.wait_owner("tank-a", "a")
    after.verify_at(pair.uris("a", ["tank-a"], ["after"])[0])


for _test in (test_override_of_the_operator, test_override_wants_a_complete_side, test_override_of_a_side_in_mid_resync):
    _test.options = {"pools": 1}
