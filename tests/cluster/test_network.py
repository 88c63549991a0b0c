"""Paths and partitions."""
import time

from harness import check, stalls, wait_for


def test_one_path_cut(pair):
    """One path cut under load: nobody notices, nothing is degraded."""
    load = pair.load("a")
    load.goes_on()
    load.mark("path-cut")
    pair.cut("path1")
    wait_for("path1 down in status", lambda: pair.path_state("path1") == "down")
    load.goes_on()
    load.mark("healed")
    check(pair.in_sync("tank-a", "b") == len(pair.legs("tank-a", "b")), "a single path's cut degraded the pool")
    pair.heal("path1")
    load.goes_on()
    result = load.finish()
    check(stalls(result)["path-cut"] <= 1500, f"{stalls(result)}")


def test_healed_by_reset(pair):
    """A cut that is healed by dropping what it held: the connections end, are made again, and nothing is lost."""
    load = pair.load("a", ["tank-a"], working_set="1M", writers=8)
    for path in ("path1", "path2"):
        load.goes_on()
        pair.cut(path)
        wait_for(f"{path} down in status", lambda: pair.path_state(path) == "down")
        load.goes_on()
        pair.heal(path, reset=True)
        wait_for(f"{path} up again", lambda: pair.path_state(path) == "up")
    load.goes_on()
    check(all(leg["in_sync"] for leg in pair.legs("tank-a")), "a single path's reset degraded the pool")
    load.finish()


test_healed_by_reset.options = {"pools": 1}


def test_short_partition(pair):
    """A partition of 0.5 s degrades nothing."""
    load = pair.load("a")
    load.goes_on()

    def drop():
        pair.cut("paths")
        time.sleep(0.4)
        pair.heal("paths")

    pair.degrades_nothing(load, "tank-a", drop)
    load.finish()


def test_long_partition(pair):
    """A partition of 10 s degrades the owner; the partner takes over nothing; healed, it resyncs."""
    load = pair.load("a", ["tank-a"])
    load.goes_on()
    epoch = pair.pool("tank-a")["epoch"]
    pair.cut("paths")
    time.sleep(10)
    pool = pair.pool("tank-a")
    check(pool["owner"] == "a" and pool["epoch"] == epoch, f"the pool moved: {pool['owner']} epoch {pool['epoch']}")
    check(pair.in_sync("tank-a", "b") == 0, "the owner went on without shrinking")
    pair.heal("paths")
    pair.wait_in_sync()
    load.finish()


def test_one_way_cut(pair):
    """One direction of both paths cut for 5 s: one owner, nothing lost."""
    load = pair.load("a", ["tank-a"])
    load.goes_on()
    for direction in ("a>b", "b>a"):
        pair.cut(f"path1:{direction}")
        pair.cut(f"path2:{direction}")
        time.sleep(5)
        check(pair.pool("tank-a")["owner"] == "a", "the pool moved")
        pair.heal(f"path1:{direction}")
        pair.heal(f"path2:{direction}")
        pair.wait_in_sync()
    load.finish()


def test_owner_wholly_cut_off(pair):
    """Both paths and the store cut from the owner's node: the partner takes over; the cut-off owner answers nothing."""
    load = pair.load("b", ["tank-a"])
    load.goes_on()
    pair.cut("paths")
    pair.cut("store:a")
    pair.wait_owner("tank-a", "b")
    time.sleep(8)
    pair.heal("store:a")
    pair.heal("paths")
    pair.wait_in_sync()
    check(pair.pool("tank-a")["owner"] == "b", "the pool moved back by itself")
    load.finish()


def test_late_delivery_after_heal(pair):
    """Writes held in a cut path and re-sent through the other never land late."""
    load = pair.load("a", ["tank-a"], working_set="1M", writers=8)
    for turn in range(5):
        load.goes_on()
        pair.cut("path1")
        load.goes_on()
        pair.heal("path1")
        load.goes_on()
        pair.cut("path2")
        load.goes_on()
        pair.heal("path2")
    load.finish()


def test_store_cut_from_one_node(pair):
    """store:a cut and healed: I/O goes on, nothing moves."""
    load = pair.load("a")
    load.goes_on()
    before = [(pool["owner"], pool["epoch"]) for pool in pair.status()["pools"]]
    pair.cut("store:a")
    time.sleep(3)
    pair.heal("store:a")
    load.goes_on()
    check(before == [(pool["owner"], pool["epoch"]) for pool in pair.status()["pools"]], "a pool moved")
    load.finish()


def test_store_down_for_a_while(pair):
    """All etcd members down under a healthy load: I/O goes on."""
    load = pair.load("a")
    load.goes_on()
    for member in ("a", "b", "witness"):
        pair.kill(f"etcd:{member}")
    load.mark("store-down")
    time.sleep(10)
    load.mark("store-back")
    for member in ("a", "b", "witness"):
        pair.start(f"etcd:{member}")
    result = load.finish()
    check(stalls(result)["store-down"] <= 1500, f"{stalls(result)}")


def test_one_way_cut_of_one_path(pair):
    """One direction of a single path cut, each in turn: the other path carries on, nothing is degraded, nothing moves."""
    load = pair.load("a", ["tank-a"])
    load.goes_on()
    epoch = pair.pool("tank-a")["epoch"]
    for cut in ("path1:a>b", "path1:b>a", "path2:a>b", "path2:b>a"):
        pair.cut(cut)
        load.goes_on()
        pair.heal(cut)
        load.goes_on()
    pool = pair.pool("tank-a")
    check(pool["owner"] == "a" and pool["epoch"] == epoch, "the pool moved")
    check(all(leg["in_sync"] for leg in pair.legs("tank-a")), "a single path's cut degraded the pool")
    load.finish()
