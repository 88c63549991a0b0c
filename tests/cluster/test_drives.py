"""Drives that err, lie dead, answer slowly, lose their cache, or are replaced."""
from harness import check, flip_bytes, wait_for


def _one_leg(pair, pool, node):
    return pair.legs(pool, node)[0]


def _shrunk(pair, pool, drive):
    return wait_for(f"{drive} off the record", lambda: any(
        leg["drive"] == drive and not leg["in_sync"] for leg in pair.legs(pool)), seconds=20)


def _fault_shrinks_one_leg(pair, node, fault):
    load = pair.load("a", ["tank-a"])
    load.goes_on()
    drive = _one_leg(pair, "tank-a", node)["drive"]
    load.mark("fault")
    pair.sandbox("fault", f"{node}:{drive}", fault)
    _shrunk(pair, "tank-a", drive)
    pool = next(one for one in pair.zpair_json("status")["pools"] if one["name"] == "tank-a")
    why = next(leg["why"] for mirror in pool["mirrors"] for leg in mirror["legs"] if (leg["node"], leg["drive"]) == (node, drive))
    check(pool["status"] and why and why != "in sync", f"status does not say why: {pool['status']} / {why}")
    print(f"    {why}")
    others = [leg for leg in pair.legs("tank-a") if leg["drive"] != drive]
    check(all(leg["in_sync"] for leg in others), "other legs were shrunk too")
    pair.sandbox("fault", f"{node}:{drive}", "clear")
    pair.wait_in_sync()
    load.finish()


def test_leg_with_write_errors(pair):
    """A leg that returns write errors is shrunk out; status says why; nothing lost."""
    _fault_shrinks_one_leg(pair, "b", "write-errors on")


def test_local_leg_with_write_errors(pair):
    """The same for the owner's own leg."""
    _fault_shrinks_one_leg(pair, "a", "write-errors on")


def test_leg_with_flush_errors(pair):
    """A leg whose flush fails is shrunk out before anything counts on it."""
    _fault_shrinks_one_leg(pair, "b", "flush-errors on")


def test_slow_leg(pair):
    """A leg that answers in 5 s instead of 1 ms is shrunk out."""
    _fault_shrinks_one_leg(pair, "b", "slow 5000")


def test_lost_cache_is_noticed(pair):
    """A drive that loses completed but unflushed writes inside the hold window: noticed by its verifier, nothing lost."""
    load = pair.load("a", ["tank-a"])
    for turn in range(5):
        load.goes_on()
        for leg in pair.legs("tank-a", "b"):
            pair.sandbox("fault", f"b:{leg['drive']}", "lose-cache")
        pair.wait_in_sync()
    load.finish()
    pair.wait_in_sync()   # the last loss may have been noticed only now
    pair.kill("a")
    pair.wait_owner("tank-a", "b")
    load2 = pair.load("b", ["tank-a"])
    load2.goes_on()
    load2.finish()


test_lost_cache_is_noticed.options = {"extra": ("--volatile-cache",)}


def test_replace_under_load_then_node_kill(pair):
    """`drive replace` under load, then the other node killed: nothing lost."""
    load = pair.load("b", ["tank-a"])
    load.goes_on()
    old = _one_leg(pair, "tank-a", "b")
    new_file = pair.dir / "drives" / "b" / "spare"
    with open(new_file, "wb") as file:
        file.truncate(256 << 20)
    pair.zpair("drive", "replace", "tank-a", f"b:{old['drive']}", f"b:{new_file}")
    wait_for("the new leg in sync", lambda: any(
        leg["file"] == str(new_file) and leg["in_sync"] for leg in pair.legs("tank-a")), seconds=60)
    pair.kill("a")
    pair.wait_owner("tank-a", "b")
    load.goes_on()
    load.finish()


