#!/usr/bin/env python3
"""Random faults against a running pair (`./dev soak cluster`): overlapping, also during recovery, under a verified load.

Rounds of one to three faults at once, each begun and ended at a random moment; then everything is mended, and the pair must
serve every volume again and come back in sync. Nothing acknowledged may be lost, no read may go back, and the pools that are
left must pass zdb. A failure leaves its folder, whose story.log tells what was done and what the pair said to it.

  soak.py [--minutes M] [--seed N]
"""
import argparse
import collections
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
os.environ.setdefault("ZPAIR_BIN", str(HERE.parent.parent / "build" / "release" / "bin"))

from harness import BIN, Pair, check, flip_bytes, run, wait_for  # noqa: E402

POOLS = ("tank-a", "tank-b")
NODES = ("a", "b")
PATHS = ("path1", "path2")
DRIVE_SIZE = 256 << 20
MIRRORS = 3
SERVES_AGAIN_SECONDS = 120
IN_SYNC_SECONDS = 700           # a leg that errs again and again waits up to ten minutes before it is tried again
MOST_RESIDENT_BYTES = 2 << 30   # of any process of the pair
MOST_DESCRIPTORS = 700
SWITCH = "switch"   # the sandbox's. A dead one holds what tries to come through until it is healed: of its descriptors the last look counts
PROGRAMS = ("zpaird", "zpair-pool", "zpair-load", "zpair", "etcd")


