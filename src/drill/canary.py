"""The canary: a volume of its own on the pool, and a verified load (zpair-load) on it, whose every acknowledged write is read back at the
end. Rated, so that a rehearsal beside real guests takes little from them."""
import json
import pathlib
import subprocess
import threading
import time

from programs import Failed, uninterrupted

OPERATIONS_PER_SECOND = 200
WORKING_SET = "24M"
SAMPLE_SECONDS = 0.1
FINISH_SECONDS = 180


def boot_ns():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Load:
    """One run of zpair-load. Its samples: (seconds since its start, operations in the last tenth of a second, slowest of them in ms)."""

    def __init__(self, program, uri, folder):
        """folder: of this canary alone: the history in it goes on from load to load."""
        folder = pathlib.Path(folder)
        self._result, self._log = folder / "result.json", open(folder / "load.log", "ab")
        state = folder / "history"
        self._result.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [str(program), "run", uri, "--state", str(state), "--json", str(self._result), "--control", "-", "--rate", str(OPERATIONS_PER_SECOND),
             "--working-set", WORKING_SET, "--greatest", "64K", "--finish-timeout", str(FINISH_SECONDS)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, bufsize=1, start_new_session=True)
        self._turn = threading.Lock()
        self.samples, self._ending = [], threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._began_s = time.monotonic()
        with uninterrupted():   # else the kernel gives it the signals that the main thread has blocked
            self._sampler.start()

    def say(self, command):
        with self._turn:
            self._write(command)

    def ask(self, command):
        with self._turn:
            self._write(command)
            line = self._process.stdout.readline()
        if not line:
            raise Failed(f"zpair-load ended by itself: {self._last_words()}")
        return json.loads(line)

    def _write(self, command):
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise Failed(f"zpair-load ended by itself: {self._last_words()}") from None

    def _last_words(self):
        return pathlib.Path(self._log.name).read_text(errors="replace").strip()[-300:] or "no word of why"

    def _sample(self):
        before = 0
        while not self._ending.wait(SAMPLE_SECONDS):
            try:
                told = self.ask("sample")
            except (Failed, TypeError, ValueError):   # the load, or whoever asked it last, was interrupted
                return
            self.samples.append((round(time.monotonic() - self._began_s, 2), told["operations"] - before,
                                 round(max(told["slowest_ms"], told["stalled_ms"]), 1)))
            before = told["operations"]

    def operations(self):
        return self.ask("operations")

    def goes_on(self, operations, seconds):
        """Whether so many more operations are answered in time."""
        least, end = self.operations() + operations, time.monotonic() + seconds
        while self.operations() < least:
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def finish(self):
        """zpair-load's report, everything read back; verified is false there when that was not possible."""
        self._ending.set()
        self._sampler.join()
        self.say("stop")
        try:
            self._process.wait(FINISH_SECONDS + 20)
        except subprocess.TimeoutExpired:
            self.end_hard()
        try:
            return json.loads(self._result.read_text())
        except (OSError, ValueError):
            raise Failed(f"the load left no report: {self._last_words()}") from None

    def end_hard(self):
        self._ending.set()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
