#!/usr/bin/python3
"""zpair-drill: what `zpair drill` runs; the line was checked there (src/cli/drill_line.cpp) and comes in these words.

  zpair-drill run NAME … --pool POOL --node NAME=SOCKET … --tools DIR --state DIR (--sandbox DIR | --socket PATH) [--yes] [--out DIR]
                         [--key FILE] [--json]
  zpair-drill schedule NAME … --pool POOL --calendar TEXT --dir DIR --socket PATH --tools DIR [--key FILE]
  zpair-drill list [--json]
  zpair-drill verify FILE [--key FILE] [--json]

Exit: 0 done and passed, 1 failed or interrupted, 2 usage, 3 refused. Read first: rehearsal.py (one run), drills.py (what is done to the pair).
"""
import argparse
import json
import pathlib
import shlex
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "bench"))   # the pair by its API, programs, charts: shared with zpair bench

import certificate  # noqa: E402
import certificate_page  # noqa: E402
import drills  # noqa: E402
from pair import Pair  # noqa: E402
from programs import Failed, Usage, ending, open_folder, uninterrupted  # noqa: E402
from rehearsal import Rehearsal, machine  # noqa: E402


class Refused(Exception):
    exit_code = 3


def arguments_of(line):
    parser = argparse.ArgumentParser(prog="zpair drill")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("names", nargs="+")
    run.add_argument("--pool")
    run.add_argument("--node", action="append", default=[])
    run.add_argument("--tools", required=True)
    run.add_argument("--state", required=True)
    place = run.add_mutually_exclusive_group(required=True)
    place.add_argument("--sandbox")
    place.add_argument("--socket")
    run.add_argument("--yes", action="store_true")
    run.add_argument("--out")
    run.add_argument("--key")
    run.add_argument("--json", action="store_true")
    later = commands.add_parser("schedule")
    later.add_argument("names", nargs="+")
    later.add_argument("--pool", required=True)
    later.add_argument("--calendar", required=True)
    later.add_argument("--dir", required=True)
    later.add_argument("--socket", required=True)
    later.add_argument("--tools", required=True)
    later.add_argument("--key")
    commands.add_parser("list").add_argument("--json", action="store_true")
    verify = commands.add_parser("verify")
    verify.add_argument("file")
    verify.add_argument("--key")
    verify.add_argument("--json", action="store_true")
    return parser.parse_args(line)


