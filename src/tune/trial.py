"""Whether one set of values is faster than another: measured in turns on one volume, so that whatever else the machine does hits both."""
import dataclasses
import secrets
import time

import figures
import programs
from programs import uninterrupted

SETTLE_SECONDS = 0.5   # after a change: a txg of the former values ends


@dataclasses.dataclass
class Bench:
    """A volume made for the trials, filled, and destroyed at the end."""
    pair: object
    pool: str
    size_bytes: int
    seconds: float
    name: str = ""
    uri: str = ""

    def open(self):
        client, key = self.pair.client_node(self.pair.pool(self.pool)["owner"])
        self.name = f"tune-{secrets.token_hex(4)}"
        self.pair.create_volume(self.pool, self.name, self.size_bytes)
        self.uri = self.pair.volume(self.pool, self.name, key)["nbd"][client]
        programs.fill(self.uri, self.size_bytes)
        self.pair.settle(self.pool, self.name)

    def close(self):
        if self.name:
            name, self.name = self.name, ""
            self.pair.destroy_volume(self.pool, name)

    def measure(self, cell):
        rate = programs.fio_cell(self.uri, cell, self.size_bytes, self.seconds, min(0.5, self.seconds / 4))["per_second"]
        if cell.read_percent < 100:
            self.pair.settle(self.pool, self.name)
        return rate


def keep(pair, pool, values):
    """{name: value, or None for the default}: in force, and the pool's own."""
    with uninterrupted():
        pair.ask("POST", "/v1/tune", {"pool": pool, "set": values})


def try_out(pair, pool, values):
    """In force until end_of_trials()."""
    with uninterrupted():
        pair.ask("POST", "/v1/tune", {"pool": pool, "set": values, "try": True})


def end_of_trials(pair, pool, names):
    try_out(pair, pool, dict.fromkeys(names))


def compare(bench, cells, first, second, pairs, tell=lambda text: None):
    """{cell's name: {"first": [rates], "second": [rates]}}: `pairs` turns of each, now one first, now the other. first and second name the same
    tunables; whoever calls ends the trials."""
    rates = {cell.name: {"first": [], "second": []} for cell in cells}
    for number in range(pairs):
        order = [("first", first), ("second", second)]
        for which, values in order if number % 2 == 0 else reversed(order):
            try_out(bench.pair, bench.pool, values)
            time.sleep(SETTLE_SECONDS)
            for cell in cells:
                rate = bench.measure(cell)
                rates[cell.name][which].append(rate)
                tell(f"turn {number + 1} of {pairs}  {cell.name}  {rate:.0f}/s")
    return rates


def gains(rates, confidence=figures.CONFIDENCE):
    """{cell's name: {"gain_percent", "low_percent", "high_percent"}} of second over first; Bonferroni over the cells."""
    each = figures.cell_confidence(len(rates), confidence)
    result = {}
    for name, of_cell in rates.items():
        gain = figures.gain(of_cell["first"], of_cell["second"], each)
        keys = ("gain_percent", "low_percent", "high_percent")
        result[name] = dict(zip(keys, (None,) * 3 if gain is None else (round(100 * part, 1) for part in gain)))
    return result
