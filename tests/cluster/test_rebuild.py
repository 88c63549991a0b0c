"""What was lost for good and comes back on other hardware: the store, the witness, a server, a drive's place."""
import os
import time

from harness import check, wait_for

REFUSED = 3


def _free_drive(pair, node, name, size=256 << 20):
    path = pair.dir / "drives" / node / name
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def _new_store(pair):
    """All three members lose their disks, and a new, empty store is begun."""
    for member in ("etcd:a", "etcd:b", "witness"):
        pair.kill(member)
    pair.sandbox("wipe", "store")
    for member in ("etcd:a", "etcd:b", "witness"):
        pair.start(member)


def _stands_still(load):
    before = load.operations()
    time.sleep(1.5)
    return load.operations() == before


def _store_state(pair):
    return pair.zpair_json("store", "status")["state"]


def test_store_is_rebuilt_under_load(pair):
    """The store lost with all its data, under load: I/O goes on; `store rebuild` gives it the records, and owners go on by their own."""
    load = pair.load("a")
    load.goes_on()
    before = {pool["name"]: (pool["owner"], pool["epoch"]) for pool in pair.status()["pools"]}
    load.mark("rebuild")
    _new_store(pair)
    wait_for("the store answers", lambda: _store_state(pair) == "available")
    load.goes_on()
    # A leg errs now: the owner finds no record to take it off, and holds until there is one.
    pair.sandbox("fault", "b:tank-a-00", "write-errors on")
    wait_for("held writes", lambda: _stands_still(load))
    rebuilt = pair.zpair_json("store", "rebuild")["pools"]
    check(sorted(pool["pool"] for pool in rebuilt) == ["tank-a", "tank-b"], f"{rebuilt}")
    check("nothing to rebuild" in pair.zpair("store", "rebuild").stdout, "done twice")
    load.goes_on()
    check(not pair.legs("tank-a", "b")[0]["in_sync"], "the leg that errs is in sync still")
    pair.sandbox("fault", "b:tank-a-00", "clear")
    pair.wait_in_sync()
    load.mark("after")
    after = {pool["name"]: (pool["owner"], pool["epoch"]) for pool in pair.status()["pools"]}
    check(after == before, f"an owner was restarted: {before} became {after}")
    # The record is alive: a shrink, a grow and an import write it.
    pair.kill("b")
    wait_for("the shrink", lambda: not any(leg["in_sync"] for leg in pair.legs("tank-a", "b")))
    load.goes_on()
    pair.start("b")
    pair.wait_in_sync()
    epoch = pair.pool("tank-a")["epoch"]
    pair.kill("pool:tank-a")
    wait_for("an import", lambda: pair.pool("tank-a")["epoch"] > epoch)
    load.goes_on()
    load.finish()


def test_store_is_not_rebuilt_from_one_node_s_copies(pair):
    """With a node away its copies may be newer: refused in one line, nothing written, until it is back."""
    load = pair.load("a", ["tank-a"])
    pair.kill("b")
    wait_for("the shrink", lambda: not any(leg["in_sync"] for leg in pair.legs("tank-a", "b")))
    load.goes_on()
    load.finish()
    pair.kill("a")
    _new_store(pair)
    pair.start("zpaird:b")   # it has never heard that a went on alone
    wait_for("the store answers", lambda: _store_state(pair) == "available")
    done = pair.zpair("store", "rebuild", ok=(REFUSED,))
    check("node a cannot be asked" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr)
    pair.start("a")
    wait_for("the partner", lambda: all(one["state"] == "up" for one in pair.zpair_json("status")["paths"]))
    rebuilt = {pool["pool"]: pool["from"] for pool in pair.zpair_json("store", "rebuild")["pools"]}
    check(rebuilt == {"tank-a": "a"}, f"taken from {rebuilt}")
    pair.wait_owner("tank-a", "a", seconds=60)
    load.verify_at(pair.uris("a", ["tank-a"])[0])
    pair.wait_in_sync()


test_store_is_not_rebuilt_from_one_node_s_copies.options = {"pools": 1}


def test_store_is_rebuilt_with_accepted_loss(pair):
    """The store and the node that went on alone are lost: the other node's old copy serves again once the loss is accepted, and the lost
    node, should it come back, is resynced as a whole."""
    pair.kill("b")
    wait_for("the shrink", lambda: not any(leg["in_sync"] for leg in pair.legs("tank-a", "b")))
    pair.kill("a")
    _new_store(pair)
    pair.start("zpaird:b")
    wait_for("the store answers", lambda: _store_state(pair) == "available")
    pair.zpair("store", "rebuild", ok=(REFUSED,))
    rebuilt = pair.zpair_json("store", "rebuild", "--accept-data-loss")["pools"]
    check(rebuilt[0]["from"] == "b" and rebuilt[0]["epoch"] > 1000, f"{rebuilt}")
    pair.wait_owner("tank-a", "b", seconds=60)
    load = pair.load("b", ["tank-a"])
    load.goes_on()
    pair.start("a")
    wait_for("a's legs", lambda: all(leg["in_sync"] for leg in pair.legs("tank-a")) and len(pair.legs("tank-a", "a")) == 2, 90)
    check(any(event["kind"] == "store-rebuilt" and "is lost" in event["text"] for event in pair.events()), "no event names the loss")
    pair.zpair("failback", "tank-a")
    pair.wait_owner("tank-a", "a")
    load.goes_on()
    load.finish()


test_store_is_rebuilt_with_accepted_loss.options = {"pools": 1}


