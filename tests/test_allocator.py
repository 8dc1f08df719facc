"""A training on a CPU keeps freed memory while it lasts, where the C library is glibc and the user has no say in it."""

import ctypes
import os
import platform
import subprocess
import sys
from typing import Any

import pytest
import torch

from hgisam import allocator
from hgisam.allocator import memory_kept

CPU = torch.device("cpu")
ON_GLIBC = platform.libc_ver()[0] == "glibc"

RESIDENT = """
import torch
from pathlib import Path
from hgisam.allocator import memory_kept

def mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20

def growth():
    before = mib()
    torch.ones(2**24)  # 64 MiB, freed at once
    return mib() - before

growth()
before = mib()
with memory_kept(torch.device("cpu")):
    for _ in range(20):
        last = growth()
    kept = mib() - before
print(last, kept, mib() - before)
"""
"""Growth of resident memory in MiB: by the last of some buffers, by what they leave, and by what is left of that."""


class Library(ctypes.CDLL):
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def mallopt(self, parameter: int, value: int) -> int:
        self.asked.append((parameter, value))
        return 1

    def malloc_trim(self, pad: int) -> int:
        self.asked.append((pad,))
        return 1


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    """In place of the C library, which is glibc; the environment says nothing of malloc."""
    for name in allocator._USERS_OWN:
        monkeypatch.delenv(name, raising=False)
    fake = Library()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))

    def load(name: str | None) -> Any:
        assert name is None
        return fake

    monkeypatch.setattr(ctypes, "CDLL", load)
    return fake


def test_it_is_asked_for_on_entering_and_taken_back_on_leaving_in_whatever_way(library: Library) -> None:
    with pytest.raises(KeyError), memory_kept(CPU):
        assert dict(library.asked) == {-1: -1, -2: 2**29, -4: 0}
        library.asked.clear()
        raise KeyError
    assert {one[0] for one in library.asked[:-1]} == {-1, -2, -3, -4}
    assert library.asked[-1] == (0,), "what is free goes back to the system"


@pytest.mark.parametrize("name", allocator._USERS_OWN)
def test_who_has_set_it_has_it_so(library: Library, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "131072")
    with memory_kept(CPU):
        pass
    assert library.asked == []


@pytest.mark.parametrize(("system", "name"), [("darwin", ""), ("win32", ""), ("linux", "musl"), ("linux", "")])
def test_no_other_c_library_is_asked(library: Library, monkeypatch: pytest.MonkeyPatch, system: str, name: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "libc_ver", lambda: (name, ""))
    with memory_kept(CPU):
        pass
    assert library.asked == []


def test_a_training_on_a_gpu_does_not_need_it(library: Library) -> None:
    with memory_kept(torch.device("cuda", 0)):
        pass
    assert library.asked == []


@pytest.mark.skipif(not ON_GLIBC, reason="needs glibc")
def test_freed_memory_stays_while_it_is_entered_and_only_then() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in allocator._USERS_OWN}
    last, kept, left = growth_mib(environment)
    assert last < 10, "the same memory is taken again"
    assert kept > 50
    assert left < 10
    assert growth_mib(environment | {"MALLOC_TRIM_THRESHOLD_": "131072"})[1] < 10


def growth_mib(environment: dict[str, str]) -> list[int]:
    command = [sys.executable, "-c", RESIDENT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [int(word) for word in done.stdout.split()]
