"""The arithmetic of a benchmark: intervals of confidence, shares of a limit, and whether one run is faster than another.

Rates are compared as ratios, so everything here works on logarithms: noise of a machine multiplies. An interval is Student's, of
the repeats of one cell, which are spread over the whole run (round by round), so that what drifts meanwhile is in it.
No I/O and no clock.
"""
import functools
import math
import statistics

CONFIDENCE = 0.95
# Two runs of one thing differ by this much for reasons that no repeat shows: where the volume lies, what else ran that day.
SMALLEST_CLAIM = 0.02


def _incomplete_beta(a, b, x):
    """I_x(a, b), by Lentz's continued fraction (Numerical Recipes, 6.4)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    value, c, d = 1.0, 1.0, 0.0
    for i in range(400):
        m = i // 2
        if i == 0:
            numerator = 1.0
        elif i % 2 == 0:
            numerator = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            numerator = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 + numerator * d
        d = 1 / (d if abs(d) > tiny else tiny)
        c = 1 + numerator / c
        c = c if abs(c) > tiny else tiny
        value *= c * d
        if abs(1 - c * d) < 1e-14:
            break
    return front * (value - 1)


def student_within(t, degrees):
    """The probability that Student's t lies between -t and t."""
    return 1 - _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))


@functools.lru_cache(maxsize=4096)
def student_bound(confidence, degrees):
    """The t with that probability between -t and t."""
    low, high = 0.0, 1.0
    while student_within(high, degrees) < confidence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_within(middle, degrees) < confidence else (low, middle)
    return (low + high) / 2


def _interval(values, confidence):
    """(mean, half width) of numbers; no width is known from one."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    error = statistics.stdev(values) / math.sqrt(len(values))
    return mean, student_bound(confidence, len(values) - 1) * error


def summary(values, digits=1, confidence=CONFIDENCE):
    """{"mean", "low", "high", "repeats"} of what a cell's repeats gave; low and high are null where one repeat tells nothing.

    The mean is the geometric one, as the interval is that of the logarithms; a repeat of 0 or less makes both plain.
    """
    values = [value for value in values if value is not None]
    if not values:
        return None
    plain = min(values) <= 0
    mean, half = _interval(values if plain else [math.log(value) for value in values], confidence)
    back = (lambda value: value) if plain else math.exp
    ends = (None, None) if half is None else (back(mean - half), back(mean + half))
    return {"mean": round(back(mean), digits), "low": None if ends[0] is None else round(ends[0], digits),
            "high": None if ends[1] is None else round(ends[1], digits), "repeats": [round(value, digits) for value in values]}


def share_percent(values, limits, confidence=CONFIDENCE):
    """What share of its limit a cell reached: turn by turn, since the limit of a turn was measured beside it."""
    pairs = [(value, limit) for value, limit in zip(values, limits) if limit]
    return summary([100 * value / limit for value, limit in pairs], 1, confidence) if pairs else None


def percentile(bins, part):
    """The smallest value of a histogram {value: count} that at least this part of all does not exceed; None of an empty one."""
    wanted, seen = part * sum(bins.values()), 0
    for value in sorted(bins):
        seen += bins[value]
        if seen >= wanted and seen > 0:
            return value
    return None


def gain(before, after, confidence):
    """(ratio - 1, low, high) of two lists of repeats, by Welch's interval of their logarithms; None where it has no interval."""
    if len(before) < 2 or len(after) < 2 or min(before + after) <= 0:
        return None
    first, second = [math.log(value) for value in before], [math.log(value) for value in after]
    parts = [statistics.variance(values) / len(values) for values in (first, second)]
    difference = statistics.fmean(second) - statistics.fmean(first)
    if sum(parts) == 0:   # repeats that are equal to the last digit: the difference is what it is
        return (math.exp(difference) - 1,) * 3
    degrees = sum(parts) ** 2 / sum(part ** 2 / (len(values) - 1) for part, values in zip(parts, (first, second)))
    degrees = max(1.0, math.floor(10 * degrees) / 10)   # rounded to the safe side: few different bounds to find
    half = student_bound(confidence, degrees) * math.sqrt(sum(parts))
    return tuple(math.exp(end) - 1 for end in (difference, difference - half, difference + half))


def verdict(of_rate, of_share):
    """faster, slower or same. Both must say so: a rate that rose with its limit is a faster machine, a share that rose alone a slower one."""
    known = [interval for interval in (of_rate, of_share) if interval is not None]
    if of_rate is None:
        return "same"
    if all(low > SMALLEST_CLAIM for _, low, _ in known):
        return "faster"
    if all(high < -SMALLEST_CLAIM for _, _, high in known):
        return "slower"
    return "same"


def moved_with_its_limit(of_rate, of_share):
    """The rate alone would be a gain or a loss, and its share of the limit is none: the machine changed."""
    return verdict(of_rate, of_share) == "same" and of_share is not None and verdict(of_rate, None) != "same"


def cell_confidence(cells, confidence=CONFIDENCE):
    """The confidence that each of so many cells needs for all of them together to keep the given one (Bonferroni)."""
    return 1 - (1 - confidence) / max(cells, 1)