def test_witness_is_replaced(pair):
    """The witness's disk is gone with its machine: it gets no vote until it is replaced; then the store survives another member's death."""
    load = pair.load("a", ["tank-a"])
    pair.kill("witness")
    pair.sandbox("wipe", "witness")
    check(pair.sandbox("start", "witness", ok=None).returncode != 0, "a witness without memory votes")
    said = pair.zpair("witness", "replace").stdout
    check("start etcd there" in said, said)
    pair.start("witness")
    members = lambda: {one["name"]: one["state"] for one in pair.zpair_json("store", "status")["members"]}
    wait_for("the witness", lambda: members().get("witness") == "available")
    pair.kill("etcd:b")
    epoch = pair.pool("tank-a")["epoch"]
    pair.kill("pool:tank-a")
    wait_for("a restart at a new epoch", lambda: pair.pool("tank-a")["epoch"] > epoch)
    load.goes_on()
    load.finish()


test_witness_is_replaced.options = {"pools": 1}


def test_node_is_replaced_on_new_hardware(pair):
    """A server lost for good, with its drives: new hardware under its name gets its vote and drives, under load, and can take over."""
    load = pair.load("a")
    pair.kill("b")
    pair.wait_owner("tank-b", "a")
    pair.sandbox("wipe", "b")
    said = pair.zpair("node", "replace", "b").stdout
    check("node replace b" in said, said)
    pair.start("b")
    new = [_free_drive(pair, "b", f"new-{i}") for i in range(4)]
    refused = pair.zpair("node", "replace", "b", *new[:3], ok=None)
    check(refused.returncode == 1 and "none would be left" in refused.stderr, refused.stderr)
    small = _free_drive(pair, "b", "small", 128 << 20)
    refused = pair.zpair("node", "replace", "b", *new[:3], small, ok=None)
    check(refused.returncode == 1 and "too little" in refused.stderr, refused.stderr)
    load.goes_on()
    answer = pair.zpair_json("node", "replace", "b", *new)
    check(len(answer["legs"]) == 4, f"{answer}")
    pair.wait_in_sync()
    check("every drive of node b is in its place" in pair.zpair("node", "replace", "b", *new).stdout, "not repeatable")
    pair.zpair("failback", "tank-b")
    pair.wait_owner("tank-b", "b")
    load.goes_on()
    load.finish()
    second = pair.load("b", ["tank-a"])
    second.goes_on()
    pair.kill("a")
    pair.wait_owner("tank-a", "b")
    second.goes_on()
    second.finish()


def test_node_whose_system_was_lost_keeps_its_drives(pair):
    """A server whose system disk is lost, its drives whole: they take their own places again, copied as a whole."""
    load = pair.load("a", ["tank-a"])
    pair.kill("b")
    wait_for("the shrink", lambda: not any(leg["in_sync"] for leg in pair.legs("tank-a", "b")))
    pair.sandbox("wipe", "zpaird:b")
    pair.start("b")
    load.goes_on()
    drives = sorted((pair.dir / "drives" / "b").iterdir())
    answer = pair.zpair_json("node", "replace", "b", *drives)
    check(len(answer["legs"]) == 2, f"{answer}")
    pair.wait_in_sync()
    load.finish()
    pair.kill("a")
    pair.wait_owner("tank-a", "b")
    load.verify_at(pair.uris("b", ["tank-a"])[0])


test_node_whose_system_was_lost_keeps_its_drives.options = {"pools": 1}


def test_drives_of_a_dead_server_are_moved(pair):
    """The lone owner's server dies, its drives are whole: moved into the other server, the pool serves there with nothing lost."""
    load = pair.load("a", ["tank-a"])
    pair.kill("b")
    wait_for("the shrink", lambda: not any(leg["in_sync"] for leg in pair.legs("tank-a", "b")))
    load.goes_on()
    load.finish()
    carried = pair.dir / "drives" / "b" / "carried-0"
    os.link(pair.dir / "drives" / "a" / "tank-a-00", carried)   # the same drive, seen by both
    served = pair.zpair("drive", "move", "tank-a", f"b:{carried}", ok=None)
    check(served.returncode != 0 and len(served.stderr.splitlines()) == 1, f"moved while it serves: {served.stderr}")
    pair.kill("a")
    pair.start("b")
    wait_for("b refuses", lambda: pair.pool("tank-a")["state"] == "down")
    other = _free_drive(pair, "b", "free")
    none = pair.zpair("drive", "move", "tank-a", f"b:{other}", ok=None)
    check(none.returncode == 1 and "is no leg of pool tank-a" in none.stderr, none.stderr)
    for number in (0, 1):
        there = pair.dir / "drives" / "b" / f"carried-{number}"
        os.rename(pair.dir / "drives" / "a" / f"tank-a-0{number}", there)
        if number == 0:
            refused = pair.zpair("drive", "move", "tank-a", f"b:{there}", ok=(REFUSED,))
            check("--node-is-off" in refused.stderr, refused.stderr)
        pair.zpair("drive", "move", "tank-a", f"b:{there}", "--node-is-off")
    pair.wait_owner("tank-a", "b")
    load.verify_at(pair.uris("b", ["tank-a"])[0])
    wait_for("redundancy on one node", lambda: all(leg["in_sync"] for leg in pair.legs("tank-a", "b")), 60)
    check(len(pair.legs("tank-a", "b")) == 4 and not pair.legs("tank-a", "a"), f"{pair.legs('tank-a', 'b')}")


test_drives_of_a_dead_server_are_moved.options = {"pools": 1}
