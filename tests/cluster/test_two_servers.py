"""The same daemons on two servers: docs/two-servers.md, carried out on hosts made of namespaces."""
from harness import check, stalls, wait_for
from two_servers import TwoServers


def test_two_servers(pair):
    """The files and commands of docs/two-servers.md make a pair of two hosts; a switch dies, then a host: nothing lost."""
    load = pair.load("b")
    load.goes_on()
    before = pair.pool("tank-a")

    load.mark("switch-down")
    pair.switch("path1", "down")
    wait_for("path1 down in status", lambda: pair.path_state("path1") == "down")
    load.goes_on()
    pool = pair.pool("tank-a")
    check(pool["state"] == "online" and pair.in_sync("tank-a", "b") == 2, f"one dead switch degraded the pool: {pool['status']}")
    check((pool["owner"], pool["epoch"]) == (before["owner"], before["epoch"]), "one dead switch moved the pool")
    load.mark("switch-up")
    pair.switch("path1", "up")
    wait_for("path1 up in status", lambda: pair.path_state("path1") == "up")
    load.goes_on()

    load.mark("host-dies")
    pair.power_off("a")
    pool = pair.wait_owner("tank-a", "b")
    check(pool["epoch"] > before["epoch"], f"epoch {pool['epoch']} after {before['epoch']}")
    load.goes_on()
    load.mark("host-returns")
    pair.power_on("a")
    pair.wait_in_sync()
    pair.asked = "a"
    wait_for("the same on a", lambda: pair.pool("tank-a")["owner"] == "b" and pair.pool("tank-a")["state"] == "online")
    result = load.finish()
    print("   ", stalls(result), flush=True)
    check(stalls(result)["switch-down"] <= 1500 and stalls(result)["host-dies"] <= 4000, f"stalls {stalls(result)}")


test_two_servers.pair = TwoServers
