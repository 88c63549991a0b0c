"""The programs that a benchmark runs: fio over NBD, and the limits. A program that is interrupted ends before the call does."""
import contextlib
import json
import pathlib
import resource
import shutil
import signal
import subprocess
import sys

import cells

END_SECONDS = 10   # fio says goodbye to its volume within this when it is told to stop


class Failed(Exception):
    """One line for a person: what failed, and the mend."""
    exit_code = 1


class Usage(Exception):
    """The line cannot be done as it is: one line that says why."""
    exit_code = 2


ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """The first of ENDS came. Whatever is taken away or mended after it is not interrupted."""


def _interrupt(number, _frame):
    for other in ENDS:
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(signal.Signals(number).name)


def end_in_order():
    """From here on the first signal raises Interrupted in the main thread, and further ones do nothing."""
    for number in ENDS:
        signal.signal(number, _interrupt)


def ending(work, interrupted):
    """Runs work() to its end, whichever that is, and returns the exit code. An error that is for a person has an `exit_code`.
    `interrupted`: what a signal leaves behind."""
    end_in_order()
    try:
        return work() or 0
    except Interrupted:
        _complain(f"interrupted: {interrupted}")
        return 1
    except Exception as error:
        if not isinstance(error, OSError) and not hasattr(error, "exit_code"):
            raise
        _complain(error)
        return getattr(error, "exit_code", 1)


def _complain(error):
    print("zpair: " + " ".join(str(error).split("\n")), file=sys.stderr)


def open_folder(path, name):
    """The folder of --out, made if needed, in which this file can be written: to be known before the work, not after."""
    folder = pathlib.Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    except OSError as error:
        raise Failed(f"cannot write into {path}: {error.strerror}") from None
    return folder


def read_json(path, name, what):
    """(file, its value); of a folder the file of this name. `what` it should be, for the error."""
    file = pathlib.Path(path)
    file = file / name if file.is_dir() else file
    try:
        return file, json.loads(file.read_text())
    except OSError as error:
        raise Failed(f"cannot read {file}: {error.strerror}") from None
    except ValueError:
        raise Failed(f"{file} is no {what}: it is not JSON, or of a run that did not end") from None


@contextlib.contextmanager
def uninterrupted():
    """For what must not be left half done: a signal that ends us comes after it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run(command, timeout=600):
    """What it printed. A failure names the program and the end of what it complained."""
    words = [str(word) for word in command]
    try:
        # A session of its own: the terminal's Ctrl-C comes to us alone, and we end it in order.
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    except OSError as error:
        raise Failed(f"cannot run {words[0]}: {error.strerror}") from None
    try:
        said, complained = process.communicate(timeout=timeout)
    except BaseException as why:
        _end(process)
        if isinstance(why, subprocess.TimeoutExpired):
            raise Failed(f"{words[0]} did not end within {timeout} s") from None
        raise
    if process.returncode != 0:
        raise Failed(f"{' '.join(words)} ended with {process.returncode}: {(complained.strip() or said.strip())[-500:]}")
    return said


def _end(process):
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _last_json(text):
    return json.loads(text[text.index("{"):])   # fio may say something before its report


# --- fio ---

def fio_version():
    """Refuses when fio, or its engine for NBD, is not there; names the package."""
    if shutil.which("fio") is None:
        raise Failed("fio is not installed, and it makes the load: apt install fio")
    engine = subprocess.run(["fio", "--enghelp=nbd"], capture_output=True, text=True)
    if engine.returncode != 0 or "uri" not in engine.stdout:
        raise Failed("this fio has no nbd engine, which speaks to volumes: Debian's package has it (apt install --reinstall fio)")
    return subprocess.run(["fio", "--version"], capture_output=True, text=True).stdout.strip()


def fio_command(uri, rw, block_size_bytes, size, seconds, ramp_seconds=1, depth=1, jobs=1, more=()):
    """Incompressible data, new for each write; several jobs are several clients, told as one."""
    command = ["fio", "--name=cell", "--ioengine=nbd", f"--uri={uri}", f"--rw={rw}", f"--bs={block_size_bytes}", f"--iodepth={depth}",
               f"--size={size}", "--time_based", f"--runtime={round(seconds * 1000)}ms", f"--ramp_time={round(ramp_seconds * 1000)}ms",
               "--refill_buffers", "--randrepeat=0", "--norandommap"]
    if jobs > 1:
        command += ["--thread", f"--numjobs={jobs}", "--group_reporting"]
    return command + list(more)


def fio(uri, rw, block_size_bytes, size, seconds, **options):
    """fio's report of its one group."""
    return _last_json(run(fio_command(uri, rw, block_size_bytes, size, seconds, **options) + ["--output-format=json"]))["jobs"][0]


def fill(uri, size_bytes):
    """Writes every byte once, so that nothing measured meets a hole."""
    run(["fio", "--name=fill", "--ioengine=nbd", f"--uri={uri}", "--rw=write", "--bs=1M", "--iodepth=4", f"--size={size_bytes}",
         "--refill_buffers", "--output-format=json"], timeout=7200)


def fio_cell(uri, cell, size_bytes, seconds, ramp_seconds):
    """One measurement of a cell: {"per_second", "bytes_per_second", "written_bytes_per_second", "read_bins", "write_bins", "cpu_seconds"}."""
    own_size = size_bytes // cell.jobs // cell.block_size_bytes * cell.block_size_bytes if cell.sequential else size_bytes
    more = ["--lat_percentiles=1", "--clat_percentiles=0"]
    if cell.pattern == "mixed":
        more.append(f"--rwmixread={cell.read_percent}")
    if cell.sequential and cell.jobs > 1:   # each its own part, as guests have
        more.append(f"--offset_increment={own_size}")
    before = _children_cpu_seconds()
    report = _last_json(run(fio_command(uri, cells.FIO_RW[cell.pattern], cell.block_size_bytes, own_size, seconds, ramp_seconds, jobs=cell.jobs, more=more)
                            + ["--output-format=json+"]))["jobs"][0]
    return sample_of(report) | {"cpu_seconds": _children_cpu_seconds() - before}


def sample_of(report):
    """fio's json+ of one group, both directions together."""
    sides = [report["read"], report["write"]]
    return {"per_second": sum(side["iops"] for side in sides), "bytes_per_second": sum(side["bw_bytes"] for side in sides),
            "written_bytes_per_second": report["write"]["bw_bytes"],
            "errors": report.get("error", 0), "read_bins": _bins(report["read"]), "write_bins": _bins(report["write"])}


def _bins(side):
    return {int(ns): count for ns, count in side["lat_ns"].get("bins", {}).items()}


def _children_cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# --- limits ---

def raw_legs(program, legs, operation, block_size_bytes, in_flight, seconds, sequential=False):
    """Both files written and flushed in parallel, or one read: zpair-raw-legs, which prints docs/api.md's keys of a limit."""
    return json.loads(run([program, *legs, "--operation", operation, "--block-size", block_size_bytes, "--in-flight", in_flight,
                           "--seconds", seconds, *(["--sequential"] if sequential else [])]))


def raw_cell(program, legs, cell, seconds):
    operation = {0: "write", 100: "read"}.get(cell.read_percent, "mixed")
    return raw_legs(program, legs, operation, cell.block_size_bytes, cell.jobs, seconds, cell.sequential)


def round_trip(program, seconds, to=None):
    return json.loads(run([program, "--seconds", seconds, *(["--to", to] if to else [])]))
