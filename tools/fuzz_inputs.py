"""Hostile files against the front door: each must be taken, or refused in one line, and nothing else.

    python tools/fuzz_inputs.py --minutes 30 -o out/fuzz
    python tools/fuzz_inputs.py --minutes 5 --kind nifti --engine hypothesis --seed 7 -o out/fuzz
    python tools/fuzz_inputs.py --replay out/fuzz/nifti_TypeError_1a2b3c4d.nii

Two engines share the time, kind by kind (their seeds, lies and doors are in fuzz_kinds.py). hypothesis builds whole
files that lie: in a header's fields, in a directory, in metadata. atheris (pip install 'hgisam[fuzz]') changes bytes of
small seeds and keeps what reaches new code. Each file goes through the door that a user's goes through, in a process of
its own; it may take --cap-mib more memory than there was, and 10 s of the processor. Found is: any error but the kind's
refusals, a refusal of more than one printable line, a warning or a log line of another library, more memory, more time,
or the end of the process. What is found is saved under -o with its traceback, once for each place where it arises, the
smallest that hypothesis comes by. Exit status 1 where there is any. Needs /proc (Linux).
"""

import argparse
import hashlib
import logging
import math
import mmap
import os
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from fuzz_kinds import Kind

ENGINES = ("hypothesis", "atheris")
KIND_NAMES = ("nifti", "dicom", "series", "zip", "weights", "yaml", "table", "record", "picture")
SHARES = {"nifti": 3, "dicom": 3, "series": 2, "zip": 2}
"""Of the time; other kinds have one share."""

SECONDS = 10
"""Of the processor that one file may take; a busy machine must not make a slow file of a quick one."""

WAIT_S = 120
"""By the clock, and as much again before a process that does not stop by itself is killed."""

MAX_LINE = 2000
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Found:
    """What must not be.

    Attributes:
        what: the kind of fault.
        where: the innermost lines of the package, by which faults are told apart.
        text: all that is known.
    """

    what: str
    where: str
    text: str


class TooSlow(BaseException):
    """The timer's. Not an Exception, so that no handler of the package takes it for a damaged file."""


class Fault(Exception):
    """A found case, told to hypothesis."""


class Counts:
    """Numbers that a worker shares with the process that watches it: how many files, and when the last one began."""

    FORMAT = "<qqqd"

    def __init__(self, path: Path) -> None:
        path.touch()
        if path.stat().st_size == 0:
            path.write_bytes(bytes(struct.calcsize(self.FORMAT)))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.accepted, self.refused, self.found, self.begun = struct.unpack(self.FORMAT, self._map)

    def write(self) -> None:
        """Let the watcher see them."""
        self._map[:] = struct.pack(self.FORMAT, self.accepted, self.refused, self.found, self.begun)


class ForeignLog(logging.Handler):
    """Keeps what other libraries log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line that is not the package's own."""
        if not record.name.startswith("hgisam"):
            self.lines.append(f"{record.name}: {record.getMessage()}")


class Examiner:
    """Takes files through a kind's door, one by one, and says what was wrong with how they were taken."""

    def __init__(self, kind: "Kind", folder: Path, cap_mib: int, counts: Counts) -> None:
        self._kind, self._counts, self._cap_mib = kind, counts, cap_mib
        self._path = folder / f"input{kind.suffix}"
        self._log = ForeignLog()
        logging.getLogger().addHandler(self._log)
        logging.getLogger("hgisam").setLevel(logging.CRITICAL)
        signal.signal(signal.SIGALRM, _too_slow)
        signal.signal(signal.SIGPROF, _too_slow)

    def __call__(self, data: bytes) -> Found | None:
        """Write the bytes, open the door."""
        counts = self._counts
        counts.begun = time.monotonic()
        counts.write()
        self._path.write_bytes(data)
        self._log.lines.clear()
        before = _memory_mib("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        accepted, found = True, None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            most = int((_memory_mib("VmSize") + 4 * self._cap_mib) * 2**20)
            resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))  # for the door, not for hypothesis
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.setitimer(signal.ITIMER_REAL, WAIT_S)
            try:
                self._kind.door(self._path)
            except self._kind.refusals as refusal:
                accepted, found = False, self._judged(refusal)
            except TooSlow as slow:
                found = Found(
                    "hang", _place(slow), f"more than {SECONDS} s of the processor, or {WAIT_S} s\n{_trace(slow)}"
                )
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001 - that is what is looked for
                found = Found(type(error).__name__, _place(error), _trace(error))
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.setitimer(signal.ITIMER_REAL, 0)
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        taken = _memory_mib("VmHWM") - before
        if found is None and taken > self._cap_mib:
            found = Found("memory", "", f"{taken:.0f} MiB for {len(data):,} bytes; allowed are {self._cap_mib}")
        if found is None and caught:
            one = caught[0]
            found = Found(
                "warning", f"{Path(one.filename).name}_{one.lineno}", f"{one.category.__name__}: {one.message}"
            )
        if found is None and self._log.lines:
            found = Found("log", self._log.lines[0][:20], self._log.lines[0])
        counts.accepted += accepted and found is None
        counts.refused += not accepted and found is None
        counts.found += found is not None
        counts.begun = math.inf  # no file is open
        counts.write()
        return found

    def _judged(self, refusal: Exception) -> Found | None:
        text = str(refusal)
        if not text.isprintable() or len(text) > MAX_LINE:
            return Found("line", _place(refusal), f"{len(text)} characters: {text[:MAX_LINE]!r}\n{_trace(refusal)}")
        if "MemoryError" in text:
            return Found("memory", _place(refusal), _trace(refusal))
        return None


