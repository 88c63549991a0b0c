"""Wrong use: one clear line on stderr, the right exit code, and nothing changed."""
import os
import shutil
import subprocess
import time

from harness import BIN, check, run, wait_for

FAILED, USAGE, REFUSED = 1, 2, 3


def _facts(pair):
    """All that a command could change: records, legs, volumes, drives."""
    pools = [{**{key: pool[key] for key in ("name", "guid", "owner", "home", "epoch", "rev", "state", "wanted")},
              "legs": [[leg[key] for key in ("node", "drive", "file", "guid", "in_sync", "state")]
                       for mirror in pool["mirrors"] for leg in mirror["legs"]]}
             for pool in pair.zpair_json("status")["pools"]]
    volumes = sorted((volume["pool"], volume["name"], volume["size_bytes"], volume["thin"])
                     for volume in pair.zpair_json("volume", "list")["volumes"])
    drives = sorted((drive["node"], drive["file"], drive["pool"] or "") for drive in pair.zpair_json("drive", "list")["drives"])
    return {"pools": pools, "volumes": volumes, "drives": drives}


def _refused(pair, code, word, *command):
    """The command ends with this code and one line on stderr that says `word`."""
    done = pair.zpair(*command, ok=None)
    said = " ".join(map(str, command))
    check(done.returncode == code, f"{said}: exit {done.returncode}, not {code}: {done.stderr}{done.stdout}")
    lines = done.stderr.splitlines()
    check(len(lines) == 1 and lines[0].startswith("zpair: "), f"{said}: not one line: {done.stderr!r}")
    check(word in lines[0], f"{said}: its line does not say '{word}': {lines[0]}")
    check(not done.stdout, f"{said}: printed a result: {done.stdout!r}")


def _each_refused_and_nothing_changed(pair, cases):
    before = _facts(pair)
    for code, word, *command in cases:
        _refused(pair, code, word, *command)
        after = _facts(pair)
        check(after == before, f"{' '.join(map(str, command))} changed something:\n  {before}\n  {after}")


def _drive(pair, node, name, size_mb=256):
    file = pair.dir / "drives" / node / name
    with open(file, "wb") as new:
        new.truncate(size_mb << 20)
    return file


def _create(owner, *mirrors, name="p2"):
    return ["pool", "create", name, "--owner", owner, *(word for mirror in mirrors for word in ("--mirror", mirror))]


def test_wrong_drives(pair):
    """Too small, unequal, absent, twice, in use, of another pool, of the other node: one line each, nothing changed."""
    tiny = {node: _drive(pair, node, "tiny", 1) for node in "ab"}
    half, empty = _drive(pair, "b", "half", 128), _drive(pair, "b", "empty", 0)
    good = {node: _drive(pair, node, "good") for node in "ab"}
    used = {node: pair.dir / "drives" / node / "tank-a-00" for node in "ab"}
    foreign = pair.dir / "drives" / "a" / "foreign"
    shutil.copy(used["a"], foreign)
    _each_refused_and_nothing_changed(pair, [
        (FAILED, "1048576 bytes", *_create("a", f"a:{tiny['a']},b:{tiny['b']}")),
        (FAILED, "of one size", *_create("a", f"a:{good['a']},b:{half}")),
        (FAILED, "there is no drive", *_create("a", f"a:{good['a']}x,b:{good['b']}")),
        (FAILED, "twice", *_create("a", f"a:{good['a']},b:{good['b']}", f"a:{good['a']},b:{good['b']}")),
        (FAILED, "both nodes", *_create("a", f"a:{good['a']}")),
        (FAILED, "both nodes", *_create("a", f"a:{good['a']},a:{foreign}")),
        (FAILED, "is a leg of pool tank-a", *_create("a", f"a:{used['a']},b:{good['b']}")),
        (FAILED, "carries pool tank-a", *_create("a", f"a:{foreign},b:{good['b']}")),
        (FAILED, "1048576 bytes", "pool", "add", "tank-a", "--mirror", f"a:{tiny['a']},b:{tiny['b']}"),
        (FAILED, "of one size", "pool", "add", "tank-a", "--mirror", f"a:{good['a']},b:{half}"),
        (FAILED, "no drive nosuch", "drive", "replace", "tank-a", "b:nosuch", f"b:{good['b']}"),
        (FAILED, "there is no drive", "drive", "replace", "tank-a", "b:tank-a-00", f"b:{good['b']}x"),
        (FAILED, "different nodes", "drive", "replace", "tank-a", "b:tank-a-00", f"a:{good['a']}"),
        (FAILED, f"drive b:{pair.dir}/drives/b/tank-a-01 is a leg of pool tank-a already, and did not come to replace tank-a-00",
         "drive", "replace", "tank-a", "b:tank-a-00", f"b:{pair.dir}/drives/b/tank-a-01"),
        (REFUSED, "carries pool tank-a", "drive", "replace", "tank-a", "a:tank-a-00", f"a:{foreign}"),
        *((FAILED, f"drive b:{small} is {size_bytes} bytes, too small", "drive", "replace", "tank-a", "b:tank-a-00", f"b:{small}")
          for small, size_bytes in ((half, 128 << 20), (tiny["b"], 1 << 20), (empty, 0))),
        (FAILED, "0 bytes, too small", *_create("a", f"a:{good['a']},b:{empty}")),
    ])
    # --force is the way to take a drive that carries another pool, and what was refused before can still be used.
    pair.zpair(*_create("a", f"a:{foreign},b:{good['b']}"), "--force")
    pair.wait_owner("p2", "a")


