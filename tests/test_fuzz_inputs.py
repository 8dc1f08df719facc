"""The fuzzer finds what it is for: each fault that it tells of is planted here, and so is what is none."""

import logging
import mmap
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hgisam.io.errors import ScanRefused

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from Linux's /proc")


@dataclass(frozen=True)
class FakeKind:
    """A door for a test."""

    door: Callable[[Path], object]
    name: str = "fake"
    suffix: str = ".bin"
    refusals: tuple[type[Exception], ...] = (ScanRefused,)


@pytest.fixture
def tool(repository: Path) -> Iterator[ModuleType]:
    spec = util.spec_from_file_location("fuzz_inputs", repository / "tools" / "fuzz_inputs.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules["fuzz_inputs"] = module
    spec.loader.exec_module(module)
    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGPROF)}
    level = logging.getLogger("hgisam").level
    handlers = logging.getLogger().handlers[:]
    yield module
    for number, handler in before.items():
        signal.signal(number, handler)
    logging.getLogger("hgisam").setLevel(level)
    logging.getLogger().handlers[:] = handlers
    del sys.modules["fuzz_inputs"]


def never_ends(_: Path) -> None:
    try:
        while True:
            time.sleep(0.01)
    except Exception:  # noqa: BLE001 - as code that takes anything for a damaged file
        pass


def takes_memory(_: Path) -> None:
    """A mapping of its own: the heap may still have room from before."""
    np.frombuffer(mmap.mmap(-1, 100 * 2**20), dtype=np.uint8)[:] = 1


def refuses(text: str) -> Callable[[Path], None]:
    def door(_: Path) -> None:
        refusal = ScanRefused("x")
        refusal.args = (text,)
        raise refusal

    return door


@pytest.mark.parametrize(
    ("door", "what"),
    [
        (lambda path: path.read_bytes(), None),
        (refuses("head.nii: expected a scan; got none"), None),
        (lambda path: {}[path], "KeyError"),
        (lambda _: warnings.warn("odd", RuntimeWarning, stacklevel=1), "warning"),
        (lambda _: logging.getLogger("pydicom").warning("odd"), "log"),
        (refuses("two\nlines"), "line"),
        (refuses("long" * 1000), "line"),
        (refuses("expected a file; got 'MemoryError'"), "memory"),
        (takes_memory, "memory"),
        (never_ends, "hang"),
    ],
)
def test_a_planted_fault_is_found(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: Callable[[Path], object], what: str | None
) -> None:
    if what == "hang":
        monkeypatch.setattr(tool, "WAIT_S", 1)
    counts = tool.Counts(tmp_path / "counts")
    found = tool.Examiner(FakeKind(door), tmp_path, 64, counts)(b"content")
    assert (found.what if found else None) == what
    seen = tool.Counts(tmp_path / "counts")
    assert (seen.accepted + seen.refused, seen.found) == ((1, 0) if what is None else (0, 1))


def test_what_is_found_is_kept_once_for_each_place(tool: ModuleType, tmp_path: Path) -> None:
    found = tool.Found("KeyError", "nifti12", "where it was")
    for data in (b"first", b"second"):
        tool.keep(tmp_path, "nifti", found, data, ".nii")
    tool.keep(tmp_path, "nifti", tool.Found("KeyError", "nifti13", "elsewhere"), b"third", ".nii")
    assert sorted(path.read_bytes() for path in tmp_path.glob("nifti_KeyError_*.nii")) == [b"first", b"third"]
