"""`zpair tune` on a running pair."""
import json
import re

from harness import BIN, check, run, wait_for


def _value(pair, name, key="value"):
    return next(one[key] for one in pair.zpair_json("tune", "show", "--pool", "tank-a")["settings"] if one["name"] == name)


def test_settings_are_the_pool_s_own(pair):
    """Settings are applied live, go where the pool goes, are undone, and wrong ones change nothing, under load."""
    load = pair.load("b", ["tank-a"])
    before = _value(pair, "zfs_vdev_async_write_max_active")
    differences = {one["name"]: one["wanted"] for one in pair.zpair_json("tune", "diff", "nvme")["differences"]}
    check(differences.get("zfs_vdev_async_write_max_active") == 32, f"{differences}")
    pair.zpair("tune", "apply", "nvme")
    check(_value(pair, "zfs_vdev_async_write_max_active") == 32, "not in force")
    check(pair.zpair_json("tune", "diff", "nvme")["differences"] == [], "something differs after apply")
    pair.zpair("tune", "apply", "zfs_txg_timeout=2")
    pair.kill("a")
    pair.wait_owner("tank-a", "b")
    load.goes_on()
    check((_value(pair, "zfs_vdev_async_write_max_active"), _value(pair, "zfs_txg_timeout")) == (32, 2), "not the pool's own")
    for words, says in ((("zfs_txg_timeout=0",), "takes 1 to 10"), (("no_such=1",), "no tunable no_such"), (("zfs_txg_timeout",), "no profile zfs_txg_timeout"), (("nvme", "stock"), "neither NAME=VALUE"),
                        (("zfs_txg_timeout=3", "zfs_delay_min_dirty_percent=0"), "takes 1 to 100"), (("zfs_txg_timeout=30",), "takes 1 to 10"),
                        (("zfs_vdev_async_write_max_active=1",), "takes 2 to"),
                        (("zfs_vdev_async_write_active_min_dirty_percent=0", "zfs_vdev_async_write_active_max_dirty_percent=0"), "must be below"),
                        (("zfs_scan_suspend_progress=1",), "no tunable zfs_scan_suspend_progress"), (("nothing.toml",), "no profile nothing.toml")):
        done = pair.zpair("tune", "apply", *words, ok=None)
        check(done.returncode == 1 or done.returncode == 2, f"{words}: {done.returncode}")
        check(says in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr)
    check(_value(pair, "zfs_txg_timeout") == 2, "a refused change changed something")
    pair.zpair("tune", "undo")
    check(_value(pair, "zfs_txg_timeout") == 1, "not undone")
    pair.zpair("tune", "undo")
    check(_value(pair, "zfs_vdev_async_write_max_active") == before, "not undone on the other node")
    nothing = pair.zpair("tune", "undo", ok=None)
    check(nothing.returncode != 0 and "left to undo" in nothing.stderr, nothing.stderr)
    load.finish()


test_settings_are_the_pool_s_own.options = {"pools": 1}


def test_search_finds_a_planted_bad_value(pair):
    """A setting that slows writers down: the search finds it by measuring, keeps the mend, and leaves no volume behind."""
    profile = pair.folder / "few.toml"
    profile.write_text('[[setting]]\nname = "zfs_delay_scale"\nvalue = 500000\ntry = [100000000, 500000]\nreason = "for this test"\n')
    pair.zpair("tune", "apply", "zfs_delay_min_dirty_percent=1", "zfs_delay_scale=100000000", "zp_direct_writes=0")
    out = pair.folder / "search"
    done = run(BIN / "zpair", "--sandbox", pair.dir, "tune", "search", "--for", "randwrite-4k-j16", "--guard", "randwrite-4k-j1", "--profile", profile,
               "--pairs", "4", "--seconds", "1", "--out", out, "--json", timeout=240)
    report = json.loads(done.stdout)
    check(report["changes"] == [{"name": "zfs_delay_scale", "before": 100000000, "value": 500000}], f"{report['changes']} of {report['state']['steps']}")
    check(_value(pair, "zfs_delay_scale") == 500000 and _value(pair, "zfs_delay_scale", "kept") == 500000, "the mend is not kept")
    check((out / "search.html").read_text().count("<tr>") >= 3, "the report does not tell what was tried")
    wait_for("its volume to go", lambda: [one["name"] for one in pair.zpair_json("volume", "list")["volumes"]] == ["vm1"])


test_search_finds_a_planted_bad_value.options = {"pools": 1}


def test_memory_is_lent_and_taken_back(pair):
    """A node that runs one pool of two lends it the other's read cache; when it takes the second pool, each has its own."""
    def shares():
        found = {}
        for pool in ("tank-a", "tank-b"):
            found[pool] = next(one["value"] for one in pair.zpair_json("tune", "show", "--pool", pool)["settings"] if one["name"] == "zfs_arc_max")
        return found
    load = pair.load("b")
    lent = wait_for("the lent shares", lambda: shares() if len(set(shares().values())) == 1 else None)["tank-a"]
    pair.kill("a")
    pair.wait_owner("tank-a", "b")
    own = wait_for("the shares of two pools", lambda: shares() if max(shares().values()) < lent else None)
    arc_bytes = int(re.search(r"^arc_mb = (\d+)", (pair.dir / "b" / "zpaird.toml").read_text(), re.M)[1]) << 20
    check(set(own.values()) == {lent - arc_bytes}, f"{own}, lent {lent}")
    load.goes_on()
    pair.start("a")
    pair.wait_in_sync()
    pair.zpair("failback", "tank-a")
    wait_for("the lent shares again", lambda: set(shares().values()) == {lent})
    load.finish()
