"""What a segmenter's step learns from: slices, or stacks of them, with the blood in them known to the pixel."""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.data import Dataset

from hgisam.preprocess import PreprocessOptions, network_images
from hgisam.supervised import StackOptions, resample_slices, slice_weights, stack_positions_mm
from hgisam.train.augment import AugmentOptions, SliceChanger
from hgisam.train.batch import Batch
from hgisam.train.deck import Deck
from hgisam.train.prepared import HU_STEP, PreparedScan, PreparedScans

_LITTLE = 1e-3
"""A slice that counts less than this in a slice of a stack does not count."""


class CropSampling(BaseModel):
    """What a step learns from: so many slices (2D) or stacks of slices (3D), over all processes together."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    bleeding: int = Field(default=6, ge=1)
    """Drawn about a slice with blood; a patient's slices together as often as the root of their number."""
    anywhere: int = Field(default=6, ge=0)
    """Drawn about any slice, with blood or without."""
    min_region_mm2: float = Field(default=300.0, ge=0)
    """Nothing is drawn about slices with less brain than this."""

    @property
    def n_units(self) -> int:
        """Slices or stacks in a step: by these, processes share it."""
        return self.bleeding + self.anywhere


@dataclass(frozen=True, eq=False)
class MaskBatch(Batch):
    """Images in [0, 1], and where in them blood is; 3D images have a depth before their height.

    Attributes:
        images: what the network sees.
        blood: what it should say.
        certain: where it should say that; None for everywhere.
    """

    images: Float[Tensor, "batch channels *sides"]
    blood: Bool[Tensor, "batch ..."]
    certain: Bool[Tensor, "batch ..."] | None = None


class MaskedSlices:
    """Slices of a cohort's training patients of which a mask speaks, found without a look at their pixels."""

    def __init__(self, prepared: PreparedScans, patients: Collection[str], sampling: CropSampling) -> None:
        """Sort the slices.

        Args:
            prepared: scans of the cohort.
            patients: whose slices may be shown.
            sampling: which slices are fit to be shown.
        """
        self._prepared = prepared
        index = prepared.slice_index
        allowed = torch.tensor([scan.patient in patients for scan in prepared.scans], dtype=torch.bool)
        masked = ~index.blood_mm2.isnan()
        fit = allowed[index.scan] & masked & (index.brain_mm2 >= sampling.min_region_mm2)
        self._scan, self._row = index.scan, index.row
        self.anywhere = torch.nonzero(fit).flatten()
        self.bleeding = torch.nonzero(fit & (index.blood_mm2 > 0)).flatten()

    @property
    def n_patients(self) -> int:
        """Whose slices these are."""
        return self._prepared.n_patients(self._scan[self.anywhere])

    def weights(self) -> list[float]:
        """How often each bleeding slice is shown: a patient's together as often as the root of their number."""
        patients = [self._prepared.scans[scan].patient for scan in self._scan[self.bleeding].tolist()]
        counts = {patient: patients.count(patient) for patient in set(patients)}
        return [1.0 / math.sqrt(counts[patient]) for patient in patients]

    def at(self, index: int) -> tuple[PreparedScan, int]:
        """The scan, and which of its prepared slices, that an entry of `anywhere` or `bleeding` stands for."""
        return self._prepared[int(self._scan[index])], int(self._row[index])


@dataclass(frozen=True, eq=False)
class _Crop:
    """One slice or stack as it is, before augmentation."""

    relative_hu: Float[Tensor, "depth height width"]
    region: Bool[Tensor, "depth height width"]
    blood: Bool[Tensor, "depth height width"]
    certain: Bool[Tensor, "depth height width"] | None


