"""How far the surfaces of two masks lie apart, in mm, with a written policy for empty masks.

A surface runs between voxels. Around each corner that voxels share (8 in a volume, 4 in a slice), those inside the mask
give the piece of surface there, cut halfway between inside and outside as marching cubes does. Each piece counts with
its area in mm2 (length in mm, in a slice), and lies at the corner for the sake of distances. Nothing is resampled: the
affine's own columns place the corners, so thick slices are measured as they are. Slices are taken to lie evenly: a
`MaskVolume` has one affine.

Source: Nikolov et al., J Med Internet Res 23(7):e26151, 2021, and their surface-distance library, whose areas follow
from three rules: cuts at half way; where two cuts are possible, the rarer kind of corner is cut off; and of the ways to
triangulate a cut that is not flat, the one of most area on cubic voxels.
Deviation: on a sheared grid (a tilted gantry) distances and areas are those in the patient, not along the axes. Where a
mask is empty the policy of `SurfaceScore` holds, not infinity.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree
from torch import Tensor

TOLERANCES_MM = (1.0, 2.0)
"""A surface within this distance of the other counts as found, for the two NSD."""

HAUSDORFF_SHARE = 0.95

_ROUNDING_MM = 1e-6

_SQUARE_COSINE = 1e-4
"""Axes are square where no two have a larger cosine: over 300 mm, the error is below 0.03 mm."""

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """From each piece of either surface to the nearest place of the other, computed once for all readings.

    Attributes:
        from_prediction_mm: distances of the prediction's pieces.
        prediction_sizes: their areas in mm2, or lengths in mm.
        from_reference_mm: distances of the reference's pieces.
        reference_sizes: their areas in mm2, or lengths in mm.
    """

    from_prediction_mm: Floats
    prediction_sizes: Floats
    from_reference_mm: Floats
    reference_sizes: Floats

    def hausdorff_mm(self, share: float = HAUSDORFF_SHARE) -> float:
        """The distance within which this share of either surface lies from the other: HD95, and for 1 the Hausdorff."""
        return max(
            _reached(self.from_prediction_mm, self.prediction_sizes, share),
            _reached(self.from_reference_mm, self.reference_sizes, share),
        )

    def average_mm(self) -> float:
        """Average symmetric surface distance (ASSD): the mean over both surfaces together, by size."""
        distances = np.concatenate([self.from_prediction_mm, self.from_reference_mm])
        return float(np.average(distances, weights=np.concatenate([self.prediction_sizes, self.reference_sizes])))

    def agreement(self, tolerance_mm: float) -> float:
        """Normalised surface Dice (NSD): the share of both surfaces that lies within a tolerance of the other."""
        within = tolerance_mm + _ROUNDING_MM
        found = self.prediction_sizes[self.from_prediction_mm <= within].sum()
        found += self.reference_sizes[self.from_reference_mm <= within].sum()
        return float(found / (self.prediction_sizes.sum() + self.reference_sizes.sum()))


@dataclass(frozen=True)
class SurfaceScore:
    """The readings that are reported.

    Empty masks: where both are empty, all are undefined (None), to be counted and not averaged; where one is empty, the
    distances are the grid's diagonal, the farthest that two voxels can be apart, and the NSD are 0.

    Attributes:
        hd95_mm: 95th percentile of the distance between the surfaces, the worse of the two directions.
        assd_mm: average symmetric surface distance.
        nsd_1mm: normalised surface Dice at 1 mm, in [0, 1].
        nsd_2mm: the same at 2 mm.
    """

    hd95_mm: float | None
    assd_mm: float | None
    nsd_1mm: float | None
    nsd_2mm: float | None


def measure_surfaces(
    prediction: Bool[Tensor, "..."], reference: Bool[Tensor, "..."], axes_mm: Float[Tensor, "3 axes"]
) -> SurfaceScore:
    """Compare the surfaces of two masks, or the outlines of two slices; for empty ones see `SurfaceScore`.

    Args:
        prediction: the mask to judge, three axes or two.
        reference: the mask to judge it by.
        axes_mm: a column per axis: the step in mm from one voxel to the next. Of a volume, the affine's upper left
            three columns; of its slices, the second and third of them.

    Raises:
        ValueError: where the shapes differ, or are not of two or three axes.
    """
    found = surface_distances(prediction, reference, axes_mm)
    if found is not None:
        return SurfaceScore(found.hausdorff_mm(), found.average_mm(), *map(found.agreement, TOLERANCES_MM))
    if not prediction.any() and not reference.any():
        return SurfaceScore(None, None, None, None)
    diagonal = grid_diagonal_mm(tuple(prediction.shape), axes_mm)
    return SurfaceScore(diagonal, diagonal, 0.0, 0.0)


def surface_distances(
    prediction: Bool[Tensor, "..."], reference: Bool[Tensor, "..."], axes_mm: Float[Tensor, "3 axes"]
) -> SurfaceDistances | None:
    """The distances between two masks' surfaces; None where a mask is empty. Arguments as for `measure_surfaces`.

    Raises:
        ValueError: as `measure_surfaces`.
    """
    if prediction.shape != reference.shape or prediction.ndim not in (2, 3) or axes_mm.shape[1] != prediction.ndim:
        raise ValueError(
            f"expected masks of one shape and a column for each of their 2 or 3 axes; got {tuple(prediction.shape)},"
            f" {tuple(reference.shape)} and {axes_mm.shape[1]} columns"
        )
    if not prediction.any() or not reference.any():
        return None
    columns = axes_mm.double().numpy()
    sizes = _piece_sizes(columns)
    predicted, prediction_sizes = _surface(prediction.numpy(), sizes)
    referenced, reference_sizes = _surface(reference.numpy(), sizes)
    return SurfaceDistances(
        from_prediction_mm=_to_nearest_mm(predicted, referenced, columns),
        prediction_sizes=prediction_sizes,
        from_reference_mm=_to_nearest_mm(referenced, predicted, columns),
        reference_sizes=reference_sizes,
    )


def grid_diagonal_mm(shape: tuple[int, ...], axes_mm: Float[Tensor, "3 axes"]) -> float:
    """The longest diagonal of a grid in mm, from outer corner to outer corner."""
    signs = np.array(list(product((1.0, -1.0), repeat=len(shape))))
    return float(np.linalg.norm((signs * shape) @ axes_mm.double().numpy().T, axis=1).max())


def _reached(distances_mm: Floats, sizes: Floats, share: float) -> float:
    """The smallest distance that this share of a surface, by size, does not exceed."""
    order = np.argsort(distances_mm, kind="stable")
    gathered = np.cumsum(sizes[order]) / sizes.sum()
    index = min(int(np.searchsorted(gathered, share)), len(order) - 1)
    return float(distances_mm[order[index]])


def _surface(mask: NDArray[np.bool_], sizes: Floats) -> tuple[Indices, Floats]:
    """A mask's pieces of surface: the corners they lie at, (0, 0, 0) being the first voxel's, and their sizes."""
    others = [tuple(other for other in range(mask.ndim) if other != axis) for axis in range(mask.ndim)]
    shown = [np.flatnonzero(mask.any(axis=other)) for other in others]
    box = mask[tuple(slice(found[0], found[-1] + 1) for found in shown)]
    padded = np.pad(box, 1).view(np.uint8)
    codes = np.zeros([n - 1 for n in padded.shape], dtype=np.uint8)
    for bit, corner in enumerate(product((0, 1), repeat=mask.ndim)):
        codes |= padded[tuple(slice(c, c + n) for c, n in zip(corner, codes.shape, strict=True))] << np.uint8(bit)
    index = np.argwhere((codes > 0) & (codes < len(sizes) - 1))
    return index + np.array([found[0] for found in shown]), sizes[codes[tuple(index.T)]]


def _to_nearest_mm(corners: Indices, others: Indices, columns: Floats) -> Floats:
    """The distance of each corner to the nearest of the others.

    By a distance transform where the axes are square, which no amount of surface slows down; by a search tree on a
    sheared grid, where there is no such transform.
    """
    squares = columns.T @ columns
    lengths = np.sqrt(np.diag(squares))
    if np.abs(squares / np.outer(lengths, lengths) - np.eye(len(lengths))).max() > _SQUARE_COSINE:
        return np.asarray(KDTree(others @ columns.T).query(corners @ columns.T)[0])
    low = np.minimum(corners.min(axis=0), others.min(axis=0))
    high = np.maximum(corners.max(axis=0), others.max(axis=0))
    elsewhere = np.ones(high - low + 1, dtype=bool)
    elsewhere[tuple((others - low).T)] = False
    distances = distance_transform_edt(elsewhere, sampling=lengths)
    return np.asarray(distances[tuple((corners - low).T)])


def _piece_sizes(columns: Floats) -> Floats:
    """By code (bit i: whether corner i is inside), the size of the surface there: mm in a slice, mm2 in a volume."""
    n_axes = columns.shape[1]
    codes, edges = _pieces(n_axes)
    edges_mm = edges @ columns.T
    if n_axes == 2:
        sizes = np.linalg.norm(edges_mm[:, 0], axis=1)
    else:
        sizes = np.linalg.norm(np.cross(edges_mm[:, 0], edges_mm[:, 1]), axis=1) / 2
    return np.asarray(np.bincount(codes, weights=sizes, minlength=2 ** (2**n_axes)), dtype=np.float64)


@cache
def _pieces(n_axes: int) -> tuple[NDArray[np.intp], Floats]:
    """Every code's lines (one edge each) or triangles (two edges each), in voxels."""
    corners = list(product((0, 1), repeat=n_axes))
    codes, edges = [], []
    for code in range(1, 2 ** len(corners) - 1):
        inside = {corner: bool(code >> bit & 1) for bit, corner in enumerate(corners)}
        apart = sum(inside.values()) <= len(corners) // 2
        lines = [line for face in _faces(n_axes) for line in _lines_across(face, inside, apart)]
        pieces = lines if n_axes == 2 else [t for loop in _loops(lines) for t in _triangles_of_most_area(loop)]
        for piece in pieces:
            codes.append(code)
            edges.append(np.array(piece[1:]) - np.array(piece[0]))
    return np.array(codes), np.array(edges)


