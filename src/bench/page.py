"""A run as one page that needs nothing but itself: style and charts are in it, no script, no network; light or dark as the reader's screen is."""
import pathlib

import cells
import charts
from charts import escape
from table import size

LARGE_BYTES = 64 << 10   # from here on people think in MB/s
PROCESS_COLOURS = ("cpu1", "cpu2", "cpu3", "cpu4")


def of(report):
    css = pathlib.Path(__file__).resolve().with_name("page.css").read_text()
    pair = report["pair"]
    parts = [_header(report), _tiles(report["cells"]), _notes(report["notes"]), _speed(report["cells"]), _latency(report["cells"]), _cpu(report["cells"]),
             _written(report["cells"]), _table(report["cells"]), _method(report)]
    return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>zpair benchmark of {escape(pair['pool'])}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n"
            + "\n".join(part for part in parts if part) + "\n</main>\n</body>\n</html>\n")


def words_of(cell):
    return cells.Cell(cell["pattern"], cell["name"].split("-")[1], cell["jobs"]).in_words


def capital(text):
    return text[:1].upper() + text[1:]


def _in_mb(cell):
    return cell["block_size_bytes"] >= LARGE_BYTES


def _figure(cell):
    return f"{cell['bytes_per_second']['mean'] / 1e6:,.0f} MB/s" if _in_mb(cell) else f"{cell['per_second']['mean']:,.0f} IOPS"


def lead(report):
    """One sentence for who reads nothing else: of the cell that says most."""
    telling = max(report["cells"], key=lambda cell: (cell["pattern"] == "randwrite", cell["read_percent"] == 0, cell["block_size_bytes"] == 4096, cell["jobs"]))
    share = telling["share_percent"]
    text = f"{capital(words_of(telling))}: {_figure(telling)}"
    text += ", each on both servers' drives before it is acknowledged." if telling["read_percent"] == 0 else "."
    return text + (f" That is {share['mean']:.0f} % of what the drives do with nothing between." if share else "")


def _header(report):
    pair = report["pair"]
    return (f"<header><h1>zpair benchmark</h1><p class=\"lead\">{escape(lead(report))}</p>"
            f"<p>Pool {escape(pair['pool'])}, served by node {escape(pair['owner'])}, {len(report['cells'])} measurements of {report['method']['repeats']} repeats each, "
            f"{escape(report['began'].replace('T', ' ').replace('+00:00', ' UTC'))}</p></header>")


def _tiles(all_cells):
    tiles = []
    for pattern, prefers in (("randwrite", 4096), ("randread", 4096), ("mixed", 4096), ("seqwrite", 1 << 20), ("seqread", 1 << 20)):
        found = [cell for cell in all_cells if cell["pattern"] == pattern]
        if not found:
            continue
        cell = max(found, key=lambda cell: (cell["block_size_bytes"] == prefers, cell["bytes_per_second"]["mean"]))
        number, unit = _figure(cell).split(" ")
        share = cell["share_percent"]
        meter = (f'<span class="meter"><i style="width:{min(share["mean"], 100):.0f}%"></i></span><span>{share["mean"]:.0f} % of the limit</span>' if share else "")
        tiles.append(f'<div class="tile"><span>{escape(capital(words_of(cell)))}</span><b>{number} <small>{unit}</small></b>{meter}</div>')
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _notes(notes):
    return f'<div class="notes">{"".join(f"<p>{escape(note)}</p>" for note in notes)}</div>' if notes else ""


def _legend(entries):
    return '<ul class="legend">' + "".join(f'<li><i class="{shape}" style="{style}"></i>{escape(words)}</li>' for style, shape, words in entries) + "</ul>"


def _speed(all_cells):
    groups = {}
    for cell in all_cells:
        groups.setdefault((cell["pattern"], cell["block_size_bytes"]), []).append(cell)
    cards = []
    for (pattern, block_bytes), members in groups.items():
        scale, unit = ((1e-6, "MB/s") if block_bytes >= LARGE_BYTES else (1, "IOPS"))
        key = "bytes_per_second" if block_bytes >= LARGE_BYTES else "per_second"
        columns = [{"name": words_of(cell), "under": "1 client" if cell["jobs"] == 1 else f"{cell['jobs']} clients", "value": cell[key]["mean"] * scale,
                    "low": None if cell[key]["low"] is None else cell[key]["low"] * scale, "high": None if cell[key]["high"] is None else cell[key]["high"] * scale,
                    "limit": cell["limit"][key]["mean"] * scale if cell["limit"][key] else None} for cell in sorted(members, key=lambda cell: cell["jobs"])]
        title = f"{capital(cells.IN_WORDS[pattern])}, {size(block_bytes)}"
        cards.append(f'<div class="card"><h3>{escape(title)}</h3><span class="unit">{unit}</span>{charts.columns(columns, unit, title)}</div>')
    return ("<h2>How fast</h2><p class=\"under\">Beside each figure stands its limit, measured in turns with it: a program that writes both copies and waits for both "
            "drives, with nothing between (for reads: that reads one). The percentage is the share of the limit; the thin line shows how sure the figure is.</p>"
            + _legend([("background:var(--pair)", "", "the pair"), ("background:var(--limit)", "", "limit")]) + f'<div class="cards">{"".join(cards)}</div>')


