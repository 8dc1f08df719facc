"""Hemorrhages: where blood of each subtype lies, how far it pushes the brain, and how dense it is.

A bleed is made in two steps, because it moves the brain that it lies in: `plan_bleed` chooses its place and says how
far the tissue is displaced; after the brain has been drawn, `Plan.fraction` gives the fraction of each fine voxel that
is blood, with the volume asked for (less where the space is too small, such as narrow sulci).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hgisam.labels import Subtype
from hgisam.phantom.anatomy import Brain, Head, smooth_noise, soft_step, tentorium_gap_mm
from hgisam.phantom.atlas import Structure, sample

VOLUME_MEDIAN_ML = 6.0
VOLUME_SPREAD = 1.2
VOLUME_RANGE_ML = (0.1, 90.0)
"""Bleed volumes: log-normal with this median and sigma of ln, clipped to the range."""

Fraction = Float[Tensor, "depth height width"]


@dataclass(frozen=True)
class Site:
    """Where intraparenchymal blood is often found, in template mm on the right side."""

    share: float
    centre_mm: tuple[float, float, float]
    jitter_mm: float
    contusion: bool = False


PARENCHYMAL_SITES = (
    Site(0.24, (27.0, 0.0, 2.0), 4.0),  # putamen
    Site(0.12, (13.0, -18.0, 8.0), 3.0),  # thalamus
    Site(0.08, (22.0, -62.0, -36.0), 7.0),  # cerebellum
    Site(0.03, (0.0, -27.0, -34.0), 3.0),  # pons
    Site(0.10, (22.0, 46.0, -12.0), 8.0, contusion=True),  # frontal base
    Site(0.12, (46.0, 0.0, -28.0), 8.0, contusion=True),  # temporal pole
)
"""The rest of the shares is lobar: anywhere in the hemispheres. Order and size of the shares after Qureshi et al. 2001,
N Engl J Med 344:1450-60 (spontaneous bleeds), contusions added."""


@dataclass(frozen=True)
class Density:
    """How blood looks: New and Aronow 1976, Radiology 121:635-40 (clot 50 to 90 HU by hemoglobin).

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
    def draw(cls, rng: np.random.Generator, subtype: Subtype, brain_hu: float) -> "Density":
        """Mostly acute clot; some faint (8 to 15 HU over brain), few subacute (near the brain's own HU)."""
        kind = rng.random()
        subacute = 0.07 if subtype in (Subtype.SUBDURAL, Subtype.INTRAPARENCHYMAL) else 0.0
        if kind < subacute:
            mean = brain_hu + float(rng.uniform(3.0, 8.0))
        elif kind < 0.22:
            mean = brain_hu + float(rng.uniform(8.0, 15.0))
        else:
            mean = float(np.clip(rng.normal(64.0, 7.0), 50.0, 86.0))
        if subtype is Subtype.SUBARACHNOID:  # mixed with CSF: never as dense as clot; fainter would look like brain
            mean = float(np.clip(mean, brain_hu + 14.0, 72.0))
        settling = float(rng.uniform(6.0, 22.0)) if rng.random() < 0.18 else 0.0
        edema = float(rng.uniform(4.0, 15.0)) if rng.random() < 0.8 else 0.0
        return cls(mean, float(rng.uniform(1.0, 5.0)), settling, edema)


@dataclass(frozen=True, eq=False)
class Plan:
    """A bleed before the brain is drawn.

    Attributes:
        displacement_mm: scanner-frame push on the tissue, on the head's lattice.
        fraction: gives the blood's fraction of each fine voxel once the brain is there.
        edema_field: for bleeds with a rim, gives the distance in mm inside the blood's border (negative outside).
    """

    subtype: Subtype
    displacement_mm: Float[Tensor, "3 d h w"]
    fraction: Callable[[Head, Brain], Fraction]
    rim_mm: float = 0.0


def draw_volume_ml(rng: np.random.Generator) -> float:
    """A random bleed volume in mL."""
    return float(np.clip(rng.lognormal(np.log(VOLUME_MEDIAN_ML), VOLUME_SPREAD), *VOLUME_RANGE_ML))


