"""The CT scanner: a head on the fine grid becomes a scan: slices, kernel, beam hardening, noise, calibration."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from hgisam.phantom.anatomy import AIR_HU, FineGrid
from hgisam.volume import HIGHEST_HU, LOWEST_HU

BONE_STREAK_MM = 5.0
"""Distance between light and dark within the band that bones throw between them."""
SHADING_MM = 45.0
"""Distance over which slow shading changes."""
STREAK_MM, STREAK_COUNT = 2.5, 80
"""Width of motion streaks, and how many lie on each side of the middle."""
CUPPING_REACH_MM = 12.0
"""Sigma of the brightening around bone: with it, HU by depth under the skull follow those of real scans."""


@dataclass(frozen=True)
class Protocol:
    """How one scan was taken and reconstructed, drawn once per phantom.

    Attributes:
        noise_hu: standard deviation of the noise in the middle of the head, after the kernel.
        blur_mm: sigma of the in-plane point spread.
        noise_grain_mm: sigma of the noise's own correlation; near blur_mm, smaller for a sharper kernel.
        cupping_hu: how much brighter the brain is next to bone.
        streak_hu: how dark the band between the petrous bones is, and how uneven.
        slice_tail: share of a slice's signal that comes from each of its neighbours: slice profiles have tails.
        shading_hu: standard deviation of slow shading.
        head_rest_hu: of the rest's shell; None where it is out of the field of view.
        motion_hu: standard deviation of streaks across some slices, as by motion or metal; 0 for none.
        clip_radius_mm: of a field of view that cuts the head; None where it holds all of it.
        offset_hu, gain: calibration error, value = gain (HU) + offset.
    """

    noise_hu: float
    blur_mm: float
    noise_grain_mm: float
    cupping_hu: float
    streak_hu: float
    slice_tail: float
    shading_hu: float
    offset_hu: float
    gain: float
    head_rest_hu: float | None
    motion_hu: float
    clip_radius_mm: float | None

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Protocol":
        """A random protocol: noise 2 to 6 HU, soft to sharp brain kernels."""
        return cls(
            noise_hu=float(np.clip(rng.lognormal(np.log(3.2), 0.3), 1.8, 6.5)),
            blur_mm=float(rng.uniform(0.6, 1.3)),
            noise_grain_mm=float(rng.uniform(0.45, 0.85)),
            cupping_hu=float(rng.uniform(8.0, 30.0)),
            streak_hu=float(rng.uniform(3.0, 16.0)),
            slice_tail=float(rng.uniform(0.0, 0.02)),
            shading_hu=float(rng.uniform(0.0, 2.5)),
            offset_hu=float(rng.normal(0.0, 2.0)),
            gain=float(rng.normal(1.0, 0.01)),
            head_rest_hu=float(rng.uniform(-200.0, 150.0)) if rng.random() < 0.6 else None,
            motion_hu=float(rng.uniform(1.5, 5.0)) if rng.random() < 0.12 else 0.0,
            clip_radius_mm=float(rng.uniform(82.0, 104.0)) if rng.random() < 0.15 else None,
        )


def _frequencies(height: int, width: int, pixel_mm: float) -> Tensor:
    fy = torch.fft.fftfreq(height, pixel_mm)[:, None]
    fx = torch.fft.rfftfreq(width, pixel_mm)[None]
    return torch.hypot(fx, fy)


def kernel_response(frequency_per_mm: Tensor, blur_mm: float) -> Tensor:
    """Modulation transfer of a brain kernel: a Gaussian, since edge enhancement would ring beside the skull."""
    return torch.exp(-2.0 * (np.pi * blur_mm * frequency_per_mm) ** 2)


def blur(
    hu: Float[Tensor, "depth height width"], pixel_mm: float, blur_mm: float
) -> Float[Tensor, "depth height width"]:
    """Apply the kernel to each slice; what lies at one border does not leak to the other."""
    margin = int(4.0 * blur_mm / pixel_mm) + 1
    padded = functional.pad(hu[None], [margin] * 4, mode="replicate")[0]
    height, width = padded.shape[1:]
    response = kernel_response(_frequencies(height, width, pixel_mm), blur_mm)
    blurred: Tensor = torch.fft.irfft2(torch.fft.rfft2(padded) * response, s=(height, width))
    return blurred[:, margin:-margin, margin:-margin]


def noise_texture(
    rng: np.random.Generator, shape: tuple[int, int, int], pixel_mm: float, grain_mm: float
) -> Float[Tensor, "depth height width"]:
    """Unit-variance CT noise: power rises with frequency (ramp filter), then falls with the kernel.

    Source: Riederer, Pelc, Chesler 1978, Phys Med Biol 23:446 (noise power proportional to f |MTF|^2).
    """
    white = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    frequency = _frequencies(shape[1], shape[2], pixel_mm)
    amplitude = (frequency + 0.02).sqrt() * torch.exp(-2.0 * (np.pi * grain_mm * frequency) ** 2)
    shaped = torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=shape[1:])
    return torch.div(shaped, shaped.std())


def average_slices(planes: Float[Tensor, "fine height width"], per_slice: int) -> Float[Tensor, "depth height width"]:
    """Mean over the planes of each slice: partial volume along the scanner's axis."""
    return planes.reshape(-1, per_slice, *planes.shape[1:]).mean(dim=1)


