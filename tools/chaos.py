"""Kill a run at random moments, resume it each time, and compare what it leaves in the end with an undisturbed run.

    python tools/chaos.py
    python tools/chaos.py --shards 2

Every process is `hgisam segment --resume` as from the command line, but with the tests' stand-in for the network, which
takes --case-s seconds per case: what is tried here is all that lies around it. A kill is SIGKILL, SIGTERM or SIGINT to
all processes of the run, while they start or while a case is worked on or written. After each one, every file that a
reader can see must be whole, and no case that was done may have been done again. Prints a line per kill, and ends with
status 1 where anything is lost, partial, different or done twice. The processes are forked from one that has imported
everything.
"""

import argparse
import csv
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent / "tests"
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
OVER_ALL = ("run.json", "summary.csv")
DIFFERS = {"seconds", "timings_s", "started_utc", "record_sha256"}
"""What two runs never share: times, and a hash of what holds them."""

Launch = Callable[[Path], Sequence[BaseProcess]]
"""An output folder -> the processes of a run into it, started."""


@dataclass(frozen=True)
class Undisturbed:
    """What a run leaves that nobody kills, and how long it takes.

    Attributes:
        files: content of each file by its name, without what two runs never share.
        start_s: seconds until the first case was done.
        case_s: seconds per case after that.
    """

    files: dict[str, Any]
    start_s: float
    case_s: float


def main() -> int:
    """Print what was done and found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shards", type=int, default=1, help="processes that share the cases")
    parser.add_argument("--case-s", type=float, default=0.2, help="seconds that the network's stand-in takes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rng = random.Random(given.seed)
        found = chaos(Path(name), given.cases, given.kills, rng, print, shards=given.shards, case_s=given.case_s)
    print("\n".join(found) or f"{given.kills} kills: all {given.cases} cases as in the undisturbed run")
    return 1 if found else 0


def chaos(
    folder: Path,
    n_cases: int,
    kills: int,
    rng: random.Random,
    tell: Callable[[str], object],
    *,
    shards: int,
    case_s: float,
) -> list[str]:
    """What is wrong after so many kills, nothing where all is well."""
    scans = folder / "in"
    scans.mkdir()
    for number in range(n_cases):
        (scans / f"case_{number:03d}.nii.gz").write_text(f"scan {number}")
    context = get_context("forkserver")
    context.set_forkserver_preload(["hgisam.cli", "hgisam.config", "hgisam.run"])
    warm = context.Process(target=int)
    warm.start()
    warm.join()

    def launch(out: Path) -> Sequence[BaseProcess]:
        command = ["segment", str(scans), "-o", str(out), "--resume", "-q"]
        parts = [["--shard", f"{i + 1}/{shards}"] for i in range(shards)] if shards > 1 else [[]]
        processes = [context.Process(target=hgisam, args=([*command, *part], case_s)) for part in parts]
        for process in processes:
            process.start()
        return processes

    return survive(launch, folder, n_cases, kills, rng, tell)


def hgisam(arguments: list[str], case_s: float) -> None:
    """The command with the network's stand-in; silent."""
    sys.path.insert(0, str(TESTS))
    from fake_model import FakeModel  # type: ignore[import-not-found]  # of the tests

    import hgisam.pipeline
    from hgisam.cli import app

    setattr(hgisam.pipeline, "Segmenter", lambda *_, **__: FakeModel(lambda _: time.sleep(case_s)))  # noqa: B010
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):  # noqa: PTH123
        app(arguments)


