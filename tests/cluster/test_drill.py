"""zpair drill against a real pair: it rehearses, certifies, tells a loss, restores the pair whatever ends it, and asks before it touches servers."""
import json
import signal
import subprocess
import threading
import time

from harness import BIN, check, run, wait_for


def _canaries(pair):
    return [volume for volume in pair.zpair_json("volume", "list")["volumes"] if volume["name"].startswith("drill-")]


def _drill(pair, *words, ok=(0,)):
    return run(BIN / "zpair", "--sandbox", pair.dir, "drill", *words, "--pool", "tank-a", "--key", pair.folder / "key.pem", ok=ok, timeout=600)


def _left_behind(pair):
    state = json.loads(pair.sandbox("status", "--json").stdout)
    down = [node["name"] for node in state["nodes"] if node["state"] != "up"] + [link["name"] for link in state["links"] if link["state"] != "up"]
    folder = pair.dir / "drill-tank-a"
    return down + _canaries(pair) + sorted(path.name for path in folder.iterdir() if path.name != "lock")


def test_drill_and_its_certificate(pair):
    """Two drills pass, their certificate holds until a byte of it is changed, and the pair is as it was."""
    out = pair.folder / "out"
    told = _drill(pair, "path-loss", "owner-loss", "--out", out).stdout
    print("   ", told.replace("\n", "\n    "))
    sealed = json.loads((out / "certificate.json").read_text())
    body = sealed["certificate"]
    check(body["passed"] and [drill["name"] for drill in body["drills"]] == ["path-loss", "owner-loss"], f"{body['drills']}")
    for drill in body["drills"]:
        check(drill["data"]["verified"] and drill["data"]["acknowledged"] > 100 and drill["data"]["lost"] == 0, f"{drill['data']}")
        check(len(drill["samples"]) > 20, "the timeline is empty")
    loss = body["drills"][1]
    check({"detect", "swap", "import"} <= {part["part"] for part in loss["parts"]}, f"{loss['parts']}")
    check(loss["resync"]["bytes"] > 0 and loss["stall_ms"] >= 500, f"{loss['resync']}, {loss['stall_ms']} ms")
    check(pair.pool("tank-a")["owner"] == "a", "the pool did not go home")
    check(not _left_behind(pair), f"left behind: {_left_behind(pair)}")
    check("passed" in pair.zpair("status", "tank-a").stdout, "the status does not tell when a drill passed")
    check(any(event["kind"] == "drill-passed" for event in pair.events()), "no event tells of the drill")
    html = (out / "certificate.html").read_text()
    check("owner-loss" in html and "<script" not in html, "the page")
    verified = run(BIN / "zpair", "drill", "verify", out, "--key", pair.folder / "key.pem").stdout
    check("PASSED: 2 of 2" in verified, verified)
    (out / "certificate.json").write_text((out / "certificate.json").read_text().replace('"lost": 0', '"lost": 1', 1))
    changed = run(BIN / "zpair", "drill", "verify", out, ok=None)
    check(changed.returncode == 1 and "changed after it was sealed" in changed.stderr, f"{changed.returncode}: {changed.stderr}")


test_drill_and_its_certificate.options = {"pools": 1}


def test_drill_finds_a_loss(pair):
    """Somebody overwrites what the canary wrote: the drill fails, and the certificate says what is lost."""
    def plant():
        wait_for("the canary", lambda: _canaries(pair), 60)
        uri = _canaries(pair)[0]["nbd"]["a"]
        time.sleep(2)
        run("qemu-io", "-f", "raw", "-c", "write -P 0 0 16M", uri)
    planter = threading.Thread(target=plant)
    planter.start()
    done = _drill(pair, "partition", "--out", pair.folder / "out", ok=None)
    planter.join()
    body = json.loads((pair.folder / "out" / "certificate.json").read_text())["certificate"]
    check(done.returncode == 1 and "FAILED" in done.stdout, f"{done.returncode}: {done.stdout} {done.stderr}")
    check(not body["passed"] and body["totals"]["lost"] > 0, f"{body['totals']}")
    check("FAILED" in run(BIN / "zpair", "drill", "verify", pair.folder / "out").stdout, "the sealed failure is no success")
    check(not _left_behind(pair), f"left behind: {_left_behind(pair)}")


