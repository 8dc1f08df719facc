"""The most memory that a piece of work took."""

from contextlib import suppress
from pathlib import Path

import torch

from hgisam.allocator import give_back

_KIB_PER_MIB = 1024
_BYTES_PER_MIB = 1024**2


class PeakMemory:
    """Memory from the start of this object's life on, beyond what was held then: of the GPU that is worked on, else of
    the process.

    Of the process it is what is resident. What it has freed goes back to the system first, where the C library can do
    so, or work would find room that nobody counts.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._known = device.type == "cuda"
        self._before = self._now_mib()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: forget the peak so far
            self._known = True

    def peak_mib(self) -> float | None:
        """The most that was held at a time, in MiB beyond the start; None where the system does not tell."""
        if self._device.type == "cuda":
            return self._beyond(torch.cuda.max_memory_allocated(self._device) / _BYTES_PER_MIB)
        return self._beyond(_resident_mib("VmHWM:"))

    def held_mib(self) -> float | None:
        """What is held now, likewise."""
        return self._beyond(self._now_mib())

    def _now_mib(self) -> float | None:
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device) / _BYTES_PER_MIB
        give_back()
        return _resident_mib("VmRSS:")

    def _beyond(self, mib: float | None) -> float | None:
        return None if mib is None or self._before is None or not self._known else max(0.0, mib - self._before)


def _resident_mib(name: str) -> float | None:
    """A line of Linux's /proc/self/status, in MiB; None elsewhere."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / _KIB_PER_MIB
    return None
