"""The C library's allocator: what it keeps of freed memory, and gives back."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
"""Parameters of mallopt(3), as malloc.h numbers them."""

_KEEPING = {_TRIM_THRESHOLD: -1, _TOP_PAD: 2**29, _MMAP_MAX: 0}
"""Give nothing back, grow by half a gigabyte at a time, and take no buffer, however large, from mmap."""

_USUAL = {_TRIM_THRESHOLD: 2**26, _TOP_PAD: 2**17, _MMAP_MAX: 2**16, _MMAP_THRESHOLD: 2**25}
"""glibc's own defaults, and the highest thresholds to which it would raise its own, as large buffers are freed."""

_USERS_OWN = (
    "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES",
)  # fmt: skip
"""Variables by which a user has a say in it already."""


@contextmanager
def memory_kept(device: torch.device) -> Iterator[None]:
    """While it is entered, memory that is freed stays with the process; where it is left, the system gets it back.

    A step allocates and frees the same buffers again and again. glibc returns large ones to the system at once and has
    them back page by page, each page with a fault and zeroed. Nothing is done for another device or C library, nor
    where the environment has variables of malloc; and where a setting is refused, it stays as it is.

    Args:
        device: where the training is.
    """
    library = _glibc() if device.type == "cpu" else None
    if library is None or any(name in os.environ for name in _USERS_OWN):
        yield
        return
    _set(library, _KEEPING)
    try:
        yield
    finally:
        _set(library, _USUAL)
        library.malloc_trim(0)


def give_back() -> None:
    """Give freed memory back to the system, where the C library is glibc."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" else None


def _set(library: ctypes.CDLL, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        library.mallopt(parameter, value)
