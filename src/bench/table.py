"""A run and a comparison as text for a terminal."""


def of_run(report):
    pair, method = report["pair"], report["method"]
    rows = [["cell", "IOPS", "", "MB/s", "mean us", "p50", "p99", "p99.9", "limit/s", "share", "CPU us", "written"]]
    rows += [_row(cell) for cell in report["cells"]]
    lines = [f"{pair['pool']} on node {pair['owner']}, client on node {pair['client_node']}, volume of {size(pair['volume_size_bytes'])}; "
             f"{method['repeats']} rounds of {method['seconds']:g} s, ± is {method['confidence_percent']} % confidence", ""]
    lines += table(rows, left=1) + [""]
    lines += [f"round trip, {trip['name']}: {trip['latency_us']['p50']:.0f} us (p99 {trip['latency_us']['p99']:.0f})" for trip in report["round_trips"]]
    lines += ["limit: both legs' files written and flushed in parallel (reads: one read), with nothing between, in turns with the pair",
              "CPU: of all zpair processes, for one operation. written: to both sides' drives, for each byte acknowledged"]
    return "\n".join(lines + ["note: " + note for note in report["notes"]]) + "\n"


def _row(cell):
    latency = cell["latency_us"] or dict.fromkeys(("mean", "p50", "p99", "p99_9"))
    cpu = [value for name, value in cell["cpu_us_per_operation"].items() if name != "fio" and value is not None]
    written = cell["written_bytes_per_acknowledged_byte"]
    return [cell["name"], number(cell["per_second"]["mean"]), plus_minus(cell["per_second"]), number(cell["bytes_per_second"]["mean"] / 1e6, 1),
            *(number(latency[key]) for key in ("mean", "p50", "p99", "p99_9")), number(cell["limit"]["per_second"]["mean"]),
            f"{cell['share_percent']['mean']:.0f} %" if cell["share_percent"] else "-", number(sum(cpu)) if cpu else "-",
            f"{written['mean']:.1f}" if written else "-"]


def of_comparison(result):
    rows = [["cell", "before/s", "after/s", "gain", "from", "to", "share of limit", ""]]
    rows += [[cell["name"], number(cell["before_per_second"]), number(cell["after_per_second"]), *(percent(cell[key]) for key in
             ("gain_percent", "low_percent", "high_percent", "share_gain_percent")), {"same": ""}.get(cell["verdict"], cell["verdict"])]
             for cell in result["cells"]]
    return "\n".join([*table(rows, left=1), "", result["sentence"], *("note: " + note for note in result["notes"])]) + "\n"


def table(rows, left):
    """Columns as wide as they need; those from `left` on are numbers."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) if column < left else text.rjust(width) for column, (text, width) in enumerate(zip(row, widths))).rstrip()
            for row in rows]


def number(value, digits=0):
    return "-" if value is None else f"{value:.{digits}f}"


def percent(value):
    return "-" if value is None else f"{value:+.1f} %"


def plus_minus(summary):
    """How far the interval reaches, in percent of the mean: the farther end."""
    if summary["low"] is None or not summary["mean"]:
        return ""
    return f"± {100 * max(summary['mean'] - summary['low'], summary['high'] - summary['mean']) / summary['mean']:.0f} %"


def size(size_bytes):
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size_bytes >= 1 << shift:
            return f"{size_bytes / (1 << shift):g} {unit}"
    return f"{size_bytes} bytes"