def agree(chosen, pool, asked):
    """A real pair is touched only by somebody's word."""
    if asked.sandbox or asked.yes:
        return
    plan = "".join(f"  {drill.name:<16} {drill.does} (about {drill.seconds} s)\n" for drill in chosen)
    if not sys.stdin.isatty():
        raise Refused(f"this is no sandbox: a drill of pool {pool} stalls its guests for as long as a failover does. Say so with --yes")
    sys.stderr.write(f"On pool {pool}, whose guests wait as long as in a failover:\n{plan}Go on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Refused("nothing was done")


def _chosen(names):
    try:
        return drills.chosen(names)
    except KeyError as name:
        raise Usage(f"there is no drill {name}: zpair drill list shows them") from None


def _refuse_what_needs_a_sandbox(chosen):
    bound = [drill.name for drill in chosen if not drill.anywhere]
    if bound:
        raise Refused(f"{', '.join(bound)}: only in a sandbox (zpair --sandbox DIR drill …), for it breaks what zpair cannot break on servers")


def rehearse(asked):
    chosen = _chosen(asked.names)
    if not asked.sandbox:
        _refuse_what_needs_a_sandbox(chosen)
    pair = Pair(node.split("=", 1) for node in asked.node)
    pool = pair.pool_named(asked.pool)
    out = open_folder(asked.out, "certificate.json") if asked.out else None   # now, not after the drills
    key = asked.key or certificate.own_key_file()
    certificate.prepare_key(key)
    agree(chosen, pool, asked)
    tell = (lambda text: None) if asked.json else lambda text: print(text, flush=True)
    to_pair = ["--sandbox", asked.sandbox] if asked.sandbox else ["--socket", asked.socket]
    run = Rehearsal(pair, pool, chosen, pathlib.Path(asked.state) / f"drill-{pool}", asked.tools, asked.sandbox, to_pair, tell)
    try:
        body = run.run()
    finally:
        with uninterrupted():
            run.close()
    version = subprocess.run([str(pathlib.Path(asked.tools) / "zpair"), "--version"], capture_output=True, text=True).stdout.strip()
    body = {"format": certificate.FORMAT, "version": version, "machine": machine()} | body
    tell_the_pair(pair, pool, body)
    sealed = certificate.seal(body, key)
    if out:
        (out / "certificate.json").write_text(json.dumps(sealed, indent=1) + "\n")
        (out / "certificate.html").write_text(certificate_page.of(sealed), encoding="utf-8")
    if asked.json:
        print(json.dumps(sealed, indent=2))
    else:
        print(certificate_page.verdict(body) + (f"\ncertificate: {out / 'certificate.html'}, sealed: {out / 'certificate.json'}" if out else ""))
    return 0 if body["passed"] else 1


def tell_the_pair(pair, pool, body):
    """Into its events, from which the status tells when a drill passed last. The partner hears of it by itself."""
    try:
        pair.ask("POST", "/v1/drill", {"pool": pool, "passed": body["passed"], "text": certificate_page.verdict(body).replace("\n", "; ")})
    except Failed as why:
        print(f"zpair: the events do not tell of this drill: {why}", file=sys.stderr)


def schedule(asked):
    chosen = _chosen(asked.names)
    _refuse_what_needs_a_sandbox(chosen)
    folder, name = pathlib.Path(asked.dir), f"zpair-drill-{asked.pool}"
    command = [str(pathlib.Path(asked.tools) / "zpair"), "--socket", asked.socket, "drill", *[drill.name for drill in chosen], "--pool", asked.pool, "--yes",
               "--key", asked.key or "/var/lib/zpair/drill-key.pem", "--out", f"/var/lib/zpair/{name}"]
    units = {f"{name}.service": f"[Unit]\nDescription=zpair drill of pool {asked.pool}\n\n[Service]\nType=oneshot\nExecStart={shlex.join(command)}\n",
             f"{name}.timer": f"[Unit]\nDescription=zpair drill of pool {asked.pool}, on and on\n\n[Timer]\nOnCalendar={asked.calendar}\nPersistent=true\n\n"
                              "[Install]\nWantedBy=timers.target\n"}
    for file, text in units.items():
        (folder / file).write_text(text)
        print(folder / file)
    print(f"Now: systemctl daemon-reload && systemctl enable --now {name}.timer")
    return 0


def list_them(asked):
    if asked.json:
        print(json.dumps({"drills": [{"name": drill.name, "does": drill.does, "needs": drill.needs, "goal_ms": drill.goal_ms, "seconds": drill.seconds}
                                     for drill in drills.DRILLS.values()]}, indent=2))
        return 0
    for drill in drills.DRILLS.values():
        goal = "" if drill.goal_ms is None else f"goal {drill.goal_ms} ms"
        print(f"{drill.name:<16} {drill.needs:<10} {goal:<13} {drill.does}")
    return 0


def verify(asked):
    sealed = certificate.read(asked.file)
    by = certificate.verify(sealed, asked.key)
    body = sealed["certificate"]
    if asked.json:
        print(json.dumps({"valid": True, "key": by, "passed": body["passed"], "pool": body["pool"]["name"], "began": body["began"]}, indent=2))
    else:
        print(f"unchanged since it was sealed by {by}\n{certificate_page.verdict(body)}")
    return 0


def run(asked):
    return {"run": rehearse, "schedule": schedule, "list": list_them, "verify": verify}[asked.command](asked)


def main():
    return ending(lambda: run(arguments_of(sys.argv[1:])), "what was broken is mended, the drill's volume is gone, and there is no certificate")


if __name__ == "__main__":
    sys.exit(main())
