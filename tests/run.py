#!/usr/bin/env python3
"""All tests, as `./dev test` and `./dev soak` run them: builds what is needed, prints a line a program, counts, and ends with
`N passed, M failed` (and `, K skipped` when some were) alone on the last line. Exit 1 when anything failed.

  unit      every GoogleTest program that CMake knows (build/PRESET/tests/list.txt), release and asan
  sim       the simulator: random schedules without a broken invariant, and every mutation found
  crash     power cuts under the real engine (tests/crash), and every plant found that a short run can find
  cluster   real processes (tests/cluster/run.py)
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIM_SECONDS = int(os.environ.get("ZPAIR_SIM_SECONDS", "120"))           # ./dev test: about five minutes for the simulator in all
TEST_SCHEDULES = 60_000
MUTATION_SECONDS = 150      # all of them; on one idle core they take about 10 s
MUTATION_SCHEDULES = 20_000  # of each: the rarest is found after about 1 200
SHORT_SIM_SECONDS = 20      # under a sanitizer
CRASH_SECONDS = 110         # with the plants at most three minutes
CRASH_MUTATION_SECONDS = 60   # of each, until it is found: together about 40
SOAK_SECONDS = 3600
SOAK_CUTS = 10_000
SOAK_SCHEDULES = 1_000_000  # about 7 000 steps each
# libzpool is a debug build of its own with its own allocator: sanitizers run everything outside it.
WITHOUT_SANITIZER = {"zfs_test", "pool_test", "pool_legs_test", "pool_exports_test"}
LOG_LINES = 40
WORKERS = (os.cpu_count() or 2) + 1   # a life waits now and then
HANGS_AFTER_SECONDS = 900   # a program that hangs must not hide what the others say


class Counts:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def add(self, passed, failed, skipped):
        self.passed += passed
        self.failed += failed
        self.skipped += skipped

    def line(self):
        return f"{self.passed} passed, {self.failed} failed" + (f", {self.skipped} skipped" if self.skipped else "")


def say(text):
    print(text, flush=True)


def build(preset, *targets):
    began = time.monotonic()
    if subprocess.run([ROOT / "dev", "build", preset, *targets]).returncode != 0:
        return False
    say(f"built {preset} ({time.monotonic() - began:.0f} s)")
    return True


def tail(text):
    return "\n".join("    " + line for line in text.splitlines()[-LOG_LINES:])


def run_gtest(program, preset):
    """(line to print, passed, failed, skipped)"""
    with tempfile.TemporaryDirectory(prefix="zp.") as folder:
        report = pathlib.Path(folder) / "report.json"
        began = time.monotonic()
        try:
            done = subprocess.run([program, f"--gtest_output=json:{report}", "--gtest_brief=1"], capture_output=True, text=True,
                                  errors="replace", cwd=folder, timeout=HANGS_AFTER_SECONDS)
        except subprocess.TimeoutExpired as hung:
            return f"FAILED {program.name} ({preset}): hangs\n{tail((hung.stdout or b'').decode(errors='replace'))}", 0, 1, 0
        took = f"{time.monotonic() - began:.1f} s"
        name = f"{program.name} ({preset})"
        if not report.exists():
            return f"FAILED {name}: ended with {done.returncode} before its end\n{tail(done.stdout + done.stderr)}", 0, 1, 0
        cases = [case for suite in json.loads(report.read_text())["testsuites"] for case in suite["testsuite"]]
        skipped = [case for case in cases if case.get("result") == "SKIPPED"]
        failed = [f"{case['classname']}.{case['name']}" for case in cases if case.get("failures")]
        passed = len(cases) - len(skipped) - len(failed)
        if not failed and done.returncode != 0:   # a sanitizer's finding at the end, for one
            failed = [f"ended with {done.returncode}"]
        if failed:
            return f"FAILED {name}: {', '.join(failed)}\n{tail(done.stdout + done.stderr)}", passed, len(failed), len(skipped)
        extra = f", {len(skipped)} skipped" if skipped else ""
        return f"ok {name}: {passed} tests{extra} ({took})", passed, 0, len(skipped)


def run_unit(counts, preset, names):
    folder = ROOT / "build" / preset / "tests"
    programs = [folder / name for name in (folder / "list.txt").read_text().split()]
    if preset != "release":
        programs = [program for program in programs if program.name not in WITHOUT_SANITIZER]
    if names:
        programs = [program for program in programs if any(part in program.name for part in names)]
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        for line, passed, failed, skipped in pool.map(lambda program: run_gtest(program, preset), programs):
            say(line)
            counts.add(passed, failed, skipped)


def run_python_unit(counts, names):
    """The unit tests of what is written in Python: unittest programs."""
    for program in sorted((ROOT / "tests" / "unit").glob("*/*_test.py")):
        if names and not any(part in program.name for part in names):
            continue
        began = time.monotonic()
        done = subprocess.run([sys.executable, program], capture_output=True, text=True, errors="replace", timeout=HANGS_AFTER_SECONDS)
        ran = re.search(r"^Ran (\d+) tests?", done.stderr, re.MULTILINE)
        bad = sum(int(count) for count in re.findall(r"(?:failures|errors)=(\d+)", done.stderr))
        if done.returncode != 0 or not ran or int(ran[1]) == 0:
            say(f"FAILED {program.name}: ended with {done.returncode}\n{tail(done.stdout + done.stderr)}")
            counts.add(max(int(ran[1]) - bad, 0) if ran else 0, max(bad, 1), 0)
        else:
            say(f"ok {program.name}: {ran[1]} tests ({time.monotonic() - began:.1f} s)")
            counts.add(int(ran[1]), 0, 0)


def run_program(counts, what, command, watched=False):
    """One program that is one test: passes when it ends with 0. `watched`: what it prints is shown as it comes."""
    began = time.monotonic()
    words = [str(part) for part in command]
    if watched:
        done = subprocess.run(words, stdout=None, stderr=subprocess.STDOUT)
        done.stdout = done.stderr = ""
    else:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace")
    took = f"({time.monotonic() - began:.0f} s)"
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode == 0:
        say(f"ok {what} {took}" + "".join(f"\n    {line}" for line in lines[:1] + lines[-1:]))
        counts.add(1, 0, 0)
    else:
        say(f"FAILED {what} {took}\n{tail(done.stdout + done.stderr)}")
        counts.add(0, 1, 0)


def run_sim(counts, preset, seconds, mutation_seconds, *bounds):
    """`bounds`: more options of the random search."""
    sim = ROOT / "build" / preset / "tests" / "zpair_sim"
    # Without bounds of their own the seeds are 1, 2, 3 …: the same in every run, as far as the time goes.
    run_program(counts, f"simulator, random schedules ({preset})", [sim, "--seconds", seconds, *(bounds or ["--schedules", TEST_SCHEDULES])])
    if mutation_seconds:
        run_program(counts, f"simulator, every mutation is found ({preset})",
                    [sim, "--mutations", "--seconds", mutation_seconds, "--schedules", MUTATION_SCHEDULES])


def run_crash(counts, seconds, mutation_seconds, *bounds):
    """`bounds`: more options of the cuts. Seeds are 1, 2, 3 …: the same in every run, as far as the time goes."""
    crash = ROOT / "build" / "release" / "tests" / "zpair_crash"
    keep = ROOT / "build" / "crash"
    run_program(counts, "power cuts under the real engine", [crash, "--seconds", seconds, "--keep", keep, "--workers", WORKERS, *bounds])
    quick = [] if bounds else ["--quick"]
    run_program(counts, "power cuts, every plant is found", [crash, "--mutations", "--seconds", mutation_seconds, "--workers", WORKERS, *quick])


def run_cluster(counts, *arguments):
    environment = dict(os.environ, ZPAIR_BIN=str(ROOT / "build" / "release" / "bin"))
    process = subprocess.Popen([sys.executable, ROOT / "tests" / "cluster" / "run.py", *arguments], stdout=subprocess.PIPE, text=True, env=environment)
    summary = None
    for line in process.stdout:
        match = re.fullmatch(r"(\d+) passed, (\d+) failed(?:, (\d+) skipped)?\n", line)
        if match:
            summary = [int(number or 0) for number in match.groups()]
        else:
            print(line, end="", flush=True)
    code = process.wait()
    if summary is None or (code != 0 and summary[1] == 0):
        say(f"FAILED cluster tests: the runner ended with {code}")
        counts.add(0, 1, 0)
    counts.add(*(summary or (0, 0, 0)))


def sanitizer_targets(preset):
    """Configured already: the test programs that a sanitizer runs, and the simulator."""
    if not (ROOT / "build" / preset / "tests" / "list.txt").exists() and not build(preset, "zpair_base"):
        return []
    names = (ROOT / "build" / preset / "tests" / "list.txt").read_text().split()
    return [name for name in names if name not in WITHOUT_SANITIZER] + ["zpair_sim"]


def with_sanitizer(counts, preset, names, sim_seconds):
    targets = sanitizer_targets(preset)
    if not targets or not build(preset, *targets):
        say(f"FAILED build ({preset})")
        counts.add(0, 1, 0)
        return
    run_unit(counts, preset, names)
    if not names:
        run_sim(counts, preset, sim_seconds, 0)


def test(counts, arguments):
    wanted = {arguments.only} if arguments.only else {"unit", "sim", "crash", "cluster"}
    if not build("release"):
        counts.add(0, 1, 0)
        return
    if "unit" in wanted:
        run_unit(counts, "release", arguments.names)
        run_python_unit(counts, arguments.names)
    if "unit" in wanted and not arguments.update_golden:
        with_sanitizer(counts, "asan", arguments.names, SHORT_SIM_SECONDS)
    if "sim" in wanted and not arguments.names:
        run_sim(counts, "release", SIM_SECONDS, MUTATION_SECONDS)
    if "crash" in wanted and not arguments.names:
        run_crash(counts, CRASH_SECONDS, CRASH_MUTATION_SECONDS)
    if "cluster" in wanted:
        run_cluster(counts, *arguments.names)


def soak(counts, arguments):
    what = arguments.names[0] if arguments.names else ""
    seconds = int(arguments.names[1]) if len(arguments.names) > 1 else SOAK_SECONDS
    sim = ROOT / "build" / "release" / "tests" / "zpair_sim"
    if arguments.seed and what != "cluster":
        command = [sim, "--seed", arguments.seed, "--story"] + (["--mutation", arguments.mutation] if arguments.mutation else [])
        if build("release", "zpair_sim"):
            sys.exit(subprocess.run([str(part) for part in command]).returncode)
        sys.exit(1)
    if what == "sim":
        if build("release", "zpair_sim"):
            # Ends after so many schedules, or fails when the time does not give them.
            run_sim(counts, "release", seconds, seconds, "--schedules", SOAK_SCHEDULES, "--at-least", SOAK_SCHEDULES)
    elif what == "crash":
        if build("release", "zpair_crash"):
            # zdb takes as long as a dozen cuts.
            run_crash(counts, seconds, 300, "--cuts", SOAK_CUTS, "--at-least", SOAK_CUTS, "--zdb-one-in", "150")
    elif what == "sanitizers":
        for preset in ("asan", "tsan"):
            with_sanitizer(counts, preset, [], seconds // 2)
    elif what == "cluster":
        if build("release"):
            seed = ["--seed", arguments.seed] if arguments.seed else []
            run_program(counts, "random faults against real processes", [sys.executable, ROOT / "tests" / "cluster" / "soak.py",
                                                                        "--minutes", arguments.minutes or seconds / 60, *seed], watched=True)
    elif what == "drills":
        if build("release"):
            run_program(counts, "every drill twenty times", [sys.executable, ROOT / "tests" / "cluster" / "soak_drills.py", "--seconds", seconds], watched=True)
    elif what == "kills":
        if build("release"):
            run_cluster(counts, "--slow")
    else:
        print("dev: soak what? ./dev soak sim|crash|sanitizers|kills|cluster|drills [SECONDS], or ./dev soak --seed N", file=sys.stderr)
        sys.exit(2)


def main():
    parser = argparse.ArgumentParser(prog="./dev test")
    parser.add_argument("--only", choices=["unit", "sim", "crash", "cluster"])
    parser.add_argument("--update-golden", action="store_true", help="write tests/golden anew instead of comparing")
    parser.add_argument("--soak", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seed")
    parser.add_argument("--mutation")
    parser.add_argument("--minutes", type=float, help=argparse.SUPPRESS)   # soak cluster
    parser.add_argument("names", nargs="*", help="parts of names: only these programs or tests")
    arguments = parser.parse_args()
    if arguments.update_golden:
        os.environ["ZPAIR_UPDATE_GOLDEN"] = "1"
        arguments.only = arguments.only or "unit"
    counts = Counts()
    (soak if arguments.soak else test)(counts, arguments)
    if counts.passed + counts.failed + counts.skipped == 0:
        counts.failed = 1   # nothing ran: that is no success
    say(counts.line())
    return 1 if counts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