class CropBatches(Dataset[MaskBatch]):
    """Batch k of a training, for any k: drawn and changed by chance that follows from the seed and k alone."""

    def __init__(
        self,
        slices: MaskedSlices,
        preprocessing: PreprocessOptions,
        stack: StackOptions | None,
        sampling: CropSampling,
        augmentation: AugmentOptions,
        seed: int,
        *,
        rank: int = 0,
        n_processes: int = 1,
    ) -> None:
        """Shuffle.

        Args:
            slices: that may be shown; some must hold blood.
            preprocessing: what the network will see.
            stack: of slices that a 3D network sees; None for a 2D network.
            sampling: what a batch is made of.
            augmentation: how slices are changed.
            seed: of everything random.
            rank: which of the processes this is.
            n_processes: how many share each step.
        """
        self._slices, self._preprocessing, self._stack = slices, preprocessing, stack
        self._change = SliceChanger(augmentation, preprocessing.spacing_mm)
        self._seed, self._rank, self._n_processes = seed, rank, n_processes
        self._decks = {
            "bleeding": Deck(slices.weights(), 1000 * seed),
            "anywhere": Deck([1.0] * len(slices.anywhere), 1000 * seed + 1),
        }
        counts = {"bleeding": sampling.bleeding, "anywhere": sampling.anywhere}
        self._units = [(kind, place, count) for kind, count in counts.items() for place in range(count)]

    def __getitem__(self, step: int) -> MaskBatch:
        """What this process learns from in a step."""
        images, blood, certain = [], [], []
        for number, (kind, place, count) in enumerate(self._units):
            if number % self._n_processes != self._rank:
                continue
            random = np.random.default_rng((self._seed, step, number))
            entries = self._slices.bleeding if kind == "bleeding" else self._slices.anywhere
            scan, row = self._slices.at(int(entries[self._decks[kind][step * count + place]]))
            crop = _slice(scan, row) if self._stack is None else _stack(scan, row, self._stack, random)
            image, mask, known = self._seen(crop, scan.median_hu, int(random.integers(2**32)))
            images.append(image)
            blood.append(mask)
            certain += [] if known is None else [known]
        return MaskBatch(torch.stack(images), torch.stack(blood), torch.stack(certain) if certain else None)

    def _seen(self, crop: _Crop, median_hu: float, seed: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """The image of a crop, changed, its blood and where that is certain: without a depth for a 2D network."""
        relative_hu, region, blood = self._change(crop.relative_hu, crop.region, crop.blood, seed)
        certain = crop.certain
        if certain is not None and not certain.all():  # one seed changes both alike
            certain = self._change(crop.relative_hu, crop.region, certain, seed)[2]
        images = network_images(relative_hu + median_hu, region, median_hu, self._preprocessing)
        if self._stack is None:
            return images[0], blood[0], None if certain is None else certain[0]
        return images.transpose(0, 1), blood, certain


def _slice(scan: PreparedScan, row: int) -> _Crop:
    rows = slice(row, row + 1)
    certain = None if scan.certain is None else scan.certain[rows]
    return _Crop(scan.relative_hu[rows].float() * HU_STEP, scan.region[rows], scan.blood[rows], certain)


def _stack(scan: PreparedScan, row: int, options: StackOptions, random: np.random.Generator) -> _Crop:
    """A stack that holds the slice, anywhere in it, and reaches beyond the scan only where the scan is shorter."""
    positions_mm = torch.tensor(scan.positions_mm, dtype=torch.float64)
    n, first, last = options.window_slices, float(positions_mm[0]), float(positions_mm[-1])
    length_mm = (n - 1) * options.slice_mm
    if last - first > length_mm:
        start = float(positions_mm[row]) - float(random.uniform(0.0, length_mm))
        start = min(max(start, first), last - length_mm)
        wanted_mm = start + options.slice_mm * torch.arange(n, dtype=torch.float64)
    else:
        wanted_mm = stack_positions_mm(positions_mm, options)
    weights = slice_weights(positions_mm, wanted_mm, options.slice_mm)
    hu, region, blood = (
        resample_slices(weights, planes.float()) for planes in (scan.relative_hu, scan.region, scan.blood)
    )
    certain = None
    if scan.certain is not None:  # only where no slice that counts is in doubt
        certain = resample_slices(weights, (~scan.certain).float()) < _LITTLE
    return _Crop(hu * HU_STEP, region >= 0.5, blood >= 0.5, certain)