def to_pixels(
    values: Float[Tensor, "depth rows columns"], zoom: int, first_px: tuple[int, int], size_px: int, fill: float
) -> Float[Tensor, "depth height width"]:
    """Place a box of slices in the scan's field of view; each fine pixel is `zoom` scan pixels wide."""
    if zoom > 1:
        values = functional.interpolate(
            values[:, None], scale_factor=float(zoom), mode="bilinear", align_corners=False
        )[:, 0]
    canvas = torch.full((values.shape[0], size_px, size_px), fill)
    row, column = first_px
    canvas[:, row : row + values.shape[1], column : column + values.shape[2]] = values
    return canvas


def with_tails(slices: Float[Tensor, "depth height width"], slice_tail: float) -> Float[Tensor, "depth height width"]:
    """Slices that take a share of their signal from each neighbour; the outermost have one neighbour, twice."""
    if len(slices) < 2:
        return slices
    above, below = torch.cat([slices[1:], slices[-2:-1]]), torch.cat([slices[1:2], slices[:-1]])
    return (1.0 - 2.0 * slice_tail) * slices + slice_tail * (above + below)


def slow_shading(rng: np.random.Generator, shape: tuple[int, int, int], pixel_mm: float) -> Tensor:
    """Unit-variance shading that changes over SHADING_MM in a slice, each slice by itself."""
    depth, height, width = shape
    nodes = [max(2, round(size * pixel_mm / SHADING_MM)) for size in (height, width)]
    coarse = torch.from_numpy(rng.standard_normal((depth, 1, *nodes), dtype=np.float32))
    return functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)[:, 0]


def beam_hardening(
    rng: np.random.Generator,
    hu: Float[Tensor, "depth height width"],
    pixel_mm: float,
    cupping_hu: float,
    streak_hu: float,
) -> Float[Tensor, "depth height width"]:
    """HU to add: bright next to bone (scatter and cupping), dark between two dense bones (streaks), per slice.

    Source: Barrett and Keat 2004, Radiographics 24:1679-91, on the cause: rays through much bone look harder, so what
    lies between two bones is underestimated. The band's shape here is a model: the product of the bone on both sides.
    """
    bone = ((hu - 200.0) / 1000.0).clamp(0.0, 1.5)
    small = functional.avg_pool2d(bone[:, None], 4, ceil_mode=True, count_include_pad=False)
    step = 4 * pixel_mm
    height, width = small.shape[2:]
    frequency = _frequencies(2 * height, 2 * width, step)
    halo = torch.exp(-2.0 * (np.pi * CUPPING_REACH_MM * frequency) ** 2)
    spread = torch.fft.irfft2(torch.fft.rfft2(small, s=(2 * height, 2 * width)) * halo, s=(2 * height, 2 * width))
    cupping = spread[..., :height, :width]
    left = (small.cumsum(dim=3) - small) * (step / 30.0)
    right = (small.flip(3).cumsum(dim=3).flip(3) - small) * (step / 30.0)
    dark = 4.0 * left * right / (1.0 + left + right)
    base = (dark - 0.55).clamp_min(0.0)
    nodes = max(2, round(small.shape[2] * step / BONE_STREAK_MM))
    rows = torch.from_numpy(rng.standard_normal((len(small), 1, nodes, 1), dtype=np.float32))
    uneven = functional.interpolate(rows, size=(small.shape[2], 1), mode="bicubic", align_corners=False)
    change = cupping_hu * 2.0 * cupping - streak_hu * base * (1.0 + uneven)
    return functional.interpolate(change, size=hu.shape[1:], mode="bilinear", align_corners=False)[:, 0]


