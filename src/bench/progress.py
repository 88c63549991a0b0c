"""What the run is at and how long it still takes, on a terminal only: one line, drawn again and again."""
import shutil
import time

BAR = 20


class Progress:
    def __init__(self, stream):
        self._stream = stream
        self._shows = stream.isatty()
        self._began_s = None

    def step(self, text):
        self._draw(text)

    def turn(self, done, plan, round_number, cell, samples):
        """`done` turns are over, and this cell's begins; its last figure is shown, for those who watch."""
        if self._began_s is None:
            self._began_s = time.monotonic()
        self._draw(line_of(done, plan, round_number, cell, samples, time.monotonic() - self._began_s))

    def clear(self):
        self._draw("")

    def _draw(self, text):
        if self._shows:
            self._stream.write("\r\033[K" + text[:shutil.get_terminal_size().columns - 1])
            self._stream.flush()


def line_of(done, plan, round_number, cell, samples, elapsed_seconds):
    """The time left is that of the turns so far; before the first one, that of the plan."""
    filled = round(BAR * done / plan.turns)
    each = elapsed_seconds / done if done else plan.turn_seconds
    parts = ["█" * filled + "░" * (BAR - filled), f"{done}/{plan.turns}", f"round {round_number + 1} of {plan.repeats}"]
    if cell is not None:
        parts.append(cell.name)
    if samples:
        parts.append(f"last {samples[-1]['pair']['per_second']:.0f}/s")
    return "  ".join(parts + [time_left(each * (plan.turns - done)) + " left"])


def time_left(seconds):
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
