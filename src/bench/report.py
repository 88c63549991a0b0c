"""A run's two files: report.json for programs (docs/api.md), report.html for people."""
import json

import page
from programs import Failed, read_json

FORMAT = 1


def write(folder, report):
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (folder / "report.html").write_text(page.of(report), encoding="utf-8")


def read(path):
    """Of a folder, or the file itself."""
    file, report = read_json(path, "report.json", "report of zpair bench")
    if not isinstance(report, dict) or report.get("format") != FORMAT or not isinstance(report.get("cells"), list):
        raise Failed(f"{file} is no report of zpair bench, or of another version's: its format is not {FORMAT}")
    return report