test_wrong_drives.options = {"pools": 1}


def _wrong_sandboxes(pair):
    """Folders, parts and links that are none: one line each, nothing is made."""
    fresh = pair.folder / "fresh"
    for code, word, *command in [
        (USAGE, "empty word", "up", ""),
        (USAGE, "--link-latency is -5", "up", fresh, "--link-latency", "-5"),
        (USAGE, "--pools is 0", "up", fresh, "--pools", 0),
        (USAGE, "at least 64M", "up", fresh, "--drive-size", "1M"),
        (FAILED, "neither empty nor a sandbox", "up", pair.folder),
        (FAILED, "neither empty nor a sandbox", "up", pair.dir / "sandbox.json"),
        (FAILED, "cannot make the folder", "up", "/proc/zpair"),
        (FAILED, "other options", "up", pair.dir, "--mirrors", 5),
        (FAILED, "is no sandbox", "down", pair.folder, "--delete"),
        (FAILED, "is no sandbox", "status", fresh),
        (USAGE, "'foo' is no part", "kill", pair.dir, "foo"),
        (FAILED, "no process of pool:nosuch", "kill", pair.dir, "pool:nosuch"),
        (FAILED, "no process of pool:nosuch", "pause", pair.dir, "pool:nosuch"),
        (FAILED, "a pool nosuch", "start", pair.dir, "pool:nosuch"),
        (FAILED, "no such link", "cut", pair.dir, "path3"),
        (FAILED, "no such link", "cut", pair.dir, "path1:a>a"),
        (USAGE, "not in range", "wait", pair.dir, "--timeout", -3),
        (USAGE, "names no drive", "fault", pair.dir, "tank-a-00", "clear"),
        (FAILED, "has no drive nosuch", "fault", pair.dir, "a:nosuch", "clear"),
        (FAILED, "slow MS", "fault", pair.dir, "a:tank-a-00", "slow"),
        (FAILED, "cannot write", "demo", "--json", pair.folder / "nosuch" / "file"),
        (FAILED, "is a sandbox already", "demo", "--dir", pair.folder),
    ]:
        done = run(BIN / "zpair", "sandbox", *command, ok=None)
        said = f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stderr}{done.stdout}"
        lines = done.stderr.splitlines()
        check(done.returncode == code and len(lines) == 1 and lines[0].startswith("zpair: ") and word in lines[0] and not done.stdout, said)
    check(not fresh.exists(), "a sandbox that was refused left its folder")


