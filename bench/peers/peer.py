"""What every peer has: a folder, daemons on this machine only, and a volume of two copies that fio can reach."""
import os
import pathlib
import shutil
import signal
import subprocess
import time

import programs

START_SECONDS = 60
END_SECONDS = 15
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class Peer:
    """Subclasses fill in start() and engine(). One peer runs at a time; all its processes have its folder in their command line."""
    name = ""
    wants = ()         # programs that must be installed
    durable = ""       # when a write is answered, and how that was asked for
    reads_from = ""    # where a read comes from

    def __init__(self, folder, volume_bytes):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()
        self.volume_bytes = volume_bytes
        self.children = []

    def start(self):
        raise NotImplementedError

    def engine(self, writes):
        """fio's arguments that name the volume; `writes`: every write must be durable on two copies when it is answered."""
        raise NotImplementedError

    def missing(self):
        return [program for program in self.wants if shutil.which(program) is None]

    # --- for subclasses

    def file(self, name, size_bytes):
        """A drive, written in full: what is measured must not allocate."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        programs.run(["fio", "--name=lay", f"--filename={path}", f"--size={size_bytes}", "--rw=write", "--bs=1M", "--ioengine=psync", "--end_fsync=1",
                      f"--output={os.devnull}"])
        return path

    def daemon(self, *command):
        with open(self.folder / f"{pathlib.Path(command[0]).name}.{len(self.children)}.log", "w") as log:
            child = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, start_new_session=True)
        self.children.append(child)
        return child

    def wait_for(self, what, condition, seconds=START_SECONDS):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise programs.Failed(f"{self.name}: {what} did not come within {seconds} s (its logs: {self.folder})")
            for child in self.children:
                if child.poll() is not None and child.returncode != 0:
                    raise programs.Failed(f"{self.name}: {child.args[0]} ended with {child.returncode} (its logs: {self.folder})")
            time.sleep(0.2)

    # --- for everybody

    def processes(self):
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(self.folder) in command and not command.startswith(b"fio\0"):
                found.append(int(entry.name))
        return found

    def cpu_seconds(self):
        total = 0
        for process in self.processes():
            try:
                fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            total += int(fields[11]) + int(fields[12])
        return total / CLOCK_TICKS

    def stop(self):
        """Ends all its processes, in the reverse order of their start; never fails."""
        for child in reversed(self.children):
            _end(child)
        for process in self.processes():
            try:
                os.kill(process, signal.SIGKILL)
            except OSError:
                pass


def _end(child):
    child.terminate()
    try:
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
