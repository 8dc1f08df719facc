"""The folder that a run writes into: made if absent, held by one run or its shards, and safe for what lay there.

Locks are the system's (flock), on files in the folder, and go with the process however it ends: no stale one stays. A
run holds the folder's lock alone. Shards hold it together, which keeps any other run out; each case is claimed by the
process that works on it, and what speaks of all cases is written by one process at a time.
"""

import os
import sys
import time
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hgisam.cases import Case, own_record
from hgisam.io.atomic import output_folder, remove_unfinished
from hgisam.io.errors import InputError, OutputError

LOCK_NAME = ".hgisam.lock"
TABLES_LOCK_NAME = ".hgisam-tables.lock"
RUN_RECORD = "run.json"
"""Written first and last by every run over scans: what it did, and which cases are its own."""

_PATIENCE_S = 5.0
"""A shard waits so long for the folder: another may hold it alone for a moment, to clean up as it leaves."""


@contextmanager
def claimed(folder: Path, *, shared: bool = False) -> Iterator[Path]:
    """Make the folder if absent and hold it for the length of the `with`; where that fails, a new one goes if empty.

    Whoever holds it alone, and the last of several to leave, removes unfinished files of processes that were killed.
    On Windows nothing is locked, so that nothing can be shared.

    Args:
        folder: where the outputs go.
        shared: whether other processes that say the same may hold it too.

    Raises:
        OutputError: where the folder cannot be made or written, or another run holds it.
    """
    if shared and sys.platform == "win32":
        raise OutputError(f"{folder}: expected a system with file locks for several processes; got Windows; use one")
    with output_folder(folder), _held(folder, shared=shared):
        yield folder


@contextmanager
def _held(folder: Path, *, shared: bool) -> Iterator[None]:
    """Hold a folder that is there; the rest as `claimed`."""
    path = folder / LOCK_NAME
    try:
        lock = _shared_lock(path) if shared else _lock(path)
    except BlockingIOError as error:
        raise OutputError(f"{folder}: expected a folder that no run holds; another hgisam is writing there") from error
    try:
        if not shared:
            remove_unfinished(folder)
        yield
    finally:
        if _is_last(lock):
            remove_unfinished(folder)
            for left in (*folder.glob(".hgisam-claim-*.lock"), folder / TABLES_LOCK_NAME):
                left.unlink(missing_ok=True)
            _release(path, lock)
        else:
            os.close(lock)


@contextmanager
def case_claimed(folder: Path, name: str, *, wait: bool) -> Iterator[bool]:
    """Claim one case of a folder that several processes hold; gives whether it is ours for the length of the `with`.

    Args:
        folder: held by `claimed`.
        name: the case's.
        wait: whether to wait until the process that has it is done with it, or dead.
    """
    path = folder / f".hgisam-claim-{name}.lock"
    try:
        lock = _lock(path, wait=wait)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        _release(path, lock)


@contextmanager
def tables_held(folder: Path) -> Iterator[None]:
    """Hold what speaks of all cases, as soon as no other process does."""
    path = folder / TABLES_LOCK_NAME
    lock = _lock(path, wait=True)
    try:
        yield
    finally:
        _release(path, lock)


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


def _release(path: Path, lock: int) -> None:
    """Remove a lock's file while it is held: once it is not, the file may be another's lock."""
    if sys.platform == "win32":  # nothing is locked there, and no open file can be removed
        os.close(lock)
        path.unlink(missing_ok=True)
        return
    path.unlink(missing_ok=True)
    os.close(lock)


def _shared_lock(path: Path) -> int:
    """Lock together with others. Where somebody holds the file alone, try again for a while."""
    patient_until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return _lock(path, shared=True)
        except BlockingIOError:
            if time.monotonic() > patient_until:
                raise
        time.sleep(0.05)


def _is_last(lock: int) -> bool:
    """Whether nobody else holds the lock; afterwards it is held alone, or not at all."""
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _lock(path: Path, *, shared: bool = False, wait: bool = False) -> int:
    """Open the lock file and lock it, as a descriptor. A lock that was removed while we waited is opened anew.

    Raises:
        BlockingIOError: where somebody holds it, and we are not to wait.
        OutputError: where the system refuses to make or lock the file.
    """
    try:
        return _opened_and_locked(path, shared=shared, wait=wait)
    except BlockingIOError:
        raise
    except OSError as error:
        raise OutputError(f"{path.parent}: expected to write there; got '{error.strerror}'; choose another") from error


def _opened_and_locked(path: Path, *, shared: bool, wait: bool) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if sys.platform == "win32":
            return descriptor
        import fcntl

        try:
            how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
            fcntl.flock(descriptor, how)
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
