"""A certificate as one page that needs nothing but itself, for a manager and for an auditor; and its verdict as text."""
import math
import pathlib

import certificate
from charts import escape

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 860, 130, 52, 16, 22
LEAST_MS, MOST_MS = 1.0, 10_000.0
MARKED = {"owner-changed": "owner", "redundancy-lost": "alone", "redundancy-back": "whole", "serving": "serves", "refused": "refuses"}
MIB = 1 << 20


def verdict(body):
    """A few plain lines."""
    done, totals = body["drills"], body["totals"]
    passed = sum(drill["passed"] for drill in done)
    missed = sum(drill["goal_met"] is False for drill in done)
    lines = [f"{'PASSED' if body['passed'] else 'FAILED'}: {passed} of {len(body['planned'])} drills of pool {body['pool']['name']}, {body['began'].replace('T', ' ').replace('+00:00', ' UTC')}",
             f"acknowledged {totals['acknowledged']}, lost {totals['lost']}, corrupt {totals['corrupt']}, answered with an error {totals['failed_operations']}"]
    if missed:
        lines.append(f"{missed} missed the goal of how long clients wait")
    return "\n".join(lines + [f"{drill['name']}: {drill['why']}" for drill in done if not drill["passed"]])


def of(sealed):
    body = sealed["certificate"]
    css = (pathlib.Path(__file__).resolve().parents[1] / "bench" / "page.css").read_text() + pathlib.Path(__file__).resolve().with_name("page.css").read_text()
    parts = [_header(body), _tiles(body), _table(body["drills"]), "<h2>What happened</h2>", _legend(), *[_card(drill) for drill in body["drills"]], _method(body), _seal(sealed)]
    return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>zpair drill of {escape(body['pool']['name'])}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n")


def _header(body):
    totals, pool = body["totals"], body["pool"]
    if body["passed"]:
        lead = f"{_drills(len(body['drills']))} carried out, and of {totals['acknowledged']:,} acknowledged writes none was lost."
    else:
        lead = "The rehearsal failed: " + next((f"{drill['name']}: {drill['why']}" for drill in body["drills"] if not drill["passed"]), "it did not come to its end") + "."
    where = "a sandbox (one machine)" if body["sandbox"] else "two servers"
    return (f'<header><h1>zpair drill certificate</h1><p class="stamp {"good" if body["passed"] else "bad"}">{"passed" if body["passed"] else "failed"}</p>'
            f'<p class="lead">{escape(lead)}</p><p>Pool {escape(pool["name"])}, {pool["mirrors"]} mirrors, on {where}; {escape(body["began"].replace("T", " ").replace("+00:00", " UTC"))}, '
            f'{body["seconds"]:.0f} s.</p></header>')


def _drills(count):
    return f"{count} drills were" if count != 1 else "One drill was"


def _tiles(body):
    totals, waits = body["totals"], [drill for drill in body["drills"] if drill["stall_ms"] is not None and drill["goal_ms"] is not None]
    tiles = [("Writes acknowledged", f"{totals['acknowledged']:,}", ""), ("Lost", f"{totals['lost'] + totals['went_back']:,}", ""), ("Corrupt", f"{totals['corrupt']:,}", ""),
             ("Answered with an error", f"{totals['failed_operations']:,}", "")]
    if waits:
        longest = max(waits, key=lambda drill: drill["stall_ms"])
        tiles.append((f"Longest wait of a client ({longest['name']})", f"{longest['stall_ms'] / 1000:.2f}", "s"))
    return '<div class="tiles">' + "".join(f'<div class="tile"><span>{escape(name)}</span><b>{value} <small>{unit}</small></b></div>' for name, value, unit in tiles) + "</div>"


