"""What a slice might have looked like: random changes of one prepared slice, by MONAI's transforms."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

if TYPE_CHECKING:
    from monai.transforms.compose import Compose

_SEEDS = 2**32
"""MONAI's transforms take seeds below this."""


class AugmentOptions(BaseModel):
    """How far a prepared slice may be changed. Every range is drawn from uniformly, per slice."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    flip_probability: float = Field(default=0.5, ge=0, le=1)
    """Chance of exchanging left and right."""
    rotation_deg: float = Field(default=5.0, ge=0)
    """Largest rotation either way: about what the midline may be off."""
    scale: float = Field(default=0.12, ge=0, lt=1)
    """Largest relative change of size, drawn for rows and columns apart."""
    shift_mm: tuple[float, float] = (8.0, 3.0)
    """Largest shift of (rows, columns); columns less, since the midline is near the middle."""
    gain: float = Field(default=0.15, ge=0, lt=1)
    """Largest relative change of contrast."""
    offset_hu: float = Field(default=3.0, ge=0)
    """Largest shift of HU."""
    noise_hu: float = Field(default=4.0, ge=0)
    """Largest standard deviation of added noise; it comes before the blur, so that it has the scanner's grain."""
    blur_px: float = Field(default=1.0, ge=0)
    """Largest standard deviation of a Gaussian blur."""
    thickness: float = Field(default=0.0, ge=0, lt=1)
    """Largest share of a slice that its neighbours above and below make up, as in thicker slices; only where both are
    labelled alike."""
    dropout_holes: int = Field(default=0, ge=0)
    """One to so many square holes of brain median are cut, each of dropout_mm; 0 for none. What lies under a hole is
    learned as no blood, since none is to be seen there; the slice keeps its label."""
    dropout_mm: float = Field(default=12.0, gt=0)
    """Side of a hole."""


class SliceChanger:
    """Changes a slice, or slices that lie above each other; the same seed changes any two alike.

    Slices together are moved and stretched as one; only noise is each one's own.
    """

    def __init__(self, options: AugmentOptions, spacing_mm: float) -> None:
        self._options, self._spacing_mm = options, spacing_mm

    def __call__(
        self,
        relative_hu: Float[Tensor, "*slices height width"],
        region: Bool[Tensor, "*slices height width"],
        blood: Bool[Tensor, "*slices height width"],
        seed: int,
    ) -> tuple[
        Float[Tensor, "*slices height width"],
        Bool[Tensor, "*slices height width"],
        Bool[Tensor, "*slices height width"],
    ]:
        """A changed copy of slices, their intracranial region and their blood; geometry changes all three alike.

        There is no blood under a hole: it looks like one in a slice without any, and must be learned as that one is.

        Args:
            relative_hu: HU minus the scan's brain median.
            region: the intracranial region.
            blood: where there is blood.
            seed: the source of all chance.
        """
        shape, look, holes = self._transforms
        shape.set_random_state(seed % _SEEDS)
        look.set_random_state((seed + 1) % _SEEDS)
        holes.set_random_state((seed + 2) % _SEEDS)
        with _without_metadata():
            planes = torch.stack([relative_hu, region.float(), blood.float()])
            moved = torch.as_tensor(shape(planes.flatten(0, -3))).reshape(3, -1, *planes.shape[-2:])
            seen = torch.stack([torch.as_tensor(look(moved[0])), moved[2]])
            changed_hu, changed_blood = torch.as_tensor(holes(seen.flatten(0, 1))).reshape(seen.shape)
        sides = relative_hu.shape
        return changed_hu.reshape(sides), moved[1].reshape(sides) >= 0.5, changed_blood.reshape(sides) >= 0.5

    @cached_property
    def _transforms(self) -> "tuple[Compose, Compose, Compose]":
        """What moves pixels, what changes their values, and what hides them."""
        from monai.transforms.compose import Compose  # slow to import, and the options alone are often asked for
        from monai.transforms.intensity.array import (
            RandCoarseDropout,
            RandGaussianNoise,
            RandGaussianSmooth,
            RandScaleIntensity,
            RandShiftIntensity,
        )
        from monai.transforms.spatial.array import RandAffine, RandFlip

        o = self._options
        angle = float(np.deg2rad(o.rotation_deg))
        shift_px = [limit / self._spacing_mm for limit in o.shift_mm]
        shape: list[Callable[..., object]] = [
            RandFlip(prob=o.flip_probability, spatial_axis=1),
            RandAffine(
                prob=1.0 if angle or o.scale or any(shift_px) else 0.0,
                rotate_range=angle,
                scale_range=(o.scale, o.scale),
                translate_range=shift_px,
                mode="bilinear",
                padding_mode="border",
            ),
        ]
        look: list[Callable[..., object]] = [
            RandScaleIntensity(factors=o.gain, prob=1.0 if o.gain else 0.0),
            RandShiftIntensity(offsets=o.offset_hu, prob=1.0 if o.offset_hu else 0.0),
            RandGaussianNoise(prob=1.0 if o.noise_hu else 0.0, std=o.noise_hu),
            RandGaussianSmooth(
                sigma_x=(0.0, o.blur_px), sigma_y=(0.0, o.blur_px), prob=1.0 if o.blur_px else 0.0, approx="erf"
            ),
        ]
        holes: list[Callable[..., object]] = []
        if o.dropout_holes:
            side_px = max(1, round(o.dropout_mm / self._spacing_mm))
            holes.append(
                RandCoarseDropout(holes=1, max_holes=o.dropout_holes, spatial_size=side_px, fill_value=0.0, prob=1.0)
            )
        return Compose(shape), Compose(look), Compose(holes)


@contextmanager
def _without_metadata() -> Iterator[None]:
    """MONAI carries no affine along while this is entered: it would take as long as the transforms themselves."""
    from monai.data.meta_obj import get_track_meta, set_track_meta

    before = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(before)
