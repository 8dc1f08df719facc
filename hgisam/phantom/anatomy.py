"""One patient's head: pose, shape and tissue of a random person, on a fine grid in the scanner's frame.

The fine grid has house axes [d, h, w] (Superior, Posterior, Left) and is finer than the scan along d: a slice is the
mean of several of its planes (`scanner`). Two maps lead from it to the template: `skull_points`, and `brain_points`,
which also carry what moves the brain inside the skull (ventricle size, mass effect).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hgisam.phantom.atlas import Atlas, Grid, Tissue, sample
from hgisam.phantom.structures import FIRST_LOW_STRUCTURE, LOW_TOP_MM, Structure

STRUCTURE_LATTICE_MM = 2.0
"""Node distance of signed distances on their way to the fine grid."""
LATTICE_MM = 4.0
"""Node distance of smooth displacements: a quarter of the shortest wave they carry."""

# Hounsfield units. Brain, CSF, muscle, fat: Kamalian et al. 2016, Handb Clin Neurol 135:3-20, table 1. Grey and white
# matter: Brooks et al. 1980, J Comput Assist Tomogr 4:489-91. Skull: Lillie et al. 2016, J Med Imaging Radiat Sci and
# Schneider et al. 1996, Phys Med Biol 41:111-24 (cortical and spongy bone). Venous blood: Buyck et al. 2013, J Neurol
# 260:1229-35 (52 +- 6 HU, scaling with hematocrit).
AIR_HU = -1000.0
FAT_HU = -95.0
ORBITAL_FAT_HU = -80.0
MUSCLE_HU = 52.0
SKIN_HU = 40.0
GREY_HU = 39.0
WHITE_HU = 29.0
CSF_HU = 6.0
DURA_HU = 58.0
VENOUS_BLOOD_HU = 53.0
ARTERIAL_BLOOD_HU = 45.0
VITREOUS_HU = 12.0
CORTICAL_BONE_HU = 1450.0
DIPLOE_HU = 520.0


@dataclass(frozen=True, eq=False)
class FineGrid:
    """The grid a head is drawn on: a box around the head, in the scanner's frame (RAS+ mm).

    Attributes:
        shape: planes, rows, columns.
        first_mm: (x, y, z) of voxel (0, 0, 0); x falls along w, y falls along h, z grows along d.
        step_mm: distance between planes, rows and columns.
    """

    shape: tuple[int, int, int]
    first_mm: tuple[float, float, float]
    step_mm: tuple[float, float, float]

    def lattice(self, node_mm: float) -> Float[Tensor, "3 d h w"]:
        """Points (x, y, z) in mm of a coarse lattice that ends exactly on the grid's ends."""
        axes = []
        for axis, sign in ((0, 1.0), (1, -1.0), (2, -1.0)):
            extent = (self.shape[axis] - 1) * self.step_mm[axis]
            nodes = max(2, round(extent / node_mm) + 1)
            axes.append(self.first_mm[2 - axis] + sign * np.linspace(0.0, extent, nodes))
        z, y, x = np.meshgrid(*axes, indexing="ij")
        return torch.from_numpy(np.stack([x, y, z]).astype(np.float32))

    def refine(self, values: Float[Tensor, "channels d h w"]) -> Float[Tensor, "channels depth height width"]:
        """Values on any lattice of this grid, brought to the grid by trilinear interpolation."""
        return functional.interpolate(values[None], size=self.shape, mode="trilinear", align_corners=True)[0]

    def at(self, lattice: Float[Tensor, "channels d h w"], points_mm: Float[Tensor, "3 a b c"]) -> Tensor:
        """Trilinear values of a lattice at points in the scanner's frame."""
        unit = []
        for i, sign in ((0, -1.0), (1, -1.0), (2, 1.0)):
            extent = (self.shape[2 - i] - 1) * self.step_mm[2 - i]
            unit.append((points_mm[i] - self.first_mm[i]) * (2.0 * sign / extent) - 1.0)
        return functional.grid_sample(
            lattice[None], torch.stack(unit, dim=-1)[None], mode="bilinear", padding_mode="border", align_corners=True
        )[0]

    @property
    def voxel_ml(self) -> float:
        """Volume of one fine voxel in mL."""
        return self.step_mm[0] * self.step_mm[1] * self.step_mm[2] / 1000.0


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], sigma: float, channels: int = 1
) -> Float[Tensor, "channels d h w"]:
    """Gaussian random fields of zero mean and unit variance; sigma of the smoothing in lattice nodes."""
    from scipy.ndimage import gaussian_filter

    white = rng.standard_normal((channels, *shape), dtype=np.float32)
    fields = [gaussian_filter(w, sigma, mode="nearest") for w in white]
    return torch.from_numpy(np.stack([f / max(float(f.std()), 1e-6) for f in fields]))


