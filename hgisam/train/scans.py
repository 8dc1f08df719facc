"""Balanced, augmented batches cut from prepared scans."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int16
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hgisam.preprocess import PreprocessOptions, network_images
from hgisam.train.augment import AugmentOptions, augment
from hgisam.train.loop import TrainingBatch
from hgisam.train.prepared import HU_STEP, PreparedScan


class SamplingOptions(BaseModel):
    """What a batch is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    positive: int = Field(default=7, ge=1)
    """Slices with blood."""
    twins: int = Field(default=4, ge=0)
    """At most so many of them come with the same slice of the same head before it bled, where the head has a twin."""
    negative: int = Field(default=5, ge=1)
    """Other slices without blood."""
    easy_share: float = Field(default=0.3, gt=0, le=1)
    """Share of the positive slices (those whose blood shows most), that training begins with."""
    easing_batches: int = Field(default=600, ge=0)
    """Batches over which that share grows to all; 0 shows all from the start."""
    min_blood_mm2: float = Field(default=10.0, gt=0)
    """Blood in a slice from which it counts as positive; slices with less, but some, are never shown."""
    min_region_mm2: float = Field(default=300.0, ge=0)
    """Slices with less brain than this are never shown."""


def _conspicuity(relative_hu: Int16[Tensor, "height width"], blood: Bool[Tensor, "height width"]) -> float:
    """How well blood shows in a slice: its mean HU over the brain median times the square root of its area in px."""
    return float(relative_hu[blood].float().mean()) * HU_STEP * math.sqrt(int(blood.sum()))


class BatchSource:
    """An endless source of balanced, augmented batches from prepared scans."""

    def __init__(
        self,
        scans: Sequence[PreparedScan],
        twins: Sequence[PreparedScan],
        preprocessing: PreprocessOptions,
        sampling: SamplingOptions,
        augmentation: AugmentOptions,
        seed: int,
    ) -> None:
        """Sort the slices into positive and negative ones.

        Args:
            scans: scans with their blood.
            twins: some of the same heads before they bled, found by name; may be empty.
            preprocessing: what the network will see.
            sampling: what a batch is made of.
            augmentation: how slices are changed.
            seed: of everything random.
        """
        self._scans, self._twins = scans, {twin.name: twin for twin in twins}
        self._preprocessing, self._sampling, self._augmentation = preprocessing, sampling, augmentation
        self._numpy = np.random.default_rng(seed)
        self._torch = torch.Generator().manual_seed(seed)
        self._n_given = 0
        self.positive: list[tuple[int, int]] = []
        self.negative: list[tuple[int, int]] = []
        shows: dict[tuple[int, int], float] = {}
        pixel_mm2 = preprocessing.spacing_mm**2
        for index, scan in enumerate(scans):
            blood_mm2 = scan.blood.sum(dim=(1, 2)) * pixel_mm2
            brain_mm2 = scan.region.sum(dim=(1, 2)) * pixel_mm2
            for row in range(len(scan.slices)):
                if brain_mm2[row] < sampling.min_region_mm2:
                    continue
                if blood_mm2[row] >= sampling.min_blood_mm2:
                    self.positive.append((index, row))
                    shows[index, row] = _conspicuity(scan.relative_hu[row], scan.blood[row])
                elif blood_mm2[row] == 0:
                    self.negative.append((index, row))
        self.positive.sort(key=lambda slice_: -shows[slice_])

    def __iter__(self) -> Iterator[TrainingBatch]:
        return self

    def __next__(self) -> TrainingBatch:
        easing = self._n_given / self._sampling.easing_batches if self._sampling.easing_batches else 1.0
        share = min(1.0, self._sampling.easy_share + (1.0 - self._sampling.easy_share) * easing)
        self._n_given += 1
        positive = self._pick(self.positive[: max(1, round(share * len(self.positive)))], self._sampling.positive)
        negative = self._pick(self.negative, self._sampling.negative)
        shown = [(self._scans[i], row) for i, row in positive + negative]
        twins = [self._twin_of(i, row) for i, row in positive]
        shown += [twin for twin in twins if twin is not None][: self._sampling.twins]
        hu, region, median_hu = self.stacked(shown)
        blood = torch.stack([scan.blood[row] for scan, row in shown])
        relative, region, blood = augment(
            hu - median_hu, region, blood, self._preprocessing.spacing_mm, self._augmentation, self._torch
        )
        images = network_images(relative + median_hu, region, median_hu, self._preprocessing)
        labels = torch.arange(len(shown)) < len(positive)
        return TrainingBatch(images, labels, blood)

    @staticmethod
    def stacked(
        shown: list[tuple[PreparedScan, int]],
    ) -> tuple[Float[Tensor, "batch height width"], Bool[Tensor, "batch height width"], Float[Tensor, "batch 1 1"]]:
        """HU, region and brain median of the given slices, as they are."""
        median_hu = torch.tensor([scan.median_hu for scan, _ in shown])[:, None, None]
        relative = torch.stack([scan.relative_hu[row] for scan, row in shown]).float() * HU_STEP
        return relative + median_hu, torch.stack([scan.region[row] for scan, row in shown]), median_hu

    def _twin_of(self, index: int, row: int) -> tuple[PreparedScan, int] | None:
        """The same slice before it bled; None where the head has no twin, or the twin no brain there."""
        scan = self._scans[index]
        twin = self._twins.get(scan.name)
        if twin is None or scan.slices[row] not in twin.slices:
            return None
        return twin, twin.slices.index(scan.slices[row])

    def _pick(self, slices: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
        return [slices[k] for k in self._numpy.integers(len(slices), size=count)]