def motion_streaks(
    rng: np.random.Generator, shape: tuple[int, ...], pixel_mm: float
) -> Float[Tensor, "depth height width"]:
    """Unit-size streaks along one direction per slice, on a run of slices; zero on the others."""
    depth, height, width = shape
    streaks = torch.zeros(shape)
    first = int(rng.integers(0, depth))
    rows = (torch.arange(height, dtype=torch.float32) - height / 2)[:, None] * pixel_mm
    columns = (torch.arange(width, dtype=torch.float32) - width / 2)[None] * pixel_mm
    for index in range(first, min(depth, first + int(rng.integers(1, 6)))):
        angle = float(rng.uniform(0.0, np.pi))
        across = rows * float(np.cos(angle)) + columns * float(np.sin(angle))
        profile = torch.from_numpy(rng.standard_normal(2 * STREAK_COUNT, dtype=np.float32))
        position = (across / STREAK_MM + STREAK_COUNT).clamp(0.0, 2.0 * STREAK_COUNT - 2.0)
        low = position.long()
        streaks[index] = torch.lerp(profile[low], profile[low + 1], position - low)
    return streaks


def scan(
    rng: np.random.Generator,
    protocol: Protocol,
    planes_hu: Float[Tensor, "planes rows columns"],
    grid: FineGrid,
    *,
    per_slice: int,
    zoom: int,
    first_px: tuple[int, int],
    size_px: int,
    pixel_mm: float,
) -> Float[Tensor, "depth height width"]:
    """Scan a head: slice averaging, kernel, beam hardening, noise, head rest, clipping, calibration, whole HU."""
    slices = with_tails(average_slices(planes_hu, per_slice), protocol.slice_tail)
    hu = to_pixels(slices, zoom, first_px, size_px, AIR_HU)
    depth, height, width = hu.shape
    rows = torch.arange(height, dtype=torch.float32)[:, None]
    columns = torch.arange(width, dtype=torch.float32)[None]
    if protocol.head_rest_hu is not None:
        bottom = first_px[0] + zoom * grid.shape[1] - 2.0 / pixel_mm
        radius = 115.0 / pixel_mm
        distance = ((rows - bottom + radius) ** 2 + (columns - width / 2) ** 2).sqrt() - radius
        shell = ((2.0 - (distance - 6.0 / pixel_mm).abs() * pixel_mm).clamp(0.0, 1.0)) * (
            rows > bottom - 45.0 / pixel_mm
        )
        hu = torch.where(hu < -900.0, torch.maximum(hu, AIR_HU + (protocol.head_rest_hu - AIR_HU) * shell), hu)
    change = beam_hardening(rng, hu, pixel_mm, protocol.cupping_hu, protocol.streak_hu)
    change = change + protocol.shading_hu * slow_shading(rng, (depth, height, width), pixel_mm)
    soft = (hu > -300.0) & (hu < 200.0)
    hu = hu + change * soft
    if protocol.motion_hu > 0.0:
        hu = hu + protocol.motion_hu * motion_streaks(rng, hu.shape, pixel_mm) * soft
    hu = blur(hu, pixel_mm, protocol.blur_mm)

    coarse = functional.avg_pool2d((hu > -300.0).float()[:, None], 8, ceil_mode=True, count_include_pad=False)
    coarse = functional.avg_pool2d(coarse, 5, stride=1, padding=2)
    body = functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)[:, 0]
    bony = (hu > 300.0).float().mean(dim=(1, 2))
    level = protocol.noise_hu * (0.55 + 0.45 * body) * (0.85 + 2.0 * bony)[:, None, None]
    level = level * (body > 0.0)  # no noise in the air around: no window shows it, and files stay small
    hu = hu + noise_texture(rng, (depth, height, width), pixel_mm, protocol.noise_grain_mm) * level
    hu = hu * protocol.gain + protocol.offset_hu
    hu = torch.where(in_view(protocol, (height, width), pixel_mm), hu, torch.full_like(hu, AIR_HU))
    return hu.round_().clamp_(LOWEST_HU, HIGHEST_HU)


def in_view(protocol: Protocol, shape: tuple[int, int], pixel_mm: float) -> Bool[Tensor, "height width"]:
    """Which pixels the field of view holds.

    Args:
        protocol: how the head was taken.
        shape: of a slice.
        pixel_mm: side of a pixel.
    """
    if protocol.clip_radius_mm is None:
        return torch.ones(shape, dtype=torch.bool)
    rows, columns = (torch.arange(n, dtype=torch.float32) - n / 2 for n in shape)
    return (rows[:, None] ** 2 + columns**2).sqrt() * pixel_mm <= protocol.clip_radius_mm
