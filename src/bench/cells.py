"""What a benchmark measures: cells, each a pattern, a block size and a number of jobs, and how long they take.

A job is a client of its own: one connection, one request at a time, as one busy disk of one guest.
"""
import dataclasses
import fnmatch
import re

READ_PERCENT = {"seqread": 100, "seqwrite": 0, "randread": 100, "randwrite": 0, "mixed": 70}
FIO_RW = {"seqread": "read", "seqwrite": "write", "randread": "randread", "randwrite": "randwrite", "mixed": "randrw"}
IN_WORDS = {"seqread": "sequential read", "seqwrite": "sequential write", "randread": "random read", "randwrite": "random write",
            "mixed": "random, 70 % read, 30 % write"}
JOBS = (1, 8, 16)
SIZES = {"4k": 4096, "128k": 128 << 10, "1m": 1 << 20}
PREPARE_SECONDS = 20   # a volume made and filled, two raw files
TURN_SECONDS = 0.9     # programs that start and end, and the settling of what was written


class NoSuchCell(Exception):
    exit_code = 2


@dataclasses.dataclass(frozen=True)
class Cell:
    pattern: str
    size: str   # as in the name: 4k, 128k, 1m
    jobs: int

    @property
    def name(self):
        return f"{self.pattern}-{self.size}-j{self.jobs}"

    @property
    def block_size_bytes(self):
        number, unit = re.fullmatch(r"(\d+)([km])", self.size).groups()
        return int(number) << (10 if unit == "k" else 20)

    @property
    def read_percent(self):
        return READ_PERCENT[self.pattern]

    @property
    def sequential(self):
        return self.pattern.startswith("seq")

    @property
    def in_words(self):
        clients = "1 client" if self.jobs == 1 else f"{self.jobs} clients"
        return f"{IN_WORDS[self.pattern]}, {self.size.replace('k', ' KiB').replace('m', ' MiB')}, {clients}"


KNOWN = [Cell(pattern, size, jobs) for pattern in FIO_RW for size in SIZES for jobs in JOBS]
# Large blocks as they are used: whole MiBs by who goes from one end to the other, 128 KiB by who jumps.
DEFAULT = [cell for cell in KNOWN if cell.size == "4k" or cell.sequential == (cell.size == "1m")]
QUICK = [Cell("randwrite", "4k", 1), Cell("randwrite", "4k", 16), Cell("randread", "4k", 16), Cell("mixed", "4k", 8),
         Cell("seqwrite", "1m", 1), Cell("seqread", "1m", 1)]


def chosen(text):
    """The cells that comma-separated names mean, in their order: randwrite-4k-j16, randread-*, *-j1, or one of another size or number."""
    cells = []
    for word in text.split(","):
        exact = re.fullmatch(r"([a-z]+)-(\d+[km])-j(\d+)", word)
        found = [cell for cell in KNOWN if fnmatch.fnmatchcase(cell.name, word)]
        if exact and exact[1] in FIO_RW:
            found = [Cell(exact[1], exact[2], int(exact[3]))]
            if not 1 <= found[0].jobs <= 256 or not 512 <= found[0].block_size_bytes <= 16 << 20:
                raise NoSuchCell(f"cell '{word}' is out of bounds: blocks are 1k to 16m, jobs 1 to 256")
        if not found:
            raise NoSuchCell(f"'{word}' names no cell: write PATTERN-BLOCK-jJOBS as in randwrite-4k-j16, or randread-*; "
                             f"patterns are {', '.join(FIO_RW)}")
        cells += [cell for cell in found if cell not in cells]
    return cells


@dataclasses.dataclass(frozen=True)
class Plan:
    """Rounds over all cells; in each, a cell's limit and then the pair."""
    cells: list
    repeats: int
    seconds: float

    @property
    def ramp_seconds(self):
        return 1.0 if self.seconds >= 2 else self.seconds / 2

    @property
    def limit_seconds(self):
        return max(0.5, self.seconds / 2)

    @property
    def turns(self):
        return self.repeats * len(self.cells)

    @property
    def turn_seconds(self):
        return self.limit_seconds + self.ramp_seconds + self.seconds + TURN_SECONDS

    @property
    def all_seconds(self):
        return PREPARE_SECONDS + self.turns * self.turn_seconds


def plan(quick, cells, repeats, seconds):
    return Plan(chosen(cells) if cells else QUICK if quick else DEFAULT, repeats or (3 if quick else 5), seconds or (2 if quick else 3.5))