def plan_bleed(rng: np.random.Generator, head: Head, subtype: Subtype, volume_ml: float) -> Plan:
    """Choose the place and shape of one bleed.

    Raises:
        ValueError: for the subtype `any`, which is no place.
    """
    match subtype:
        case Subtype.INTRAPARENCHYMAL:
            return _plan_intraparenchymal(rng, head, volume_ml)
        case Subtype.INTRAVENTRICULAR:
            return _plan_intraventricular(rng, head, volume_ml)
        case Subtype.SUBARACHNOID:
            return _plan_subarachnoid(rng, head, volume_ml)
        case Subtype.EPIDURAL:
            return _plan_epidural(rng, head, volume_ml)
        case Subtype.SUBDURAL:
            kind = rng.random()
            if kind < 0.7:
                return _plan_convexity_subdural(rng, head, volume_ml)
            return _plan_sheet_subdural(rng, head, min(volume_ml, 20.0), along_falx=bool(kind < 0.87))
        case Subtype.ANY:
            raise ValueError("plan_bleed: expected one of the five subtypes, got 'any'; choose where the blood lies")


def _side(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _lattice_depth(head: Head) -> Float[Tensor, "d h w"]:
    dura = sample(head.atlas.structures[Structure.DURA][None], head.atlas.structure_grid, head.skull_lattice)[0]
    return dura + head.habitus.gap_mm


def _level_for(volume_ml: float, volume_at: Callable[[float], float], low: float, high: float) -> float:
    """The level at which a growing volume reaches the one asked for, by bisection; `high` where it never does."""
    for _ in range(18):
        middle = 0.5 * (low + high)
        if volume_at(middle) < volume_ml:
            low = middle
        else:
            high = middle
    return high


def _plan_intraparenchymal(rng: np.random.Generator, head: Head, volume_ml: float) -> Plan:
    side = _side(rng)
    choice, total = rng.random(), 0.0
    place: tuple[float, float, float] | None = None
    contusion = False
    for site in PARENCHYMAL_SITES:
        total += site.share
        if choice < total:
            x, y, z = np.asarray(site.centre_mm) * [side, 1.0, 1.0] + rng.normal(0.0, site.jitter_mm, 3)
            place, contusion = (float(x), float(y), float(z)), site.contusion
            break
    radius = (volume_ml * 1000.0 * 3.0 / (4.0 * np.pi)) ** (1.0 / 3.0)
    if place is None:  # lobar: anywhere in the hemispheres, not too near the surface for its size
        depth = _lattice_depth(head)
        x, y, z = head.skull_lattice
        allowed = (depth > 4.0 + 0.7 * radius) & (depth < 12.0 + 1.3 * radius) & (x.abs() > 10.0) & (z > 2.0)
        candidates = torch.nonzero(allowed)
        if len(candidates) == 0:
            candidates = torch.nonzero(depth >= depth.max() - 1.0)
        d, h, w = candidates[int(rng.integers(len(candidates)))].tolist()
        centre_mm = head.lattice_mm[:, d, h, w]
    else:
        centre_mm = head.scanner_point(place)
    offset = head.lattice_mm - centre_mm[:, None, None, None]
    distance = torch.linalg.vector_norm(offset, dim=0).clamp_min(0.5)
    swell = float(rng.uniform(0.45, 0.95))
    source = (distance**3 - swell * radius**3).clamp_min(0.0) ** (1.0 / 3.0)
    taper = torch.exp(-(distance - radius).clamp_min(0.0) / 45.0) * (_lattice_depth(head) / 10.0).clamp(0.0, 1.0)
    push = (distance - source) * taper

    blobs = _draw_blobs(rng, radius, scattered=contusion)
    roughness = float(rng.uniform(0.15, 0.5)) * radius
    noise = smooth_noise(rng, (15, 15, 15), 1.3)
    edge = head.edge_mm * float(rng.uniform(0.8, 1.8))

    def fraction(head: Head, brain: Brain) -> Fraction:
        box, points = head.box(centre_mm, 2.2 * radius + 6.0)
        local = points - centre_mm[:, None, None, None]
        field = torch.full_like(local[0], -1e3)
        for middle, axes, size in blobs:
            turned = torch.einsum("ij,jdhw->idhw", axes, local - middle[:, None, None, None])
            field = torch.maximum(field, size * (1.0 - torch.linalg.vector_norm(turned, dim=0) / size))
        reach = 2.2 * radius + 6.0
        field += roughness * torch.nn.functional.grid_sample(
            noise[None], (local / reach).movedim(0, -1)[None], align_corners=True, padding_mode="border"
        )[0, 0]
        room = brain.inside[box] * (1.0 - brain.ventricle[box]) * soft_step(head.depth_mm[box] - 1.5, 2.0)

        def volume_at(level: float) -> float:
            return float((soft_step(field + level, edge) * room).double().sum()) * head.grid.voxel_ml

        level = _level_for(volume_ml, volume_at, -2.0 * radius, 1.5 * radius)
        blood = torch.zeros_like(brain.inside)
        blood[box] = soft_step(field + level, edge) * room
        return blood

    rim = float(rng.uniform(2.0, 4.0 + 0.45 * radius))
    return Plan(Subtype.INTRAPARENCHYMAL, offset / distance * push, fraction, rim)


def _draw_blobs(rng: np.random.Generator, radius: float, *, scattered: bool) -> list[tuple[Tensor, Tensor, float]]:
    """Ellipsoids (centre, axes matrix, radius) whose union is the clot: one large, some small ones at its side.

    Args:
        scattered: several small clots apart from each other, as in a contusion.
    """
    blobs = []
    spread = 1.0 if scattered else 0.6
    for i in range(1 + int(rng.integers(2 if scattered else 0, 8 if scattered else 6))):
        turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        stretch = np.exp(rng.normal(0.0, 0.27, 3))
        stretch /= np.prod(stretch) ** (1.0 / 3.0)
        middle = np.zeros(3) if i == 0 else rng.normal(0.0, spread * radius, 3)
        size = radius if i == 0 else radius * float(rng.uniform(0.25, 0.7))
        blobs.append(
            (
                torch.from_numpy(middle.astype(np.float32)),
                torch.from_numpy((np.diag(1.0 / stretch) @ turn).astype(np.float32)),
                size,
            )
        )
    return blobs


def _plan_intraventricular(rng: np.random.Generator, head: Head, volume_ml: float) -> Plan:
    growth = float(rng.uniform(0.0, 1.5) + 1.2 * np.log1p(volume_ml))
    pull = sample(head.atlas.ventricle_pull, head.atlas.structure_grid, head.skull_lattice)
    cast = bool(rng.random() < 0.35)
    noise = smooth_noise(rng, tuple(head.lattice_mm.shape[1:]), 2.0)
    side = float(rng.normal(0.0, 0.5))
    source = head.scanner_point((10.0 * _side(rng), float(rng.uniform(-40.0, 15.0)), 10.0))

    def fraction(head: Head, brain: Brain) -> Fraction:
        if cast:  # a clot around where the blood broke in
            field = -torch.linalg.vector_norm(head.lattice_mm - source[:, None, None, None], dim=0)
        else:  # a level: blood sinks to the back of a supine patient
            field = -head.lattice_mm[1] + side * head.lattice_mm[0] * 0.5
        field = head.grid.refine((field + (4.0 if cast else 1.2) * noise[0])[None])[0]
        room = brain.ventricle * brain.inside
        usable = torch.nonzero(room.flatten() > 0.05)[:, 0]
        values, weights = field.flatten()[usable], room.flatten()[usable]
        capacity = float(weights.double().sum()) * head.grid.voxel_ml
        if capacity <= 0.0:
            return torch.zeros_like(room)

        def volume_at(level: float) -> float:
            return float((soft_step(values + level, 1.5) * weights).double().sum()) * head.grid.voxel_ml

        level = _level_for(min(volume_ml, 0.95 * capacity), volume_at, -200.0, 300.0)
        return soft_step(field + level, 1.5) * room

    return Plan(Subtype.INTRAVENTRICULAR, -growth * pull, fraction)


def _plan_subarachnoid(rng: np.random.Generator, head: Head, volume_ml: float) -> Plan:
    side = _side(rng)
    kind = rng.random()
    if kind < 0.3:
        centre, stretch = (0.0, 0.0, -20.0), (1.0, 1.0, 1.2)  # basal cisterns, as from an aneurysm
    elif kind < 0.5:
        centre, stretch = (38.0 * side, 6.0, -6.0), (1.0, 0.8, 0.9)  # one Sylvian fissure
    elif kind < 0.58:
        centre, stretch = (0.0, -26.0, -18.0), (1.0, 1.0, 1.3)  # around the midbrain
    elif kind < 0.66:
        centre, stretch = (3.0 * side, float(rng.uniform(-70.0, 50.0)), 30.0), (3.0, 0.8, 0.8)  # between hemispheres
    else:  # sulci of the convexity, as after a blow
        angle = float(rng.uniform(-2.6, 2.6))
        rise = float(rng.uniform(5.0, 62.0))
        width = float(np.sqrt(max(0.05, 1.0 - (rise / 78.0) ** 2)))
        centre = (64.0 * width * float(np.cos(angle)) * side, 82.0 * width * float(np.sin(angle)) - 18.0, rise)
        stretch = (1.0, 1.0, 1.0)
    noise = smooth_noise(rng, tuple(head.lattice_mm.shape[1:]), 2.5)
    patchiness = float(rng.uniform(4.0, 12.0))
    middle = torch.tensor(centre)[:, None, None, None]
    scale = torch.tensor(stretch)[:, None, None, None]

    def fraction(head: Head, brain: Brain) -> Fraction:
        field = -torch.linalg.vector_norm((head.skull_lattice - middle) * scale, dim=0) + patchiness * noise[0]
        field = head.grid.refine(field[None])[0]
        cleft = ((brain.fluid - 0.28) * (1.0 / 0.3)).clamp(0.0, 1.0)
        room = cleft * (1.0 - (brain.ventricle * 3.0).clamp(0.0, 1.0)) * brain.inside
        room *= soft_step(head.depth_mm - 0.3, head.edge_mm) * (head.skull_points[2] > -62.0)
        usable = torch.nonzero(room.flatten() > 0.05)[:, 0]
        values, weights = field.flatten()[usable], room.flatten()[usable]

        def volume_at(level: float) -> float:
            return float((soft_step(values + level, 8.0) * weights).double().sum()) * head.grid.voxel_ml

        capacity = float(weights.double().sum()) * head.grid.voxel_ml
        level = _level_for(min(volume_ml, 0.4 * capacity), volume_at, -60.0, 300.0)
        return soft_step(field + level, 8.0) * room

    return Plan(Subtype.SUBARACHNOID, torch.zeros_like(head.lattice_mm), fraction)


def _directions(head: Head, points: Tensor, side: float) -> Tensor:
    """Unit vectors from a point in the other hemisphere: nearly parallel to the inward normal on `side`."""
    centre = torch.tensor([-22.0 * side, -18.0, 8.0])[:, None, None, None]
    offset = points - centre
    return offset / torch.linalg.vector_norm(offset, dim=0).clamp_min(1.0)


def _inward_push(head: Head, thickness_mm: Float[Tensor, "d h w"], side: float) -> Float[Tensor, "3 d h w"]:
    """Displacement by a collection under the skull: inwards, by its thickness, fading over the hemisphere."""
    depth = _lattice_depth(head)
    outward = _directions(head, head.skull_lattice, side)
    fade = torch.exp(-(depth - thickness_mm).clamp_min(0.0) / 55.0)
    fade = fade * (1.0 - (-(head.skull_lattice[0] * side) / 25.0).clamp(0.0, 1.0))
    # template directions turned to the scanner's by the pose's inverse: close to the identity, so left out
    return -outward * (thickness_mm * fade)


def _plan_collection(
    rng: np.random.Generator,
    head: Head,
    subtype: Subtype,
    volume_ml: float,
    side: float,
    profile: Callable[[Tensor], Tensor],
    most_mm: float,
) -> Plan:
    """Blood between skull and brain whose thickness is a scale times `profile` of the template's points."""
    depth = _lattice_depth(head)
    shape = profile(head.skull_lattice)
    node_ml = head.grid.voxel_ml * np.prod(head.grid.shape) / depth.numel()

    def volume_at(scale: float) -> float:
        filled = soft_step(scale * shape - depth, 4.0) * soft_step(depth, 4.0) * (shape > 0.02)
        return float(filled.double().sum()) * float(node_ml)

    scale = _level_for(volume_ml, volume_at, 0.5, most_mm)
    push = _inward_push(head, 0.92 * scale * shape, side)

    def fraction(head: Head, brain: Brain) -> Fraction:
        fine_shape = profile(head.skull_points)
        touched = fine_shape > 0.02
        depth = torch.where(touched, head.depth_mm, torch.full_like(fine_shape, -99.0))
        inside = brain.inside * touched
        usable = torch.nonzero((inside > 0) & (depth < most_mm + 4.0))
        index = tuple(usable.T)
        shape_at, depth_at, inside_at = fine_shape[index], depth[index], inside[index]

        def volume_at(scale: float) -> float:
            filled = soft_step(scale * shape_at - depth_at, head.edge_mm) * inside_at
            return float(filled.double().sum()) * head.grid.voxel_ml

        exact = _level_for(volume_ml, volume_at, 0.5, 1.3 * most_mm)
        return soft_step(exact * fine_shape - head.depth_mm, head.edge_mm) * inside

    return Plan(subtype, push, fraction)


def _plan_convexity_subdural(rng: np.random.Generator, head: Head, volume_ml: float) -> Plan:
    """A crescent over one hemisphere: crosses sutures, never the midline."""
    side = _side(rng)
    thickness = float(rng.uniform(2.0, 5.0) + 1.2 * volume_ml ** (1.0 / 3.0))
    radius = np.sqrt(volume_ml * 1000.0 / (0.6 * np.pi * thickness))
    long = float(rng.uniform(1.1, 1.9))
    angle_y, angle_z = radius * long / 90.0, radius / long / 90.0
    towards = np.array([side, rng.uniform(-0.7, 0.7), rng.uniform(-0.05, 0.7)])
    towards = towards / np.linalg.norm(towards)
    noise = smooth_noise(rng, tuple(head.lattice_mm.shape[1:]), 4.0)
    fine_noise = head.grid.refine(noise)[0]
    around = np.arctan2(towards[1], towards[0] * side)

    def profile(points: Tensor) -> Tensor:
        unit = _directions(head, points, side)
        across = torch.atan2(unit[1], unit[0] * side) - around
        up = torch.asin(unit[2].clamp(-1.0, 1.0)) - float(np.arcsin(towards[2]))
        rough = noise[0] if points.shape[1:] == noise.shape[1:] else fine_noise
        reach = 1.0 - (across / angle_y) ** 2 - (up / angle_z) ** 2 + 0.25 * rough
        edge = ((points[0] * side - 2.0) / 5.0).clamp(0.0, 1.0)
        above = (tentorium_gap_mm(head.atlas, points) / 3.0).clamp(0.0, 1.0)
        return reach.clamp(0.0, 1.0).sqrt() * edge * above

    return _plan_collection(rng, head, Subtype.SUBDURAL, volume_ml, side, profile, 28.0)


def _plan_epidural(rng: np.random.Generator, head: Head, volume_ml: float) -> Plan:
    """A lens: biconvex, steep at its ends, where the dura is held by the sutures."""
    side = _side(rng)
    places = np.array(
        [[1.0, -0.1, -0.1], [1.0, 0.25, 0.15], [0.9, -0.5, 0.35], [0.6, 0.75, 0.2], [0.6, -0.75, -0.45], [0.7, 0.1, 0.8]]
    )
    towards = places[int(rng.choice(len(places), p=[0.34, 0.2, 0.18, 0.12, 0.06, 0.1]))] * np.array([side, 1.0, 1.0])
    towards = towards + rng.normal(0.0, 0.12, 3)
    towards = torch.from_numpy((towards / np.linalg.norm(towards)).astype(np.float32))
    flat = float(rng.uniform(0.3, 0.55))
    radius = (volume_ml * 1000.0 / (1.6 * flat)) ** (1.0 / 3.0)
    limit = float(np.clip(radius / 78.0, 0.05, 1.0))
    noise = smooth_noise(rng, tuple(head.lattice_mm.shape[1:]), 3.0)
    fine_noise = head.grid.refine(noise)[0]

    def profile(points: Tensor) -> Tensor:
        unit = _directions(head, points, side)
        angle = torch.acos(torch.einsum("i,idhw->dhw", towards, unit).clamp(-1.0, 1.0))
        rough = noise[0] if points.shape[1:] == noise.shape[1:] else fine_noise
        return (1.0 - (angle / limit) ** 2 + 0.06 * rough).clamp(0.0, 1.0)

    return _plan_collection(rng, head, Subtype.EPIDURAL, volume_ml, side, profile, 45.0)


def _plan_sheet_subdural(rng: np.random.Generator, head: Head, volume_ml: float, *, along_falx: bool) -> Plan:
    """Subdural blood along the falx or on the tentorium: a sheet on one side of it."""
    side = _side(rng)
    noise = smooth_noise(rng, tuple(head.lattice_mm.shape[1:]), 3.5)
    middle = float(rng.uniform(-70.0, 40.0) if along_falx else rng.uniform(-70.0, -45.0))
    length = float(rng.uniform(25.0, 70.0))
    thickness = float(rng.uniform(2.5, 6.0))

    def gap_and_profile(points: Tensor, rough: Tensor) -> tuple[Tensor, Tensor]:
        x, y, z = points
        reach = 1.0 - ((y - middle) / length) ** 2 + 0.3 * rough
        tent = tentorium_gap_mm(head.atlas, points)
        if along_falx:
            reach = reach * ((z - 2.0) / 6.0).clamp(0.0, 1.0) * torch.where(tent > 1.0, 1.0, 0.0)
            return x * side, reach.clamp(0.0, 1.0)
        return tent, (reach * ((x * side - 8.0) / 6.0).clamp(0.0, 1.0)).clamp(0.0, 1.0)

    gap, shape = gap_and_profile(head.skull_lattice, noise[0])
    fade = torch.exp(-gap.clamp_min(0.0) / 12.0) * (gap > -1.0)
    axis = 0 if along_falx else 2
    push = torch.zeros_like(head.lattice_mm)
    push[axis] = (side if along_falx else 1.0) * 0.7 * thickness * shape * fade

    def fraction(head: Head, brain: Brain) -> Fraction:
        gap, shape = gap_and_profile(head.skull_points, head.grid.refine(noise)[0])
        width = (36.0 - 0.28 * head.skull_points[1]).clamp(14.0, 50.0) if along_falx else 70.0
        room = brain.inside * soft_step(width - head.depth_mm, 6.0) * (gap > 0.0) * (gap < 30.0) * (shape > 0.05)
        room *= ((brain.fluid * 4.0).clamp(0.0, 1.0) if along_falx else 1.0) if volume_ml < 1.0 else 1.0
        room *= 1.0 - brain.ventricle

        def volume_at(scale: float) -> float:
            return float((soft_step(scale * shape - gap, head.edge_mm) * room).double().sum()) * head.grid.voxel_ml

        scale = _level_for(volume_ml, volume_at, 0.2, 2.5 * thickness)
        return soft_step(scale * shape - gap, head.edge_mm) * room

    return Plan(Subtype.SUBDURAL, push, fraction)


def paint_bleed(
    rng: np.random.Generator, head: Head, brain: Brain, density: Density, blood: Fraction, rim_mm: float, hu: Tensor
) -> Tensor:
    """HU with one bleed: its edema first, then the blood, uneven and settled as `density` says."""
    nodes = tuple(head.lattice_mm.shape[1:])
    present = torch.nonzero(blood > 0.01)
    if len(present) == 0:
        return hu
    low, high = present.min(dim=0).values, present.max(dim=0).values
    margin = torch.tensor([int(2.0 * rim_mm / s) + 2 for s in head.grid.step_mm])
    low = (low - margin).clamp_min(0)
    high = torch.minimum(high + margin + 1, torch.tensor(blood.shape))
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    patches = head.grid.refine(smooth_noise(rng, nodes, 1.2))[0][box]
    hu = hu.clone()
    local = hu[box]
    inside = blood[box]
    if rim_mm > 0.0 and density.edema_hu > 0.0:
        from scipy.ndimage import distance_transform_edt

        stride = 2
        away = distance_transform_edt((inside[::1, ::stride, ::stride] < 0.5).numpy(), sampling=[
            head.grid.step_mm[0], stride * head.grid.step_mm[1], stride * head.grid.step_mm[2]])
        distance = torch.nn.functional.interpolate(
            torch.from_numpy(away.astype(np.float32))[None, None], size=inside.shape, mode="trilinear"
        )[0, 0]
        rim = soft_step(rim_mm * (1.0 + 0.35 * patches) - distance, 3.0) * (0.35 + 0.65 * brain.white[box])
        local -= density.edema_hu * rim * (1.0 - brain.csf[box])
    clot = density.mean_hu + density.uneven_hu * patches
    if density.settling_hu > 0.0:
        rows = torch.arange(inside.shape[1], dtype=torch.float32)
        weight = inside.double().sum(dim=(0, 2))
        level = float((weight * rows).sum() / weight.sum().clamp_min(1e-6))
        spread = 1.5 / head.grid.step_mm[1]
        clot = clot + density.settling_hu * (torch.sigmoid((rows - level) / spread) - 0.6)[None, :, None]
    local += (clot - local) * inside
    hu[box] = local
    return hu
