"""Orders that come while another change is still under way, and what a node finds when it was away."""
from harness import check, wait_for


def test_failback_right_after_switchover(pair):
    """`failback` sent the moment `switchover` returned, several times: each waits for the other, none is refused."""
    load = pair.load("a", ["tank-a"])
    for _ in range(4):
        pair.zpair("switchover", "tank-a", "--to", "b")
        pair.zpair("failback", "tank-a")
    check(pair.pool("tank-a")["owner"] == "a", "the pool is not home")
    pair.wait_in_sync()
    load.finish()


def test_pool_destroyed_while_the_partner_is_away(pair):
    """A node that was away while a pool was destroyed forgets it at its start, and its drives are free again."""
    drives = [leg["file"] for leg in pair.legs("tank-a", "b")]
    pair.kill("b")
    pair.wait_owner("tank-a", "a")
    wait_for("the shrink", lambda: pair.in_sync("tank-a", "b") == 0)
    pair.zpair("pool", "destroy", "tank-a")
    check("tank-a" not in pair.zpair("pool", "list").stdout, "the pool is still there")
    pair.start("b")
    wait_for("node b to forget the pool", lambda: not (pair.dir / "b" / "state" / "records" / "tank-a.json").exists())
    wait_for("node b's drives to be free", lambda: not any(
        drive["file"] in drives for drive in pair.zpair_json("drive", "list")["drives"]))
    check(any(event["kind"] == "pool-destroyed" for event in pair.events()), "no event says so")


test_failback_right_after_switchover.options = test_pool_destroyed_while_the_partner_is_away.options = {"pools": 1}
