"""The head around the brain, drawn from ellipsoids and tubes: skull base, face, orbits, air spaces, vessels, skin.

Coordinates were set by hand against the template (RAS+ mm) and real scans, on the right side; left is their mirror.
"""

from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Point = tuple[float, float, float]
Tube = Sequence[tuple[float, float, float, float]]
"""Points x, y, z and the radius there, all in mm."""

FIELD_LIMIT_MM = 32.0
"""Fields are clipped to this distance: nothing is shifted or softened by more."""


class Structure(IntEnum):
    """The fields of a head; each is a signed distance in mm, positive inside."""

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


class Space:
    """A grid of template points, and the fields of simple bodies on it.

    Attributes:
        x, y, z: coordinates in mm, broadcastable to [z, y, x].
    """

    def __init__(self, x: Array, y: Array, z: Array) -> None:
        self.x, self.y, self.z = x, y, z

    def ellipsoid(self, centre: Point, radii: Point, *, paired: bool = True) -> Array:
        """Field of an ellipsoid (and of its mirror image); exact on the surface, close to it elsewhere.

        Source: I. Quilez, bound of the distance to an ellipsoid, k0 (1 - k0) / k1.
        """
        x = np.abs(self.x) if paired else self.x
        offsets = (x - centre[0], self.y - centre[1], self.z - centre[2])
        k0 = np.sqrt(sum((o / r) ** 2 for o, r in zip(offsets, radii, strict=True)))
        k1 = np.sqrt(sum((o / r**2) ** 2 for o, r in zip(offsets, radii, strict=True)))
        per_k0 = np.divide(k0, k1, out=np.full_like(k1, min(radii)), where=k1 > 1e-6)  # 0 / 0 in the very centre
        return np.asarray((1.0 - k0) * per_k0, dtype=np.float32)

    def tube(self, path: Tube, *, paired: bool = True) -> Array:
        """Field of a tube (and of its mirror image), its radius running linearly from point to point."""
        x = np.abs(self.x) if paired else self.x
        fields = []
        for (ax, ay, az, ar), (bx, by, bz, br) in pairwise(path):
            ux, uy, uz = bx - ax, by - ay, bz - az
            along = ((x - ax) * ux + (self.y - ay) * uy + (self.z - az) * uz) / (ux**2 + uy**2 + uz**2)
            t = np.clip(along, 0.0, 1.0)
            away = (x - ax - t * ux) ** 2 + (self.y - ay - t * uy) ** 2 + (self.z - az - t * uz) ** 2
            fields.append(ar + t * (br - ar) - np.sqrt(away))
        return union(*fields)


def union(*fields: NDArray[np.floating]) -> Array:
    """Field of what lies in any of the bodies."""
    return np.asarray(np.maximum.reduce(np.broadcast_arrays(*fields)), dtype=np.float32)


def intersection(*fields: NDArray[np.floating]) -> Array:
    """Field of what lies in all of the bodies."""
    return np.asarray(np.minimum.reduce(np.broadcast_arrays(*fields)), dtype=np.float32)


def shell(field: Array, offset_mm: float, half_mm: float) -> Array:
    """Field of a wall `offset_mm` outside a body's surface, twice `half_mm` thick."""
    return np.asarray(half_mm - np.abs(field + offset_mm), dtype=np.float32)


