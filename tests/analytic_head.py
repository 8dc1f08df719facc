"""A head drawn from ellipses: what is inside its skull, and its mid-sagittal line, are known exactly."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from hgisam.volume import CTVolume

AIR, SCALP, SKULL, BRAIN, VENTRICLE, FALX, MUSCLE = -1000.0, 40.0, 900.0, 35.0, 8.0, 55.0, 55.0
"""HU."""

SKULL_SEMI_AXES_MM = (68.0, 86.0, 66.0)
"""Inner table, along Superior, Posterior, Left."""

TABLE_MM, SCALP_MM = 7.0, 6.0


@dataclass(frozen=True, eq=False)
class AnalyticHead:
    """A head, what its skull holds, and (y, x) in mm of every voxel from its own mid-sagittal line."""

    ct: CTVolume
    inside: Bool[Tensor, "depth height width"]
    along_mm: Tensor
    across_mm: Tensor
    up_mm: Tensor

    def with_hu(self, where: Bool[Tensor, "depth height width"], hu: float) -> CTVolume:
        """The scan with other HU in some voxels."""
        return CTVolume(torch.where(where, hu, self.ct.hu), self.ct.affine, self.ct.source)


def house_affine(spacing_mm: tuple[float, float, float]) -> Tensor:
    """An upright affine of house axes."""
    return torch.from_numpy(
        np.array(
            [[0, 0, -spacing_mm[2], 0], [0, -spacing_mm[1], 0, 0], [spacing_mm[0], 0, 0, 0], [0, 0, 0, 1]],
            dtype=np.float64,
        )
    )


def draw_head(
    spacing_mm: tuple[float, float, float] = (5.0, 1.0, 1.0),
    angle_deg: float = 0.0,
    offset_mm: float = 0.0,
    offset_step_mm: float = 0.0,
    fov_mm: float = 220.0,
    bottom_mm: float = -55.0,
    top_mm: float = 90.0,
    noise_hu: float = 4.0,
) -> AnalyticHead:
    """Draw it; the line has the meaning of `Midline`. Below -50 mm there is a neck of muscle around a spinal canal."""
    depth = max(1, round((top_mm - bottom_mm) / spacing_mm[0]))
    rows, columns = round(fov_mm / spacing_mm[1]), round(fov_mm / spacing_mm[2])
    up = (bottom_mm + (torch.arange(depth) + 0.5) * spacing_mm[0])[:, None, None]
    y = ((torch.arange(rows) - (rows - 1) / 2) * spacing_mm[1])[None, :, None]
    x = ((torch.arange(columns) - (columns - 1) / 2) * spacing_mm[2])[None, None, :]
    angle = math.radians(angle_deg)
    offset = offset_mm + offset_step_mm * torch.arange(depth)[:, None, None]
    across = x * math.cos(angle) + y * math.sin(angle) - offset
    along = y * math.cos(angle) - x * math.sin(angle)

    def ellipsoid(grow_mm: float) -> Tensor:
        a, b, c = (semi + grow_mm for semi in SKULL_SEMI_AXES_MM)
        # narrower in front than behind, as a head is; else its outline would fit any quarter turn
        width = c * (1.0 + 0.12 * along / b)
        return (up / a) ** 2 + (along / b) ** 2 + (across / width) ** 2 <= 1.0

    neck = (up < -45) & ((along - 20) ** 2 + across**2 <= 55**2)
    canal_mm = torch.sqrt((along - 30) ** 2 + across**2)
    inside = ellipsoid(0.0) & (up > -50)
    hu = torch.full((depth, rows, columns), AIR)
    hu = torch.where(ellipsoid(TABLE_MM + SCALP_MM), SCALP, hu)
    hu = torch.where(neck, MUSCLE, hu)
    hu = torch.where(ellipsoid(TABLE_MM) & (up > -57), SKULL, hu)
    hu = torch.where(neck & (up <= -57) & (canal_mm < 22), SKULL, hu)
    hu = torch.where(neck & (up <= -50) & (canal_mm < 9), BRAIN, hu)
    hu = torch.where(inside, BRAIN, hu)
    ventricle = ((up / 20) ** 2 + (along / 30) ** 2 + ((across.abs() - 12) / 6) ** 2) <= 1
    hu = torch.where(inside & ventricle, VENTRICLE, hu)
    hu = torch.where(inside & (across.abs() < 1.5) & (up > 20), FALX, hu)
    generator = torch.Generator().manual_seed(7)
    hu = hu + noise_hu * torch.randn(hu.shape, generator=generator)
    shape = hu.shape
    return AnalyticHead(
        ct=CTVolume(hu.float(), house_affine(spacing_mm), "analytic head"),
        inside=inside,
        along_mm=along.expand(shape),
        across_mm=across.expand(shape),
        up_mm=up.expand(shape),
    )
