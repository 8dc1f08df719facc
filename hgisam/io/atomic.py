"""Writing files so that a reader finds either all of a file or none of it."""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hgisam.io.errors import OutputError

_PART = (".hgisam-", ".part")
"""How the name of an unfinished file begins and ends."""


def make_output_folder(folder: Path) -> Path:
    """Make a folder and those above it where they are absent, and return it.

    Raises:
        OutputError: where it cannot be made, is a file, or cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: expected a folder for the outputs; got {_reason(error)}; name another") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: expected a folder that can be written to; got permission denied; name another")
    return folder


@contextmanager
def output_folder(folder: Path) -> Iterator[Path]:
    """Make a folder as `make_output_folder` does; where what follows fails, nothing is left that is new and empty.

    Raises:
        OutputError: where it cannot be made, is a file, or cannot be written to.
    """
    new = [path for path in (folder, *folder.parents) if not _may_exist(path)]
    try:
        yield make_output_folder(folder)
    except BaseException:
        for path in new:
            with suppress(OSError):  # it holds something, or was never made
                path.rmdir()
        raise


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a new binary file that takes the name `path`, replacing what bears it, only once it is whole and on disk.

    A temporary file in the same folder is written, flushed, synced and renamed. On any failure, Ctrl-C included, it is
    removed and `path` is as it was. A symbolic link at `path` is replaced itself; what it points to is not touched.

    Raises:
        OutputError: where the system refuses to write: no permission, disk full, no such folder.
    """
    temporary = path.with_name(f"{_PART[0]}{secrets.token_hex(8)}{_PART[1]}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(
            f"{path}: expected to write the file; got {_reason(error)}; free some space or name another folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def set_aside(path: Path, names: Iterable[str]) -> Path:
    """Rename a file or folder to the first of these names that is free beside it, and return where it is then.

    Raises:
        OutputError: where that is not permitted.
    """
    kept = next(free for name in names if not (free := path.with_name(name)).exists())
    try:
        path.rename(kept)
    except OSError as error:
        raise OutputError(f"{path}: expected to rename it; got '{error.strerror}'; move it away") from error
    return kept


def _may_exist(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # nobody may look, or no file can have such a name
        return True


def remove_unfinished(folder: Path) -> None:
    """Remove what `atomic_write` left in a folder where its process was killed. Nobody else may be writing there."""
    for path in folder.glob("*".join(_PART)):
        with suppress(OSError):
            path.unlink()


def _sync_folder(folder: Path) -> None:
    """Put the rename itself on disk, where the system can do that for a folder."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
