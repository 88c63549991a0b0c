"""Whether one run is faster than another: cell by cell, and in one sentence that claims no more than the repeats show."""
import math

import figures

VALUE_UNIT = "per_second"


def of(first, second):
    """{"cells": [{"name", "before_per_second", "after_per_second", "gain_percent", "low_percent", "high_percent", …, "verdict"}], "sentence", "notes"} (docs/api.md)."""
    before = {cell["name"]: cell for cell in first["cells"]}
    both = [(before[cell["name"]], cell) for cell in second["cells"] if cell["name"] in before]
    confidence = figures.cell_confidence(len(both))
    cells = [_of_cell(one, other, confidence) for one, other in both]
    return {"cells": cells, "sentence": sentence(cells), "notes": _notes(first, second, cells),
            "first_began": first["began"], "second_began": second["began"]}


def _of_cell(before, after, confidence):
    rate = figures.gain(_repeats(before, VALUE_UNIT), _repeats(after, VALUE_UNIT), confidence)
    share = figures.gain(_repeats(before, "share_percent"), _repeats(after, "share_percent"), confidence)
    mean = rate[0] if rate else after[VALUE_UNIT]["mean"] / before[VALUE_UNIT]["mean"] - 1 if before[VALUE_UNIT]["mean"] else None
    return {"name": after["name"], "before_per_second": before[VALUE_UNIT]["mean"], "after_per_second": after[VALUE_UNIT]["mean"],
            "gain_percent": _percent(mean), "low_percent": _percent(rate and rate[1]), "high_percent": _percent(rate and rate[2]),
            "share_gain_percent": _percent(share and share[0]), "share_low_percent": _percent(share and share[1]),
            "share_high_percent": _percent(share and share[2]), "verdict": figures.verdict(rate, share),
            "moved_with_its_limit": figures.moved_with_its_limit(rate, share)}


def _repeats(cell, key):
    return cell[key]["repeats"] if cell[key] else []


def _percent(ratio):
    return None if ratio is None or not math.isfinite(ratio) else round(100 * ratio, 1)


def sentence(cells):
    if not cells:
        return "The two runs have no cell in common: nothing can be compared."
    of_verdict = {word: [cell for cell in cells if cell["verdict"] == word] for word in ("faster", "slower")}
    if not of_verdict["faster"] and not of_verdict["slower"]:
        return f"No gain and no loss: in none of the {_count(cells)} does the pair differ by more than its repeats, or more than its limit did."
    parts = []
    for word, found in of_verdict.items():
        if found:
            largest = max(found, key=lambda cell: abs(cell["gain_percent"]))
            parts.append(f"{word} in {len(found)} of the {_count(cells)}, most in {largest['name']}: {largest['gain_percent']:+.0f} % "
                         f"(between {largest['low_percent']:+.0f} and {largest['high_percent']:+.0f} %)")
    rest = len(cells) - sum(map(len, of_verdict.values()))
    return "The second run is " + "; and ".join(parts) + (f"; the other {rest} show no difference." if rest else ".")


def _count(cells):
    return "1 cell" if len(cells) == 1 else f"{len(cells)} cells"


def _notes(first, second, cells):
    notes, common = [], len(cells)
    moved = [cell["name"] for cell in cells if cell["moved_with_its_limit"]]
    if moved:
        notes.append(f"In {', '.join(moved)} the figure changed and its share of the limit did not, beyond doubt: that may be the machine, so it is claimed for nobody.")
    left_out = max(len(first["cells"]), len(second["cells"])) - common
    if left_out:
        notes.append(f"{left_out} cells are in one run only and were left out.")
    for part, keys in (("machine", ("cpu_count", "cpu_model", "memory_bytes", "kernel")), ("method", ("seconds", "load")),
                       ("pair", ("volume_size_bytes", "volume_block_size_bytes", "compression", "mirrors"))):
        for key in keys:
            if first[part].get(key) != second[part].get(key):
                notes.append(f"The runs differ in {key.removesuffix('_bytes').replace('_', ' ')}: {first[part].get(key)} and {second[part].get(key)}.")
    return notes
