"""What is durable on a node: its copy of the record, also while its zpaird is gone or silent."""
import json

from harness import check, wait_for


def _copy(pair, node, pool):
    return json.loads((pair.dir / node / "state" / "records" / f"{pool}.json").read_text())


def _legs_in_sync(record, node):
    return sum(leg["in_sync"] for mirror in record["mirrors"] for leg in mirror["legs"] if leg["node"] == node)


def _partner_dies_without_zpaird(pair, disturb, mend):
    load = pair.load("a", ["tank-a"])
    check(_legs_in_sync(_copy(pair, "a", "tank-a"), "b") == 2, "the copy does not start in sync")
    disturb("zpaird:a")
    pair.kill("b")
    copy = wait_for("the shrink in the node's own copy of the record",
                    lambda: (lambda record: record if _legs_in_sync(record, "b") == 0 else None)(_copy(pair, "a", "tank-a")))
    check(_legs_in_sync(copy, "a") == 2, "own legs were shrunk")
    mend("zpaird:a")
    wait_for("status by the zpaird that came back", lambda: pair.pool("tank-a")["state"] == "degraded")
    now = _copy(pair, "a", "tank-a")
    check((now["epoch"], now["rev"]) >= (copy["epoch"], copy["rev"]), f"the copy went back: {now['rev']} after {copy['rev']}")
    pair.start("b")
    pair.wait_in_sync()
    load.finish()


def test_shrink_while_zpaird_is_gone(pair):
    """With no zpaird the pool process itself writes the node's copy of the record before it goes on (rules 3 and 9)."""
    _partner_dies_without_zpaird(pair, pair.kill, pair.start)


def test_shrink_while_zpaird_is_silent(pair):
    """The same with a zpaird that lives and answers nothing."""
    _partner_dies_without_zpaird(pair, pair.pause, pair.resume)


test_shrink_while_zpaird_is_gone.options = test_shrink_while_zpaird_is_silent.options = {"pools": 1}