class World:
    """The pair under test, what was done to it, and by what chance."""

    def __init__(self, pair, seed):
        self.pair, self.chance = pair, random.Random(seed)
        self.story_file = open(pair.folder / "story.log", "a", buffering=1)
        self.began = time.monotonic()
        self.tried, self.applied = collections.Counter(), collections.Counter()
        self.drives = {f"{leg['node']}:{leg['drive']}" for pool in POOLS for leg in pair.legs(pool)}
        self.spares = self.snapshots = 0
        self.did = False

    def tell(self, text):
        self.story_file.write(f"{time.strftime('%H:%M:%S')} {time.monotonic() - self.began:8.2f} {text}\n")

    def attempt(self, what, *arguments):
        """A command that the pair may refuse in its present state; whether it was done."""
        try:
            done = what(*arguments, ok=None, timeout=60)
        except subprocess.TimeoutExpired:
            self.tell(f"{' '.join(map(str, arguments))}: no answer within 60 s")
            return False
        answer = "done" if done.returncode == 0 else (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        self.tell(f"{' '.join(map(str, arguments))}: {answer}")
        self.did |= done.returncode == 0
        return done.returncode == 0

    def sandbox(self, *arguments):
        return self.attempt(self.pair.sandbox, *arguments)

    def zpair(self, *arguments):
        return self.attempt(self.pair.zpair, *arguments)

    def begin(self, fault):
        """What ends it, if anything does. It counts as applied when one of its commands was done."""
        self.tried[fault.__name__] += 1
        self.did = False
        end = fault(self)
        self.applied[fault.__name__] += self.did
        return end

    def a_leg(self):
        pool = self.chance.choice(POOLS)
        legs = self.pair.legs(pool)
        return self.chance.choice(legs) if legs else None


# --- faults: each begins, and returns what ends it, or None when there is nothing to end ---

def _cut(world, *links):
    reset = ["--reset"] if world.chance.random() < 0.3 else []
    for link in links:
        world.sandbox("cut", link)
    return lambda: [world.sandbox("heal", link, *reset) for link in links]


def path_loss(world):
    return _cut(world, world.chance.choice(PATHS) + world.chance.choice(("", ":a>b", ":b>a")))


def partition(world):
    return _cut(world, *PATHS)


def node_cut_off(world):
    return _cut(world, *PATHS, "store:" + world.chance.choice(NODES))


def store_cut(world):
    return _cut(world, "store:" + world.chance.choice(NODES))


def quorum_loss(world):
    return _cut(world, "store:a", "store:b")


def _killed(world, target, start=True):
    world.sandbox("kill", target)
    return (lambda: world.sandbox("start", target)) if start else None


def witness_loss(world):
    return _killed(world, "witness")


def etcd_loss(world):
    return _killed(world, "etcd:" + world.chance.choice(NODES))


def node_loss(world):
    return _killed(world, world.chance.choice(NODES))


def both_power_loss(world):
    return _killed(world, "both")


def agent_crash(world):
    return _killed(world, "zpaird:" + world.chance.choice(NODES))


def process_crash(world):
    return _killed(world, "pool:" + world.chance.choice(POOLS), start=False)


def hung_process(world):
    world.sandbox("pause", "pool:" + world.chance.choice(POOLS))   # its watchdog ends it


def hung_node(world):
    node = world.chance.choice(NODES)
    world.sandbox("pause", node)
    return lambda: world.sandbox("resume", node)


def _drive_fault(world, fault):
    leg = world.a_leg()
    if leg is None:
        return None
    drive = f"{leg['node']}:{leg['drive']}"
    world.sandbox("fault", drive, fault)
    return lambda: world.sandbox("fault", drive, "clear")


def failing_leg(world):
    return _drive_fault(world, world.chance.choice(("write-errors on", "flush-errors on", "torn-writes on", "write-errors 0.02")))


def slow_leg(world):
    return _drive_fault(world, world.chance.choice(("slow 5000", "slow 200", "hang on", "latency-us 2000 2000 20000")))


def unreadable_sectors(world):
    first = world.chance.randrange(8 << 20, DRIVE_SIZE - (16 << 20), 1 << 20)
    return _drive_fault(world, ";".join(f"read-errors {first + i * (2 << 20)}+65536" for i in range(4)))


def lost_cache(world):
    leg = world.a_leg()
    if leg is not None:
        world.sandbox("fault", f"{leg['node']}:{leg['drive']}", world.chance.choice(("lose-cache", "tear-cache")))


def switchover(world):
    world.zpair("switchover", world.chance.choice(POOLS), "--to", world.chance.choice(NODES))


def failback(world):
    world.zpair("failback")


def scrub(world):
    world.zpair("pool", "scrub", world.chance.choice(POOLS))


def snapshot(world):
    world.snapshots += 1
    name = f"{world.chance.choice(POOLS)}/vm1@s{world.snapshots}"
    if world.zpair("volume", "snapshot", name):
        return lambda: world.zpair("volume", "destroy", name)
    return None


FAULTS = (path_loss, partition, node_cut_off, store_cut, quorum_loss, witness_loss, etcd_loss, node_loss, node_loss, both_power_loss,
          agent_crash, process_crash, process_crash, hung_process, hung_node, failing_leg, failing_leg, slow_leg, unreadable_sectors,
          lost_cache, switchover, switchover, failback, scrub, snapshot)


# --- faults that stand alone: with another one they would be two failures of the same data ---

def replace_drive(world):
    pool = world.chance.choice(POOLS)
    leg = world.chance.choice(world.pair.legs(pool))
    world.spares += 1
    spare = world.pair.dir / "drives" / leg["node"] / f"spare-{world.spares}"
    with open(spare, "wb") as file:
        file.truncate(DRIVE_SIZE)
    if not world.zpair("drive", "replace", pool, f"{leg['node']}:{leg['drive']}", f"{leg['node']}:{spare}"):
        spare.unlink()
        return
    wait_for("the old drive's leave", lambda: leg["file"] not in {one["file"] for one in world.pair.legs(pool)}, 120)
    os.unlink(leg["file"])
    world.drives = {f"{one['node']}:{one['drive']}" for name in POOLS for one in world.pair.legs(name)}


def corruption(world):
    pool = world.chance.choice(POOLS)
    leg = world.chance.choice(world.pair.legs(pool))
    before = world.pair.counted(pool, leg, "checksum_errors")
    world.tell(f"bytes of {leg['file']} are flipped")
    flip_bytes(leg, DRIVE_SIZE)
    world.did = True
    world.pair.scrub(pool)
    found = world.pair.counted(pool, leg, "checksum_errors")
    check(found > before, f"nothing was found wrong with {leg['file']}")
    world.pair.scrub(pool)
    left = world.pair.counted(pool, leg, "checksum_errors") - found
    check(left == 0, f"{left} blocks of {leg['file']} were not healed by the first scrub")


ALONE = (replace_drive, corruption)


# --- a round, and its judgement ---

def disturb(world):
    """One to three faults, begun one after the other, each ended in its turn or left to mend()."""
    chosen = world.chance.sample(FAULTS, world.chance.choice((1, 1, 2, 2, 3)))
    world.tell(f"--- round: {', '.join(fault.__name__ for fault in chosen)}")
    ends = []
    for fault in chosen:
        end = world.begin(fault)
        if end:
            ends.append(end)
        time.sleep(world.chance.choice((0, 0.1, 0.7, world.chance.uniform(0, 6))))
    world.chance.shuffle(ends)
    for end in ends:
        end()
        time.sleep(world.chance.choice((0, 0, world.chance.uniform(0, 3))))


def mend(world):
    """Everything that a fault may have left behind."""
    for target in NODES:
        world.sandbox("resume", target)
    for target in ("both", "witness"):
        world.sandbox("start", target)
    for link in (*PATHS, "store:a", "store:b"):
        world.sandbox("heal", link)
    for drive in sorted(world.drives):
        world.pair.sandbox("fault", drive, "clear", ok=None)


def serves(world, loads):
    for load in loads:
        load.goes_on(200, SERVES_AGAIN_SECONDS)
    served = time.monotonic()
    world.pair.wait_in_sync(IN_SYNC_SECONDS)
    world.tell(f"in sync {time.monotonic() - served:.1f} s after every volume was served")


class Watch:
    """Memory and descriptors of every process of the pair, looked at every two seconds."""

    def __init__(self, pair):
        self.pair, self.most = pair, {}
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self):
        while not self.ending.wait(2):
            for entry in pathlib.Path("/proc").iterdir():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
                    if not words or not any(str(self.pair.dir).encode() in word for word in words):
                        continue
                    name = pathlib.Path(words[0].decode(errors="replace")).name
                    if name not in PROGRAMS:
                        continue
                    name = SWITCH if b"sandbox-switch" in words else name
                    resident = int((entry / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
                    descriptors = len(list((entry / "fd").iterdir()))
                except (OSError, ValueError, IndexError):
                    continue   # it has just ended
                before = self.most.get(name, (0, 0))
                self.most[name] = (max(before[0], resident), descriptors if name == SWITCH else max(before[1], descriptors))

    def judge(self):
        check({"zpaird", "zpair-pool", "etcd", SWITCH} <= set(self.most), f"only {sorted(self.most)} were found to watch")
        for name, (resident, descriptors) in self.most.items():
            check(resident <= MOST_RESIDENT_BYTES, f"{name} has grown to {resident >> 20} MiB")
            check(descriptors <= MOST_DESCRIPTORS, f"{name} has {descriptors} descriptors open")

    def end(self):
        self.ending.set()
        self.thread.join()
        return {name: f"{resident >> 20} MiB, {descriptors} descriptors" for name, (resident, descriptors) in sorted(self.most.items())}


def check_with_zdb(pair):
    """The pools as they lie on the drives, by OpenZFS's own checker: every block read, no leak."""
    pair.sandbox("down", timeout=300)
    drives = pair.dir / "drives"
    for pool in POOLS:
        done = run("zdb", "-e", "-p", drives / "a", "-p", drives / "b", "-bcc", pool, ok=None, timeout=900)
        check(done.returncode == 0 and "No leaks" in done.stdout, f"zdb -bcc {pool}: {done.stderr[-600:]} {done.stdout[-600:]}")


def soak(pair, minutes, seed, say=print):
    """Of a pair that is up, made with OPTIONS. Returns a line for people; raises Failed."""
    pair.wait_in_sync()
    world = World(pair, seed)
    world.tell(f"seed {seed}, {minutes} minutes")
    # A load's history is of its volumes alone: one volume of each pool on each node's sockets.
    loads = [pair.load(node, volumes=[volume], working_set="24M") for node, volume in zip(NODES, ("vm1", "vm2"))]
    watch = Watch(pair)
    try:
        serves(world, loads)
        end = time.monotonic() + minutes * 60
        rounds = 0
        while time.monotonic() < end:
            rounds += 1
            if world.chance.random() < 0.12:
                fault = world.chance.choice(ALONE)
                world.tell(f"--- round: {fault.__name__}")
                world.begin(fault)
            else:
                disturb(world)
                mend(world)
            serves(world, loads)
            watch.judge()
            if rounds % 10 == 0:
                say(f"{rounds} rounds, {(end - time.monotonic()) / 60:.0f} minutes left")
        never = [name for name, count in world.tried.items() if count >= 10 and world.applied[name] == 0]
        check(not never, f"never applied: {never}")
        results = [load.finish(300) for load in loads]
        check_with_zdb(pair)
    except Exception as error:
        world.tell(f"FAILED: {error}")
        raise
    finally:
        usage = watch.end()
        world.tell(f"most: {usage}")
    told = ", ".join(f"{name} {world.applied[name]} of {count}" for name, count in sorted(world.tried.items()))
    return (f"{rounds} rounds (faults applied: {told}), {sum(result['acknowledged'] for result in results)} acknowledged writes, lost 0, went back 0; "
            f"most: {'; '.join(f'{name} {what}' for name, what in usage.items())}")


OPTIONS = {"mirrors": MIRRORS, "drive_size": f"{DRIVE_SIZE >> 20}M", "extra": ("--volumes", "2", "--volatile-cache")}


def main():
    parser = argparse.ArgumentParser(description="random faults against a pair of real processes, under a verified load")
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--seed", type=int, default=None, help="of the faults' order; what meets what is the machine's timing too")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    pair = Pair(**OPTIONS)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"seed {seed}, {arguments.minutes:g} minutes, in {pair.folder}", flush=True)
    try:
        pair.up()
        told = soak(pair, arguments.minutes, seed, lambda text: print(f"    {text}", flush=True))
    except Exception as error:
        pair.leave()
        print(f"FAILED: {error}\nleft as it is: {pair.folder} (story.log: what was done; s/*/log: what the processes said). When looked at:\n"
              f"    {BIN / 'zpair'} sandbox down {pair.dir} --delete && rm -r {pair.folder}", flush=True)
        return 1
    except KeyboardInterrupt:
        pair.down()
        print("interrupted: the history was not verified", flush=True)
        return 1
    pair.down()
    print(f"ok: {told}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
