"""The head before it becomes a patient: the shipped brain atlas, and the structures drawn around it.

Coordinates are RAS+ mm of the ICBM 2009a symmetric template (x to the right, y anterior, z superior). Arrays run
[z, y, x]. A *field* is a signed distance in mm, positive inside the structure; fields are smooth, so they can be kept
on a coarse grid, shifted per patient (a larger sinus is a larger offset) and cut with soft edges (partial volume).
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from importlib.resources import files

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hgisam.phantom.structures import Array, Point, Space, draw_structures

TISSUE_LEVELS = 15
SURFACE_STEP_MM = 0.25
SURFACE_SPACING_MM = 2.0
"""How `tools/make_phantom_atlas.py` stored the maps: fractions as 0..15, distances in quarters of a mm every 2 mm."""
PULL_SIGMA = 3.0
"""Smoothing of the ventricles, in nodes of the 2 mm grid, whose slope leads towards them."""


class Tissue(IntEnum):
    """Channels of `Atlas.tissue`, each a fraction in [0, 1]."""

    GREY = 0
    WHITE = 1
    VENTRICLE = 2


@dataclass(frozen=True)
class Grid:
    """Where an array [.., z, y, x] lies: the centre of its first voxel and its isotropic spacing, both in mm."""

    corner_mm: Point
    spacing_mm: float


@dataclass(frozen=True, eq=False)
class Atlas:
    """Tissue fractions at 1 mm and structure fields at 2 mm, both over both halves of the head.

    Attributes:
        tissue: channels of `Tissue`.
        structures: channels of `Structure`.
        ventricle_pull: direction (x, y, z) towards the ventricles, 1 at its longest, on the grid of `structures`;
            sampling the tissue at points pushed along it makes the ventricles larger.
        tentorium_z_mm: height of the tentorium over (y, x), on the same grid.
    """

    tissue: Float[Tensor, "3 z y x"]
    tissue_grid: Grid
    structures: Float[Tensor, "13 zs ys xs"]
    structure_grid: Grid
    ventricle_pull: Float[Tensor, "3 zs ys xs"]
    tentorium_z_mm: Float[Tensor, "1 1 ys xs"]


def sample(
    values: Float[Tensor, "channels z y x"], grid: Grid, points_mm: Float[Tensor, "3 d h w"], padding: str = "border"
) -> Float[Tensor, "channels d h w"]:
    """Trilinear values of an array at points given as (x, y, z) in mm. Outside: the border's value, or zeros."""
    sizes = values.shape[:0:-1]
    scale = [2.0 / (grid.spacing_mm * (size - 1)) for size in sizes]
    unit = torch.stack([(points_mm[i] - grid.corner_mm[i]) * scale[i] - 1.0 for i in range(3)], dim=-1)
    return functional.grid_sample(values[None], unit[None], padding_mode=padding, align_corners=True)[0]


@lru_cache(maxsize=1)
def load_atlas() -> Atlas:
    """Read the shipped atlas and draw the structures around it; kept for the life of the process (about 150 MB)."""
    with (files("hgisam.phantom") / "data" / "atlas.npz").open("rb") as stream, np.load(stream) as archive:
        stored = {name: archive[name] for name in archive.files}
    shape = stored["gm"].shape
    ventricles = np.unpackbits(stored["ventricles"])[: int(np.prod(shape))].reshape(shape)
    fractions = [stored["gm"] / TISSUE_LEVELS, stored["wm"] / TISSUE_LEVELS, ventricles]
    tissue = np.stack([_both_halves(half) for half in fractions])
    _, y, z = stored["corner_mm"].tolist()
    tissue_grid = Grid((-float(shape[0] - 1), y, z), 1.0)

    dura, hull = (
        _both_halves(np.cumsum(stored[name], axis=1, dtype=np.int8) * SURFACE_STEP_MM)
        for name in ("dura_quarter_mm", "hull_quarter_mm")
    )
    _, y, z = stored["surface_corner_mm"].tolist()
    structure_grid = Grid((-SURFACE_SPACING_MM * (dura.shape[2] // 2), y, z), SURFACE_SPACING_MM)
    tentorium = _both_halves(stored["tentorium_z_mm"][:, :, None])[0]
    axes = [
        np.float32(structure_grid.corner_mm[2 - i]) + np.float32(SURFACE_SPACING_MM) * np.arange(n, dtype=np.float32)
        for i, n in enumerate(dura.shape)
    ]
    space = Space(x=axes[2][None, None, :], y=axes[1][None, :, None], z=axes[0][:, None, None])

    points = torch.from_numpy(np.stack(np.broadcast_arrays(space.x, space.y, space.z)))
    coarse = sample(torch.from_numpy(tissue[Tissue.VENTRICLE])[None], tissue_grid, points, padding="zeros")
    return Atlas(
        tissue=torch.from_numpy(tissue),
        tissue_grid=tissue_grid,
        structures=torch.from_numpy(draw_structures(dura, hull, tentorium, space)),
        structure_grid=structure_grid,
        ventricle_pull=torch.from_numpy(_slope(coarse[0].numpy())),
        tentorium_z_mm=torch.from_numpy(tentorium)[None, None],
    )


def _both_halves(right: NDArray[np.generic]) -> Array:
    """Mirror a half [x >= 0, y, z] and turn it to [z, y, x]."""
    full = np.concatenate([right[:0:-1], right]).astype(np.float32)
    return np.ascontiguousarray(full.transpose(2, 1, 0))


def _slope(mask: Array) -> Array:
    """Gradient (x, y, z) of a smoothed mask, scaled so that it is 1 at its longest."""
    from scipy.ndimage import gaussian_filter

    gz, gy, gx = np.gradient(gaussian_filter(mask, PULL_SIGMA))
    field = np.stack([gx, gy, gz])
    longest = np.sqrt((field**2).sum(axis=0)).max()
    return np.asarray(field / longest, dtype=np.float32)