def test_replacement_whose_resync_failed(pair):
    """The node of the drives dies in mid-resync: both legs return, the same command ends the replacement, the reverse takes one back."""
    load = pair.load("a", ["tank-a"])
    load.goes_on()
    old = _one_leg(pair, "tank-a", "b")
    spare = pair.dir / "drives" / "b" / "spare"
    with open(spare, "wb") as file:
        file.truncate(256 << 20)

    def files():
        return {leg["file"]: leg["in_sync"] for leg in pair.legs("tank-a", "b")}

    pair.zpair("drive", "replace", "tank-a", f"b:{old['drive']}", f"b:{spare}")
    pair.kill("b")
    wait_for("the survivor alone", lambda: pair.in_sync("tank-a", "b") == 0)
    refused = pair.zpair("drive", "replace", "tank-a", f"b:{old['drive']}", f"b:{spare}", ok=None)
    check(refused.returncode != 0, "a drive that cannot be reached takes another one's place")
    pair.start("b")
    pair.wait_in_sync()
    check(files().get(old["file"]) and files().get(str(spare)), f"both legs are in sync: {files()}")
    load.goes_on()
    pair.zpair("drive", "replace", "tank-a", f"b:{spare}", f"b:{old['file']}")       # taken back
    wait_for("the spare's leave", lambda: str(spare) not in files())
    check(files()[old["file"]], f"the drive that was kept is not in sync: {files()}")
    load.goes_on()
    pair.zpair("drive", "replace", "tank-a", f"b:{old['drive']}", f"b:{spare}", "--force")   # and once more, to its end
    wait_for("the old drive's leave", lambda: files().get(str(spare)) and old["file"] not in files(), 60)
    load.finish()


test_replacement_whose_resync_failed.options = {"pools": 1, "mirrors": 1}


def test_flipped_byte_is_healed(pair):
    """Bytes flipped on one leg: reads return good data, status counts them, one scrub heals all: the next one finds none."""
    load = pair.load("a", ["tank-a"])
    load.goes_on(1500)
    load.finish()
    leg = _one_leg(pair, "tank-a", "a")
    flip_bytes(leg)
    pair.scrub("tank-a")
    found = pair.counted("tank-a", leg, "checksum_errors")
    check(found > 0, "no checksum error is counted")
    again = pair.load("a", ["tank-a"])
    again.goes_on()
    again.finish()
    pair.scrub("tank-a")
    more = pair.counted("tank-a", leg, "checksum_errors") - found
    check(more == 0, f"{more} blocks were not healed")


def test_leg_with_read_errors(pair):
    """A leg with unreadable sectors: reads come from the other leg, sectors are healed, counted, and nothing is shrunk."""
    load = pair.load("a", ["tank-a"], working_set="48M")
    load.goes_on(1500)
    load.finish()
    leg = _one_leg(pair, "tank-a", "a")
    ranges = ";".join(f"read-errors {offset}+65536" for offset in range(8 << 20, 200 << 20, 1 << 20))
    pair.sandbox("fault", f"a:{leg['drive']}", ranges)
    again = pair.load("a", ["tank-a"], working_set="48M")
    pair.scrub("tank-a")
    again.finish()
    found = pair.counted("tank-a", leg, "read_errors")
    check(found > 0, "no read error is counted")
    wait_for("something healed", lambda: pair.counted("tank-a", leg, "repaired_bytes") > 0)
    check(all(one["in_sync"] for one in pair.legs("tank-a")), "a leg was shrunk for unreadable sectors")
    pair.scrub("tank-a")
    # Rarely one is met again (1 in some ten runs): probably a free place between two blocks that OpenZFS reads in one piece. Not proven.
    more = pair.counted("tank-a", leg, "read_errors") - found
    check(more <= found // 10, f"{more} sectors of {found} were not healed")


def test_leg_with_unreadable_labels(pair):
    """OpenZFS would close a leg whose labels are bad too: it is shrunk out before, and the pool process lives on."""
    load = pair.load("a", ["tank-a"], working_set="48M")
    load.goes_on(1500)
    leg = _one_leg(pair, "tank-a", "a")
    process = pair.pool("tank-a")["process"]
    labels = ["0+4194304", f"{(256 << 20) - (512 << 10)}+524288"]
    data = [f"{offset}+65536" for offset in range(8 << 20, 200 << 20, 4 << 20)]   # fewer than what is shrunk for by number
    pair.sandbox("fault", f"a:{leg['drive']}", ";".join(f"read-errors {where}" for where in labels + data))
    pair.zpair("pool", "scrub", "tank-a")
    _shrunk(pair, "tank-a", leg["drive"])
    pair.sandbox("fault", f"a:{leg['drive']}", "clear")
    pair.wait_in_sync()
    load.finish()
    check(pair.pool("tank-a")["process"] == process, "the pool process ended")


test_leg_with_unreadable_labels.options = {"pools": 1}
