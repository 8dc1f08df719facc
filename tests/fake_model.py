"""A network's stand-in for tests of what lies around it: it answers by what the file says, not by voxels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hgisam.io.errors import ScanRefused
from hgisam.io.nifti import ct_from_array
from hgisam.pipeline import ClassificationResult, SegmentationResult
from hgisam.plausibility import Plausibility
from hgisam.volume import MaskVolume

AFFINE = np.array([[0, 0, -5.0, 60], [0.7, 0, 0, -40], [0, 1.3, 0, 11], [0, 0, 0, 1]])
"""File axes run to Anterior, Superior and Right: the slices lie along the second."""
SHAPE = (12, 6, 4)
VOXEL_ML = 0.7 * 1.3 * 5.0 / 1000
MASKED = [(3, 1, 2), (4, 1, 2), (4, 5, 0)]
"""File indices of the voxels that the fake network takes for blood: slices 1 (two of them) and 5."""


class FakeModel:
    """Answers by what the file says, as a network would by its voxels; counts what it was asked."""

    def __init__(self, before_answer: Callable[[Path], None] = lambda _: None) -> None:
        self.device = torch.device("cpu")
        self.batch_size = 4
        self.settings: dict[str, Any] = {"threshold": 0.3, "weights_sha256": "ab" * 32}
        self.asked: list[str] = []
        self._before_answer = before_answer

    def ensure_able(self, command: str) -> None:
        """Whatever is asked can be done."""

    def use_less_memory(self, *, allow_cpu: bool) -> str | None:
        """Half of it, down to one; then the CPU where that is allowed, which it is on already."""
        if self.batch_size == 1:
            return None
        self.batch_size //= 2
        return f"a batch of {self.batch_size}"

    def _fields(self, scan: Path) -> dict[str, Any]:
        self.asked.append(scan.name)
        self._before_answer(scan)
        text = scan.read_text()
        if text == "refuse":
            raise ScanRefused(f"{scan}: expected a head CT; got\nplain text; convert it again")
        if text == "crash":
            raise RuntimeError("an index fell out of its range")
        ct, grid = ct_from_array(np.full(SHAPE, 30, dtype=np.int16), AFFINE, scan.name)
        return {
            "ct": ct,
            "grid": grid,
            "probability": 0.9,
            "slice_probabilities": np.array([0.1, 0.9, 0.2, 0.0, 0.4, 0.7], dtype=np.float32),
            "subtype_probabilities": {"subdural": np.linspace(0, 0.5, 6, dtype=np.float32)},
            "slice_has_brain": np.array([1, 1, 1, 0, 1, 1], dtype=bool),
            "slice_positions_mm": np.asarray(ct.slice_positions_mm),
            "plausibility": Plausibility(verdict="ok", reasons=(), figures={"air_peak_hu": -1000.0}),
            "warnings": ("the qform was left out",),
            "timings_s": {"read": 0.25, "classify": 0.5},
            "settings": self.settings,
            "weights_sha256": "ab" * 32,
            "operating_point": 0.5,
        }

    def classify(self, scan: Path) -> ClassificationResult:
        return ClassificationResult(**self._fields(scan))

    def segment(self, scan: Path) -> SegmentationResult:
        fields = self._fields(scan)
        voxels = np.zeros(SHAPE, dtype=bool)
        voxels[tuple(np.transpose(MASKED))] = True
        grid = fields["grid"]
        house = torch.from_numpy(grid.orientation.to_house(voxels).copy())
        return SegmentationResult(
            **fields,
            mask_volume=MaskVolume(house, fields["ct"].affine, scan.name),
            saliency_house=house.float() * 0.75,
            region=house,
            brain_median_hu=30.0,
            slice_gated=np.array([0, 1, 0, 0, 0, 1], dtype=bool),
            volume_reason="its thickness is not stated" if scan.read_text() == "unmeasured" else None,
            volume_doubts=(),
        )