def _latency(all_cells):
    rows = [{"name": cell["name"]} | {key: cell["latency_us"][key] for key in ("p50", "p99", "p99_9")} |
            {"limit_p50": cell["limit"]["latency_us"]["p50"] if cell["limit"]["latency_us"] else None} for cell in all_cells if cell["latency_us"]]
    if not rows:
        return ""
    return ("<h2>How long one operation takes</h2><p class=\"under\">From the request to its answer, as the guest waits for it. Farther left is better; one step of the "
            "scale is ten times as long.</p>" + _legend([("background:var(--pair)", "round", "half are done by here; the thick line ends where 99 in 100 are, the thin one where 999 in 1000 are"),
                                                         ("", "ring", "half of the limit's")])
            + f'<div class="card wide">{charts.ranges(rows, "Latency of each cell")}</div>')


def _process_words(name):
    program, _, node = name.partition("@")
    return {"zpair-pool": "the pool's process", "zpaird": "the daemon"}.get(program, program) + f" on node {node}"


def _cpu(all_cells):
    names = sorted({name for cell in all_cells for name in cell["cpu_us_per_operation"] if name != "fio"})
    colour = {name: PROCESS_COLOURS[min(number, len(PROCESS_COLOURS) - 1)] for number, name in enumerate(names)}
    rows = [{"name": cell["name"], "parts": [(colour[name], _process_words(name), cell["cpu_us_per_operation"][name]) for name in names
                                             if cell["cpu_us_per_operation"].get(name)]} for cell in all_cells]
    rows = [row for row in rows if row["parts"]]
    charted = [(title, [row for row in rows if (next(cell for cell in all_cells if cell["name"] == row["name"])["block_size_bytes"] >= LARGE_BYTES) == large])
               for title, large in (("Small blocks", False), ("Large blocks", True))]
    if not rows:
        return ""
    return ("<h2>What it costs the processors</h2><p class=\"under\">Microseconds of processor time for one operation, on both servers together. Less is better.</p>"
            + _legend([(f"background:var(--{colour[name]})", "", _process_words(name)) for name in names])
            + "".join(f'<div class="card wide" style="margin-bottom:16px"><h3>{title}</h3>{charts.stacks(some, "us", "CPU for one operation, " + title.lower())}</div>' for title, some in charted if some))


def _written(all_cells):
    rows = [{"name": cell["name"], "parts": [("pair", "bytes", cell["written_bytes_per_acknowledged_byte"]["mean"])]}
            for cell in all_cells if cell["written_bytes_per_acknowledged_byte"]]
    if not rows:
        return ""
    return ("<h2>What the drives are given to write</h2><p class=\"under\">Bytes that go to the drives of both servers for each byte that was acknowledged. "
            "Two copies make 2 the least; logs, checksums and whole blocks for small writes come on top.</p>"
            f'<div class="card wide">{charts.stacks(rows, "bytes", "Bytes written for each byte acknowledged", (2, "two copies"))}</div>')


def _table(all_cells):
    heads = ["", "IOPS", "from", "to", "MB/s", "mean us", "p50 us", "p99 us", "p99.9 us", "limit/s", "share", "CPU us", "written"]
    rows = []
    for cell in all_cells:
        latency = cell["latency_us"] or {}
        cpu = sum(value for name, value in cell["cpu_us_per_operation"].items() if name != "fio" and value)
        written = cell["written_bytes_per_acknowledged_byte"]
        share = cell["share_percent"]
        values = [_number(cell["per_second"][key]) for key in ("mean", "low", "high")] + [_number(cell["bytes_per_second"]["mean"] / 1e6, 1)]
        values += [_number(latency.get(key)) for key in ("mean", "p50", "p99", "p99_9")]
        values += [_number(cell["limit"]["per_second"] and cell["limit"]["per_second"]["mean"]), f"{share['mean']:.0f} %" if share else "–", _number(cpu or None),
                   _number(written and written["mean"], 1)]
        rows.append(f'<tr><td title="{escape(words_of(cell))}">{escape(cell["name"])}</td>' + "".join(f"<td>{value}</td>" for value in values) + "</tr>")
    return ("<h2>All figures</h2><div class=\"card wide\"><table><thead><tr>" + "".join(f"<th>{head}</th>" for head in heads)
            + f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>")


def _number(value, digits=0):
    return "–" if value is None else f"{value:,.{digits}f}"


def _method(report):
    machine, pair, method = report["machine"], report["pair"], report["method"]
    trips = ", ".join(f"{trip['name']} {trip['latency_us']['p50']:.0f} us" for trip in report["round_trips"]) or "not known"
    facts = [
        ("Pool", f"{pair['pool']}, {pair['mirrors']} mirrors, {pair['state_before']} before and {pair['state_after']} after; client on node {pair['client_node']}"),
        ("Volume", f"{size(pair['volume_size_bytes'])}, filled once before" + (f", blocks of {size(pair['volume_block_size_bytes'])}" if pair["volume_block_size_bytes"] else "")),
        ("Load", f"{method['load']} over NBD; each client has one request at a time; data that does not compress, new for each write"),
        ("Time", f"{method['repeats']} rounds over all cells, {method['seconds']:g} s each after {method['ramp_seconds']:g} s of run-up; {report['seconds']:.0f} s in all"),
        ("Certainty", f"from–to and thin lines: {method['confidence_percent']} % confidence, of the repeats"),
        ("Limit", f"two files of random data in {' and '.join(method['limit_files'])}"),
        ("Round trip", trips),
        ("Machine", f"{machine['cpu_count']} CPUs ({machine['cpu_model'] or 'model not known'})" + (f", {size(machine['memory_bytes'] >> 30 << 30)} memory" if machine["memory_bytes"] else "")
         + f", Linux {machine['kernel']}; load {machine['load_average_before']:g} before"),
    ]
    return "<h2>How it was measured</h2><dl>" + "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts) + "</dl>"