def main() -> None:
    """Fuzz, or replay one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KIND_NAMES, action="append", help="may be given again; default all")
    parser.add_argument("--engine", choices=ENGINES, action="append", help="may be given again; default both")
    parser.add_argument("--cap-mib", type=int, default=512, help="memory that one file may take")
    parser.add_argument("-o", "--output", type=Path, default=Path("out/fuzz"), metavar="FOLDER", help="for found cases")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="one file, its kind being its name's first word")
    given = parser.parse_args()
    if given.replay:
        sys.exit(replay(given.replay, given.cap_mib))
    given.output.mkdir(parents=True, exist_ok=True)
    kinds, engines = given.kind or KIND_NAMES, given.engine or ENGINES
    import_package("atheris" in engines)
    shares = sum(SHARES.get(kind, 1) for kind in kinds) * len(engines)
    n_found = 0
    for kind in kinds:
        for engine in engines if kind != "series" else engines[:1]:
            seconds = given.minutes * 60 * SHARES.get(kind, 1) / shares
            n_found += watch(engine, kind, seconds, given.seed, given.cap_mib, given.output)
    cases = sorted(path.name for path in given.output.glob("*.txt"))
    print(
        f"{n_found} files found in all, {len(cases)} places in {given.output}: {' '.join(cases) or 'none'}", flush=True
    )
    sys.exit(1 if n_found else 0)


def replay(path: Path, cap_mib: int) -> int:
    """Take one file through its door and tell what is wrong; 1 where anything is."""
    from fuzz_kinds import KINDS

    with tempfile.TemporaryDirectory() as folder:
        kind = KINDS[path.name.split("_")[0]]
        found = Examiner(kind, Path(folder), cap_mib, Counts(Path(folder, "counts")))(path.read_bytes())
    print("as it should be" if found is None else f"{found.what} {found.where}\n{found.text}")
    return int(found is not None)


def watch(engine: str, kind: str, seconds: float, seed: int, cap_mib: int, output: Path) -> int:
    """Run workers until the time is over; one that dies is replaced, and its last file is a found case."""
    end = time.monotonic() + seconds
    n_dead = 0
    with tempfile.TemporaryDirectory(prefix="fuzz_") as name:
        folder = Path(name)
        counts_path = folder / "counts"
        Counts(counts_path)
        while (left := end - time.monotonic()) > 1:
            process = os.fork()  # what is imported is imported once
            if process == 0:
                try:
                    work(engine, kind, left, folder, seed + n_dead, cap_mib, output)
                except BaseException:  # noqa: BLE001 - whatever it is, the watcher tells of it
                    traceback.print_exc()
                    sys.stderr.flush()
                finally:  # whatever happens, nothing of the watcher's is cleared away here
                    os._exit(os.EX_SOFTWARE)
            status, hung = _wait(process, counts_path)
            if status == 0 and not hung:
                break
            n_dead += 1
            tail = (folder / "log").read_text(errors="replace")[-4000:]
            inputs = list(folder.glob("input.*"))
            if inputs:
                what = "hang" if hung else "crash"
                keep(output, kind, Found(what, str(status), tail), inputs[0].read_bytes(), inputs[0].suffix)
            if n_dead > 20 or not inputs:
                print(f"{kind} by {engine}: given up; the last process ended so:\n{tail}", flush=True)
                break
        counts = Counts(counts_path)
    n_found: int = counts.found + n_dead
    n = counts.accepted + counts.refused + n_found
    print(
        f"{kind:8s} {engine:10s} {seconds:5.0f} s: {n:8,d} files, {counts.accepted:8,d} taken,"
        f" {counts.refused:8,d} refused, {n_found:6,d} found",
        flush=True,
    )
    return n_found


def _wait(process: int, counts_path: Path) -> tuple[int, bool]:
    """Wait for a worker's end: its status, and whether it had to be killed, since one file took too long."""
    started = time.monotonic()
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), False
        time.sleep(0.2)
        if time.monotonic() - max(Counts(counts_path).begun, started) > 2 * WAIT_S:
            os.kill(process, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), True


