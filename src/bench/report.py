"""A run's two files: report.json for programs (docs/api.md), report.html for people."""
import json
import pathlib

import page
from programs import Failed

FORMAT = 1


def open_folder(path):
    folder = pathlib.Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").touch()
    except OSError as error:
        raise Failed(f"cannot write into {path}: {error.strerror}") from None
    return folder


def write(folder, report):
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (folder / "report.html").write_text(page.of(report), encoding="utf-8")


def read(path):
    """Of a folder, or the file itself."""
    file = pathlib.Path(path)
    file = file / "report.json" if file.is_dir() else file
    try:
        report = json.loads(file.read_text())
    except OSError as error:
        raise Failed(f"cannot read {file}: {error.strerror}") from None
    except ValueError:
        raise Failed(f"{file} is no report of zpair bench: it is not JSON, or of a run that did not end") from None
    if not isinstance(report, dict) or report.get("format") != FORMAT or not isinstance(report.get("cells"), list):
        raise Failed(f"{file} is no report of zpair bench, or of another version's: its format is not {FORMAT}")
    return report
