"""Charts as SVG text, coloured by the page's style sheet. Each shape has a <title>: what it says when it is pointed at."""
import html
import math

BAR_WIDTH, BAR_GAP, GROUP_GAP = 38, 4, 26
PLOT_HEIGHT, TOP, BOTTOM, LEFT = 150, 30, 44, 14


def escape(text):
    return html.escape(str(text))


def _svg(width, height, label, body):
    return (f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" role="img" '
            f'aria-label="{escape(label)}">{"".join(body)}</svg>')


def _text(x, y, text, css="", anchor="middle"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{escape(text)}</text>'


def _rect(x, y, width, height, css, title):
    """Rounded at its free end only would want a path; two pixels on all corners look the same at this size."""
    return (f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" rx="2" class="{css}">'
            f"<title>{escape(title)}</title></rect>")


def short(value):
    """1234 as people read it at a glance: 1.23k."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def columns(groups, unit, label):
    """groups: [{"name", "under", "value", "low", "high", "limit"}]: the pair's column beside its limit's, for each."""
    # A figure of which nobody is sure must not squeeze the columns: its whisker is cut off at the top.
    tallest = max(max(group["value"], group["limit"] or 0) for group in groups)
    most = max(tallest, min(1.3 * tallest, max(group["high"] or 0 for group in groups))) or 1
    height_of = lambda value: PLOT_HEIGHT * value / most  # noqa: E731
    base, body, x = TOP + PLOT_HEIGHT, [], LEFT
    for group in groups:
        middle = x + BAR_WIDTH + BAR_GAP / 2
        for value, css, what in ((group["value"], "pair", "pair"), (group["limit"], "limit", "limit")):
            at = x if css == "pair" else x + BAR_WIDTH + BAR_GAP
            if value is not None:
                body.append(_rect(at, base - height_of(value), BAR_WIDTH, height_of(value), css, f"{group['name']}, {what}: {value:.0f} {unit}"))
                lift = 8
                if css == "pair" and group["low"] is not None:
                    low, high = base - height_of(max(group["low"], 0)), base - height_of(min(group["high"], most))
                    center = at + BAR_WIDTH / 2
                    body.append(f'<path d="M{center:.1f} {low:.1f}V{high:.1f}M{center - 5:.1f} {high:.1f}h10M{center - 5:.1f} {low:.1f}h10" class="whisker"/>')
                    lift += max(0, (base - height_of(value)) - high)
                body.append(_text(at + BAR_WIDTH / 2, base - height_of(value) - lift, short(value), "value" if css == "pair" else "quiet"))
        body.append(_text(middle, base + 18, group["under"], "axis"))
        if group["limit"]:
            body.append(_text(middle, base + 35, f"{100 * group['value'] / group['limit']:.0f} %", "share"))
        x += 2 * BAR_WIDTH + BAR_GAP + GROUP_GAP
    width = x - GROUP_GAP + LEFT
    body.insert(0, f'<path d="M0 {base + .5}H{width}" class="base"/>')
    return _svg(width, base + BOTTOM, label, body)


ROW, NAME_WIDTH, WIDE = 26, 158, 860


def _ticks(low, high):
    """1, 10, 100 … microseconds between the ends, as people say them."""
    return [10 ** power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


def duration(us):
    return f"{us / 1e6:.3g} s" if us >= 1e6 else f"{us / 1e3:.3g} ms" if us >= 1e3 else f"{us:.3g} us"


def ranges(rows, label):
    """rows: [{"name", "p50", "p99", "p99_9", "limit_p50"}] in microseconds, on a logarithmic axis."""
    values = [row[key] for row in rows for key in ("p50", "p99", "p99_9", "limit_p50") if row[key]]
    ticks = _ticks(min(values), max(values))
    span = math.log10(ticks[-1] / ticks[0]) or 1
    at = lambda us: NAME_WIDTH + (WIDE - NAME_WIDTH - 30) * math.log10(us / ticks[0]) / span  # noqa: E731
    height, body = 24 + ROW * len(rows), []
    for tick in ticks:
        body.append(f'<path d="M{at(tick):.1f} 20V{height}" class="grid"/>' + _text(at(tick), 12, duration(tick), "axis"))
    for number, row in enumerate(rows):
        y = 24 + ROW * number + ROW / 2
        body.append(_text(NAME_WIDTH - 12, y + 4, row["name"], "axis", "end"))
        if row["limit_p50"]:
            body.append(f'<circle cx="{at(row["limit_p50"]):.1f}" cy="{y}" r="4.5" class="limit-dot"><title>{escape(row["name"])}, limit: half within {duration(row["limit_p50"])}</title></circle>')
        body.append(f'<path d="M{at(row["p50"]):.1f} {y}H{at(row["p99"]):.1f}" class="range"/>'
                    f'<path d="M{at(row["p99"]):.1f} {y}H{at(row["p99_9"]):.1f}" class="tail"/>'
                    f'<path d="M{at(row["p99_9"]):.1f} {y - 5}v10" class="whisker"/>')
        for key, css, part in (("p50", "dot", "half"), ("p99", "small-dot", "99 in 100")):
            body.append(f'<circle cx="{at(row[key]):.1f}" cy="{y}" r="{5 if key == "p50" else 3.5}" class="{css}"><title>{escape(row["name"])}: {part} within {duration(row[key])}</title></circle>')
        body.append(f'<rect x="{at(row["p50"]):.1f}" y="{y - ROW / 2}" width="{max(at(row["p99_9"]) - at(row["p50"]), 1):.1f}" height="{ROW}" class="touch"><title>{escape(row["name"])}: half within {duration(row["p50"])}, '
                    f'99 in 100 within {duration(row["p99"])}, 999 in 1000 within {duration(row["p99_9"])}</title></rect>')
    return _svg(WIDE, height + 4, label, body)


def stacks(rows, unit, label, mark=None):
    """rows: [{"name", "parts": [(css, what, value)]}]: horizontal bars, their sum at the end. mark: (value, words) of a line across."""
    most = max([sum(value for *_, value in row["parts"]) for row in rows] + ([mark[0]] if mark else [])) or 1
    room = WIDE - NAME_WIDTH - 90
    top = 22 if mark else 4
    height, body = top + ROW * len(rows), []
    for number, row in enumerate(rows):
        y, x = top + ROW * number + 5, float(NAME_WIDTH)
        body.append(_text(NAME_WIDTH - 12, y + 12, row["name"], "axis", "end"))
        for css, what, value in row["parts"]:
            width = room * value / most
            body.append(_rect(x, y, max(width - 2, 0.5), ROW - 10, css, f"{row['name']}, {what}: {value:.3g} {unit}"))   # two pixels between neighbours
            x += width
        body.append(_text(x + 6, y + 12, short(sum(value for *_, value in row["parts"])), "value", "start"))
    if mark:
        x = NAME_WIDTH + room * mark[0] / most
        body.append(f'<path d="M{x:.1f} 16V{height}" class="mark"/>' + _text(x, 11, mark[1], "axis"))
    return _svg(WIDE, height + 4, label, body)
