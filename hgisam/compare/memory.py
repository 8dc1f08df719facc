"""The most memory that a piece of work took."""

from contextlib import suppress
from pathlib import Path

import torch

_KIB_PER_MIB = 1024
_BYTES_PER_MIB = 1024**2


class PeakMemory:
    """Memory at its highest from the start of this object's life on: of the GPU that is worked on, else of the process.

    Of the process it is all that is resident, the program and the network included.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._known = True
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        self._known = False
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: forget the peak so far
            self._known = True

    def mib(self) -> float | None:
        """In MiB; None where the system does not tell."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / _BYTES_PER_MIB
        if self._known:
            with suppress(OSError):
                for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
                    if line.startswith("VmHWM:"):
                        return int(line.split()[1]) / _KIB_PER_MIB
        return None