def test_unknown_names(pair):
    """Unknown pools, volumes, nodes, drives and commands, names that exist already: one line each, nothing changed."""
    good = {node: _drive(pair, node, "good") for node in "ab"}
    mirror = f"a:{good['a']},b:{good['b']}"
    unknown_pool = [("switchover", "nosuch"), ("takeover", "nosuch"), ("failback", "nosuch"), ("pool", "import", "nosuch"),
                    ("pool", "destroy", "nosuch"), ("pool", "scrub", "nosuch"), ("pool", "export", "nosuch"),
                    ("pool", "add", "nosuch", "--mirror", mirror), ("volume", "create", "nosuch/vm", "1M"),
                    ("volume", "destroy", "nosuch/vm"), ("drive", "replace", "nosuch", "b:x", f"b:{good['b']}")]
    _each_refused_and_nothing_changed(pair, [
        *((FAILED, "no pool nosuch", *command) for command in unknown_pool),
        (FAILED, "nosuch", "volume", "resize", "tank-a/nosuch", "1M"),
        (FAILED, "nosuch", "volume", "destroy", "tank-a/nosuch"),
        (FAILED, "nosuch", "volume", "snapshot", "tank-a/nosuch@monday"),
        (FAILED, "no such snapshot", "volume", "clone", "tank-a/vm1@nosuch", "tank-a/vm2"),
        (FAILED, "different pools", "volume", "clone", "tank-a/vm1@monday", "tank-b/vm2"),
        (USAGE, "names no snapshot", "volume", "clone", "tank-a/vm1", "tank-a/vm2"),
        (FAILED, "no snapshot tank-a/vm1@nosuch", "volume", "rollback", "tank-a/vm1@nosuch"),
        (FAILED, "nosuch", "volume", "rollback", "tank-a/nosuch@monday"),
        (FAILED, "nosuch", "volume", "destroy", "tank-a/vm1@nosuch"),
        (USAGE, "c", "switchover", "tank-a", "--to", "c"),
        (USAGE, "c", *_create("c", mirror)),
        (USAGE, "names no drive", *_create("a", f"c:{good['a']},b:{good['b']}")),
        (FAILED, "is no name for a pool", *_create("a", mirror, name="bad name")),
        (FAILED, "exists already", *_create("b", mirror, name="tank-a")),
        (FAILED, "exists", "volume", "create", "tank-a/vm1", "1M"),
        (USAGE, "names no volume", "volume", "create", "tank-a", "1M"),
        (USAGE, "names no drive", "drive", "replace", "tank-a", "tank-a-00", f"b:{good['b']}"),
        (USAGE, "empty word", "pool", "destroy", ""),
        (USAGE, "empty word", "failback", ""),
        (USAGE, "requires --accept-data-loss", "pool", "import", "tank-a", "--accept-corruption"),
        (USAGE, "c", "store", "readmit", "c"),
        (REFUSED, "nothing to readmit", "store", "readmit", "b"),
        (USAGE, "statsu", "statsu"),
        (USAGE, "no command 'lsit' (see zpair pool --help)", "pool", "lsit"),
        (USAGE, "subcommand", "pool"),
        (USAGE, "POOL/NAME is required (see zpair volume create --help)", "volume", "create"),
        (USAGE, "no place for '-p'", "pool", "create", "-p", "--owner", "a"),
        (USAGE, "--nosuch", "status", "--nosuch"),
    ])
    _wrong_sandboxes(pair)


test_unknown_names.options = {"pools": 1}


