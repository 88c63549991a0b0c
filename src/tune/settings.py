"""What a pool's settings are, what a profile says, and the difference. No pair is asked here."""
import dataclasses
import pathlib
import tomllib
import typing

from programs import Failed

FOLDER = pathlib.Path(__file__).resolve().with_name("profiles")


@dataclasses.dataclass(frozen=True)
class Setting:
    name: str
    value: int
    reason: str
    tries: typing.Tuple[int, ...] = ()   # what a search tries, its bounds with it


@dataclasses.dataclass(frozen=True)
class Profile:
    name: str
    summary: str
    settings: typing.Dict[str, Setting]
    fixed: typing.List[dict]    # {"name", "is", "would_be"}: out of reach in the packaged library
    advice: typing.List[str]


def names():
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def profile(word):
    """By its name, or by a file of the same form."""
    file = FOLDER / f"{word}.toml" if word in names() else pathlib.Path(word)
    try:
        data = tomllib.loads(file.read_text())
    except FileNotFoundError:
        raise Failed(f"there is no profile {word}: {', '.join(names())}, or a file of that form; a setting is NAME=VALUE") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Failed(f"profile {word} cannot be read: {error}") from None
    settings = {}
    for entry in data.get("setting", []):
        if not isinstance(entry.get("name"), str) or type(entry.get("value")) is not int or unknown_keys(entry, {"name", "value", "reason", "try"}):
            raise Failed(f"profile {word}: a setting has name, value (a whole number), reason and try, not {entry}")
        settings[entry["name"]] = Setting(entry["name"], entry["value"], entry.get("reason", ""), tuple(entry.get("try", [])))
    if not settings or unknown_keys(data, {"setting", "fixed", "advice", "summary"}):
        raise Failed(f"profile {word}: it holds settings ([[setting]]), fixed, advice and a summary, and nothing else")
    return Profile(file.stem, data.get("summary", ""), settings, data.get("fixed", []), data.get("advice", []))


def unknown_keys(table, known):
    return sorted(set(table) - known)


def wanted(words):
    """{name: value or None for the default} of a line's words: one profile, or NAME=VALUE …"""
    if len(words) == 1 and "=" not in words[0]:
        return {setting.name: setting.value for setting in profile(words[0]).settings.values()}
    values = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise Failed(f"'{word}' is neither NAME=VALUE nor, alone, a profile ({', '.join(names())})")
        if text == "default":
            values[name] = None
        elif text.isdigit():
            values[name] = int(text)
        else:
            raise Failed(f"{word}: a value is a whole number, or default")
    return values


def rows(tunables, of_profile=None):
    """[{name, value, default, kept, profile, unit, meaning}] of the API's list, in its order."""
    return [{key: one[key] for key in ("name", "value", "default", "kept", "least", "most", "unit", "meaning")} |
            {"profile": of_profile.settings[one["name"]].value if of_profile and one["name"] in of_profile.settings else None,
             "reason": of_profile.settings[one["name"]].reason if of_profile and one["name"] in of_profile.settings else None}
            for one in tunables]


def differences(tunables, values):
    """[(name, value now, value wanted)] where they differ; None: as by default. Failed names what the library does not have."""
    known = {one["name"]: one for one in tunables}
    missing = [name for name in values if name not in known]
    if missing:
        raise Failed(f"this OpenZFS has no tunable {missing[0]} that can be reached: zpair tune show lists those")
    out_of_bounds = [(name, value) for name, value in values.items()
                     if value is not None and not known[name]["least"] <= value <= known[name]["most"]]
    if out_of_bounds:
        name, value = out_of_bounds[0]
        raise Failed(f"tunable {name} takes {known[name]['least']} to {known[name]['most']} {known[name]['unit']}, not {value}")
    targets = {name: known[name]["default"] if value is None else value for name, value in values.items()}
    return [(name, known[name]["value"], target) for name, target in targets.items() if known[name]["value"] != target]
