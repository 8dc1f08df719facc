"""The folder that a run writes into: made if absent, held by one run at a time, and safe for what lay there."""

import os
import sys
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hgisam.cases import Case, own_record
from hgisam.io.atomic import make_output_folder
from hgisam.io.errors import InputError, OutputError

LOCK_NAME = ".hgisam.lock"
RUN_RECORD = "run.json"
"""Written first and last by every run over scans: what it did, and which cases are its own."""


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """Make the folder if absent and hold it for the length of the `with`.

    The lock goes with the process, however it ends: no stale one stays behind. On Windows nothing is locked.

    Raises:
        OutputError: where the folder cannot be made or written, or another run holds it.
    """
    make_output_folder(folder)
    try:
        lock = _locked(folder / LOCK_NAME)
    except BlockingIOError as error:
        raise OutputError(f"{folder}: expected a folder that no run holds; another hgisam is writing there") from error
    except OSError as error:
        raise OutputError(f"{folder}: expected to write there; got '{error.strerror}'; choose another") from error
    try:
        yield folder
    finally:
        (folder / LOCK_NAME).unlink(missing_ok=True)
        os.close(lock)


def refuse_overwriting(
    folder: Path,
    cases: Iterable[Case],
    suffixes: Iterable[str],
    shared: Iterable[str] = (),
    record: str = RUN_RECORD,
) -> None:
    """Stop before anything is lost: no output may replace an input, nor a file that no run of hgisam has written.

    A case's outputs are ours where `CASE.json` is our record, or our run's record lists the case; what all cases share,
    where there is our run's record.

    Args:
        folder: where the outputs go.
        cases: the scans.
        suffixes: what each output of a case adds to the case's name.
        shared: names of the files that speak of all cases; the run's record is always one of them.
        record: the name of the run's record.

    Raises:
        InputError: naming the first file that would be lost.
    """
    cases = tuple(cases)
    inputs = {os.path.realpath(case.path) for case in cases}
    run = own_record(folder / record)
    listed = run.get("planned")
    listed = listed if isinstance(listed, list) else []
    for name in (record, *shared):
        _refuse_if_lost(folder / name, inputs, ours=bool(run))
    for case in cases:
        own = case.name in listed or own_record(folder / f"{case.name}.json").get("case") == case.name
        for suffix in suffixes:
            _refuse_if_lost(folder / f"{case.name}{suffix}", inputs, ours=own)


def _refuse_if_lost(target: Path, inputs: Container[str], *, ours: bool) -> None:
    if os.path.realpath(target) in inputs:
        raise InputError(f"{target}: expected a free name; got one of the inputs; choose another output folder")
    if target.exists() and not ours:
        raise InputError(
            f"{target}: expected a free name; got a file, and no record says that hgisam wrote it; "
            "choose another output folder"
        )


def _locked(path: Path) -> int:
    """Open the lock file and lock it, as a descriptor. A lock that was removed while we waited is opened anew."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if sys.platform == "win32":
            return descriptor
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