def keep(output: Path, kind: str, found: Found, data: bytes, suffix: str) -> None:
    """Save a found case and what is known of it, once for each place where it arises."""
    name = f"{kind}_{found.what}_{hashlib.sha256(found.where.encode()).hexdigest()[:8]}"
    if (output / f"{name}.txt").exists():
        return
    (output / f"{name}{suffix}").write_bytes(data)
    (output / f"{name}.txt").write_text(f"{found.what} {found.where}\n{found.text}\n", errors="backslashreplace")


def import_package(instrumented: bool) -> None:
    """Import all that a door needs; atheris notes which code a file reaches only where it saw the import."""
    packages = ["hgisam", "nibabel", "pydicom", "yaml", "zipfile", "csv", "PIL", "safetensors"]
    if instrumented:
        import atheris

        with (
            Path(os.devnull).open("w", encoding="utf-8") as nowhere,
            redirect_stderr(nowhere),  # a line for each module
            atheris.instrument_imports(include=packages, enable_loader_override=False),
        ):
            import fuzz_kinds  # noqa: F401
    import torch

    torch.set_num_threads(1)


def work(engine: str, kind_name: str, seconds: float, folder: Path, seed: int, cap_mib: int, output: Path) -> NoReturn:
    """One engine on one kind, until the time is over; in a process of its own."""
    from fuzz_kinds import KINDS

    end = time.monotonic() + seconds
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    kind = KINDS[kind_name]
    examine = Examiner(kind, folder, cap_mib, Counts(folder / "counts"))
    seeds = kind.seeds()
    for data in seeds:  # what a first file imports is not counted to a later one
        found = examine(data)
        if found is not None:
            keep(output, kind.name, found, data, kind.suffix)
    if engine == "hypothesis":
        by_hypothesis(kind, examine, end, seed, output)
    else:
        by_atheris(kind, examine, end, seed, output, folder)
    os._exit(0)


def by_hypothesis(kind: "Kind", examine: Callable[[bytes], Found | None], end: float, seed: int, output: Path) -> None:
    """Whole files that lie. What is found is made smaller before it is saved, unless it is slow or large."""
    import hypothesis
    from hypothesis import HealthCheck, Phase, given, settings

    known: set[tuple[str, str]] = set()
    latest: list[tuple[Found, bytes]] = []

    def one(data: bytes) -> None:
        if time.monotonic() > end:
            return
        found = examine(data)
        if found is None or (found.what, found.where) in known:
            return
        latest[:] = [(found, data)]
        if found.what not in {"hang", "memory"}:
            raise Fault(found.where)
        known.add((found.what, found.where))
        keep(output, kind.name, found, data, kind.suffix)

    how = settings(
        max_examples=100,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    lies, n_rounds = kind.lies(), 0
    while time.monotonic() < end:
        n_rounds += 1
        latest.clear()
        try:
            hypothesis.seed(1000 * seed + n_rounds)(how(given(lies)(one)))()
        except (Fault, hypothesis.errors.HypothesisException):  # theirs: what failed once and not again
            for found, data in latest:
                known.add((found.what, found.where))
                keep(output, kind.name, found, data, kind.suffix)


def by_atheris(
    kind: "Kind", examine: Callable[[bytes], Found | None], end: float, seed: int, output: Path, folder: Path
) -> NoReturn:
    """Bytes changed where that leads to new code."""
    import atheris

    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    small = [data for data in kind.seeds() if len(data) <= 64 * 1024]
    for index, data in enumerate(small):
        (corpus / f"seed_{index}").write_bytes(data)

    def one(data: bytes) -> None:
        found = examine(data)
        if found is not None:
            keep(output, kind.name, found, data, kind.suffix)

    longest = 2 * max(map(len, small))
    options = [f"-max_total_time={max(1, end - time.monotonic()):.0f}", f"-seed={seed + 1}", f"-max_len={longest}"]
    options += ["-timeout=0", "-rss_limit_mb=0", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()
    raise AssertionError("atheris ends the process itself")


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise TooSlow


def _memory_mib(what: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(f"{what}:"))) / 1024


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-6000:]


def _place(error: BaseException) -> str:
    """Type and innermost lines of the package in the traceback, and the line that raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/hgisam/" in frame.filename]
    told = [*own[-2:], *frames[-1:]]
    return "_".join(re.sub(r"\W", "", f"{Path(frame.filename).stem}{frame.lineno}") for frame in told)


if __name__ == "__main__":
    main()
