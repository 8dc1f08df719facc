"""Volumes on a grid: voxels, the affine that places them, and the way between a file's axes and the house's axes.

House axes: index (d, h, w) runs to Superior, Posterior, Left. Every volume inside hgisam has them; only `Orientation`
knows the axes of the file.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

LOWEST_HU = -1024.0
HIGHEST_HU = 3071.0
"""The 12 bits that scanners store; every HU is held to them. Padding (-2000, -3024) so becomes air."""

SINGLE_SLICE_MM = 5.0
"""The step in the affine of a lone slice whose thickness is unknown. No volume is made of it."""

NO_THICKNESS = "one slice whose thickness is not stated: no volume can be measured"
"""What a reader says of such a slice."""

GRID_TOLERANCE = 0.25
"""Two grids are the same where no corner of the volume moves by more than this share of the shortest voxel edge.

Programs that save a mask again round its affine: a spacing to four digits, or a slight turn to what a qform's float32
quaternion holds, moves the far corner of a head by hundredths of a millimetre to two tenths. Up to half an edge, the
voxel of the same index is still the nearest, so that resampling would change nothing; half of that keeps clear of grids
that are off by half a voxel, the slip of those who take a voxel's corner for its middle.
"""

_HOUSE_DIRECTIONS = np.array([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])
"""Rows: Superior, Posterior, Left as directions in RAS+."""


@dataclass(frozen=True)
class Orientation:
    """The axis order and directions of a file, as a permutation and flips that lead to house axes and back.

    Attributes:
        axes: axes[i] is the file's axis that becomes house axis i.
        flips: flips[i] tells whether house axis i runs against that file axis.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def from_affine(cls, affine: NDArray[np.float64]) -> "Orientation":
        """The closest of the 48 orientations for a file's affine (voxel index -> RAS+ mm); oblique affines welcome.

        Each house direction takes a different file axis, so that the summed |cosine| over the three is the largest.

        Raises:
            ValueError: where the affine is singular or not finite, since then no axis has a direction.
        """
        linear = np.asarray(affine, dtype=np.float64)[:3, :3]
        if not np.isfinite(linear).all() or abs(np.linalg.det(linear)) < 1e-9:
            raise ValueError(f"expected an invertible affine; got {linear.tolist()}; spacing and axes are unknown")
        cosines = _HOUSE_DIRECTIONS @ (linear / np.linalg.norm(linear, axis=0))
        permutations = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
        axes = max(permutations, key=lambda p: sum(abs(cosines[i, p[i]]) for i in range(3)))
        flips = tuple(bool(cosines[i, axes[i]] < 0) for i in range(3))
        return cls(axes=axes, flips=(flips[0], flips[1], flips[2]))

    @classmethod
    def from_axis_codes(cls, codes: str) -> "Orientation":
        """The orientation of a file whose three axes run to the named directions, such as `LPS` or `RAS`.

        Raises:
            ValueError: where `codes` is not one letter of each of the pairs L/R, P/A and S/I.
        """
        found = [[(axis, code) for axis, code in enumerate(codes) if code in pair] for pair in ("SI", "PA", "LR")]
        if len(codes) != 3 or any(len(pair) != 1 for pair in found):
            raise ValueError(f"expected three directions such as 'LPS' or 'RAS'; got {codes!r}")
        (d, d_code), (h, h_code), (w, w_code) = (pair[0] for pair in found)
        return cls(axes=(d, h, w), flips=(d_code == "I", h_code == "A", w_code == "R"))

    def to_house(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Turn a file's array [3 axes] to house axes. A view, not a copy."""
        return np.flip(np.transpose(array, self.axes), axis=self._flipped)

    def to_file(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Turn an array in house axes back to the file's axes: the exact inverse of `to_house`. A view, not a copy."""
        return np.transpose(np.flip(array, axis=self._flipped), np.argsort(self.axes))

    def house_affine(self, affine: NDArray[np.float64], file_shape: tuple[int, ...]) -> NDArray[np.float64]:
        """The affine of the turned array: house index (d, h, w, 1) -> RAS+ mm.

        Args:
            affine: the file's voxel index -> RAS+ mm.
            file_shape: the file array's three sizes.
        """
        turned: NDArray[np.float64] = np.asarray(affine, dtype=np.float64) @ self._house_to_file(file_shape)
        return turned

    def file_affine(self, house_affine: NDArray[np.float64], file_shape: tuple[int, ...]) -> NDArray[np.float64]:
        """The affine of the file's array, voxel index -> RAS+ mm: the inverse of `house_affine`."""
        house_index = np.linalg.inv(self._house_to_file(file_shape))
        turned: NDArray[np.float64] = np.asarray(house_affine, dtype=np.float64) @ house_index
        return turned

    def _house_to_file(self, file_shape: tuple[int, ...]) -> NDArray[np.float64]:
        """House index (d, h, w, 1) -> file index (i, j, k, 1)."""
        house_to_file = np.zeros((4, 4))
        house_to_file[3, 3] = 1.0
        for house_axis, (file_axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            house_to_file[file_axis, house_axis] = -1.0 if flip else 1.0
            house_to_file[file_axis, 3] = file_shape[file_axis] - 1 if flip else 0.0
        return house_to_file

    @cached_property
    def _flipped(self) -> tuple[int, ...]:
        return tuple(i for i, flip in enumerate(self.flips) if flip)


@dataclass(frozen=True, eq=False)
class SlicePlanes:
    """Each slice's own place in the patient: what one affine cannot say of uneven slices, and where each came from.

    Attributes:
        affines: float64; per slice, index (h, w, 1) -> RAS+ mm.
        spacing_mm: float64; the length along its normal that each slice stands for: half the way to either neighbour,
            missing slices not counted; NaN where nothing tells, which is the case of one slice without a thickness.
        thickness_mm: float64; nominal; NaN where the scan does not say.
        uids: SOPInstanceUID of the object that each slice is in; empty where the scan does not say.
        frames: each slice's frame in that object, from 1.
        regular: whether the volume's affine places every slice as well as its own does.
        complete: whether no slice is missing between the first and the last; else a volume is a lower bound.
    """

    affines: Float[Tensor, "depth 3 3"]
    spacing_mm: Float[Tensor, " depth"]
    thickness_mm: Float[Tensor, " depth"]
    uids: tuple[str, ...]
    frames: tuple[int, ...]
    regular: bool
    complete: bool

    @property
    def voxel_ml(self) -> Float[Tensor, " depth"]:
        """Volume in mL of a voxel of each slice: pixel area x local spacing; NaN where the spacing is unknown."""
        edges = self.affines[:, :, :2]
        area_mm2 = torch.linalg.vector_norm(torch.linalg.cross(edges[:, :, 0], edges[:, :, 1]), dim=1)
        voxel_ml: Tensor = area_mm2 * self.spacing_mm / 1000.0
        return voxel_ml

    @property
    def distances_mm(self) -> Float[Tensor, " depth"]:
        """How far each slice lies from the first along the first one's normal."""
        normal = torch.linalg.cross(self.affines[0, :, 1], self.affines[0, :, 0])
        distances: Tensor = (self.affines[:, :, 2] - self.affines[0, :, 2]) @ (normal / normal.norm())
        return distances


def _check_grid(shape: tuple[int, ...], affine: Tensor, source: str) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{source}: expected three axes of at least one voxel; got shape {shape}; give one 3D volume")
    if affine.shape != (4, 4) or affine.dtype != torch.float64 or not torch.isfinite(affine).all():
        raise ValueError(f"{source}: expected a finite float64 [4, 4] affine; got {affine.dtype} {tuple(affine.shape)}")
    if torch.linalg.det(affine[:3, :3]).abs() < 1e-9:
        raise ValueError(f"{source}: expected an invertible affine; got determinant 0; the spacing is unknown")


def _check_slices(slices: SlicePlanes | None, depth: int, source: str) -> None:
    if slices is not None and not len(slices.affines) == len(slices.uids) == len(slices.frames) == depth:
        raise ValueError(f"{source}: expected a place for each of {depth} slices; got {len(slices.affines)}")


def _spacing_mm(affine: Tensor) -> tuple[float, float, float]:
    lengths = torch.linalg.vector_norm(affine[:3, :3], dim=0)
    return float(lengths[0]), float(lengths[1]), float(lengths[2])


@dataclass(frozen=True, eq=False)
class CTVolume:
    """One scan in Hounsfield units.

    Attributes:
        hu: float32; axes to Superior, Posterior, Left.
        affine: float64; index (d, h, w, 1) -> RAS+ mm. Of uneven slices, the closest: their mean step.
        source: where it came from; appears in every error. Never a patient's name.
        slices: each slice's own place, where the scan came as single slices; None where the affine says it all.

    Raises:
        ValueError: where it is not three axes of at least one voxel, the affine is not finite and invertible, or there
            are not as many places as slices.
    """

    hu: Float[Tensor, "depth height width"]
    affine: Float[Tensor, "4 4"]
    source: str
    slices: SlicePlanes | None = None

    def __post_init__(self) -> None:
        _check_grid(tuple(self.hu.shape), self.affine, self.source)
        _check_slices(self.slices, self.hu.shape[0], self.source)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance in mm from one voxel to the next along (d, h, w): the lengths of the affine's columns."""
        return _spacing_mm(self.affine)

    @property
    def slice_positions_mm(self) -> Float[Tensor, " depth"]:
        """Each slice's position in mm along Superior (RAS+ z of the middle of the slice); not all spacing if tilted."""
        _, height, width = self.hu.shape
        if self.slices is not None:
            middle = torch.tensor([(height - 1) / 2, (width - 1) / 2, 1.0], dtype=torch.float64)
            return (self.slices.affines @ middle)[:, 2]
        index = torch.zeros(self.hu.shape[0], 4, dtype=torch.float64)
        index[:, 0] = torch.arange(self.hu.shape[0])
        index[:, 1], index[:, 2], index[:, 3] = (height - 1) / 2, (width - 1) / 2, 1.0
        return (index @ self.affine.T)[:, 2]

    @property
    def slice_coordinates(self) -> Float[Tensor, " depth"]:
        """How far each slice lies from the first, in mean steps: 0, 1, 2 and so on for even slices."""
        even = torch.arange(self.hu.shape[0], dtype=torch.float64)
        if self.slices is None or self.slices.regular:
            return even
        distances = self.slices.distances_mm
        return distances * (even[-1] / distances[-1])

    @property
    def slice_distances_mm(self) -> Float[Tensor, " depth"]:
        """How far each slice lies from the first, along the way from slice to slice."""
        return self.slice_coordinates * self.spacing_mm[0]

    @property
    def widest_spacing_mm(self) -> float:
        """The length along depth that the thickest slice stands for; `spacing_mm[0]` for even slices."""
        if self.slices is None or self.slices.regular:
            return self.spacing_mm[0]
        return float(self.slices.spacing_mm.max())

    @property
    def slice_voxel_ml(self) -> Float[Tensor, " depth"]:
        """Volume of a voxel of each slice in mL; NaN where it is unknown."""
        if self.slices is not None:
            return self.slices.voxel_ml
        return torch.full((self.hu.shape[0],), voxel_volume_ml(self.affine), dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class MaskVolume:
    """A boolean mask on a scan's grid.

    Attributes:
        voxels: bool; axes to Superior, Posterior, Left.
        affine: float64; index (d, h, w, 1) -> RAS+ mm.
        source: where it came from; appears in every error.
        slices: each slice's own place, as in the scan; None where the affine says it all.

    Raises:
        ValueError: as for `CTVolume`.
    """

    voxels: Bool[Tensor, "depth height width"]
    affine: Float[Tensor, "4 4"]
    source: str
    slices: SlicePlanes | None = None

    def __post_init__(self) -> None:
        _check_grid(tuple(self.voxels.shape), self.affine, self.source)
        _check_slices(self.slices, self.voxels.shape[0], self.source)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance in mm from one voxel to the next along (d, h, w): the lengths of the affine's columns."""
        return _spacing_mm(self.affine)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL: |det(affine)| / 1000, right for sheared grids too."""
        return voxel_volume_ml(self.affine)

    @property
    def volume_ml(self) -> float:
        """Voxel count x |det(affine)| in mL, of single slices the sum of area x local spacing; 0.0 where it is empty.

        NaN where the one slice's thickness is unknown.
        """
        if self.slices is None:
            return int(torch.count_nonzero(self.voxels)) * self.voxel_ml
        counts = self.voxels.flatten(1).sum(dim=1, dtype=torch.float64)
        return float(counts @ self.slices.voxel_ml)


def voxel_volume_ml(affine: Float[Tensor, "4 4"]) -> float:
    """Volume of one voxel in mL. The determinant, not the product of spacings, which over-counts a sheared grid."""
    return float(torch.linalg.det(affine[:3, :3]).abs()) / 1000.0


def same_grid(first: CTVolume | MaskVolume, second: CTVolume | MaskVolume) -> bool:
    """Whether two volumes lie on one grid: the same shape, and no corner further apart than GRID_TOLERANCE allows."""
    if _shape(first) != _shape(second):
        return False
    return corners_apart_mm(first, second) <= GRID_TOLERANCE * min(*first.spacing_mm, *second.spacing_mm)


def corners_apart_mm(first: CTVolume | MaskVolume, second: CTVolume | MaskVolume) -> float:
    """How far the corners of two volumes of one shape lie apart, at most; a corner is the middle of a voxel."""
    corners = torch.cartesian_prod(*(torch.tensor([0.0, n - 1.0], dtype=torch.float64) for n in _shape(first)))
    homogeneous = torch.cat([corners, torch.ones(8, 1, dtype=torch.float64)], dim=1)
    moved_mm = torch.linalg.vector_norm((homogeneous @ (first.affine - second.affine).T)[:, :3], dim=1)
    return float(moved_mm.max())


def _shape(volume: CTVolume | MaskVolume) -> tuple[int, ...]:
    return tuple((volume.hu if isinstance(volume, CTVolume) else volume.voxels).shape)
