"""What is let in from outside: how much of a file that is read whole, and how its text may look in a message."""

import errno
import os
import stat
from pathlib import Path

MAX_LINE = 1000
"""Characters of one message; what is longer is cut in the middle."""

_BREAKS = dict.fromkeys(map(ord, "\t\n\r"), " ")


def read_whole(path: Path, max_bytes: int) -> bytes:
    """A file's bytes.

    Args:
        path: the file; a link to one is as good.
        max_bytes: the most that are taken into memory.

    Raises:
        OSError: where it cannot be read, is a folder, a pipe or a device, which may never end, or holds more.
    """
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        n_bytes = os.fstat(descriptor).st_size  # room is made for as much as is asked for
        content = file.read(n_bytes + 1) if n_bytes <= max_bytes else None
    if content is None or len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"more than {max_bytes:,} bytes", str(path))
    return content


def open_regular(path: Path) -> int:
    """Open a file for reading, as a descriptor. A pipe that nobody writes to is refused, not waited for.

    Raises:
        OSError: where it cannot be opened, or is a folder, a pipe or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder", str(path))
    raise OSError(errno.EINVAL, "a pipe or a device", str(path))


def one_line(text: str) -> str:
    """Text of anybody's as one line that a terminal prints and does not obey: what is no sign is written out."""
    if not text.isprintable():
        text = text.translate(_BREAKS)
        text = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    half = MAX_LINE // 2
    return text if len(text) <= MAX_LINE else f"{text[: half - 3]} ... {text[2 - half :]}"