def test_wrong_volume_sizes(pair):
    """Sizes and properties of volumes that make no sense: one line each, nothing changed."""
    _each_refused_and_nothing_changed(pair, [
        (USAGE, "'0' is no size", "volume", "create", "tank-a/vm2", "0"),
        (USAGE, "'-5' is no size", "volume", "create", "tank-a/vm2", "--", "-5"),
        (USAGE, "'12Q' is no size", "volume", "create", "tank-a/vm2", "12Q"),
        (USAGE, "is no size", "volume", "create", "tank-a/vm2", "99999999999999999999G"),
        (FAILED, "cannot reserve", "volume", "create", "tank-a/vm2", "10G"),
        (FAILED, "cannot reserve", "volume", "create", "tank-a/vm2", "100T"),
        (FAILED, "power of two", "volume", "create", "tank-a/vm2", "16M", "--block-size", "5000"),
        (REFUSED, "a multiple of its block size, 16384 bytes", "volume", "create", "tank-a/vm2", "1000"),
        (REFUSED, "a multiple of its block size, 8192 bytes", "volume", "create", "tank-a/vm2", "20K", "--block-size", "8K"),
        (REFUSED, "a multiple of its block size, 16384 bytes", "volume", "resize", "tank-a/vm1", "100000001"),
        (FAILED, "only grow", "volume", "resize", "tank-a/vm1", "16K"),
        (FAILED, "foo", "volume", "create", "tank-a/vm2", "16M", "--compression", "foo"),
        (USAGE, "'0' is no size", "volume", "resize", "tank-a/vm1", "0"),
        (FAILED, "cannot reserve", "volume", "resize", "tank-a/vm1", "100G"),
        (FAILED, "the name is too long", "volume", "create", "tank-a/" + 100 * "x", "16M"),
    ])


test_wrong_volume_sizes.options = {"pools": 1}


def _ends_with_one_line(command, word, seconds=20):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=seconds)
    said = done.stderr + done.stdout
    check(done.returncode != 0, f"{command} succeeded: {said}")
    check(word in said, f"{command} does not say '{word}': {said}")
    return said


