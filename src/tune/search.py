"""The search: one tunable after the other, each of its values tried in turns against what is best so far. A change stays only when it gains beyond the noise in a cell that was
asked for and harms none beyond the limit. What was tried is kept in a file after each step, so that an interrupted search goes on."""
import dataclasses
import json
import os

import trial

SMALLEST_GAIN_PERCENT = 2   # below it a gain is not worth a setting of one's own


@dataclasses.dataclass(frozen=True)
class Plan:
    wanted: list            # cells that shall gain
    guarded: list           # cells that shall not lose
    tries: dict             # {tunable: [values]}, in the order of the search
    pairs: int
    harm_percent: float

    @property
    def cells(self):
        return self.wanted + [cell for cell in self.guarded if cell not in self.wanted]

    def key(self):
        return {"wanted": [cell.name for cell in self.wanted], "guarded": [cell.name for cell in self.guarded], "harm_percent": self.harm_percent,
                "tries": self.tries}


def judge(gains, plan):
    """("kept" or why not, the gain that decides)."""
    for cell in plan.cells:
        of_cell = gains[cell.name]
        if of_cell["gain_percent"] is not None and of_cell["gain_percent"] < -plan.harm_percent and of_cell["high_percent"] < 0:
            return f"harms {cell.name} by {-of_cell['gain_percent']} %", None
        if cell not in plan.wanted and of_cell["gain_percent"] is not None and of_cell["gain_percent"] < -3 * plan.harm_percent:
            return f"perhaps harms {cell.name} by {-of_cell['gain_percent']} %", None
    best = max((gains[cell.name] for cell in plan.wanted), key=lambda one: one["low_percent"] if one["low_percent"] is not None else -100)
    if best["low_percent"] is None or best["low_percent"] <= SMALLEST_GAIN_PERCENT:
        return "no gain beyond the noise", None
    return "kept", best["gain_percent"]


class Search:
    def __init__(self, bench, plan, tunables, file, tell):
        """tunables: the API's list; file: where its state lies, or None."""
        self.bench, self.plan, self.file, self.tell = bench, plan, file, tell
        self.now = {one["name"]: one["value"] for one in tunables if one["name"] in plan.tries}
        self.state = {"plan": plan.key(), "began_with": dict(self.now), "values": dict(self.now), "steps": []}

    def resume(self):
        """Goes on with the file's state when it is of the same plan. Returns how many steps are there."""
        if self.file is None or not self.file.exists():
            return 0
        try:
            state = json.loads(self.file.read_text())
        except ValueError:
            return 0
        if state.get("plan") == json.loads(json.dumps(self.plan.key())):
            self.state = state
        return len(self.state["steps"])

    def steps_left(self):
        done = {(step["name"], step["value"]) for step in self.state["steps"]}
        return [(name, value) for name, values in self.plan.tries.items() for value in values if (name, value) not in done]

    def run(self, is_over):
        """Until every value was tried, or is_over(). What gained is the pool's own when it ends, however it ends."""
        values = self.state["values"]
        try:
            for name, value in self.steps_left():
                if is_over():
                    self.tell("the time is over: the same command goes on")
                    break
                if value == values[name]:
                    self._note(name, value, "it is so already", None, {})
                    continue
                candidate = dict(values) | {name: value}
                rates = trial.compare(self.bench, self.plan.cells, values, candidate, self.plan.pairs, lambda text: self.tell(f"{name}={value}  {text}", last=False))
                gains = trial.gains(rates)
                verdict, gain = judge(gains, self.plan)
                if verdict == "kept":
                    values[name] = value
                self._note(name, value, verdict, gain, gains)
        finally:
            trial.end_of_trials(self.bench.pair, self.bench.pool, self.plan.tries)
            changed = {name: value for name, (_, value) in self.changes().items()}
            if changed:
                trial.keep(self.bench.pair, self.bench.pool, changed)

    def _note(self, name, value, verdict, gain, gains):
        self.state["steps"].append({"name": name, "value": value, "verdict": verdict, "gain_percent": gain, "gains": gains})
        self.tell(f"{name}={value}: {verdict}" + (f", {gain:+.1f} %" if gain is not None else ""))
        if self.file is not None:
            new = self.file.with_suffix(".new")
            with open(new, "w") as out:
                json.dump(self.state, out, indent=1)
                out.flush()
                os.fsync(out.fileno())
            new.replace(self.file)

    def changes(self):
        """{name: (value before, value now)} of what the search changed."""
        return {name: (self.state["began_with"][name], value) for name, value in self.state["values"].items() if value != self.state["began_with"][name]}
