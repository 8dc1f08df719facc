"""What a scan might have looked like: random changes of prepared slices, on whole batches of tensors."""

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad


class AugmentOptions(BaseModel):
    """How far a prepared slice may be changed. Every range is drawn from uniformly, per slice."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    flip_probability: float = Field(default=0.5, ge=0, le=1)
    """Chance of exchanging left and right."""
    rotation_deg: float = Field(default=5.0, ge=0)
    """Largest rotation either way: about what the midline may be off."""
    scale: float = Field(default=0.12, ge=0, lt=1)
    """Largest relative change of size, drawn for rows and columns apart."""
    shift_mm: tuple[float, float] = (8.0, 3.0)
    """Largest shift of (rows, columns); columns less, since the midline is near the middle."""
    gain: float = Field(default=0.15, ge=0, lt=1)
    """Largest relative change of contrast."""
    offset_hu: float = Field(default=3.0, ge=0)
    """Largest shift of HU."""
    noise_hu: float = Field(default=4.0, ge=0)
    """Largest standard deviation of added noise."""
    blur_px: float = Field(default=1.0, ge=0)
    """Largest standard deviation of a Gaussian blur; noise is blurred with its own, so that it has a grain."""


def augment(
    relative_hu: Float[Tensor, "batch height width"],
    region: Bool[Tensor, "batch height width"],
    blood: Bool[Tensor, "batch height width"],
    spacing_mm: float,
    options: AugmentOptions,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "batch height width"], Bool[Tensor, "batch height width"], Bool[Tensor, "batch height width"]]:
    """Changed copies of slices, their intracranial regions and their blood; geometry changes all three alike.

    Args:
        relative_hu: HU minus the scan's brain median.
        region: the intracranial region.
        blood: where there is blood.
        spacing_mm: side of a pixel.
        options: how far to go.
        generator: the source of all chance.
    """
    n, height, width = relative_hu.shape

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=generator) * (high - low) + low

    angle = torch.deg2rad(uniform(-options.rotation_deg, options.rotation_deg))
    mirror = torch.where(torch.rand(n, generator=generator) < options.flip_probability, -1.0, 1.0)
    row_scale, column_scale = (1.0 / (1.0 + uniform(-options.scale, options.scale)) for _ in range(2))
    rows_mm, columns_mm = (uniform(-limit, limit) for limit in options.shift_mm)
    to_source = [
        [mirror * column_scale * angle.cos(), -row_scale * angle.sin(), 2 * columns_mm / spacing_mm / width],
        [mirror * column_scale * angle.sin(), row_scale * angle.cos(), 2 * rows_mm / spacing_mm / height],
    ]
    theta = torch.stack([torch.stack(row, dim=1) for row in to_source], dim=1)
    grid = affine_grid(theta, [n, 1, height, width], align_corners=False)
    moved_hu = grid_sample(relative_hu[:, None], grid, padding_mode="border", align_corners=False)
    masks = torch.stack([region, blood], dim=1).float()
    moved_masks = grid_sample(masks, grid, padding_mode="zeros", align_corners=False) >= 0.5

    gain = (1.0 + uniform(-options.gain, options.gain))[:, None, None, None]
    moved_hu = moved_hu * gain + uniform(-options.offset_hu, options.offset_hu)[:, None, None, None]
    moved_hu = _blur(moved_hu, uniform(0.0, options.blur_px))
    noise = _blur(torch.randn(moved_hu.shape, generator=generator), uniform(0.3, 1.0))
    noise = noise / noise.std(dim=(1, 2, 3), keepdim=True)
    moved_hu = moved_hu + noise * uniform(0.0, options.noise_hu)[:, None, None, None]
    return moved_hu[:, 0], moved_masks[:, 0], moved_masks[:, 1]


def _blur(images: Float[Tensor, "batch 1 height width"], sigma_px: Float[Tensor, " batch"]) -> Tensor:
    """Each image blurred with its own Gaussian of standard deviation sigma_px (up to about 1.3 px)."""
    taps = torch.arange(-4, 5, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (taps / sigma_px.clamp_min(1e-2)[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    n = len(images)
    stacked = pad(images.transpose(0, 1), (4, 4, 4, 4), mode="replicate")
    rows = conv2d(stacked, kernel[:, None, :, None], groups=n)
    return conv2d(rows, kernel[:, None, None, :], groups=n).transpose(0, 1)