Corner = tuple[int, ...]
Place = tuple[float, ...]


def _faces(n_axes: int) -> Iterator[list[Corner]]:
    """The squares around the corners of a cube, or the one square itself; each as its four corners in turn."""
    square = ((0, 0), (0, 1), (1, 1), (1, 0))
    if n_axes == 2:
        yield list(square)
        return
    for axis, side in product(range(3), (0, 1)):
        yield [(*pair[:axis], side, *pair[axis:]) for pair in square]


def _lines_across(face: Sequence[Corner], inside: dict[Corner, bool], apart: bool) -> Iterator[tuple[Place, Place]]:
    """Where the surface crosses a face: lines from side to side. Corners that are `apart` are cut off one by one."""
    middles = [tuple((a + b) / 2 for a, b in zip(face[i], face[(i + 1) % 4], strict=True)) for i in range(4)]
    cut = [i for i in range(4) if inside[face[i]] != inside[face[(i + 1) % 4]]]
    if len(cut) == 4:
        yield from ((middles[i - 1], middles[i]) for i in range(4) if inside[face[i]] == apart)
    elif cut:
        yield middles[cut[0]], middles[cut[1]]


def _loops(lines: Sequence[tuple[Place, Place]]) -> Iterator[list[Place]]:
    """Lines joined end to end to closed loops."""
    left = list(lines)
    while left:
        loop = list(left.pop())
        while loop[0] != loop[-1]:
            joined = next(line for line in left if loop[-1] in line)
            left.remove(joined)
            loop.append(joined[1] if joined[0] == loop[-1] else joined[0])
        yield loop[:-1]


def _triangles_of_most_area(loop: list[Place]) -> list[tuple[Place, ...]]:
    """The triangulation of a loop that has the largest area where voxels are cubes."""

    def area(triangles: list[tuple[Place, ...]]) -> float:
        corners = np.array(triangles)
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        return float(np.linalg.norm(normals, axis=1).sum())

    return max(_triangulations(loop), key=area)


def _triangulations(loop: list[Place]) -> Iterator[list[tuple[Place, ...]]]:
    """Every way to cut a loop into triangles along its diagonals."""
    if len(loop) < 3:
        yield []
    for third in range(1, len(loop) - 1):
        for before in _triangulations(loop[: third + 1]):
            for after in _triangulations(loop[third:]):
                yield [*before, (loop[0], loop[third], loop[-1]), *after]
