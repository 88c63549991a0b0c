"""The commands of an ordinary day, under a load that must not notice, and what `status` and `events` say meanwhile."""
import json
import os
import pathlib
import re
import socket
import subprocess
import time

from harness import BIN, check, run, wait_for

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _volumes(pair):
    return {(volume["pool"], volume["name"]): volume for volume in pair.zpair_json("volume", "list")["volumes"]}


def _drive(pair, node, name):
    file = pair.dir / "drives" / node / name
    with open(file, "wb") as new:
        new.truncate(256 << 20)
    return file


def test_pools_and_volumes_come_and_go(pair):
    """pool add, create, export, import, destroy; volume create, resize, snapshot, destroy: each does what it says under load."""
    load = pair.load("a", ["tank-a"])
    more = {node: _drive(pair, node, "more") for node in "ab"}
    pair.zpair("pool", "add", "tank-a", "--mirror", f"a:{more['a']},b:{more['b']}", "--dry-run")
    check(len(pair.pool("tank-a")["mirrors"]) == 2, "--dry-run changed the pool")
    pair.zpair("pool", "add", "tank-a", "--mirror", f"a:{more['a']},b:{more['b']}")
    wait_for("the third mirror", lambda: len(pair.pool("tank-a")["mirrors"]) == 3 and pair.pool("tank-a")["state"] == "online")

    pair.zpair("volume", "create", "tank-a/thin", "4G", "--thin", "--block-size", "8K")
    thin = _volumes(pair)["tank-a", "thin"]
    check((thin["size_bytes"], thin["thin"], thin["block_size_bytes"]) == (4 << 30, True, 8192), f"{thin}")
    pair.zpair("volume", "resize", "tank-a/thin", "5G")
    check(_volumes(pair)["tank-a", "thin"]["size_bytes"] == 5 << 30, "not resized")
    pair.zpair("volume", "snapshot", "tank-a/thin@monday")
    pair.zpair("volume", "create", "tank-a/short", "16M")
    pair.zpair("volume", "destroy", "tank-a/short")
    check(("tank-a", "short") not in _volumes(pair), "not destroyed")

    other = {node: _drive(pair, node, "other") for node in "ab"}
    pair.zpair("pool", "create", "p2", "--owner", "b", "--mirror", f"a:{other['a']},b:{other['b']}")
    pair.wait_owner("p2", "b")
    pair.zpair("volume", "create", "p2/vm", "16M")
    pair.zpair("pool", "export", "p2")
    pair.zpair("pool", "import", "p2")     # at once: nobody has to fall silent first
    pair.zpair("pool", "export", "p2")
    check(pair.pool("p2")["state"] == "exported", f"{pair.pool('p2')['state']}")
    pair.zpair("pool", "import", "p2")
    pair.wait_owner("p2", "b")
    check(("p2", "vm") in _volumes(pair), "the volume is gone")
    pair.zpair("pool", "destroy", "p2")
    check(pair.pool("p2")["state"] == "unknown", "not destroyed")
    # What a destroyed pool leaves free can be used at once.
    pair.zpair("pool", "create", "p3", "--owner", "a", "--mirror", f"a:{other['a']},b:{other['b']}")
    pair.wait_owner("p3", "a")
    load.finish()


test_pools_and_volumes_come_and_go.options = {"pools": 1}


def _refused(pair, word, *command):
    done = pair.zpair(*command, ok=(3,))
    check(word in done.stderr, f"{command} does not say '{word}': {done.stderr}")


def _post(uri, path, body):
    """The answer of the zpaird whose node serves a volume at `uri`, as it stands."""
    text = json.dumps(body).encode()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(os.path.dirname(uri.split("socket=")[1]) + "/zpaird.sock")
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: zpair\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
        return b"".join(iter(lambda: client.recv(65536), b"")).decode()


def _io(uri, *commands):
    done = run("qemu-io", "-f", "raw", "-t", "none", *(word for command in commands for word in ("-c", command)), uri)
    check("failed" not in done.stdout + done.stderr and "error" not in done.stdout + done.stderr, f"{commands}: {done.stdout}{done.stderr}")


