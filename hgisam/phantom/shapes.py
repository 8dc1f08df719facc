"""Where the blood of each subtype lies, and how far it pushes the brain.

A bleed is made in two steps, because it moves the brain that it lies in: a plan chooses its place and says how far the
tissue is displaced; after the brain has been drawn, `Plan.fraction` gives the fraction of each fine voxel that is
blood, with the volume asked for (less where there is no more room, such as in narrow sulci).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hgisam.labels import Subtype
from hgisam.phantom.anatomy import Brain, Head, smooth_noise, soft_step, tentorium_gap_mm
from hgisam.phantom.atlas import sample
from hgisam.phantom.structures import Point, Structure

Fraction = Float[Tensor, "depth height width"]
Lattice = Float[Tensor, "3 d h w"]

DURA_MM = 0.8
"""Blood under the skull begins this far inside the inner table: the dura, or what the bone outshines."""
SHEET_MOST_ML = 20.0
"""A subdural along falx or tentorium holds no more than this."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A bleed before the brain is drawn.

    Attributes:
        displacement_mm: push on the tissue, in the scanner's frame, on the head's lattice.
        fraction: gives the blood's fraction of each fine voxel once the brain is there.
        rim_mm: width of the edema around it; 0 for blood outside the brain.
    """

    subtype: Subtype
    displacement_mm: Lattice
    fraction: Callable[[Head, Brain], Fraction]
    rim_mm: float = 0.0


@dataclass(frozen=True)
class Site:
    """Where intraparenchymal blood is often found, in template mm on the right side."""

    share: float
    centre_mm: Point
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

EPIDURAL_DIRECTIONS = (
    (0.34, (1.0, -0.1, -0.1)),  # temporal
    (0.20, (1.0, 0.25, 0.15)),
    (0.18, (0.9, -0.5, 0.35)),  # parietal
    (0.12, (0.6, 0.75, 0.2)),  # frontal
    (0.06, (0.6, -0.75, -0.45)),  # posterior fossa
    (0.10, (0.7, 0.1, 0.8)),  # vertex
)
"""Share and direction from the middle of the head, on the right side."""


def plan_intraparenchymal(rng: np.random.Generator, head: Head, volume_ml: float) -> Plan:
    """A ragged clot in the brain: deep, lobar, in the posterior fossa, or the scattered clots of a contusion.

    The tissue is pushed outwards as by a ball that grew in it: a shell of radius r came from (r^3 - k R^3)^(1/3).
    """
    radius = (volume_ml * 1000.0 * 3.0 / (4.0 * np.pi)) ** (1.0 / 3.0)
    centre_mm, contusion = _parenchymal_centre(rng, head, radius)
    offset = head.lattice_mm - _column(centre_mm)
    distance = torch.linalg.vector_norm(offset, dim=0).clamp_min(0.5)
    swell = float(rng.uniform(0.45, 0.95))
    source = (distance**3 - swell * radius**3).clamp_min(0.0) ** (1.0 / 3.0)
    taper = torch.exp(-(distance - radius).clamp_min(0.0) / 45.0) * (_lattice_depth(head) / 10.0).clamp(0.0, 1.0)
    push = (distance - source) * taper

    blobs = _draw_blobs(rng, radius, scattered=contusion)
    roughness = float(rng.uniform(0.15, 0.5)) * radius
    noise = smooth_noise(rng, (15, 15, 15), 1.3)
    edge_mm = head.edge_mm * float(rng.uniform(0.8, 1.8))
    reach_mm = 2.2 * radius + 6.0

    def fraction(head: Head, brain: Brain) -> Fraction:
        box, points = head.box(centre_mm, reach_mm)
        local = points - _column(centre_mm)
        fields = [
            size - torch.linalg.vector_norm(torch.einsum("ij,jdhw->idhw", axes, local - _column(middle)), dim=0)
            for middle, axes, size in blobs
        ]
        unit = (local / reach_mm).movedim(0, -1)
        rough = functional.grid_sample(noise[None], unit[None], padding_mode="border", align_corners=True)[0, 0]
        field = torch.stack(fields).amax(dim=0) + roughness * rough
        room = brain.inside[box] * (1.0 - brain.ventricle[box]) * soft_step(head.depth_mm[box] - 1.5, 2.0)
        blood = torch.zeros_like(brain.inside)
        blood[box] = _fill(head, field, room, volume_ml, edge_mm)
        return blood

    rim_mm = float(rng.uniform(2.0, 4.0 + 0.45 * radius))
    return Plan(Subtype.INTRAPARENCHYMAL, offset / distance * push, fraction, rim_mm)


def plan_intraventricular(rng: np.random.Generator, head: Head, volume_ml: float) -> Plan:
    """Blood in the ventricles: settled to a level at the back (patient supine), or a clot around where it broke in.

    The ventricles are enlarged, more so by more blood.
    """
    growth_mm = float(rng.uniform(0.0, 1.5) + 1.2 * np.log1p(volume_ml))
    pull = sample(head.atlas.ventricle_pull, head.atlas.structure_grid, head.skull_lattice)
    noise = smooth_noise(rng, head.nodes, 2.0)[0]
    if rng.random() < 0.35:
        source = head.scanner_point((10.0 * _side(rng), float(rng.uniform(-40.0, 15.0)), 10.0))
        field = 4.0 * noise - torch.linalg.vector_norm(head.lattice_mm - _column(source), dim=0)
    else:
        field = 1.2 * noise - head.lattice_mm[1] + float(rng.normal(0.0, 0.25)) * head.lattice_mm[0]

    def fraction(head: Head, brain: Brain) -> Fraction:
        room = brain.ventricle * brain.inside
        return _fill(head, head.grid.refine(field[None])[0], room, min(volume_ml, 0.95 * _room_ml(head, room)), 1.5)

    return Plan(Subtype.INTRAVENTRICULAR, head.to_scanner(-growth_mm * pull), fraction)


def plan_subarachnoid(rng: np.random.Generator, head: Head, volume_ml: float) -> Plan:
    """A film in cisterns, fissures or sulci, thinning out over a centimetre."""
    side = _side(rng)
    kind = rng.random()
    stretch: Point = (1.0, 1.0, 1.0)
    if kind < 0.3:  # basal cisterns, as from an aneurysm
        centre, stretch = (0.0, 0.0, -20.0), (1.0, 1.0, 1.2)
    elif kind < 0.5:  # one Sylvian fissure
        centre, stretch = (38.0 * side, 6.0, -6.0), (1.0, 0.8, 0.9)
    elif kind < 0.58:  # around the midbrain
        centre, stretch = (0.0, -26.0, -18.0), (1.0, 1.0, 1.3)
    elif kind < 0.66:  # between the hemispheres
        centre, stretch = (3.0 * side, float(rng.uniform(-70.0, 50.0)), 30.0), (3.0, 0.8, 0.8)
    else:  # sulci of the convexity, as after a blow
        angle, rise = float(rng.uniform(-2.6, 2.6)), float(rng.uniform(5.0, 62.0))
        width = float(np.sqrt(1.0 - (rise / 78.0) ** 2))
        centre = (64.0 * width * float(np.cos(angle)) * side, 82.0 * width * float(np.sin(angle)) - 18.0, rise)
    patchiness_mm = float(rng.uniform(4.0, 12.0))
    scaled = (head.skull_lattice - _column(torch.tensor(centre))) * _column(torch.tensor(stretch))
    field = patchiness_mm * smooth_noise(rng, head.nodes, 2.5)[0] - torch.linalg.vector_norm(scaled, dim=0)

    def fraction(head: Head, brain: Brain) -> Fraction:
        room = ((brain.fluid - 0.28) * (1.0 / 0.3)).clamp(0.0, 1.0)
        room *= (1.0 - (brain.ventricle * 3.0).clamp(0.0, 1.0)) * brain.inside
        room *= soft_step(head.depth_mm - 0.3, head.edge_mm) * (head.skull_points[2] > -62.0)
        return _fill(head, head.grid.refine(field[None])[0], room, min(volume_ml, 0.4 * _room_ml(head, room)), 8.0)

    return Plan(Subtype.SUBARACHNOID, torch.zeros_like(head.lattice_mm), fraction)


def plan_epidural(rng: np.random.Generator, head: Head, volume_ml: float) -> Plan:
    """A lens under the skull: biconvex, steep at its ends, where the dura is held by the sutures."""
    side = _side(rng)
    shares = [share for share, _ in EPIDURAL_DIRECTIONS]
    _, direction = EPIDURAL_DIRECTIONS[int(rng.choice(len(shares), p=shares))]
    moved = np.asarray(direction) * [side, 1.0, 1.0] + rng.normal(0.0, 0.12, 3)
    towards = torch.from_numpy((moved / np.linalg.norm(moved)).astype(np.float32))
    flatness = float(rng.uniform(0.3, 0.55))  # thickness over radius of the lens
    radius = (volume_ml * 1000.0 / (1.6 * flatness)) ** (1.0 / 3.0)
    limit = float(np.clip(radius / 78.0, 0.05, 1.0))

    def profile(points: Lattice, rough: Tensor) -> Tensor:
        angle = torch.acos(torch.einsum("i,idhw->dhw", towards, _directions(points, side)).clamp(-1.0, 1.0))
        return (1.0 - (angle / limit) ** 2 + 0.06 * rough).clamp(0.0, 1.0)

    noise = smooth_noise(rng, head.nodes, 3.0)[0]
    return _plan_collection(head, Subtype.EPIDURAL, volume_ml, side, profile, noise, most_mm=45.0)


def plan_subdural(rng: np.random.Generator, head: Head, volume_ml: float) -> Plan:
    """A crescent over one hemisphere, or a sheet along the falx or on the tentorium."""
    kind = rng.random()
    if kind < 0.7:
        return _plan_crescent(rng, head, volume_ml)
    return _plan_sheet(rng, head, min(volume_ml, SHEET_MOST_ML), along_falx=bool(kind < 0.87))


def _plan_crescent(rng: np.random.Generator, head: Head, volume_ml: float) -> Plan:
    """Subdural blood of the convexity: crosses sutures, never the midline."""
    side = _side(rng)
    thickness = float(rng.uniform(3.0, 6.0) + 1.2 * volume_ml ** (1.0 / 3.0))
    radius = np.sqrt(volume_ml * 1000.0 / (0.6 * np.pi * thickness))
    elongation = float(rng.uniform(1.1, 1.9))
    across_limit, up_limit = float(radius * elongation / 90.0), float(radius / elongation / 90.0)
    towards = np.array([1.0, rng.uniform(-0.7, 0.7), rng.uniform(-0.05, 0.7)])
    towards /= np.linalg.norm(towards)
    across_middle, up_middle = float(np.arctan2(towards[1], towards[0])), float(np.arcsin(towards[2]))

    def profile(points: Lattice, rough: Tensor) -> Tensor:
        unit = _directions(points, side)
        across = torch.atan2(unit[1], unit[0] * side) - across_middle
        up = torch.asin(unit[2].clamp(-1.0, 1.0)) - up_middle
        reach = 1.0 - (across / across_limit) ** 2 - (up / up_limit) ** 2 + 0.25 * rough
        own_side = ((points[0] * side - 2.0) / 5.0).clamp(0.0, 1.0)
        above = (tentorium_gap_mm(head.atlas, points) / 3.0).clamp(0.0, 1.0)
        return reach.clamp(0.0, 1.0).sqrt() * own_side * above

    noise = smooth_noise(rng, head.nodes, 4.0)[0]
    return _plan_collection(head, Subtype.SUBDURAL, volume_ml, side, profile, noise, most_mm=28.0)


def _plan_collection(
    head: Head,
    subtype: Subtype,
    volume_ml: float,
    side: float,
    profile: Callable[[Lattice, Tensor], Tensor],
    noise: Float[Tensor, "d h w"],
    *,
    most_mm: float,
) -> Plan:
    """Blood between skull and brain, whose thickness is a scale times a profile of the template's points.

    The brain below moves inwards by the thickness, less with depth, and not beyond the other hemisphere's middle.
    """
    depth = _lattice_depth(head)
    shape = profile(head.skull_lattice, noise)
    node_ml = head.grid.voxel_ml * float(np.prod(head.grid.shape)) / depth.numel()

    def coarse_ml(scale: float) -> float:
        return node_ml * _sum(soft_step(scale * shape - depth, 4.0) * soft_step(depth, 4.0) * (shape > 0.02))

    thickness = 0.92 * _level_for(volume_ml, coarse_ml, 0.5, most_mm) * shape
    fade = torch.exp(-(depth - thickness).clamp_min(0.0) / 55.0)
    fade = fade * (1.0 - (-(head.skull_lattice[0] * side) / 25.0).clamp(0.0, 1.0))
    push = head.to_scanner(-_directions(head.skull_lattice, side) * (thickness * fade))

    def fraction(head: Head, brain: Brain) -> Fraction:
        shape = profile(head.skull_points, head.grid.refine(noise[None])[0])
        inside = brain.inside * (shape > 0.02) * soft_step(head.depth_mm - DURA_MM, head.edge_mm)
        usable = (inside > 0.0) & (head.depth_mm < 1.3 * most_mm)
        shape_at, depth_at, inside_at = shape[usable], head.depth_mm[usable], inside[usable]

        def fine_ml(scale: float) -> float:
            return head.grid.voxel_ml * _sum(soft_step(scale * shape_at - depth_at, head.edge_mm) * inside_at)

        scale = _level_for(volume_ml, fine_ml, 0.5, 1.3 * most_mm)
        return soft_step(scale * shape - head.depth_mm, head.edge_mm) * inside

    return Plan(subtype, push, fraction)


def _plan_sheet(rng: np.random.Generator, head: Head, volume_ml: float, *, along_falx: bool) -> Plan:
    """Subdural blood on one side of the falx or on top of the tentorium."""
    side = _side(rng)
    middle = float(rng.uniform(-70.0, 40.0) if along_falx else rng.uniform(-70.0, -45.0))
    length = float(rng.uniform(25.0, 70.0))
    thickness = float(rng.uniform(2.5, 6.0))
    noise = smooth_noise(rng, head.nodes, 3.5)[0]

    def gap_and_profile(points: Lattice, rough: Tensor) -> tuple[Tensor, Tensor]:
        x, y, z = points
        reach = 1.0 - ((y - middle) / length) ** 2 + 0.3 * rough
        above = tentorium_gap_mm(head.atlas, points)
        if along_falx:
            reach = reach * ((z - 2.0) / 6.0).clamp(0.0, 1.0) * (above > 1.0)
            return x * side, reach.clamp(0.0, 1.0)
        return above, (reach * ((x * side - 8.0) / 6.0).clamp(0.0, 1.0)).clamp(0.0, 1.0)

    gap, shape = gap_and_profile(head.skull_lattice, noise)
    push = torch.zeros_like(head.lattice_mm)
    fade = torch.exp(-gap.clamp_min(0.0) / 12.0) * (gap > -1.0)
    push[0 if along_falx else 2] = (side if along_falx else 1.0) * 0.7 * thickness * shape * fade

    def fraction(head: Head, brain: Brain) -> Fraction:
        gap, shape = gap_and_profile(head.skull_points, head.grid.refine(noise[None])[0])
        reach_mm = (36.0 - 0.28 * head.skull_points[1]).clamp(14.0, 50.0) if along_falx else 70.0
        room = brain.inside * (1.0 - brain.ventricle) * soft_step(reach_mm - head.depth_mm, 6.0)
        room *= (gap > 0.0) & (gap < 30.0) & (shape > 0.05)
        usable = room > 0.0
        shape_at, gap_at, room_at = shape[usable], gap[usable], room[usable]

        def fine_ml(scale: float) -> float:
            return head.grid.voxel_ml * _sum(soft_step(scale * shape_at - gap_at, head.edge_mm) * room_at)

        scale = _level_for(volume_ml, fine_ml, 0.2, 2.5 * thickness)
        return soft_step(scale * shape - gap, head.edge_mm) * room

    return Plan(Subtype.SUBDURAL, head.to_scanner(push), fraction)


def _parenchymal_centre(rng: np.random.Generator, head: Head, radius: float) -> tuple[Float[Tensor, " 3"], bool]:
    """Scanner point of the clot, and whether it is a contusion."""
    side = _side(rng)
    choice, total = rng.random(), 0.0
    for site in PARENCHYMAL_SITES:
        total += site.share
        if choice < total:
            x, y, z = np.asarray(site.centre_mm) * [side, 1.0, 1.0] + rng.normal(0.0, site.jitter_mm, 3)
            return head.scanner_point((float(x), float(y), float(z))), site.contusion
    depth = _lattice_depth(head)
    x, _, z = head.skull_lattice
    lobar = (depth > 4.0 + 0.7 * radius) & (depth < 12.0 + 1.3 * radius) & (x.abs() > 10.0) & (z > 2.0)
    candidates = torch.nonzero(lobar if bool(lobar.any()) else depth >= depth.max() - 1.0)
    d, h, w = candidates[int(rng.integers(len(candidates)))].tolist()
    return head.lattice_mm[:, d, h, w], False


def _draw_blobs(rng: np.random.Generator, radius: float, *, scattered: bool) -> list[tuple[Tensor, Tensor, float]]:
    """Ellipsoids (centre, axes matrix, radius) whose union is the clot: one large, some small ones at its side.

    Args:
        scattered: several small clots apart from each other, as in a contusion.
    """
    blobs = []
    spread = 1.0 if scattered else 0.6
    for i in range(1 + int(rng.integers(2 if scattered else 0, 8 if scattered else 6))):
        turn = _rotation(rng)
        stretch = np.exp(rng.normal(0.0, 0.27, 3))
        stretch /= np.prod(stretch) ** (1.0 / 3.0)
        middle = np.zeros(3) if i == 0 else rng.normal(0.0, spread * radius, 3)
        size = radius if i == 0 else radius * float(rng.uniform(0.25, 0.7))
        axes = (turn / stretch[:, None]).astype(np.float32)
        blobs.append((torch.from_numpy(middle.astype(np.float32)), torch.from_numpy(axes), size))
    return blobs


def _rotation(rng: np.random.Generator) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """A random rotation, from a random unit quaternion."""
    w, x, y, z = (q := rng.standard_normal(4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _side(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _column(vector: Float[Tensor, " 3"]) -> Float[Tensor, "3 1 1 1"]:
    return vector[:, None, None, None]


def _sum(values: Tensor) -> float:
    return float(values.sum(dtype=torch.float64))


def _room_ml(head: Head, room: Fraction) -> float:
    return head.grid.voxel_ml * _sum(room)


def _lattice_depth(head: Head) -> Float[Tensor, "d h w"]:
    """Depth inside the inner table on the lattice, without its local unevenness."""
    dura = sample(head.atlas.structures[Structure.DURA][None], head.atlas.structure_grid, head.skull_lattice)[0]
    return dura + head.habitus.gap_mm


def _directions(points: Lattice, side: float) -> Lattice:
    """Unit vectors from a point in the other hemisphere: nearly along the skull's outward normal on `side`."""
    offset = points - _column(torch.tensor([-22.0 * side, -18.0, 8.0]))
    return torch.div(offset, torch.linalg.vector_norm(offset, dim=0).clamp_min(1.0))


def _fill(head: Head, field_mm: Tensor, room: Tensor, volume_ml: float, edge_mm: float) -> Tensor:
    """Fill a room from where the field is highest, down to the level at which the blood has its volume."""
    usable = room > 0.02
    if volume_ml <= 0.0 or not bool(usable.any()):
        return torch.zeros_like(room)
    field_at, room_at = field_mm[usable], room[usable]

    def volume_at(level: float) -> float:
        return head.grid.voxel_ml * _sum(soft_step(field_at + level, edge_mm) * room_at)

    low, high = -float(field_at.max()) - edge_mm, -float(field_at.min()) + edge_mm
    return soft_step(field_mm + _level_for(volume_ml, volume_at, low, high), edge_mm) * room


def _level_for(volume_ml: float, volume_at: Callable[[float], float], low: float, high: float) -> float:
    """The level at which a growing volume reaches the one asked for, by bisection; `high` where it never does."""
    for _ in range(18):
        middle = 0.5 * (low + high)
        if volume_at(middle) < volume_ml:
            low = middle
        else:
            high = middle
    return high