def draw_structures(dura: Array, hull: Array, tentorium_z_mm: Array, space: Space) -> Array:
    """Every field of `Structure`, in order, clipped to FIELD_LIMIT_MM.

    Args:
        dura, hull: the surfaces kept in the atlas.
        tentorium_z_mm: height of the tentorium over (y, x).
        space: the grid of all of them.
    """
    sinuses = _sinuses(space)
    orbit = space.tube([(32, 64, -34, 17), (27, 44, -32, 14), (17, 20, -26, 4)])
    fields: dict[Structure, Array] = {
        Structure.DURA: dura,
        Structure.HULL: hull,
        Structure.SKIN: _skin(space, hull),
        Structure.VENOUS_SINUS: _venous_sinuses(space, dura, tentorium_z_mm),
        Structure.ARTERY: _arteries(space),
        Structure.CORD: space.tube([(0, -46, -66, 6), (0, -50, -90, 5.5), (0, -53, -130, 5.5)], paired=False),
        Structure.BASE_BONE: _bones(space, orbit, sinuses),
        Structure.SINUS: union(*sinuses.values(), _airways(space)),
        Structure.FRONTAL_SINUS: space.ellipsoid((12, 72.5, -10), (16, 5.5, 15)),
        Structure.MASTOID: union(
            space.ellipsoid((57, -38, -40), (9, 14, 16)), space.tube([(52, -32, -34, 5), (34, -27, -35, 3)])
        ),
        Structure.ORBIT: orbit,
        Structure.GLOBE: space.ellipsoid((32, 60, -34), (12, 12.5, 12)),
        Structure.ORBIT_MUSCLE: _orbit_muscles(space),
    }
    clipped = [np.clip(fields[s], -FIELD_LIMIT_MM, FIELD_LIMIT_MM) for s in Structure]
    return np.stack([np.broadcast_to(field, dura.shape) for field in clipped]).astype(np.float32)


def _sinuses(space: Space) -> dict[str, Array]:
    return {
        "nasal": space.ellipsoid((5, 56, -62), (9, 28, 18)),
        "ethmoid": space.ellipsoid((6, 46, -38), (8, 24, 10)),
        "sphenoid": space.ellipsoid((7, 18, -38), (10, 13, 9)),
        "maxillary": space.ellipsoid((29, 48, -62), (13, 15, 15)),
    }


def _airways(space: Space) -> Array:
    pharynx = space.tube([(0, 18, -66, 9), (0, 5, -80, 9), (0, 2, -130, 9)], paired=False)
    mouth = space.ellipsoid((0, 40, -92), (20, 30, 4), paired=False)
    ear_canal = space.tube([(80, -20, -42, 3.5), (42, -24, -38, 3.0)])
    return union(pharynx, mouth, ear_canal)


def _orbit_muscles(space: Space) -> Array:
    optic_nerve = space.tube([(31, 48, -34, 1.8), (25, 34, -31, 2.0), (14, 16, -25, 2.2)])
    medial = space.tube([(20.5, 56, -34, 1.8), (18.5, 42, -32, 2.6), (14, 20, -26, 1.5)])
    lateral = space.tube([(43, 56, -34, 1.8), (36, 40, -32, 2.4), (18, 20, -26, 1.5)])
    superior = space.tube([(32, 58, -22, 1.8), (27, 40, -23, 2.4), (16, 20, -24, 1.5)])
    return union(optic_nerve, medial, lateral, superior)