def survive(
    launch: Launch, folder: Path, n_cases: int, kills: int, rng: random.Random, tell: Callable[[str], object]
) -> list[str]:
    """Run undisturbed into `folder/calm`, with kills into `folder/chaos`; what is wrong, nothing where all is well."""
    calm = run_undisturbed(launch, folder / "calm", n_cases)
    tell(f"undisturbed: {n_cases} cases, first after {calm.start_s:.1f} s, then {calm.case_s:.2f} s each")
    out = folder / "chaos"
    wrong: list[str] = []
    done: dict[str, int] = {}
    killed = 0
    while killed < kills:
        before = len(done)
        target = before + rng.choice((0, 1, 1, 2)) if before < n_cases - 2 else before
        number = rng.choice(SIGNALS)
        delay_s = rng.uniform(0.0, calm.start_s if target == before else calm.case_s)
        processes = launch(out)
        while len(inodes(out)) < target and any(process.is_alive() for process in processes):
            time.sleep(0.002)
        time.sleep(delay_s)
        alive = [process.pid for process in processes if process.is_alive() and process.pid]
        for pid in alive:
            os.kill(pid, number)
        codes = ended(processes)
        if not alive:
            tell(f"         the run ended by itself with {codes}")
        killed += bool(alive)
        after = inodes(out)
        again = [name for name, inode in done.items() if after.get(name) != inode]
        wrong += [f"{name}: done again, or lost, after kill {killed}" for name in again]
        wrong += [f"{problem}, after kill {killed}" for problem in differences(calm.files, snapshot(out), partly=True)]
        hidden = len(list(out.glob(".hgisam-*.part"))) if out.is_dir() else 0
        tell(
            f"kill {killed:2d}: {number.name} {delay_s:.2f} s after {target - before} more cases; ended with {codes}; "
            f"{len(after)} of {n_cases} done, {hidden} unfinished files"
        )
        done = after
    codes = ended(launch(out))
    tell(f"resumed to the end with {codes}")
    wrong += [f"the last run ended with {code}" for code in codes if code != 0]
    wrong += [f"{name}: done again, or lost, at the end" for name, i in done.items() if inodes(out).get(name) != i]
    return wrong + differences(calm.files, snapshot(out), partly=False)


def run_undisturbed(launch: Launch, out: Path, n_cases: int) -> Undisturbed:
    """One run from start to end."""
    begun = time.perf_counter()
    processes = launch(out)
    first_s = None
    while any(process.is_alive() for process in processes):
        if first_s is None and inodes(out):
            first_s = time.perf_counter() - begun
        time.sleep(0.002)
    codes = ended(processes)
    if any(codes) or first_s is None:
        raise SystemExit(f"the undisturbed run ended with {codes}")
    return Undisturbed(snapshot(out), first_s, (time.perf_counter() - begun - first_s) / n_cases)


def ended(processes: Sequence[BaseProcess]) -> list[int | None]:
    """How each process ended, once all have."""
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def inodes(out: Path) -> dict[str, int]:
    """Each case's record, and which file it is: one that is written again is another."""
    if not out.is_dir():
        return {}
    return {path.name: path.stat().st_ino for path in out.glob("[!.]*.json") if path.name != "run.json"}


def snapshot(out: Path) -> dict[str, Any]:
    """Every file that is there, hidden ones too, without what two runs never share; 'broken' where it is not whole."""
    return {path.name: content(path) for path in out.iterdir()} if out.is_dir() else {}


def content(path: Path) -> Any:
    """A file's bytes, or its values where it is a record or a table."""
    try:
        if path.suffix == ".json":
            return timeless(json.loads(path.read_text()))
        if path.suffix == ".csv":
            return timeless(list(csv.DictReader(path.read_text().splitlines())))
    except ValueError:
        return "broken"
    return path.read_bytes()


def timeless(value: Any) -> Any:
    """Values without what two runs never share."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in DIFFERS}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def differences(expected: dict[str, Any], got: dict[str, Any], *, partly: bool) -> list[str]:
    """What is wrong with a folder's files; partly: it may lack some, hold hidden ones, and be halfway in its tables."""
    wrong = []
    for name, found in got.items():
        if partly and (name.startswith(".") or (name in OVER_ALL and found != "broken")):
            continue
        if name not in expected:
            wrong.append(f"{name}: left over")
        elif found != expected[name]:
            wrong.append(f"{name}: not as in the undisturbed run")
    return wrong + ([] if partly else [f"{name}: missing" for name in expected if name not in got])


if __name__ == "__main__":
    raise SystemExit(main())