def test_snapshot_clone_and_rollback(pair):
    """A clone is what the snapshot was; a rollback wants the newest snapshot and no clients, and survives a takeover."""
    load = pair.load("b", ["tank-a"], ["vm1"])
    pair.zpair("volume", "create", "tank-a/data", "16M")
    uri = {node: pair.uris(node, ["tank-a"], ["data"])[0] for node in "ab"}
    _io(uri["a"], "write -P 0x11 0 1M")
    pair.zpair("volume", "snapshot", "tank-a/data@one")
    _io(uri["b"], "write -P 0x22 0 512k")

    pair.zpair("volume", "clone", "tank-a/data@one", "tank-a/copy")
    copy = _volumes(pair)["tank-a", "copy"]
    check((copy["size_bytes"], copy["thin"]) == (16 << 20, False), f"{copy}")
    _io(copy["nbd"]["a"], "read -P 0x11 0 1M", "write -P 0x33 0 64k")
    _io(copy["nbd"]["b"], "read -P 0x33 0 64k", "read -P 0x11 64k 960k")
    _io(uri["a"], "read -P 0x22 0 512k", "read -P 0x11 512k 512k")
    _refused(pair, "clones are made of it", "volume", "destroy", "tank-a/data@one")
    _refused(pair, "it has snapshots", "volume", "destroy", "tank-a/data")

    pair.zpair("volume", "snapshot", "tank-a/data@two")
    _refused(pair, "newer snapshots", "volume", "rollback", "tank-a/data@one")
    # Whoever means a snapshot cannot lose the volume by a request that lacks it.
    for path, body, word in (("destroy", {"name": "copy", "snapshot": ""}, "names no snapshot"),
                             ("destroy", {"name": "copy", "snapshot": "two"}, "names no snapshot"),
                             ("destroy", {"name": "copy@two"}, "names no snapshot"),
                             ("destroy_snapshot", {"name": "copy", "snapshot": ""}, "names no snapshot"),
                             ("destroy_snapshot", {"name": "copy"}, "cannot be read")):
        answer = _post(uri["a"], f"/v1/volume/{path}", {"pool": "tank-a"} | body)
        check(word in answer, f"{path} {body}: {answer}")
    check(("tank-a", "copy") in _volumes(pair), "the volume is gone")
    pair.zpair("volume", "destroy", "tank-a/data@two")
    sockets = {node: os.stat(uri[node].split("socket=")[1]).st_ino for node in "ab"}
    for node in "ab":   # a client at either node, its data may not change under it
        client = subprocess.Popen(["qemu-io", "-f", "raw", uri[node]], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        wait_for("the client", lambda: _volumes(pair)["tank-a", "data"]["clients"] == 1)
        _refused(pair, "1 client", "volume", "rollback", "tank-a/data@one")
        client.communicate(b"quit\n", timeout=20)
        wait_for("the client's end", lambda: _volumes(pair)["tank-a", "data"]["clients"] == 0)
    pair.zpair("volume", "rollback", "tank-a/data@one")
    check({node: os.stat(uri[node].split("socket=")[1]).st_ino for node in "ab"} == sockets, "a volume has one socket for its whole life")
    _io(uri["b"], "read -P 0x11 0 1M", "write -P 0x44 1M 64k")

    pair.kill("a")      # at once: what was written since the rollback is in the log only
    pair.wait_owner("tank-a", "b")
    _io(uri["b"], "read -P 0x11 0 1M", "read -P 0x44 1M 64k")
    _io(copy["nbd"]["b"], "read -P 0x33 0 64k", "read -P 0x11 64k 960k")
    load.finish()


test_snapshot_clone_and_rollback.options = {"pools": 1}


def test_lost_redundancy_is_told(pair):
    """An event within a second of the loss of redundancy (after the hold window), and `status` says what one more failure would do."""
    load = pair.load("a", ["tank-a"])
    load.goes_on()
    pair.kill("b")
    dead_ms = time.time() * 1000
    event = wait_for("the event", lambda: next(
        (one for one in pair.events() if one["kind"] == "redundancy-lost" and one["pool"] == "tank-a"), None), seconds=10)
    check(event["time_ms"] - dead_ms <= 600 + 1000, f"the event came {event['time_ms'] - dead_ms:.0f} ms after the death")
    pool = next(one for one in pair.zpair_json("status")["pools"] if one["name"] == "tank-a")
    check(pool["state"] == "degraded" and pool["status"] and pool["action"], f"{pool['state']}: {pool['status']} / {pool['action']}")
    check("node a" in pool["redundancy"] and "would stop" in pool["redundancy"], pool["redundancy"])
    text = pair.zpair("status").stdout
    check("DEGRADED" in text and "since" in text, text)
    load.finish()


test_lost_redundancy_is_told.options = {"pools": 1}


def test_events_are_followed(pair):
    """`events -f` shows what happens while it runs, at once, into a pipe or file too."""
    seen = pair.folder / "events"
    with open(seen, "w") as file:
        follower = subprocess.Popen([str(BIN / "zpair"), "--sandbox", str(pair.dir), "events", "-f"], stdout=file)
    try:
        wait_for("what was before", lambda: "owner-changed" in seen.read_text())
        pair.kill("b")
        wait_for("what happens", lambda: "redundancy-lost" in seen.read_text())
        check(follower.poll() is None, "it ended by itself")
    finally:
        follower.kill()
        follower.wait()


test_events_are_followed.options = {"pools": 1}


def _commands(words=()):
    """{command: its help} of every command that zpair has, by asking for help."""
    text = run(BIN / "zpair", *words, "--help").stdout
    names = re.findall(r"^  ([a-z]+) ", text.split("\nSubcommands:\n")[1].split("\n\n")[0], re.MULTILINE) if "\nSubcommands:\n" in text else []
    # A command that has commands of its own may have options too.
    return {" ".join(words): text} | {command: help for name in names for command, help in _commands((*words, name)).items()}


def _manual_is_true():
    """zpair(1) has every command and every option that --help shows, and no option more."""
    page = re.sub(r"\\f.", "", (ROOT / "docs" / "man" / "zpair.1").read_text()).replace("\\-", "-").replace("|", " ")
    commands = _commands()
    check(len(commands) > 30, f"--help shows {len(commands)} commands")
    options = {"--help", "--version", "--socket", "--sandbox", "--json"}
    for command, text in commands.items():
        check(re.search(r"\b" + ".*".join(command.split()) + r"\b", page), f"zpair(1) lacks '{command}'")
        options |= set(re.findall(r"--[a-z-]+", text.split("\nOptions:\n")[1].split("\n\n")[0]))
    named = set(re.findall(r"--[a-z][a-z-]+", page))
    check(named == options, f"zpair(1) lacks {options - named}, and makes up {named - options}")


def test_status_keys_are_the_documented_ones(pair):
    """`status --json` of a pair has every key that docs/api.md names, from either node's view; the manual has every command and option."""
    _manual_is_true()
    top = {"node", "partner", "paths", "store", "pools"}
    of_pool = {"name", "guid", "home", "owner", "epoch", "rev", "wanted", "state", "status", "action", "redundancy", "size_bytes",
               "allocated_bytes", "free_bytes", "process", "scan", "mirrors", "volumes"}
    of_leg = {"node", "drive", "drive_id", "file", "guid", "in_sync", "state", "since_txg", "resync_percent", "resync_seconds_left",
              "read_errors", "write_errors", "checksum_errors"}
    status = pair.zpair_json("status")
    check(top <= status.keys(), f"missing: {top - status.keys()}")
    for pool in status["pools"]:
        check(of_pool <= pool.keys(), f"missing: {of_pool - pool.keys()}")
        for mirror in pool["mirrors"]:
            for leg in mirror["legs"]:
                check(of_leg <= leg.keys(), f"missing: {of_leg - leg.keys()}")
    sandbox = json.loads(pair.sandbox("status", "--json").stdout)
    check({"dir", "nodes", "links", "pools"} <= sandbox.keys(), f"{sandbox.keys()}")
    check({node["name"] for node in sandbox["nodes"]} == {"a", "b", "witness"}, "not three nodes")


def test_sandbox_up_imports_what_is_imported_already(pair):
    """`sandbox up` whose import was done, but not noted as done: it does not mind, and the pool serves on."""
    layout = pair.dir / "sandbox.json"
    noted = json.loads(layout.read_text())
    layout.write_text(json.dumps({**noted, "exported_by_down": ["tank-a"]}))
    done = pair.sandbox("up", *pair.options, timeout=180)
    check("cannot import" not in done.stderr, done.stderr)
    check(json.loads(layout.read_text())["exported_by_down"] == [], "it is still to be imported")
    check(pair.pool("tank-a")["state"] == "online", f"{pair.pool('tank-a')['state']}")


test_sandbox_up_imports_what_is_imported_already.options = {"pools": 1}
