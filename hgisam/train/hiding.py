"""What an encoder learns from without labels: slices of which parts are hidden, and what was there."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.data import Dataset

from hgisam.model.masked_swin import MaskedSwin
from hgisam.preprocess import PreprocessOptions, neighbour_rows, network_images
from hgisam.train.augment import AugmentOptions, SliceChanger
from hgisam.train.batch import Batch
from hgisam.train.deck import Deck
from hgisam.train.loop import Costs, Objective
from hgisam.train.prepared import HU_STEP, PreparedScans


class HidingOptions(BaseModel):
    """What a step shows and what it hides."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    slices: int = Field(default=24, ge=1)
    """Slices in a step, over all processes together."""
    hidden_share: float = Field(default=0.6, gt=0, lt=1)
    """Share of the squares of a slice that are hidden."""
    hidden_px: int = Field(default=32, gt=0)
    """Side of such a square; whole patches of the network, a whole number of them in the picture."""
    min_region_mm2: float = Field(default=300.0, ge=0)
    """Slices with less brain than this are never shown."""


@dataclass(frozen=True, eq=False)
class HiddenBatch(Batch):
    """Slices of which parts are hidden.

    Attributes:
        images: what the network sees: brain median where something is hidden.
        hidden: where that is.
        wanted: the images before anything was hidden.
        asked: which pixels the network is asked for: hidden ones in the intracranial region.
    """

    images: Float[Tensor, "batch channels height width"]
    hidden: Bool[Tensor, "batch height width"]
    wanted: Float[Tensor, "batch channels height width"]
    asked: Bool[Tensor, "batch height width"]


class HiddenBatches(Dataset[HiddenBatch]):
    """Batch k of a training, for any k, as in `TrainingBatches`: chance follows from the seed and k alone.

    Hidden pixels are painted over before channels are made of a slice, so that its mirror difference and its smoothing
    tell nothing of them; its neighbours are hidden alike.
    """

    def __init__(
        self,
        prepared: PreparedScans,
        patients: Collection[str],
        preprocessing: PreprocessOptions,
        options: HidingOptions,
        augmentation: AugmentOptions,
        seed: int,
        *,
        rank: int = 0,
        n_processes: int = 1,
    ) -> None:
        """Shuffle.

        Args:
            prepared: scans of a cohort; nothing is asked of their labels.
            patients: whose slices may be shown.
            preprocessing: what the network will see.
            options: how many, and what is hidden.
            augmentation: how slices are changed.
            seed: of everything random.
            rank: which of the processes this is.
            n_processes: how many share each step.

        Raises:
            ValueError: where no slice is fit to be shown.
        """
        self._prepared, self._preprocessing, self._options = prepared, preprocessing, options
        self._change = SliceChanger(augmentation, preprocessing.spacing_mm)
        self._seed, self._rank, self._n_processes = seed, rank, n_processes
        index = prepared.slice_index
        allowed = torch.tensor([scan.patient in patients for scan in prepared.scans], dtype=torch.bool)
        fit = torch.nonzero(allowed[index.scan] & (index.brain_mm2 >= options.min_region_mm2)).flatten()
        self._scan, self._row = index.scan[fit], index.row[fit]
        self._deck = Deck([1.0] * len(fit), seed)

    @property
    def n_slices(self) -> int:
        """How many there are to be shown."""
        return len(self._scan)

    @property
    def n_patients(self) -> int:
        """Whose slices these are."""
        return self._prepared.n_patients(self._scan)

    def __getitem__(self, step: int) -> HiddenBatch:
        """What this process learns from in a step."""
        options, preprocessing = self._options, self._preprocessing
        shown = []
        for number in range(self._rank, options.slices, self._n_processes):
            random = np.random.default_rng((self._seed, step, number))
            item = self._deck[step * options.slices + number]
            shown.append((*self._changed(item, random), hidden_squares(preprocessing.fov_px, options, random)))
        hu = torch.stack([planes for planes, *_ in shown])
        region = torch.stack([inside for _, inside, *_ in shown])
        median_hu = torch.tensor([median for _, _, median, _ in shown])[:, None, None]
        hidden = torch.stack([squares for *_, squares in shown])
        wanted, images = (
            network_images(planes[:, 0] + median_hu, region, median_hu, preprocessing, planes[:, 1:])
            for planes in (hu, torch.where(hidden[:, None], 0.0, hu))
        )
        return HiddenBatch(images, hidden, wanted, hidden & region)

    def _changed(
        self, item: int, random: np.random.Generator
    ) -> tuple[Float[Tensor, "planes height width"], Bool[Tensor, "height width"], float]:
        """A slice and its neighbours, HU over the brain median, changed as one; its region; its scan's brain median."""
        scan, row = self._prepared[int(self._scan[item])], int(self._row[item])
        rows = [row, *neighbour_rows(scan.slices, self._preprocessing.neighbours)[row].tolist()]
        hu, region = scan.relative_hu[rows].float() * HU_STEP, scan.region[row].expand(len(rows), -1, -1)
        hu, region, _ = self._change(hu, region, torch.zeros_like(region), int(random.integers(2**32)))
        return hu, region[0], scan.median_hu


def hidden_squares(fov_px: int, options: HidingOptions, random: np.random.Generator) -> Bool[Tensor, "fov fov"]:
    """A picture's squares of which a share, drawn by chance, is hidden; rounded to whole squares, one at least."""
    side = fov_px // options.hidden_px
    squares = torch.zeros(side**2, dtype=torch.bool)
    n_hidden = max(1, round(options.hidden_share * side**2))
    squares[torch.from_numpy(random.permutation(side**2)[:n_hidden])] = True
    return squares.view(side, side).repeat_interleave(options.hidden_px, 0).repeat_interleave(options.hidden_px, 1)


class HiddenObjective(Objective[MaskedSwin, HiddenBatch]):
    """What was hidden is to be said: mean absolute error over the pixels asked for, and over channels."""

    def question(self, model: MaskedSwin) -> nn.Module:
        """What the whole picture is said to be."""
        return model

    def costs_of(self, batch: HiddenBatch, model: MaskedSwin) -> Callable[[Callable[..., Any], HiddenBatch], Costs]:
        """The absolute error, of a part as its exact share of the step."""
        n_asked = batch.asked.sum().float() * batch.images.shape[1]
        if dist.is_initialized():
            dist.all_reduce(n_asked)

        def costs(ask: Callable[..., Any], part: HiddenBatch) -> Costs:
            off = (ask(part.images, part.hidden) - part.wanted).abs()
            return {"pixel_loss": (off * part.asked[:, None]).sum() / n_asked.clamp_min(1)}

        return costs
