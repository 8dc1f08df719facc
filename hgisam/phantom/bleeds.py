"""Hemorrhages: how large they are, how dense they look, and how they are painted into a head."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hgisam.labels import Subtype
from hgisam.phantom.anatomy import Brain, Head, smooth_noise, soft_step
from hgisam.phantom.shapes import (
    Fraction,
    Plan,
    plan_epidural,
    plan_intraparenchymal,
    plan_intraventricular,
    plan_subarachnoid,
    plan_subdural,
)

VOLUME_MEDIAN_ML = 6.0
VOLUME_SPREAD = 1.2
VOLUME_RANGE_ML = (0.1, 90.0)
"""Bleed volumes: log-normal with this median and sigma of ln, clipped to the range."""


def draw_volume_ml(rng: np.random.Generator) -> float:
    """A random bleed volume in mL."""
    return float(np.clip(rng.lognormal(np.log(VOLUME_MEDIAN_ML), VOLUME_SPREAD), *VOLUME_RANGE_ML))


def plan_bleed(rng: np.random.Generator, head: Head, subtype: Subtype, volume_ml: float) -> Plan:
    """Choose the place and shape of one bleed.

    Raises:
        ValueError: for the subtype `any`, which is no place.
    """
    match subtype:
        case Subtype.EPIDURAL:
            return plan_epidural(rng, head, volume_ml)
        case Subtype.INTRAPARENCHYMAL:
            return plan_intraparenchymal(rng, head, volume_ml)
        case Subtype.INTRAVENTRICULAR:
            return plan_intraventricular(rng, head, volume_ml)
        case Subtype.SUBARACHNOID:
            return plan_subarachnoid(rng, head, volume_ml)
        case Subtype.SUBDURAL:
            return plan_subdural(rng, head, volume_ml)
        case Subtype.ANY:
            raise ValueError("plan_bleed: expected one of the five subtypes, got 'any'; choose where the blood lies")


@dataclass(frozen=True)
class Density:
    """How blood looks.

    Source: New and Aronow 1976, Radiology 121:635-40 (clot 50 to 90 HU, by its hemoglobin).

    Attributes:
        mean_hu: mean of the clot.
        uneven_hu: standard deviation of its patches.
        settling_hu: how much denser the lower (posterior) part is, patient supine; 0 for none.
        edema_hu: how much darker the rim around it is; 0 for none.
    """

    mean_hu: float
    uneven_hu: float
    settling_hu: float
    edema_hu: float

    @classmethod
    def draw(
        cls, rng: np.random.Generator, subtype: Subtype, brain_hu: float, faint_probability: float = 0.0
    ) -> "Density":
        """Acute clot; now and then, where asked for, blood that is only 5 to 15 HU over the brain."""
        clot = float(np.clip(rng.normal(64.0, 7.0), 50.0, 86.0))
        faint = brain_hu + float(rng.uniform(5.0, 15.0))
        mean = faint if rng.random() < faint_probability else clot
        if subtype is Subtype.SUBARACHNOID:  # mixed with CSF: less dense than clot; fainter would pass for brain
            mean = float(np.clip(mean, brain_hu + 14.0, 72.0))
        settling = float(rng.uniform(6.0, 22.0)) if rng.random() < 0.18 else 0.0
        edema = float(rng.uniform(4.0, 15.0)) if rng.random() < 0.8 else 0.0
        return cls(mean, float(rng.uniform(1.0, 5.0)), settling, edema)


def paint_bleed(
    rng: np.random.Generator,
    head: Head,
    brain: Brain,
    density: Density,
    blood: Fraction,
    rim_mm: float,
    hu: Float[Tensor, "depth height width"],
) -> None:
    """Paint one bleed over the HU: its edema first, then the blood, uneven and settled as `density` says.

    Args:
        blood: fraction of each fine voxel; nothing is painted where it is empty.
        rim_mm: width of the edema; 0 for none.
        hu: changed in place.
    """
    patches = head.grid.refine(smooth_noise(rng, head.nodes, 1.2))[0]
    box = _box_of(blood, [2.0 * rim_mm / step + 2.0 for step in head.grid.step_mm])
    if box is None:
        return
    inside, uneven = blood[box], patches[box]
    if rim_mm > 0.0 and density.edema_hu > 0.0:
        outside_mm = _distance_outside_mm(inside, head.grid.step_mm)
        rim = soft_step(rim_mm * (1.0 + 0.35 * uneven) - outside_mm, 3.0) * (0.35 + 0.65 * brain.white[box])
        hu[box] -= density.edema_hu * rim * (1.0 - brain.csf[box])
    clot = density.mean_hu + density.uneven_hu * uneven
    if density.settling_hu > 0.0:
        rows = torch.arange(inside.shape[1], dtype=torch.float32)
        weight = inside.sum(dim=(0, 2), dtype=torch.float64)
        level = float((weight * rows).sum() / weight.sum())
        below = torch.sigmoid((rows - level) * (head.grid.step_mm[1] / 1.5))
        clot = clot + density.settling_hu * (below - 0.6)[None, :, None]
    hu[box] += (clot - hu[box]) * inside


def _box_of(blood: Fraction, margin: list[float]) -> tuple[slice, slice, slice] | None:
    """The box around the blood, wider by a margin in voxels; None where there is none."""
    present = torch.nonzero(blood > 0.01)
    if len(present) == 0:
        return None
    low, high = present.amin(dim=0).tolist(), present.amax(dim=0).tolist()
    d, h, w = (
        slice(max(0, a - int(m)), min(size, b + int(m) + 1))
        for a, b, m, size in zip(low, high, margin, blood.shape, strict=True)
    )
    return d, h, w


def _distance_outside_mm(inside: Tensor, step_mm: tuple[float, float, float]) -> Tensor:
    """Distance to the blood in mm, 0 within it; measured on every second row and column."""
    from scipy.ndimage import distance_transform_edt

    sampling = (step_mm[0], 2.0 * step_mm[1], 2.0 * step_mm[2])
    away = distance_transform_edt((inside[:, ::2, ::2] < 0.5).numpy(), sampling=sampling).astype(np.float32)
    return functional.interpolate(torch.from_numpy(away)[None, None], size=inside.shape, mode="trilinear")[0, 0]