def test_second_owner_and_live_import(pair):
    """A second owner, a second daemon, a second pool process, an import of a live pool: each refused, the load never notices."""
    load = pair.load("a", ["tank-a"])
    _each_refused_and_nothing_changed(pair, [
        (REFUSED, "healthy", "takeover", "tank-a"),
        (REFUSED, "imported already", "pool", "import", "tank-a"),
        (REFUSED, "imported already", "pool", "import", "tank-a", "--accept-data-loss", "--accept-corruption"),
    ])
    before = _facts(pair)
    for node in "ab":
        config = pair.dir / node / "zpaird.toml"
        _ends_with_one_line([BIN / "zpaird", "--config", config], "zpaird")
    said = _ends_with_one_line([BIN / "zpair-pool", "--config", pair.dir / "a" / "zpaird.toml", "--pool", "tank-a"], "tank-a")
    check(len(said.strip().splitlines()) == 1, f"not one line: {said!r}")
    # On the other node nobody holds the pool's lock: a process started by hand waits for its zpaird's order and touches nothing.
    stray = subprocess.Popen([str(part) for part in (BIN / "zpair-pool", "--config", pair.dir / "b" / "zpaird.toml", "--pool", "tank-a")],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(3)
        check(_facts(pair) == before, "a second process changed something")
    finally:
        stray.kill()
        stray.wait()
    load.finish()


test_second_owner_and_live_import.options = {"pools": 1}


def test_drive_moved_to_the_other_node(pair):
    """A leg's file carried to the other node: refused there by name, and the pool takes it back when it is home again."""
    load = pair.load("b", ["tank-a"])
    pair.kill("a")
    pair.wait_owner("tank-a", "b")
    home = pair.dir / "drives" / "a" / "tank-a-00"
    moved = pair.dir / "drives" / "b" / "moved"
    os.rename(home, moved)
    _each_refused_and_nothing_changed(pair, [
        (FAILED, f"drive b:{moved} is a leg of pool tank-a already", "drive", "replace", "tank-a", "b:tank-a-00", f"b:{moved}"),
    ])
    os.rename(moved, home)
    pair.start("a")
    pair.wait_in_sync()
    load.finish()


test_drive_moved_to_the_other_node.options = {"pools": 1}


def test_config_with_an_unknown_key(pair):
    """A config with an unknown key: zpaird names the key and does not start; the running pair goes on."""
    load = pair.load("a", ["tank-a"])
    config = pair.folder / "wrong.toml"
    config.write_text("nodee = \"a\"\n" + (pair.dir / "a" / "zpaird.toml").read_text())
    said = _ends_with_one_line([BIN / "zpaird", "--config", config], "nodee")
    check(len(said.strip().splitlines()) == 1, f"not one line: {said!r}")
    load.finish()


test_config_with_an_unknown_key.options = {"pools": 1}


def test_store_on_a_volume_of_the_pair(pair):
    """etcd's data on a disk that NBD serves, dm-crypt in between: etcd-start refuses, exit 3, and writes nothing."""
    folder = pair.folder / "member"
    folder.mkdir()
    device = os.stat(folder).st_dev
    sysfs = pair.folder / "sys"          # as the kernel would show this folder's disk: dm-0 on the first partition of nbd7
    dm, nbd = sysfs / "block" / "dm-0", sysfs / "block" / "nbd7" / "nbd7p1"
    for made in (sysfs / "dev" / "block", dm / "slaves", nbd):
        made.mkdir(parents=True)
    (nbd / "partition").write_text("1")
    (dm / "slaves" / "nbd7p1").symlink_to(nbd)
    (sysfs / "dev" / "block" / f"{os.major(device)}:{os.minor(device)}").symlink_to(dm)
    command = [BIN / "etcd-start", "--name", "b", "--data-dir", folder / "data", "--mark-file", folder / "b.mark", "--bootstrap",
               "--sysfs", sysfs, "--", "--advertise-client-urls", "http://127.0.0.1:1"]
    done = run(*command, ok=None)
    check(done.returncode == REFUSED, f"exit {done.returncode}: {done.stderr}")
    check(len(done.stderr.splitlines()) == 1 and "nbd7" in done.stderr, f"{done.stderr!r}")
    check(not list(folder.iterdir()), "something was written")


test_store_on_a_volume_of_the_pair.options = {"pools": 1}


def _qemu_io(uri, command, seconds=60):
    return run("qemu-io", "-f", "raw", "-t", "none", "-c", command, uri, ok=None, timeout=seconds)


def test_full_pool(pair):
    """A full pool: the thick volume keeps its space, the thin one gets ENOSPC (never a hang) and can be freed."""
    pair.zpair("volume", "create", "tank-a/thin", "2G", "--thin", "--compression", "off")
    uris = {volume["name"]: volume["nbd"]["a"] for volume in pair.zpair_json("volume", "list")["volumes"]}
    written_mb = None
    for offset_mb in range(0, 2048, 32):
        done = _qemu_io(uris["thin"], f"write -P 0x5a {offset_mb}M 32M")
        if done.returncode != 0 or "No space left" in done.stdout + done.stderr:
            check("No space left" in done.stdout + done.stderr, f"full, but not ENOSPC: {done.stdout}{done.stderr}")
            written_mb = offset_mb
            break
    check(written_mb, f"2 GiB went into a pool of 512 MiB (or nothing did): {written_mb}")
    done = _qemu_io(uris["vm1"], "write -P 0x77 0 64M")
    check(done.returncode == 0 and "error" not in done.stdout + done.stderr, f"the thick volume lost its space: {done.stdout}{done.stderr}")
    done = _qemu_io(uris["vm1"], "read -P 0x77 0 64M")
    check(done.returncode == 0 and "failed" not in done.stdout, f"the thick volume: {done.stdout}")
    done = _qemu_io(uris["thin"], f"read -P 0x5a 0 {written_mb}M")
    check(done.returncode == 0 and "failed" not in done.stdout, f"acknowledged writes of the thin volume are gone: {done.stdout}")
    # Freed: by trim, then writes go in again.
    done = _qemu_io(uris["thin"], f"discard 0 {written_mb}M")
    check(done.returncode == 0, f"discard on a full pool: {done.stdout}{done.stderr}")
    wait_for("space to write again", lambda: "No space" not in (lambda d: d.stdout + d.stderr)(
        _qemu_io(uris["thin"], "write -P 0x5b 0 32M")), seconds=30, every=1)
    pair.zpair("volume", "destroy", "tank-a/thin")
    check(pair.pool("tank-a")["state"] == "online", f"{pair.pool('tank-a')['state']}")


test_full_pool.options = {"pools": 1}
