"""Windows -> slices -> volume: scores and saliency of a whole scan from a network that sees one window of one slice.

A scan's slices lie on one canvas. Where the canvas is larger than the network's field of view, overlapping windows
cover it. Windows of many slices share a batch; what they give is stitched in host memory, so that device memory depends
on the batch and never on the scan.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import interpolate

from hgisam.attention import Combination, combine_stages, fuse_stages, saturated

Window = tuple[int, int]
"""Top row and left column of a window on the canvas, px."""

StageMaps = Callable[[Float[Tensor, "batch channels fov fov"]], tuple[Tensor, Sequence[Tensor]]]
"""Images -> hemorrhage logits [batch] and raw saliency [batch, rows, cols] of each stage, not yet normalised."""


SCAN_SLICES = 3
"""So many of a scan's highest slices say how likely the scan holds blood at all."""

_LEAST = 1e-9
"""Probabilities are kept this far from 0 and 1 where they become log-odds."""


class WindowOptions(BaseModel):
    """How windows cover a canvas."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    overlap: float = Field(default=0.5, ge=0, lt=1)
    """Share of a window that its neighbour covers too."""
    sigma_scale: float = Field(default=0.125, gt=0)
    """Standard deviation of the Gaussian blending weights, as a share of the field of view."""


class PoseOptions(BaseModel):
    """In which poses, besides as it is, each window is mapped; the mean of the maps is less of tokens and borders.

    Each pose takes as much time as the map without any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    mirrored: bool = False
    """Also with left and right exchanged."""
    shifts_px: tuple[Annotated[int, Field(gt=0)], ...] = ()
    """Also moved down and to the left by so many pixels: half a patch puts tokens elsewhere, half an attention window
    the windows' borders. What leaves on one side comes in on the other."""


