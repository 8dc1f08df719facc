"""Voxel probabilities of a whole scan from a network that learned from masks: slice by slice, or slices together.

Scans differ in how far their slices lie apart, and some have uneven slices. A 2D network sees each slice as it is. A 3D
network sees a stack: slices resampled to one distance, from the scan's first to its last, each by its own position.
Stack slices between two of the scan's are interpolated linearly, those that several thin ones fall into are their
weighted mean, and what the network says is interpolated back to each slice's own position.
"""

import torch
from jaxtyping import Bool, Float, Float64
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hgisam.model.supervised import MaskNetwork
from hgisam.preprocess import PreprocessOptions, network_images


class StackOptions(BaseModel):
    """How a 3D network sees a scan; stored with its weights. A 2D network has no use for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    slice_mm: float = Field(default=5.0, gt=0)
    """Distance from one slice of the stack to the next."""
    window_slices: int = Field(default=16, ge=1)
    """Slices that the network sees at a time; in a shorter stack the outermost are repeated on both sides,
    so that a scan of one slice is not shown as a head that ends above and below it."""


def stack_positions_mm(positions_mm: Float64[Tensor, " slices"], options: StackOptions) -> Float64[Tensor, " stack"]:
    """Where the slices of a scan's stack lie: from the scan's first slice to its last or just beyond.

    A stack shorter than the window reaches beyond the scan on both sides, where `slice_weights` repeats its ends.

    Args:
        positions_mm: of the scan's slices, ascending; at least one.
        options: the distance and the window.
    """
    length = float(positions_mm[-1] - positions_mm[0])
    n = max(1, int(-(-(length - 1e-6) // options.slice_mm)) + 1)
    missing = max(0, options.window_slices - n)
    return positions_mm[0] + options.slice_mm * (torch.arange(n + missing, dtype=torch.float64) - missing // 2)


def slice_weights(
    known_mm: Float64[Tensor, " known"], wanted_mm: Float64[Tensor, " wanted"], thickness_mm: float = 0.0
) -> Float[Tensor, "wanted known"]:
    """How much each known slice counts in each wanted one; every row sums to 1. Beyond the ends, the end counts.

    Between two neighbours the weights are linear. Where neighbours are closer than the wanted slices are thick, all of
    them within that distance count, the less the further away: thin, noisy slices are averaged, not picked.

    Args:
        known_mm: ascending positions.
        wanted_mm: positions.
        thickness_mm: of the wanted slices; 0 for linear weights everywhere.
    """
    if len(known_mm) == 1:
        return torch.ones(len(wanted_mm), 1)
    within = wanted_mm.clamp(known_mm[0], known_mm[-1])
    above = torch.searchsorted(known_mm, within, right=True).clamp(1, len(known_mm) - 1)
    low, high = known_mm[above - 1], known_mm[above]
    share = ((within - low) / (high - low))[:, None]
    linear = torch.zeros(len(wanted_mm), len(known_mm), dtype=torch.float64)
    linear.scatter_(1, above[:, None] - 1, 1.0 - share).scatter_(1, above[:, None], share)
    if thickness_mm <= 0:
        return linear.float()
    near = (1.0 - (within[:, None] - known_mm).abs() / thickness_mm).clamp_min(0.0)
    mean = near / near.sum(dim=1, keepdim=True).clamp_min(1e-9)
    return torch.where((high - low < thickness_mm * (1 - 1e-6))[:, None], mean, linear).float()


def resample_slices(
    weights: Float[Tensor, "wanted known"], planes: Float[Tensor, "known height width"]
) -> Float[Tensor, "wanted height width"]:
    """Slices at other positions, by `slice_weights`."""
    return torch.einsum("wk,khx->whx", weights, planes)


@torch.inference_mode()
def voxel_probabilities(
    network: MaskNetwork,
    relative_hu: Float[Tensor, "slices height width"],
    region: Bool[Tensor, "slices height width"],
    positions_mm: Float64[Tensor, " slices"],
    median_hu: float,
    preprocessing: PreprocessOptions,
    stack: StackOptions,
    *,
    overlap: float = 0.5,
    mirrored: bool = True,
    batch_size: int = 4,
    bfloat16: bool = False,
) -> Float[Tensor, "slices height width"]:
    """Probability in [0, 1] that each pixel of the canvas is blood; no slices give none.

    Args:
        network: in eval mode, on the device that is to be used.
        relative_hu: the scan's slices on the canvas, HU minus its brain median; in host memory.
        region: the intracranial region.
        positions_mm: where each slice lies along the scan, ascending.
        median_hu: the scan's brain median.
        preprocessing: what the network sees; windows of fov_px cover a canvas that is larger.
        stack: how a 3D network sees slices together.
        overlap: share of a window that its neighbour covers too; blended with Gaussian weights.
        mirrored: whether the mean is taken with what the network says of the mirror image.
        batch_size: windows per pass of a 2D network; a 3D network sees one.
        bfloat16: whether passes run in bfloat16.
    """
    from monai.inferers.utils import sliding_window_inference  # slow to import

    if len(relative_hu) == 0:
        return torch.zeros(relative_hu.shape)
    device = next(network.parameters()).device
    window: tuple[int, ...] = (preprocessing.fov_px, preprocessing.fov_px)
    back = None
    if network.options.spatial_dims == 3:
        window = (stack.window_slices, *window)
        stacked_mm = stack_positions_mm(positions_mm, stack)
        weights = slice_weights(positions_mm, stacked_mm, stack.slice_mm)
        back = slice_weights(stacked_mm, positions_mm)
        relative_hu, region = resample_slices(weights, relative_hu), resample_slices(weights, region.float()) >= 0.5
    images = network_images(relative_hu + median_hu, region, median_hu, preprocessing)
    if back is not None:
        images = images.transpose(0, 1)[None]

    def probability(windows: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
            found: Tensor = network(windows).float().sigmoid()
            if mirrored:
                found = (found + network(windows.flip(-1)).float().sigmoid().flip(-1)) / 2
        return found[:, None]

    found = sliding_window_inference(
        images,
        window,
        batch_size if back is None else 1,
        probability,
        overlap=overlap,
        mode="gaussian",
        sw_device=device,
        device="cpu",
    )
    found = torch.as_tensor(found).clamp(0.0, 1.0)
    return found[:, 0] if back is None else resample_slices(back, found[0, 0])