test_drill_finds_a_loss.options = {"pools": 1}


def test_drill_is_interrupted(pair):
    """Ctrl-C mends what is broken; after kill -9 the next drill does it first."""
    def begin():
        return subprocess.Popen([str(part) for part in (BIN / "zpair", "--sandbox", pair.dir, "drill", "partner-loss", "--pool", "tank-a", "--key", pair.folder / "key.pem")],
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def node_b_is_down():
        return any(node["name"] == "b" and node["state"] != "up" for node in json.loads(pair.sandbox("status", "--json").stdout)["nodes"])

    drill = begin()
    wait_for("the loss of b", node_b_is_down, 60)
    drill.send_signal(signal.SIGINT)
    _, said = drill.communicate(timeout=120)
    check(drill.returncode == 1 and "interrupted" in said, f"{drill.returncode}: {said}")
    check(not _left_behind(pair), f"left behind: {_left_behind(pair)}")
    pair.wait_in_sync()
    drill = begin()
    wait_for("the loss of b", node_b_is_down, 60)
    drill.kill()
    drill.wait()
    check(_left_behind(pair), "a killed drill left nothing: it was killed too late to show anything")
    refused = _drill(pair, "path-loss", ok=None)
    if refused.returncode != 0:   # it mended; the pair was not in sync again at once
        check("not in sync" in refused.stderr or "degraded" in refused.stderr, refused.stderr)
        pair.wait_in_sync()
        _drill(pair, "path-loss")
    check(not _left_behind(pair), f"left behind: {_left_behind(pair)}")


test_drill_is_interrupted.options = {"pools": 1}
test_drill_is_interrupted.slow = True


def test_drill_asks_before_it_touches_servers(pair):
    """By a node's socket, as on servers: only drills by commands alone, and only by somebody's word."""
    def drill(*words):
        return run(BIN / "zpair", "--socket", pair.dir / "run" / "a" / "zpaird.sock", "drill", *words, "--key", pair.folder / "key.pem", ok=None, timeout=300)
    epoch = pair.pool("tank-a")["epoch"]
    for words, code, part in ((["switchover"], 2, "which pool"), (["switchover", "--pool", "tank-a"], 3, "--yes"), (["owner-loss", "--pool", "tank-a", "--yes"], 3, "only in a sandbox"),
                              (["nonsense", "--pool", "tank-a"], 2, "there is no drill"), (["switchover", "--pool", "tank-x", "--yes"], 1, "there is no pool"), ([], 2, "NAME")):
        done = drill(*words)
        check(done.returncode == code and part in done.stderr and len(done.stderr.strip().splitlines()) == 1, f"{words}: {done.returncode}: {done.stderr}")
    check(pair.pool("tank-a")["epoch"] == epoch and not _canaries(pair), "something was done all the same")
    done = drill("switchover", "--pool", "tank-a", "--yes", "--json")
    check(done.returncode == 0 and json.loads(done.stdout)["certificate"]["passed"], f"{done.returncode}: {done.stderr}")
    check(pair.pool("tank-a")["owner"] == "a" and not _canaries(pair), "the pair is not as it was")


def test_drill_schedule(pair):
    """Two units that systemd takes, for drills that servers may have."""
    units = pair.folder / "units"
    units.mkdir()
    run(BIN / "zpair", "drill", "schedule", "switchover", "--pool", "tank-a", "--dir", units, "--on-calendar", "Sat 04:30")
    service, timer = (units / "zpair-drill-tank-a.service").read_text(), (units / "zpair-drill-tank-a.timer").read_text()
    check("OnCalendar=Sat 04:30" in timer and " drill switchover --pool tank-a --yes " in service, f"{timer} {service}")
    refused = run(BIN / "zpair", "drill", "schedule", "owner-loss", "--pool", "tank-a", "--dir", units, ok=None)
    check(refused.returncode == 3 and "only in a sandbox" in refused.stderr, refused.stderr)


test_drill_schedule.options = {"pools": 1, "mirrors": 1}