def _table(drills):
    rows = []
    for drill in drills:
        wait = "–" if drill["stall_ms"] is None else f"{drill['stall_ms']:,} ms"
        goal = "as long as it lasts" if drill["goal_ms"] is None else f"{drill['goal_ms']:,} ms" + ("" if drill["goal_met"] else " (missed)")
        copied = f"{drill['resync']['bytes'] / MIB:.1f} MiB in {drill['resync']['seconds']} s" if drill["resync"]["bytes"] else "–"
        rows.append(f'<tr><td><a href="#{drill["name"]}">{escape(drill["name"])}</a></td><td class="{"good" if drill["passed"] else "bad"}">{"passed" if drill["passed"] else "failed"}</td>'
                    f'<td>{drill["data"]["acknowledged"]:,}</td><td>{drill["data"]["lost"] + drill["data"]["went_back"]}</td><td>{wait}</td><td>{goal}</td><td>{copied}</td></tr>')
    heads = ("", "", "acknowledged", "lost", "clients waited at most", "goal", "copied after it")
    return ('<h2>The drills</h2><p class="under">A goal is missed when clients waited longer than it, and on top of it longer than they do on this machine when nothing happens.</p>'
            '<div class="card wide"><table><thead><tr>' + "".join(f"<th>{head}</th>" for head in heads) + f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>")


def _legend():
    return ('<p class="under">Each column is a tenth of a second: how long the slowest answer in it took; red: none came, so long the client waits already. One line up is ten times as long. Vertical lines: what the pair told.</p>')


def _y(ms):
    share = math.log10(min(max(ms, LEAST_MS), MOST_MS) / LEAST_MS) / math.log10(MOST_MS / LEAST_MS)
    return TOP + HEIGHT * (1 - share)


def _timeline(drill):
    samples = drill["samples"]
    if not samples:
        return ""
    length = max(samples[-1][0], drill["seconds"], 1)
    x_of = lambda s: LEFT + (WIDTH - LEFT) * min(s, length) / length  # noqa: E731
    body = []
    for ms in (1, 10, 100, 1000, 10_000):
        body.append(f'<path d="M{LEFT} {_y(ms):.1f}H{WIDTH}" class="grid"/><text x="{LEFT - 6}" y="{_y(ms) + 4:.1f}" text-anchor="end">{f"{ms} ms" if ms < 1000 else f"{ms // 1000} s"}</text>')
    wide = max((WIDTH - LEFT) * 0.1 / length - 0.3, 0.8)
    for s, operations, slowest in samples:
        css = "pair" if operations else "waits"
        body.append(f'<rect x="{x_of(max(s - 0.1, 0)):.1f}" y="{_y(slowest):.1f}" width="{wide:.1f}" height="{max(TOP + HEIGHT - _y(slowest), 0):.1f}" class="{css}">'
                    f"<title>{s:.1f} s: {operations} answers, the slowest {slowest} ms</title></rect>")
    taken = -100.0
    for event in drill["events"]:
        if event["kind"] not in MARKED or event["s"] > length:
            continue
        x = x_of(event["s"])
        body.append(f'<path d="M{x:.1f} {TOP - 4}V{TOP + HEIGHT}" class="mark"><title>{escape(event["node"])}: {escape(event["kind"])}: {escape(event["text"])}</title></path>')
        if x - taken > 46:
            body.append(f'<text x="{x:.1f}" y="{TOP - 6}" text-anchor="middle">{MARKED[event["kind"]]}</text>')
            taken = x
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if length / step <= 12)
    for s in range(0, int(length - step / 3) + 1, step):
        body.append(f'<text x="{x_of(s):.1f}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{s} s</text>')
    return f'<svg viewBox="0 0 {WIDTH} {TOP + HEIGHT + BOTTOM}" width="{WIDTH}" role="img" aria-label="answers over time in the drill {escape(drill["name"])}">{"".join(body)}</svg>'


def _card(drill):
    facts = [] if drill["passed"] else [f'<p class="bad">{escape(drill["why"])}</p>']
    shown = [part for part in drill["parts"] if part["ms"] >= 1]
    if shown:
        facts.append('<p class="under">Where the time went: ' + ", ".join(f"{escape(part['part'])} {part['ms']:.0f} ms" for part in shown) + "</p>")
    told = "".join(f"<tr><td>{event['s']:.1f} s</td><td>{escape(event['node'])}</td><td>{escape(event['kind'])}</td><td>{escape(event['text'])}</td></tr>" for event in drill["events"])
    events = f"<details><summary>{len(drill['events'])} events</summary><table class=\"events\"><tbody>{told}</tbody></table></details>" if told else ""
    return (f'<div class="card wide drill" id="{drill["name"]}"><h3>{escape(drill["name"])}</h3><span class="unit">{escape(drill["does"])}</span>{_timeline(drill)}{"".join(facts)}{events}</div>')


def _method(body):
    facts = [("Checked", "every block written carries its number, its place and a checksum; after each drill all are read back, and each must hold the last acknowledged write or a later one"),
             ("Load", "one client on a volume of its own, 200 operations a second, from 4 to 64 KiB; it knows the volume's socket on each node that it can reach"),
             ("Program", body["version"]), ("Machine", f"{body['machine']['node']}, {body['machine']['cpu_count']} CPUs, Linux {body['machine']['kernel']}")]
    return "<h2>How it was done</h2><dl>" + "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts) + "</dl>"


def _seal(sealed):
    seal = sealed["seal"]
    return ("<h2>Seal</h2><p class=\"under\">This page shows what certificate.json holds; that file is what is sealed. <code>zpair drill verify certificate.json</code> tells whether it was changed since.</p>"
            f"<dl><dt>SHA-256</dt><dd><code>{escape(seal['sha256'])}</code></dd><dt>Signature</dt><dd><code>{escape(seal['signature'])}</code></dd>"
            f"<dt>Key</dt><dd><code>{escape(certificate.fingerprint(seal['public_key'].encode()))}</code></dd></dl>")
