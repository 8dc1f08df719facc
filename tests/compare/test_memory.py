"""The most memory that a piece of work took, beyond what was there before."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hgisam.compare.memory import PeakMemory

MIB = 1024**2


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from Linux's /proc")
def test_what_is_taken_and_given_back_is_a_peak_and_what_stays_is_held() -> None:
    """Not what was there before, nor the peak of earlier work."""
    before = np.ones(300 * MIB, dtype=np.uint8)
    np.ones(400 * MIB, dtype=np.uint8).sum()
    memory = PeakMemory(torch.device("cpu"))
    kept = np.ones(100 * MIB, dtype=np.uint8)
    np.ones(150 * MIB, dtype=np.uint8).sum()
    assert memory.peak_mib() == pytest.approx(250, abs=15)
    assert memory.held_mib() == pytest.approx(100, abs=15)
    del before
    assert memory.held_mib() == 0.0
    assert kept.all()
