"""How a command ends: its exit status, and what Ctrl-C and SIGTERM do."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType
from typing import Any


class ExitCode(IntEnum):
    """What the command's exit status means."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    REFUSED = 3
    WEIGHTS = 4
    OUTPUT = 5
    DEVICE = 6
    SOME_FAILED = 8
    CANCELLED = 130


class Interrupts:
    """While it is entered, Ctrl-C and SIGTERM raise KeyboardInterrupt, but a write in hand is finished first.

    Outside the main thread Python delivers no signals, and nothing is changed.
    """

    def __init__(self) -> None:
        self._writing = False
        self._pending = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold a signal back until the block is left, then raise KeyboardInterrupt."""
        self._writing = True
        try:
            yield
        finally:
            self._writing = False
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if not self._writing:
            raise KeyboardInterrupt
        self._pending = True
