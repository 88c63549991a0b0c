"""A minute of `./dev soak cluster`."""
import random

import soak


def test_a_minute_of_random_faults(pair):
    """Random faults, overlapping, under a verified load on both pools; then zdb: nothing lost."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"    seed {seed}", flush=True)
    print(f"    {soak.soak(pair, 1, seed)}", flush=True)


test_a_minute_of_random_faults.options = soak.OPTIONS