class AggregationOptions(BaseModel):
    """How the stages' maps of all slices become one saliency map of the scan."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    normalisation: Literal["volume", "slice"] = "volume"
    """`volume`: one scale for all windows and slices of the scan, each window in multiples of its own mean over brain
    and weighted with its probability, and the geometric mean over stages; `slice`: each slice's stages min-maxed and
    multiplied, as published."""
    neighbours_mm: float = Field(default=5.0, ge=0)
    """Standard deviation of the Gaussian over slices that says what a slice's neighbours show, 0 for none; `slice` has
    none either. What it is worth: tools/map_ablation.py."""


def plan_windows(canvas_px: tuple[int, int], fov_px: int, options: WindowOptions) -> list[Window]:
    """Where the windows lie that cover a canvas: one where it fits the field of view, else overlapping ones.

    Args:
        canvas_px: rows and columns of the canvas; at least fov_px each.
        fov_px: side of the network's square field of view.
        options: the overlap.

    Raises:
        ValueError: where the canvas is smaller than the field of view.
    """
    if min(canvas_px) < fov_px:
        raise ValueError(f"expected a canvas of at least {fov_px} x {fov_px} px; got {canvas_px}; pad it first")
    if canvas_px == (fov_px, fov_px):
        return [(0, 0)]
    from monai.data.utils import dense_patch_slices  # slow to import, and most heads fit one window

    step = max(1, round(fov_px * (1.0 - options.overlap)))
    patches = dense_patch_slices(canvas_px, (fov_px, fov_px), (step, step))
    return [(int(rows.start), int(columns.start)) for rows, columns in patches]


def blending_weights(fov_px: int, n_windows: int, options: WindowOptions) -> Float[Tensor, "fov fov"]:
    """How much a window's pixels count where windows overlap; ones for a lone window.

    A Gaussian about the window's centre, times a raised cosine that all but vanishes at its edges: the Gaussian alone
    ends in a step, which the roots of `aggregate` would lift to a visible seam.
    """
    if n_windows == 1:
        return torch.ones(fov_px, fov_px)
    from monai.data.utils import compute_importance_map

    gaussian: Tensor = compute_importance_map((fov_px, fov_px), mode="gaussian", sigma_scale=options.sigma_scale)
    taper = torch.sin(torch.pi * (torch.arange(fov_px) + 0.5) / fov_px).square()
    return gaussian * taper[:, None] * taper[None, :]


def score_windows(
    forward: Callable[[Tensor], Tensor],
    images: Float[Tensor, "depth channels height width"],
    slices: Sequence[int],
    windows: Sequence[Window],
    fov_px: int,
    batch_size: int,
    device: torch.device,
) -> Float[Tensor, "slices windows outputs"]:
    """Logits of every window of the given slices, in batches that slices share; no gradients.

    Args:
        forward: images -> logits [batch, outputs].
        images: the canvas of each slice, in [0, 1], in host memory.
        slices: the slices to look at; may be empty.
        windows: top-left corners.
        fov_px: the network's field of view.
        batch_size: windows per forward pass.
        device: where the network is.
    """
    with torch.inference_mode():
        found = [
            forward(_cut(images, batch, fov_px).to(device)).float().cpu()
            for batch in _batches(slices, windows, batch_size)
        ]
    outputs = found[0].shape[1] if found else 1
    return torch.cat(found).reshape(len(slices), len(windows), outputs) if found else torch.zeros(0, len(windows), 1)


def stitch_stage_maps(
    stage_maps: StageMaps,
    images: Float[Tensor, "depth channels height width"],
    region: Bool[Tensor, "depth height width"],
    slices: Sequence[int],
    windows: Sequence[Window],
    fov_px: int,
    batch_size: int,
    device: torch.device,
    options: WindowOptions,
    *,
    comparable: bool,
    poses: PoseOptions | None = None,
) -> Float[Tensor, "slices stages height width"]:
    """Each stage's saliency on the canvas of the given slices, windows blended with Gaussian weights.

    Comparable means that windows and slices can be held against each other. Gradients alone cannot: where the network
    is sure its logit is saturated and they are small, so that a doubtful slice would outshine a certain one. So each
    window's saliency is taken in multiples of its own mean over the brain that it shows, which says how much one place
    stands out, and times the window's probability: a window without blood stays dark beside one that holds it, and no
    seam appears between them. Of the whole window, air and skull too, the mean would be the lower and the map the
    brighter the less brain a slice shows, at the vertex and the skull base.

    With poses, maps are the mean of those of all poses, each in multiples of its own mean over brain, and log-odds are
    the mean of theirs.

    Args:
        stage_maps: images -> hemorrhage logits and raw saliency of each stage.
        images: the canvas of each slice, in [0, 1], in host memory.
        region: where it shows brain; with `comparable`, saliency is 0 elsewhere.
        slices: the slices to look at; may be empty.
        windows: top-left corners.
        fov_px: the network's field of view.
        batch_size: windows per pass.
        device: where the network is.
        options: the blending.
        comparable: whether to make windows comparable; else raw.
        poses: in which each window is mapped besides as it is; None for none.
    """
    height, width = images.shape[-2:]
    weights = blending_weights(fov_px, len(windows), options)
    total = torch.zeros(height, width)
    for top, left in windows:
        total[top : top + fov_px, left : left + fov_px] += weights
    rows_of = {index: row for row, index in enumerate(slices)}
    canvas: Tensor | None = None
    for batch in _batches(slices, windows, batch_size):
        shown = _cut(region[:, None], batch, fov_px).to(device)
        logits, fine = _mapped(stage_maps, _cut(images, batch, fov_px).to(device), shown, poses or PoseOptions())
        if comparable:
            fine = torch.where(shown, over_own_mean(fine, shown), 0.0) * logits.sigmoid()[:, None, None, None]
        fine = fine.cpu() * weights
        if canvas is None:
            canvas = torch.zeros(len(slices), fine.shape[1], height, width)
        for (index, (top, left)), patch in zip(batch, fine, strict=True):
            canvas[rows_of[index], :, top : top + fov_px, left : left + fov_px] += patch
    return torch.zeros(0, 1, height, width) if canvas is None else canvas / total


def aggregate(
    stages: Float[Tensor, "slices stages height width"],
    region: Bool[Tensor, "slices height width"],
    options: AggregationOptions,
    combination: Combination = "product",
) -> Float[Tensor, "slices height width"]:
    """One saliency map in [0, 1] per slice from the stages' raw maps; zero outside the region, zeros for none.

    `slice` (as published) stretches every stage of every slice to [0, 1] and multiplies, or takes the maximum. One hot
    spot then sets the scale, a second, fainter lesion is lost, and a slice without blood always holds a 1.

    `volume` divides each stage by its own maximum over the scan's region and takes the maximum over stages or, for a
    product, the geometric mean over all the factors that were multiplied (stages, and the two blocks of each pair): a
    lesion with a tenth of the saliency of the brightest shows at about a tenth, not at a millionth, and a slice is as
    bright as it deserves beside the others.

    Source: arXiv 2304.04902, equations 4 to 6, for `slice` and a product; `attention.fuse_stages` for a maximum.
    Deviation: `slice` stretches after windows are stitched; a constant map is zeros, an empty region is zeros.
    """
    if stages.shape[0] == 0:
        return torch.zeros(0, *stages.shape[-2:])
    if options.normalisation == "slice":
        combine = combine_stages if combination == "product" else fuse_stages
        return combine(list(stages.unbind(dim=1)), region)
    visible = stages.clamp_min(0.0) * region[:, None]
    peak = visible.amax(dim=(0, 2, 3), keepdim=True)
    relative = visible / peak.clamp_min(torch.finfo(torch.float32).tiny)
    if combination == "maximum":
        combined = saturated(relative, stages.shape[1]).amax(dim=1)
    else:
        combined = relative.log().sum(dim=1).div(2 * stages.shape[1]).exp()
    return combined / combined.amax().clamp_min(torch.finfo(torch.float32).tiny)


def agreed_over_slices(
    saliency: Float[Tensor, "slices height width"], distances_mm: Float[Tensor, " slices"], sigma_mm: float
) -> Float[Tensor, "slices height width"]:
    """Each slice's map as the geometric mean of its own and its neighbourhood's; the highest value stays as it is.

    Blood goes on in the next slice, what a map makes of noise seldom does. A lone slice comes back as it is.

    Args:
        saliency: of all slices of a scan that show brain; zeros where a slice was not mapped.
        distances_mm: where the slices lie along their normal.
        sigma_mm: standard deviation of the neighbourhood's Gaussian; 0 for none.
    """
    if sigma_mm == 0 or not saliency.any():
        return saliency
    away = (distances_mm[:, None] - distances_mm[None, :]) / sigma_mm
    share = torch.exp(-0.5 * away.square()).to(saliency.dtype)
    nearby = torch.einsum("ij,jhw->ihw", share / share.sum(dim=1, keepdim=True), saliency)
    found = (saliency * nearby).sqrt()
    return found * (saliency.amax() / found.amax().clamp_min(torch.finfo(found.dtype).tiny))


def smooth_over_slices(values: Float[Tensor, " slices"]) -> Float[Tensor, " slices"]:
    """Each slice's value and its neighbours' in the proportions 1/4, 1/2, 1/4; the ends repeat themselves.

    Blood seldom lies in one slice alone. An empty or single-slice input comes back as it is.
    """
    if len(values) < 2:
        return values.clone()
    padded = torch.cat([values[:1], values, values[-1:]])
    return 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]


def to_log_odds(probabilities: Float[Tensor, " slices"]) -> Float[Tensor, " slices"]:
    """Log-odds in double precision; finite also where a probability is 0 or 1."""
    return probabilities.double().clamp(_LEAST, 1.0 - _LEAST).logit()


def in_scan_context(log_odds: Float[Tensor, " slices"], weight: float) -> Float[Tensor, " slices"]:
    """Each slice's log-odds averaged with those of the scan: the mean of its three highest slices, weighted.

    A faint finding means more in a scan that surely holds blood elsewhere, and less in one that shows none.

    Args:
        log_odds: of the slices of one scan; may be empty.
        weight: of the scan against 1 for the slice itself; 0 leaves slices as they are.
    """
    if len(log_odds) == 0:
        return log_odds.clone()
    scan = log_odds.topk(min(SCAN_SLICES, len(log_odds))).values.mean()
    return (log_odds + weight * scan) / (1.0 + weight)


def _mapped(
    stage_maps: StageMaps, images: Tensor, shown: Bool[Tensor, "batch 1 side side"], poses: PoseOptions
) -> tuple[Tensor, Float[Tensor, "batch stages side side"]]:
    """Log-odds and stage maps of windows, in their own resolution; the mean over poses where there are any."""

    def in_pose(posed: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        logits, stages = stage_maps(posed(images))
        return logits, back(_fine(stages, images.shape[-1]))

    found = [in_pose(lambda x: x, lambda x: x)]
    if poses.mirrored:
        found.append(in_pose(lambda x: x.flip(-1), lambda x: x.flip(-1)))
    found += [in_pose(partial(_moved, px=px), partial(_moved, px=-px)) for px in poses.shifts_px]
    if len(found) == 1:
        return found[0]
    logits, maps = zip(*found, strict=True)
    return torch.stack(logits).mean(dim=0), torch.stack([over_own_mean(fine, shown) for fine in maps]).mean(dim=0)


def _moved(x: Tensor, px: int) -> Tensor:
    """Down and to the left; what leaves on one side comes in on the other."""
    return x.roll((px, -px), dims=(-2, -1))


def _fine(stages: Sequence[Tensor], side_px: int) -> Float[Tensor, "batch stages side side"]:
    size = (side_px, side_px)
    return torch.stack([interpolate(s[:, None].float(), size=size, mode="bilinear")[:, 0] for s in stages], dim=1)


def over_own_mean(
    fine: Float[Tensor, "batch stages side side"], shown: Bool[Tensor, "batch 1 side side"]
) -> Float[Tensor, "batch stages side side"]:
    """In multiples of the mean over what of the window shows brain; as it is where that is 0, as without any brain."""
    n_shown = shown.sum(dim=(2, 3), keepdim=True)
    mean = torch.where(shown, fine, 0.0).sum(dim=(2, 3), keepdim=True) / n_shown.clamp_min(1)
    return fine / torch.where(mean > 0, mean, 1.0)


def _batches(slices: Sequence[int], windows: Sequence[Window], batch_size: int) -> Iterator[list[tuple[int, Window]]]:
    pairs = [(index, window) for index in slices for window in windows]
    for start in range(0, len(pairs), batch_size):
        yield pairs[start : start + batch_size]


def _cut(images: Tensor, batch: Sequence[tuple[int, Window]], fov_px: int) -> Tensor:
    return torch.stack([images[index, :, top : top + fov_px, left : left + fov_px] for index, (top, left) in batch])