def _bones(space: Space, orbit: Array, sinuses: dict[str, Array]) -> Array:
    petrous = union(
        space.tube([(62, -38, -40, 14), (46, -34, -37, 10), (28, -24, -38, 8), (13, -13, -38, 5)]),
        space.tube([(58, -40, -52, 9), (54, -36, -64, 6)]),
    )
    clivus = space.tube([(0, -5, -27, 3.0), (0, -6, -38, 6), (0, -20, -56, 6), (0, -30, -66, 5)], paired=False)
    dorsum_sellae = space.tube([(0, -7, -25, 2), (9, -8, -25, 2)])
    lesser_wing = space.tube([(12, 8, -22, 3), (20, 16, -23, 2.5), (40, 24, -22, 2), (54, 26, -14, 2.5)])
    greater_wing = space.tube([(18, 16, -36, 4), (36, 32, -38, 3), (48, 34, -26, 3), (57, 28, -14, 3)])
    middle_fossa_floor = space.tube([(20, -2, -48, 4), (40, 8, -58, 4), (58, -8, -52, 4)])
    crista_galli = space.tube([(0, 66, -16, 1.8), (0, 56, -22, 2.0), (0, 40, -28, 2.0)], paired=False)
    pterygoid = space.tube([(14, 14, -52, 3), (16, 16, -76, 3)])
    condyle = space.tube([(18, -34, -72, 6), (20, -42, -74, 6)])
    zygoma = space.tube([(44, 62, -48, 5), (60, 40, -50, 4), (68, 10, -50, 3), (66, -12, -46, 3)])
    orbit_rim = space.tube([(20, 74, -20, 4), (36, 72, -16, 5), (50, 58, -24, 5), (50, 54, -40, 4)])
    upper_jaw = space.tube([(0, 78, -86, 5), (16, 72, -86, 5), (26, 50, -86, 5), (28, 34, -84, 5)])
    lower_jaw = space.tube([(0, 76, -118, 7), (22, 66, -118, 6), (42, 30, -112, 5), (50, 2, -92, 5), (52, -8, -56, 5)])
    first_vertebra = space.tube(
        [(0, -24, -86, 4), (22, -34, -84, 7), (30, -44, -86, 6), (16, -66, -88, 4), (0, -70, -88, 4)]
    )
    second_vertebra = union(
        space.tube([(0, -32, -80, 5), (0, -34, -98, 7), (0, -36, -130, 12)], paired=False),
        space.tube([(18, -40, -104, 7), (14, -70, -108, 4), (0, -78, -112, 5)]),
    )
    orbit_wall = intersection(shell(orbit, 1.0, 1.2), 62.0 - space.y)
    sinus_wall = shell(union(sinuses["nasal"], sinuses["maxillary"], sinuses["sphenoid"]), 0.6, 0.9)
    septum = intersection(0.7 - np.abs(space.x), sinuses["ethmoid"] + 3.0)
    ethmoid_cells = intersection(0.8 - np.abs(np.mod(space.y, 9.0) - 4.5), sinuses["ethmoid"])
    return union(
        *(petrous, clivus, dorsum_sellae, lesser_wing, greater_wing, middle_fossa_floor, crista_galli, pterygoid),
        *(condyle, zygoma, orbit_rim, upper_jaw, lower_jaw, first_vertebra, second_vertebra),
        *(orbit_wall, sinus_wall, septum, ethmoid_cells),
    )


def _skin(space: Space, hull: Array) -> Array:
    face = union(
        space.ellipsoid((0, 28, -68), (68, 62, 78)),
        space.ellipsoid((0, 80, -60), (14, 15, 22)),  # nose
        space.ellipsoid((0, -42, -110), (60, 62, 90)),  # neck
    )
    whole = union(hull + 16.0, intersection(face, 20.0 - space.z))
    return intersection(whole, 94.0 - space.y, 126.0 + space.y)  # closed before the grid ends


def _arteries(space: Space) -> Array:
    carotid_and_middle = space.tube(
        [(8, 2, -32, 2.2), (9, 2, -22, 2), (20, 3, -19, 1.5), (34, 4, -18, 1.3), (42, 2, -10, 1), (44, -12, 0, 0.9)]
    )
    anterior = space.tube([(9, 2, -22, 1.4), (2, 14, -16, 1.2), (1, 30, -6, 1.1), (1, 40, 10, 1.0)])
    basilar = space.tube([(0, -14, -54, 1.9), (0, -12, -36, 1.8), (0, -14, -22, 1.6)], paired=False)
    posterior = space.tube([(0, -14, -22, 1.3), (14, -22, -18, 1.1), (18, -34, -10, 0.9)])
    return union(carotid_and_middle, anterior, basilar, posterior)


def _venous_sinuses(space: Space, dura: Array, tentorium_z_mm: Array) -> Array:
    """Sagittal (a triangle under the vault), transverse (where the tentorium meets it), sigmoid, straight, torcular."""
    under_vault = 7.0 - dura
    width = 2.8 + 0.35 * under_vault
    sagittal = intersection(width - np.abs(space.x), width, under_vault, dura + 2.0, space.z + 12.0)
    sagittal = intersection(sagittal, 8.0 - np.abs(space.x))
    transverse = intersection(4.0 - np.hypot(space.z - tentorium_z_mm, dura - 2.5), -44.0 - space.y)
    sigmoid = space.tube([(56, -50, -28, 4.5), (48, -48, -44, 4.5), (38, -44, -58, 4.0)])
    straight = space.tube([(0, -44, -1, 1.8), (0, -92, -15, 2.6)], paired=False)
    torcular = space.ellipsoid((0, -98, -16), (6, 5, 6), paired=False)
    return union(sagittal, transverse, sigmoid, straight, torcular)
