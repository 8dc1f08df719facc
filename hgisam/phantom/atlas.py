"""The head before it becomes a patient: the shipped brain atlas, and the skull base, face and vessels drawn around it.

Coordinates are RAS+ mm of the ICBM 2009a symmetric template (x to the right, y anterior, z superior). Arrays run
[z, y, x]. A *field* is a signed distance in mm, positive inside the structure; fields are smooth, so they can be kept
on a coarse grid, shifted per patient (a larger sinus is a larger offset) and cut with soft edges (partial volume).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from importlib.resources import files

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float32]
Point = tuple[float, float, float]


class Tissue(IntEnum):
    """Channels of `Atlas.tissue`, each a fraction in [0, 1]."""

    GREY = 0
    WHITE = 1
    VENTRICLE = 2


class Structure(IntEnum):
    """Channels of `Atlas.structures`, each a field in mm."""

    DURA = 0
    HULL = 1
    SKIN = 2
    VENOUS_SINUS = 3
    ARTERY = 4
    CORD = 5
    BASE_BONE = 6
    SINUS = 7
    FRONTAL_SINUS = 8
    MASTOID = 9
    ORBIT = 10
    GLOBE = 11
    ORBIT_MUSCLE = 12


FIRST_LOW_STRUCTURE = Structure.CORD
"""This structure and those after it lie wholly below LOW_TOP_MM in the template."""
LOW_TOP_MM = 14.0


@dataclass(frozen=True, eq=False)
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
        ventricle_pull: unit-peak direction (x, y, z) towards the ventricles, on the grid of `structures`; sampling
            the tissue from points pushed along it makes the ventricles larger.
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
    unit = torch.stack(
        [
            (points_mm[i] - grid.corner_mm[i]) * (2.0 / (grid.spacing_mm * (sizes[i] - 1))) - 1.0
            for i in range(3)
        ],
        dim=-1,
    )
    return F.grid_sample(values[None], unit[None], mode="bilinear", padding_mode=padding, align_corners=True)[0]


@lru_cache(maxsize=1)
def load_atlas() -> Atlas:
    """Read the shipped atlas and draw the structures around it; kept for the life of the process (about 60 MB)."""
    with (files("hgisam.phantom") / "data" / "atlas.npz").open("rb") as stream, np.load(stream) as stored:
        half = {name: stored[name] for name in stored.files}
    shape = half["gm"].shape
    ventricles = np.unpackbits(half["ventricles"])[: int(np.prod(shape))].reshape(shape)
    tissue = np.stack([_both_halves(half["gm"] / 15.0), _both_halves(half["wm"] / 15.0), _both_halves(ventricles)])
    corner = half["corner_mm"]
    tissue_grid = Grid((-float(shape[0] - 1), float(corner[1]), float(corner[2])), 1.0)

    dura = _both_halves(np.cumsum(half["dura_quarter_mm"], axis=1, dtype=np.int8) * 0.25)
    hull = _both_halves(np.cumsum(half["hull_quarter_mm"], axis=1, dtype=np.int8) * 0.25)
    corner = half["surface_corner_mm"]
    structure_grid = Grid((-2.0 * (dura.shape[2] // 2), float(corner[1]), float(corner[2])), 2.0)
    tent = _both_halves(half["tentorium_z_mm"][:, :, None])
    z, y, x = (
        (structure_grid.corner_mm[2 - i] + 2.0 * np.arange(n, dtype=np.float32)).reshape(
            [-1 if axis == i else 1 for axis in range(3)]
        )
        for i, n in enumerate(dura.shape)
    )
    structures = torch.from_numpy(_structures(dura, hull, tent[0], x, y, z))

    coarse = torch.from_numpy(tissue[Tissue.VENTRICLE])
    points = torch.from_numpy(np.stack(np.broadcast_arrays(x, y, z)).astype(np.float32))
    pull = _gradient(sample(coarse[None], tissue_grid, points, padding="zeros")[0].numpy())
    return Atlas(
        tissue=torch.from_numpy(tissue),
        tissue_grid=tissue_grid,
        structures=structures,
        structure_grid=structure_grid,
        ventricle_pull=torch.from_numpy(pull),
        tentorium_z_mm=torch.from_numpy(tent[0])[None, None],
    )


def _both_halves(right: NDArray[np.generic]) -> Array:
    """Mirror a half [x >= 0, y, z] and turn it to [z, y, x]."""
    full = np.concatenate([right[:0:-1], right]).astype(np.float32)
    return np.ascontiguousarray(full.transpose(2, 1, 0))


def _gradient(mask: Array) -> Array:
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(mask, 3.0)
    gz, gy, gx = np.gradient(smooth)
    field = np.stack([gx, gy, gz])
    return (field / np.sqrt((field**2).sum(axis=0)).max()).astype(np.float32)


def _ellipsoid(x: Array, y: Array, z: Array, centre: Point, radii: Point) -> Array:
    """Field of an ellipsoid; exact on its surface, close to it elsewhere.

    Source: I. Quilez, "distance to an ellipsoid" (first-order bound k0 (1 - k0) / k1).
    """
    dx, dy, dz = x - centre[0], y - centre[1], z - centre[2]
    k0 = np.sqrt((dx / radii[0]) ** 2 + (dy / radii[1]) ** 2 + (dz / radii[2]) ** 2)
    k1 = np.sqrt((dx / radii[0] ** 2) ** 2 + (dy / radii[1] ** 2) ** 2 + (dz / radii[2] ** 2) ** 2)
    return np.asarray(k0 * (1.0 - k0) / np.maximum(k1, 1e-6), dtype=np.float32)


def _tube(x: Array, y: Array, z: Array, path: Sequence[tuple[float, float, float, float]]) -> Array:
    """Field of a tube through points (x, y, z, radius), the radius running linearly from point to point."""
    field = np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), -1e3, dtype=np.float32)
    for (ax, ay, az, ar), (bx, by, bz, br) in zip(path[:-1], path[1:], strict=True):
        length2 = (bx - ax) ** 2 + (by - ay) ** 2 + (bz - az) ** 2
        along = (x - ax) * (bx - ax) + (y - ay) * (by - ay) + (z - az) * (bz - az)
        t = np.clip(along / length2, 0.0, 1.0)
        distance = np.sqrt(
            (x - ax - t * (bx - ax)) ** 2 + (y - ay - t * (by - ay)) ** 2 + (z - az - t * (bz - az)) ** 2
        )
        np.maximum(field, ar + t * (br - ar) - distance, out=field)
    return field


def _any(*fields: Array) -> Array:
    return np.asarray(np.maximum.reduce(np.broadcast_arrays(*fields)), dtype=np.float32)


def _all(*fields: Array) -> Array:
    return np.asarray(np.minimum.reduce(np.broadcast_arrays(*fields)), dtype=np.float32)


def _structures(dura: Array, hull: Array, tent: Array, x: Array, y: Array, z: Array) -> Array:
    """Every field of `Structure` from ellipsoids and tubes at hand-set template coordinates; symmetric in x."""
    ax = np.abs(x)
    one = np.zeros_like(dura)

    globe = _ellipsoid(ax, y, z, (32, 60, -34), (12, 12.5, 12))
    cone = _tube(ax, y, z, [(32, 64, -34, 17), (27, 44, -32, 14), (17, 20, -26, 4)])
    muscle = _any(
        _tube(ax, y, z, [(31, 48, -34, 1.8), (25, 34, -31, 2.0), (14, 16, -25, 2.2)]),  # optic nerve
        _tube(ax, y, z, [(20.5, 56, -34, 1.8), (18.5, 42, -32, 2.6), (14, 20, -26, 1.5)]),  # medial rectus
        _tube(ax, y, z, [(43, 56, -34, 1.8), (36, 40, -32, 2.4), (18, 20, -26, 1.5)]),  # lateral rectus
        _tube(ax, y, z, [(32, 58, -22, 1.8), (27, 40, -23, 2.4), (16, 20, -24, 1.5)]),  # superior rectus
    )

    nasal = _ellipsoid(ax, y, z, (5, 56, -62), (9, 28, 18))
    ethmoid = _ellipsoid(ax, y, z, (6, 46, -38), (8, 24, 10))
    sphenoid = _ellipsoid(ax, y, z, (7, 18, -38), (10, 13, 9))
    maxillary = _ellipsoid(ax, y, z, (29, 48, -62), (13, 15, 15))
    pharynx = _any(
        _tube(x, y, z, [(0, 18, -66, 9), (0, 5, -80, 9), (0, 2, -130, 9)]),
        _ellipsoid(x, y, z, (0, 40, -92), (20, 30, 4)),
    )
    sinus = _any(nasal, ethmoid, sphenoid, maxillary)
    frontal_sinus = _ellipsoid(ax, y, z, (10, 75, -10), (13, 5, 15))
    mastoid = _any(
        _ellipsoid(ax, y, z, (57, -38, -40), (9, 14, 16)),
        _tube(ax, y, z, [(52, -32, -34, 5), (34, -27, -35, 3)]),
    )
    canal = _tube(ax, y, z, [(80, -20, -42, 3.5), (42, -24, -38, 3.0)])  # ear canal and middle ear

    petrous = _any(
        _tube(ax, y, z, [(62, -38, -40, 14), (46, -34, -37, 10), (28, -24, -38, 8), (13, -13, -38, 5)]),
        _tube(ax, y, z, [(58, -40, -52, 9), (54, -36, -64, 6)]),
    )
    clivus = _tube(x, y, z, [(0, -5, -27, 3.0), (0, -6, -38, 6), (0, -20, -56, 6), (0, -30, -66, 5)])
    clivus = _any(clivus, _tube(ax, y, z, [(0, -7, -25, 2), (9, -8, -25, 2)]))  # dorsum sellae
    clinoid = _tube(ax, y, z, [(12, 8, -22, 3), (20, 16, -23, 2.5), (40, 24, -22, 2), (54, 26, -14, 2.5)])
    greater_wing = _tube(ax, y, z, [(18, 16, -36, 4), (36, 32, -38, 3), (48, 34, -26, 3), (57, 28, -14, 3)])
    middle_floor = _tube(ax, y, z, [(20, -2, -48, 4), (40, 8, -58, 4), (58, -8, -52, 4)])
    crista = _tube(x, y, z, [(0, 66, -16, 1.8), (0, 56, -22, 2.0), (0, 40, -28, 2.0)])
    condyle = _tube(ax, y, z, [(18, -34, -72, 6), (20, -42, -74, 6)])
    zygoma = _tube(ax, y, z, [(44, 62, -48, 5), (60, 40, -50, 4), (68, 10, -50, 3), (66, -12, -46, 3)])
    orbit_rim = _tube(ax, y, z, [(20, 74, -20, 4), (36, 72, -16, 5), (50, 58, -24, 5), (50, 54, -40, 4)])
    alveolus = _tube(ax, y, z, [(0, 78, -86, 5), (16, 72, -86, 5), (26, 50, -86, 5), (28, 34, -84, 5)])
    jaw = _tube(ax, y, z, [(0, 76, -118, 7), (22, 66, -118, 6), (42, 30, -112, 5), (50, 2, -92, 5), (52, -8, -56, 5)])
    atlas_ring = _tube(ax, y, z, [(0, -24, -86, 4), (22, -34, -84, 7), (30, -44, -86, 6), (16, -66, -88, 4), (0, -70, -88, 4)])
    dens = _tube(x, y, z, [(0, -32, -80, 5), (0, -34, -98, 7), (0, -36, -130, 12)])
    axis_arch = _tube(ax, y, z, [(18, -40, -104, 7), (14, -70, -108, 4), (0, -78, -112, 5)])
    orbit_wall = _all(1.2 - np.abs(cone + 1.0), 62.0 - y + one)
    sinus_wall = 0.9 - np.abs(_any(nasal, maxillary, sphenoid) + 0.6)
    septum = _all(0.7 - ax + one, ethmoid + 3.0)
    cells = _all(0.8 - np.abs(np.mod(y, 9.0) - 4.5) + one, ethmoid)
    bone = _any(
        petrous, clivus, clinoid, greater_wing, middle_floor, crista, condyle, zygoma, orbit_rim, alveolus, jaw,
        atlas_ring, dens, axis_arch, orbit_wall, sinus_wall, septum, cells,
    )  # fmt: skip
    pterygoid = _tube(ax, y, z, [(14, 14, -52, 3), (16, 16, -76, 3)])
    bone = _any(bone, pterygoid)

    face = _any(
        _ellipsoid(x, y, z, (0, 28, -68), (68, 62, 78)),
        _ellipsoid(x, y, z, (0, 80, -60), (14, 15, 22)),
        _ellipsoid(x, y, z, (0, -42, -110), (60, 62, 90)),
    )
    skin = _any(hull + 16.0, _all(face, -z + 20.0 + one))
    skin = np.minimum(skin, np.minimum(94.0 - y, 126.0 + y) + one)  # closed before the grid ends
    cord = _tube(x, y, z, [(0, -46, -66, 6), (0, -50, -90, 5.5), (0, -53, -130, 5.5)])

    artery = _any(
        _tube(ax, y, z, [(8, 2, -32, 2.2), (9, 2, -22, 2.0), (20, 3, -19, 1.5), (34, 4, -18, 1.3), (42, 2, -10, 1.0), (44, -12, 0, 0.9)]),
        _tube(ax, y, z, [(9, 2, -22, 1.4), (2, 14, -16, 1.2), (1, 30, -6, 1.1), (1, 40, 10, 1.0)]),
        _tube(x, y, z, [(0, -14, -54, 1.9), (0, -12, -36, 1.8), (0, -14, -22, 1.6)]),
        _tube(ax, y, z, [(0, -14, -22, 1.3), (14, -22, -18, 1.1), (18, -34, -10, 0.9)]),
    )  # fmt: skip
    sagittal = _all(2.8 + 0.35 * (7.0 - dura) - ax, 7.0 - dura, dura + 2.0, z + 12.0 + one, 0.35 * (7.0 - dura) + 2.8 + one)
    lateral_shift = np.sqrt((z - tent) ** 2 + (dura - 2.5) ** 2)
    transverse = _all(4.0 - lateral_shift, -44.0 - y + one, 80.0 - ax + one)
    sigmoid = _tube(ax, y, z, [(56, -50, -28, 4.5), (48, -48, -44, 4.5), (38, -44, -58, 4.0)])
    straight = _tube(x, y, z, [(0, -44, -1, 1.8), (0, -92, -15, 2.6)])
    venous = _any(_all(sagittal, 8.0 - ax + one), transverse, sigmoid, straight, _ellipsoid(x, y, z, (0, -98, -16), (6, 5, 6)))

    fields: dict[Structure, Array] = {
        Structure.DURA: dura,
        Structure.BASE_BONE: bone,
        Structure.SINUS: _any(sinus, pharynx, canal),
        Structure.FRONTAL_SINUS: frontal_sinus,
        Structure.MASTOID: mastoid,
        Structure.ORBIT: cone,
        Structure.GLOBE: globe,
        Structure.ORBIT_MUSCLE: muscle,
        Structure.SKIN: skin,
        Structure.CORD: cord,
        Structure.ARTERY: artery,
        Structure.VENOUS_SINUS: venous,
        Structure.HULL: hull,
    }
    return np.stack([np.broadcast_to(np.clip(fields[s], -32, 32), dura.shape) for s in Structure]).astype(np.float32)
