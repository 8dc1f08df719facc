"""What tells that a file is the one that it was."""

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str | None:
    """sha256 of a file's bytes, in hexadecimal; None where it is not there or cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