def soft_step(field_mm: Tensor, edge_mm: float) -> Tensor:
    """Fraction of a voxel inside a structure, from its field: 0.5 on the surface, linear over `edge_mm`."""
    return (field_mm * (1.0 / edge_mm) + 0.5).clamp_(0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Habitus:
    """What one person is like, drawn once; every number that makes heads differ and is not a displacement.

    Attributes:
        age: 0 (young: tight sulci, small ventricles) to 1 (old: wide ones).
        gap_mm: distance that the inner table stands off the template's dura.
    """

    age: float
    gap_mm: float
    skull_mm: float
    sulcus_centre: float
    sulcus_width: float
    grey_hu: float
    white_hu: float
    csf_hu: float
    dura_hu: float
    venous_hu: float
    arterial_hu: float
    sinus_mm: tuple[float, float, float]
    mastoid_air: float
    scalp_fat: float
    fissure_mm: float
    falx_mm: float
    cistern: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Habitus":
        """A random person. Hematocrit moves grey matter, vessels and sinuses together."""
        age = float(rng.beta(1.6, 1.4))
        blood = float(rng.normal(0.0, 1.0))
        contrast = float(rng.uniform(8.0, 12.5) - 1.5 * age)
        grey = GREY_HU + 1.0 * blood + float(rng.normal(0.0, 1.0)) - 1.5 * age
        return cls(
            age=age,
            gap_mm=float(np.clip(rng.normal(-1.6 + 2.8 * age, 0.6), -2.2, 3.0)),
            skull_mm=float(np.clip(rng.normal(5.5, 1.2), 3.0, 9.0)),
            sulcus_centre=float(np.clip(rng.normal(0.62 - 0.26 * age, 0.06), 0.25, 0.8)),
            sulcus_width=float(rng.uniform(0.25, 0.5)),
            grey_hu=grey,
            white_hu=grey - contrast,
            csf_hu=CSF_HU + float(rng.normal(2.0, 2.5)),
            dura_hu=DURA_HU + float(rng.normal(0.0, 5.0)),
            venous_hu=VENOUS_BLOOD_HU + 5.0 * blood + float(rng.normal(0.0, 3.0)),
            arterial_hu=ARTERIAL_BLOOD_HU + 4.0 * blood + float(rng.normal(0.0, 2.0)),
            sinus_mm=(float(rng.normal(-0.5, 1.5)), float(rng.normal(-1.5, 3.5)), float(rng.normal(-1.5, 3.5))),
            mastoid_air=float(rng.uniform(-0.6, 1.2)),
            scalp_fat=float(rng.uniform(0.0, 1.0)),
            fissure_mm=float(rng.normal(2.4 - 2.4 * age, 0.5)),
            falx_mm=float(rng.uniform(0.2, 0.6)),
            cistern=float(np.clip(rng.normal(0.75 - 0.6 * age, 0.15), 0.0, 0.9)),
        )


@dataclass(frozen=True, eq=False)
class Pose:
    """How the template lies in the scanner: template point = centre + matrix (scanner point - shift)."""

    matrix: Float[Tensor, "3 3"]
    shift_mm: Float[Tensor, " 3"]

    CENTRE_MM = (0.0, -18.0, 0.0)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Pose":
        """Random head size (template x 0.82..0.97), shear, and tilt: pitch, roll, yaw in degrees."""
        size = float(np.clip(rng.normal(0.90, 0.03), 0.82, 0.98))
        scale = size * np.exp(rng.normal(0.0, 0.025, 3))
        wild = rng.random() < 0.15
        pitch, roll, yaw = np.deg2rad(rng.normal([3.0, 0.0, 0.0], [9.0, 3.5, 9.0 if wild else 4.0]))
        c, s = np.cos(pitch), np.sin(pitch)
        rx = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        c, s = np.cos(roll), np.sin(roll)
        ry = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        c, s = np.cos(yaw), np.sin(yaw)
        rz = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        shear = np.eye(3) + np.triu(rng.normal(0.0, 0.02, (3, 3)), 1)
        matrix = np.diag(1.0 / scale) @ shear @ rx @ ry @ rz
        shift = rng.normal(0.0, [4.0, 5.0, 0.0])
        return cls(torch.from_numpy(matrix.astype(np.float32)), torch.from_numpy(shift.astype(np.float32)))

    def to_template(self, points_mm: Float[Tensor, "3 d h w"]) -> Float[Tensor, "3 d h w"]:
        """Scanner points to template points."""
        flat = points_mm.reshape(3, -1) - self.shift_mm[:, None]
        centre = torch.tensor(self.CENTRE_MM)[:, None]
        return (self.matrix @ flat + centre).reshape(points_mm.shape)


@dataclass(frozen=True, eq=False)
class Head:
    """A patient on the fine grid, ready to be painted and hurt.

    Attributes:
        skull_lattice: template points of the lattice, as the skull has them.
        structures: fields of `Structure` before FIRST_LOW_STRUCTURE, on the fine grid.
        low_structures: the others, on the lowest planes of the grid only, where they are (`low` of them).
        depth_mm: distance inside the inner table of the skull; negative outside.
        x_mm, y_mm, z_mm: template coordinates of the fine grid, as the skull has them.
    """

    grid: FineGrid
    pose: Pose
    habitus: Habitus
    atlas: Atlas
    lattice_mm: Float[Tensor, "3 d h w"]
    skull_lattice: Float[Tensor, "3 d h w"]
    brain_warp: Float[Tensor, "3 d h w"]
    structures: Float[Tensor, "high depth height width"]
    low_structures: Float[Tensor, "low planes height width"]
    depth_mm: Float[Tensor, "depth height width"]
    skull_points: Float[Tensor, "3 depth height width"]
    edge_mm: float

    @property
    def nodes(self) -> tuple[int, int, int]:
        """Shape of the lattice."""
        d, h, w = self.lattice_mm.shape[1:]
        return d, h, w

    def structure(self, which: Structure) -> Float[Tensor, "planes height width"]:
        """One field; structures of the base of the head come on the lowest planes only (`low_planes` of them)."""
        low = which - FIRST_LOW_STRUCTURE
        return self.structures[which] if low < 0 else self.low_structures[low]

    @property
    def low_planes(self) -> int:
        """How many of the lowest planes the structures of the base reach into."""
        return int(self.low_structures.shape[1])

    def box(
        self, centre_mm: Float[Tensor, " 3"], radius_mm: float
    ) -> tuple[tuple[slice, slice, slice], Float[Tensor, "3 d h w"]]:
        """The part of the fine grid within a cube around a scanner point, and that part's points (x, y, z) in mm."""
        slices, axes = [], []
        for axis, sign in ((0, 1.0), (1, -1.0), (2, -1.0)):
            size, step, first = self.grid.shape[axis], self.grid.step_mm[axis], self.grid.first_mm[2 - axis]
            middle = sign * (float(centre_mm[2 - axis]) - first) / step
            low = int(np.clip(np.floor(middle - radius_mm / step), 0, size - 1))
            high = int(np.clip(np.ceil(middle + radius_mm / step) + 1, low + 1, size))
            slices.append(slice(low, high))
            axes.append(first + sign * step * torch.arange(low, high, dtype=torch.float32))
        z, y, x = torch.meshgrid(*axes, indexing="ij")
        return (slices[0], slices[1], slices[2]), torch.stack([x, y, z])

    def to_scanner(self, directions: Float[Tensor, "3 d h w"]) -> Float[Tensor, "3 d h w"]:
        """Displacements given in the template's frame, turned to the scanner's; lengths there are the template's."""
        turned = torch.matmul(torch.linalg.inv(self.pose.matrix), directions.reshape(3, -1))
        return turned.view(directions.shape)

    def scanner_point(self, template_mm: tuple[float, float, float]) -> Float[Tensor, " 3"]:
        """The lattice point (scanner mm) nearest to a point of the template; within half a lattice step."""
        target = torch.tensor(template_mm)[:, None, None, None]
        nearest = int(((self.skull_lattice - target) ** 2).sum(dim=0).argmin())
        return self.lattice_mm.reshape(3, -1)[:, nearest]


def draw_head(rng: np.random.Generator, atlas: Atlas, pose: Pose, habitus: Habitus, grid: FineGrid) -> Head:
    """Draw the random shape of a head and bring the structure fields to its grid."""
    lattice = grid.lattice(LATTICE_MM)
    nodes = tuple(lattice.shape[1:])
    shape_warp = smooth_noise(rng, nodes, 30.0 / LATTICE_MM, 3) * float(rng.uniform(1.5, 4.0))
    skull_lattice = pose.to_template(lattice) + shape_warp
    # the brain moves more than the skull: gyri differ between people, and left from right
    brain_warp = smooth_noise(rng, nodes, 14.0 / LATTICE_MM, 3) * float(rng.uniform(1.0, 2.2))
    brain_warp += smooth_noise(rng, nodes, 6.0 / LATTICE_MM, 3) * float(rng.uniform(0.6, 1.4))
    brain_warp[0] *= (skull_lattice[0].abs() / 12.0).clamp(0.25, 1.0)  # the falx keeps the hemispheres apart
    pull = sample(atlas.ventricle_pull, atlas.structure_grid, skull_lattice)
    growth = float(np.clip(rng.normal(-1.0 + 6.0 * habitus.age, 1.6), -2.5, 9.0))
    sides = 1.0 + float(rng.normal(0.0, 0.2)) * torch.tanh(skull_lattice[:1] / 8.0)
    brain_warp += pull * growth * sides
    # the template is a mean of adults: its cistern behind the midbrain is wider than in most people
    behind = skull_lattice - torch.tensor([0.0, -40.0, 4.0])[:, None, None, None]
    near = torch.exp(-((behind[0] / 12.0) ** 2) - (behind[1] / 16.0) ** 2 - (behind[2] / 14.0) ** 2)
    brain_warp += habitus.cistern * near * behind

    points = grid.at(skull_lattice, grid.lattice(STRUCTURE_LATTICE_MM))
    high = sample(atlas.structures[:FIRST_LOW_STRUCTURE], atlas.structure_grid, points)
    structures = grid.refine(high)
    lowest = skull_lattice[2].flatten(1).amin(dim=1) < LOW_TOP_MM
    share = float(lowest.sum()) / len(lowest)
    low_grid = replace(grid, shape=(max(2, min(grid.shape[0], round(share * grid.shape[0]) + 4)), *grid.shape[1:]))
    points = grid.at(skull_lattice, low_grid.lattice(STRUCTURE_LATTICE_MM))
    low = sample(atlas.structures[FIRST_LOW_STRUCTURE:], atlas.structure_grid, points)
    low_structures = low_grid.refine(low)
    # the brain touches the skull here and stands off there, more so in the old
    stand_off = habitus.gap_mm + (0.3 + 0.7 * habitus.age) * smooth_noise(rng, nodes, 14.0 / LATTICE_MM)
    depth = structures[Structure.DURA] + grid.refine(stand_off)[0]
    return Head(
        grid=grid,
        pose=pose,
        habitus=habitus,
        atlas=atlas,
        lattice_mm=lattice,
        skull_lattice=skull_lattice,
        brain_warp=brain_warp,
        structures=structures,
        low_structures=low_structures,
        depth_mm=depth,
        skull_points=grid.refine(skull_lattice),
        edge_mm=max(grid.step_mm[1:]),
    )


@dataclass(frozen=True, eq=False)
class Brain:
    """The inside of the skull after every displacement.

    Attributes:
        points: template coordinates (x, y, z) of each fine voxel, as the brain has them.
        csf: fraction of a voxel that is CSF, ventricles included.
        white: fraction of the tissue that is white matter.
        fluid: one minus the tissue maps' sum, before it is sharpened to `csf`.
        ventricle: fraction of a voxel inside a ventricle.
        inside: fraction of a voxel inside the inner table.
    """

    points: Float[Tensor, "3 depth height width"]
    csf: Float[Tensor, "depth height width"]
    fluid: Float[Tensor, "depth height width"]
    white: Float[Tensor, "depth height width"]
    ventricle: Float[Tensor, "depth height width"]
    inside: Float[Tensor, "depth height width"]


def draw_brain(head: Head, displacement_mm: Float[Tensor, "3 d h w"] | None) -> Brain:
    """Sample the tissue maps; `displacement_mm` (scanner frame, on the lattice) says how far tissue was pushed."""
    habitus, atlas, grid = head.habitus, head.atlas, head.grid
    lattice = head.skull_lattice + head.brain_warp
    if displacement_mm is not None:
        lattice = grid.at(lattice, head.lattice_mm - displacement_mm)
    points = grid.refine(lattice)
    x = points[0]
    points[0] = x + x * (habitus.fissure_mm / (x.abs() + 1.5)) * torch.exp(x.abs() * -0.125)
    tissue = sample(atlas.tissue, atlas.tissue_grid, points, padding="zeros")
    total = tissue[Tissue.GREY] + tissue[Tissue.WHITE]
    fluid = 1.0 - total
    low = habitus.sulcus_centre - habitus.sulcus_width / 2
    csf = ((fluid - low) * (1.0 / habitus.sulcus_width)).clamp_(0.0, 1.0)
    csf = csf * csf * (3.0 - 2.0 * csf)
    ventricle = tissue[Tissue.VENTRICLE]
    csf = torch.maximum(csf, ventricle)
    share = tissue[Tissue.WHITE] / total.clamp_min(0.05)
    white = ((share - 0.5) * 2.2 + 0.5).clamp_(0.0, 1.0)
    cord = soft_step(head.structure(Structure.CORD), head.edge_mm)
    csf[: head.low_planes] *= 1.0 - cord
    return Brain(
        points=points,
        csf=csf,
        fluid=fluid,
        white=white,
        ventricle=ventricle,
        inside=soft_step(head.depth_mm, head.edge_mm),
    )


def tentorium_gap_mm(atlas: Atlas, points: Float[Tensor, "3 d h w"]) -> Float[Tensor, "d h w"]:
    """Height in mm above the tentorium where there is one, and 99 elsewhere (incisura, in front of the petrous)."""
    x, y, z = points[0], points[1], points[2]
    corner = atlas.structure_grid.corner_mm
    flat = torch.stack([x, y, torch.zeros_like(z)])
    height = sample(atlas.tentorium_z_mm.expand(1, 2, -1, -1), Grid((corner[0], corner[1], 0.0), 2.0), flat)[0]
    ax = x.abs()
    covered = (y < -12.0 - 0.55 * ax) & ((ax / 15.0) ** 2 + ((y + 24.0) / 24.0) ** 2 > 1.0)
    return torch.where(covered, z - height, torch.full_like(z, 99.0))


def dural_folds(head: Head) -> Float[Tensor, "depth height width"]:
    """Fraction of a voxel that is falx or tentorium: sheets of 1.2 mm; the falx is wider towards the back."""
    points = head.grid.at(head.skull_lattice, head.grid.lattice(STRUCTURE_LATTICE_MM))
    _, y, z = points
    dura = sample(head.atlas.structures[Structure.DURA][None], head.atlas.structure_grid, points)[0]
    tent = tentorium_gap_mm(head.atlas, points)
    reach = (((34.0 - 0.28 * y).clamp(14.0, 50.0) - dura) * 0.25).clamp(0.0, 1.0)
    reach *= ((z + 6.0 + (y - 50.0).clamp(0.0, 12.0)) * 0.3).clamp(0.0, 1.0)
    reach *= ((((y + 15.0) / 34.0) ** 2 + ((z - 8.0) / 22.0) ** 2 - 1.0) * 4.0).clamp(0.0, 1.0)  # not in the ventricles
    reach *= torch.where((y < -40.0) & (tent < 0.0), 0.0, 1.0)
    sheet = torch.where(tent.abs() < 30.0, tent.abs(), 30.0)
    reach, sheet = head.grid.refine(torch.stack([reach, sheet]))
    falx = soft_step(head.habitus.falx_mm - head.skull_points[0].abs(), head.edge_mm).mul_(reach)
    return torch.maximum(falx, soft_step(0.45 - 0.8 * sheet, head.edge_mm).mul_(head.depth_mm > 0))


def paint_inside(rng: np.random.Generator, head: Head, brain: Brain) -> Float[Tensor, "depth height width"]:
    """HU of what lies inside the skull (brain, CSF, dura, vessels), everywhere on the grid."""
    habitus = head.habitus
    grey = torch.full_like(brain.white, habitus.grey_hu)
    hu = grey.lerp_(torch.full_like(grey, habitus.white_hu), brain.white)
    hu += head.grid.refine(smooth_noise(rng, head.nodes, 3.0) * 0.6)[0]  # no brain is perfectly even
    hu += (habitus.csf_hu - hu) * brain.csf
    vein = soft_step(head.structure(Structure.VENOUS_SINUS) + float(rng.normal(-0.5, 0.7)), head.edge_mm)
    hu += (habitus.venous_hu - hu) * vein * brain.inside
    dura = torch.maximum(dural_folds(head), soft_step(0.45 - (head.depth_mm - 0.3).abs(), head.edge_mm))
    hu += (habitus.dura_hu - hu) * dura
    return hu


def paint_outside(
    rng: np.random.Generator, head: Head, brain: Brain, hu: Float[Tensor, "depth height width"]
) -> Float[Tensor, "depth height width"]:
    """Put the inside into its skull: scalp, fat, muscle, orbits, bone with diploe, air cells, and air around it all."""
    fields = [smooth_noise(rng, head.nodes, 0.7), smooth_noise(rng, head.nodes, 4.0)]
    grain, patches = head.grid.refine(torch.cat(fields))
    low = slice(0, head.low_planes)
    soft = _soft_tissue(head, grain, patches)
    whole = torch.full_like(hu, AIR_HU)
    body = soft_step(head.structure(Structure.SKIN) + _scalp_offset_mm(head.habitus), head.edge_mm)
    whole += (soft - whole) * body
    whole += (hu - whole) * brain.inside
    _paint_base_bone(head, brain, grain[low], whole[low])
    _paint_vault(head, grain, patches, whole)
    _paint_air_cells(rng, head, grain[low], body[low], whole[low])
    return whole


def _scalp_offset_mm(habitus: Habitus) -> float:
    return habitus.scalp_fat * 4.0 - 4.0 + habitus.gap_mm


def _soft_tissue(head: Head, grain: Tensor, patches: Tensor) -> Float[Tensor, "depth height width"]:
    """Skin, fat beneath it, muscle below that; fat planes between the muscles of face and neck; the orbits."""
    edge, low = head.edge_mm, slice(0, head.low_planes)
    skin = head.structure(Structure.SKIN) + _scalp_offset_mm(head.habitus)
    fat = torch.maximum(soft_step(5.5 + 2.0 * patches - skin, 2.0), soft_step(grain * 4.0 - 3.0, 2.0))
    soft = MUSCLE_HU + (FAT_HU - MUSCLE_HU) * fat
    soft += (SKIN_HU - soft) * soft_step(1.8 - skin, 1.0)
    base = soft[low]
    globe = head.structure(Structure.GLOBE)
    base += (ORBITAL_FAT_HU - base) * soft_step(head.structure(Structure.ORBIT), edge)
    base += (MUSCLE_HU - base) * soft_step(head.structure(Structure.ORBIT_MUSCLE), edge)
    base += (VITREOUS_HU - base) * soft_step(globe, edge)
    base += (MUSCLE_HU - base) * soft_step(0.7 - (globe - 0.4).abs(), edge)  # the sclera
    return soft


def _foramen(head: Head, planes: slice) -> Tensor:
    """Where the foramen magnum interrupts the skull."""
    x, y, z = head.skull_points[:, planes]
    return torch.logical_and((x / 15.0) ** 2 + ((y + 47.0) / 17.0) ** 2 < 1.0, z < -56.0)


def _paint_vault(head: Head, grain: Tensor, patches: Tensor, whole: Tensor) -> None:
    """Two tables and the diploe between them; thin at the temples and the base, thick at the occiput."""
    x, y, z = head.skull_points
    depth = head.depth_mm
    thin = torch.exp(-(((z + 8.0) / 22.0) ** 2)) * ((x.abs() - 46.0) / 14.0).clamp(0.0, 1.0)
    thick = head.habitus.skull_mm * (1.0 - 0.55 * thin) + 1.1 * patches
    thick += 3.0 * torch.exp(-((x / 14.0) ** 2) - ((y + 104.0) / 14.0) ** 2 - ((z + 14.0) / 16.0) ** 2)
    base = ((-18.0 - z - 0.15 * y.clamp(-40.0, 40.0)) / 10.0).clamp(0.0, 1.0) * ((y + 80.0) / 40.0).clamp(0.0, 1.0)
    thick = (thick * (1.0 - 0.6 * base)).clamp_min(1.6)
    outer = torch.maximum(head.structure(Structure.HULL), head.structure(Structure.DURA)) + head.habitus.gap_mm + thick
    thick = torch.maximum(thick, outer - depth)
    vault = soft_step(-depth, head.edge_mm) * soft_step(outer, head.edge_mm) * (z > -75.0)
    low = slice(0, head.low_planes)
    vault[low] *= ~_foramen(head, low)
    within = -depth / thick
    marrow = soft_step(0.28 - (within - 0.5).abs(), 0.25) * ((thick - 3.0) / 3.0).clamp(0.0, 1.0)
    bone = CORTICAL_BONE_HU + 60.0 * patches + (DIPLOE_HU - CORTICAL_BONE_HU + 140.0 * grain) * marrow
    whole += (bone - whole) * vault


def _paint_base_bone(head: Head, brain: Brain, grain: Tensor, whole: Tensor) -> None:
    """Petrous pyramids, sphenoid, orbits, face, jaw and the first vertebrae: dense outside, spongy within."""
    low = slice(0, head.low_planes)
    field = head.structure(Structure.BASE_BONE) + 0.5 * grain
    outside_brain = 1.0 - brain.inside[low] * (1.0 - brain.csf[low])
    bone = 950.0 + 250.0 * grain - 350.0 * soft_step(field - 3.0, 2.0)
    whole += (bone - whole) * (soft_step(field, head.edge_mm) * outside_brain)
    front = head.structure(Structure.FRONTAL_SINUS) + 0.9 * grain + _frontal_offset_mm(head)
    whole += (CORTICAL_BONE_HU - 300.0 - whole) * (soft_step(front + 2.0, head.edge_mm) * (1.0 - brain.inside[low]))


def _frontal_offset_mm(head: Head) -> Tensor:
    """The two frontal sinuses differ in size, and one or both may be missing."""
    _, right, left = head.habitus.sinus_mm
    return torch.where(head.skull_points[0, : head.low_planes] > 0, right, left)


def _paint_air_cells(rng: np.random.Generator, head: Head, grain: Tensor, body: Tensor, whole: Tensor) -> None:
    """Air of the paranasal sinuses, nose and throat, and of the mastoid's cells."""
    low = slice(0, head.low_planes)
    habitus, edge = head.habitus, head.edge_mm
    air = soft_step(head.structure(Structure.SINUS) + habitus.sinus_mm[0] + grain, edge)
    front = head.structure(Structure.FRONTAL_SINUS) + 0.9 * grain + _frontal_offset_mm(head)
    air = torch.maximum(air, soft_step(front, edge))
    mastoid = head.structure(Structure.MASTOID)
    cells = torch.from_numpy(rng.standard_normal([n // 2 + 1 for n in mastoid.shape], dtype=np.float32))
    cells = functional.interpolate(cells[None, None], size=mastoid.shape, mode="trilinear", align_corners=True)[0, 0]
    cells = soft_step((cells + habitus.mastoid_air - 0.2) * 2.0, 1.0)
    air = torch.maximum(air, soft_step(mastoid, edge) * cells)
    outside = 1.0 - soft_step(head.depth_mm[low] + 1.5, edge)
    whole += (AIR_HU - whole) * (air * outside * body)
