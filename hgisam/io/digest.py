"""What tells that a file is the one that it was."""

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path


def file_sha256(path: Path) -> str | None:
    """sha256 of a file's bytes, in hexadecimal; None where it is not there or cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def code_sha256(code: Iterable[str]) -> str:
    """sha256 of modules of the package, and their data, as they lie on disk, in hexadecimal.

    Args:
        code: patterns within the package.
    """
    return _code_sha256(tuple(code))


@lru_cache
def _code_sha256(code: tuple[str, ...]) -> str:
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted({path for pattern in code for path in package.glob(pattern)}):
        digest.update(path.read_bytes())
    return digest.hexdigest()
