"""What a network saw of a head, raw: every block's attended tokens, before anything is combined; and its cache.

The network looks at each slice once as it is, which gives the maps of all `WEIGHTINGS`; then in each of the `POSES`, at
the slices that pass the gate or hold blood; and then at the head without what was found, up to `ROUNDS` times.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from ablation_heads import Head
from scipy import ndimage

from hgisam import Segmenter
from hgisam.attention import lay_on_grid, pair_product, token_map
from hgisam.brain import BrainOptions, midsagittal_line
from hgisam.labels import Subtype
from hgisam.model.classifier import HemorrhageClassifier
from hgisam.model.swin import BlockGrid, SwinOptions
from hgisam.pipeline import SegmentationResult
from hgisam.preprocess import PreprocessOptions, SliceBatch, preprocess
from hgisam.refine import Components, MappedScan
from hgisam.refine.pieces import box_about
from hgisam.refine.refiner import SKULL_MM
from hgisam.segment import Window, WindowOptions, plan_windows, stitch_stage_maps
from hgisam.volume import CTVolume
from hgisam.weak import HGI_SAM, frozen

OURS = Components()
WINDOWS = WindowOptions()
WEIGHTINGS = (
    "none", "scores", "weights", "positive scores", "positive weights", "attended", "raising", "net raising",
)  # fmt: skip
"""How attention becomes a token's worth. A window's heads weighed by nothing; by the norm of the gradient of attention
scores, or weights; by the norm of its positive part. Or token by token, mean over heads and queries: the positive part
of the weights' gradient times the weights; the positive part of the scores' gradient; that of its mean."""
POSED = ("scores", "attended")
"""Of the poses, these are kept."""
POSES = ("mirrored", "half a patch", "half a window")
"""Left and right exchanged; moved down and left by half a patch of pixels, or half an attention window of stage 1."""
ROUNDS = 2
"""How often at most what was found is erased and the network asked again."""
ERASED_MM = 2.0
"""Around what was found, this much more is erased in plane: a bleed's blurred edge is blood too."""
STAGES = (1, 2, 3, 4)
BATCH = 4
"""Windows per pass."""

FIELDS = ("reference", "region", "probabilities", "gated", "log_odds", "erased")
"""Tensors of `Seen` that are kept as they are."""

BlockMaps = list[tuple[BlockGrid, torch.Tensor]]


class KeptAttention:
    """An `Attend` that keeps scores and weights of every block, for autograd to differentiate by.

    hgisam.model.recorder has the norms at a fraction of the memory; their positive parts it has not.
    """

    def __init__(self) -> None:
        self.grids: list[BlockGrid] = []
        self.scores: list[torch.Tensor] = []
        self.weights: list[torch.Tensor] = []

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, grid: BlockGrid
    ) -> torch.Tensor:
        """Attend and keep."""
        scores = query / query.shape[-1] ** 0.5 @ key.transpose(-2, -1) + bias
        scores = scores if scores.requires_grad else scores.requires_grad_()
        weights = scores.softmax(dim=-1)
        self.grids.append(grid)
        self.scores.append(scores)
        self.weights.append(weights)
        attended: torch.Tensor = weights @ value
        return attended


def block_maps(model: HemorrhageClassifier, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, BlockMaps]]:
    """Log-odds of each image, and by weighting the map of each block on its token grid."""
    kept = KeptAttention()
    with frozen(model):
        logits = model(images, attend=kept)
        target = model.hemorrhage_logit(logits, Subtype.ANY).sum()
        by_scores, by_weights = (
            torch.autograd.grad(target, by, retain_graph=True) for by in (kept.scores, kept.weights)
        )
    maps: dict[str, BlockMaps] = {name: [] for name in WEIGHTINGS}
    for grid, weights, ds, da in zip(kept.grids, kept.weights, by_scores, by_weights, strict=True):
        attention = weights.detach()
        means = attention.mean(dim=-2)
        heads = {
            "none": torch.ones_like(means[..., 0]),
            "scores": norm(ds),
            "weights": norm(da),
            "positive scores": norm(ds.clamp_min(0)),
            "positive weights": norm(da.clamp_min(0)),
        }
        tokens = {name: token_map(means, by_head) for name, by_head in heads.items()}
        tokens["attended"] = (da.clamp_min(0) * attention).mean(dim=(2, 3))
        tokens["raising"] = ds.clamp_min(0).mean(dim=(2, 3))
        tokens["net raising"] = ds.mean(dim=(2, 3)).clamp_min(0)
        for name in WEIGHTINGS:
            maps[name].append((grid, lay_on_grid(tokens[name], grid)))
    return model.log_odds(logits.detach(), Subtype.ANY), maps


def norm(matrices: torch.Tensor) -> torch.Tensor:
    """Frobenius."""
    norms: torch.Tensor = torch.linalg.vector_norm(matrices, dim=(-2, -1))
    return norms


def shift_px(pose: str, swin: SwinOptions) -> int:
    """By how much a pose moves the image, in both directions."""
    shifts = {"half a patch": swin.patch_size // 2, "half a window": swin.patch_size * swin.window // 2}
    return shifts.get(pose, 0)


def posed(images: torch.Tensor, pose: str, shift: int) -> torch.Tensor:
    """Images in a pose. What leaves on one side comes in on the other, so that nothing is lost on the way back."""
    return images.flip(-1) if pose == "mirrored" else images.roll((shift, -shift), dims=(-2, -1))


def unposed(maps: torch.Tensor, pose: str, shift: int) -> torch.Tensor:
    """Maps of images in a pose, back where the images were."""
    return maps.flip(-1) if pose == "mirrored" else maps.roll((-shift, shift), dims=(-2, -1))


@dataclass(frozen=True, eq=False)
class Seen:
    """A head as the network saw it. Windows run through the windows of each slice, slice by slice.

    Attributes:
        kind: phantom or painted, which bled; normal or unpainted, which did not.
        batch: the canvas and the way back, of all slices; without images.
        probabilities: of each slice; 0 without brain.
        gated: the slices that the gate lets pass.
        log_odds: of each window of the slices with brain, divided by the temperature.
        blocks: by weighting and stage, the blocks' maps [windows, blocks, rows, cols] of the slices with brain.
        pose_log_odds, poses: the same for the slices in `posed_slices`; by pose, weighting and stage,
            the stage's maps [windows, rows, cols], still in the pose.
        erased: saliency of the head without what was found, [rounds, depth, height, width].
        pass_s: CPU seconds of a pass over one window.
        erased_s: CPU seconds of each round.
    """

    kind: str
    name: str
    ct: CTVolume
    reference: torch.Tensor
    region: torch.Tensor
    median_hu: float
    batch: SliceBatch
    swin: SwinOptions
    probabilities: torch.Tensor
    gated: torch.Tensor
    log_odds: torch.Tensor
    blocks: dict[tuple[str, int], torch.Tensor]
    pose_log_odds: dict[str, torch.Tensor]
    poses: dict[tuple[str, str, int], torch.Tensor]
    erased: torch.Tensor
    pass_s: float
    erased_s: list[float]

    @property
    def bled(self) -> bool:
        """Whether there is blood."""
        return bool(self.reference.any())

    @cached_property
    def slices(self) -> list[int]:
        """Those that show brain."""
        return torch.nonzero(self.region.flatten(1).any(dim=1)).flatten().tolist()

    @cached_property
    def posed_slices(self) -> list[int]:
        """Those that a row is judged by: gated, or with blood."""
        return [i for i in self.slices if self.gated[i] or self.reference[i].any()]

    @cached_property
    def windows(self) -> list[Window]:
        """Where the network's field of view lay on the canvas."""
        height, width = self.batch.region.shape[1:]
        return plan_windows((height, width), self.swin.img_size, WINDOWS)

    @property
    def n_passes(self) -> int:
        """Of the network, for the maps of the slices that pass the gate."""
        return int(self.gated.sum()) * len(self.windows)

    def stages(self, weighting: str = "scores") -> list[torch.Tensor]:
        """Each stage's raw map [windows, rows, cols], as HGI-SAM makes it of its blocks."""
        return [pair_product(self.blocks[weighting, stage].unbind(dim=1)) for stage in STAGES]

    def canvas(self, weighting: str = "scores") -> torch.Tensor:
        """The stages' maps of all slices with brain [slices, stages, height, width], as the package stitches them."""
        return self.stitched(self.stages(weighting))

    def stitched(
        self,
        stages: Sequence[torch.Tensor],
        log_odds: torch.Tensor | None = None,
        *,
        comparable: bool = True,
        over_brain: bool = True,
    ) -> torch.Tensor:
        """Raw maps of all windows as the package lays them on the canvas; or in multiples of whole windows' means."""
        known = self.log_odds if log_odds is None else log_odds
        region = self.batch.region if over_brain else torch.ones_like(self.batch.region)
        side, n = self.swin.img_size, len(self.slices) * len(self.windows)
        return stitch_stage_maps(
            lambda images: (known, stages), self.batch.images, region, self.slices, self.windows, side, n,
            torch.device("cpu"), WINDOWS, comparable=comparable,
        )  # fmt: skip

    def saliency(self, mapped: torch.Tensor) -> torch.Tensor:
        """A map of the slices with brain [slices, height, width] on the scan's grid, for the slices of `posed_slices`,
        0 elsewhere; its highest value in gated slices is 1."""
        found = torch.zeros(self.ct.hu.shape)
        rows = [self.slices.index(i) for i in self.posed_slices]
        if rows:
            batch = self.batch
            part = SliceBatch(
                batch.images[self.posed_slices], batch.region[self.posed_slices],
                batch.relative_hu[self.posed_slices], batch.sampling[self.posed_slices],
                (len(rows), batch.native_shape[1], batch.native_shape[2]), batch.spacing_mm,
            )  # fmt: skip
            found[self.posed_slices] = part.to_native(mapped[rows]).clamp_min(0) * self.region[self.posed_slices]
        return self.scaled(found)

    def scaled(self, saliency: torch.Tensor) -> torch.Tensor:
        """So that the highest value in gated slices is 1; where the gate closes all, in any."""
        peak = saliency[self.gated].amax() if self.gated.any() else saliency.amax()
        return saliency / peak.clamp_min(torch.finfo(torch.float32).tiny)

    @cached_property
    def box(self) -> tuple[slice, ...]:
        """Around the region in gated slices, as wide as an outline looks."""
        gated_region = (self.region & self.gated[:, None, None]).numpy()
        found = box_about(gated_region, (math.inf, *self.ct.spacing_mm[1:]), SKULL_MM)
        if found is None:
            raise ValueError(f"{self.ct.source}: expected a slice that passed the gate; got none")
        return found

    @cached_property
    def scan(self) -> MappedScan:
        """That box as the outline sees it, gated slices lit throughout."""
        return self.scan_with(self.gated[:, None, None].expand(self.region.shape).float())

    def scan_with(self, saliency: torch.Tensor) -> MappedScan:
        """The same with a map."""
        return MappedScan(
            saliency=saliency[self.box].contiguous(), hu=self.ct.hu[self.box], region=self.region[self.box],
            median_hu=self.median_hu, threshold=1.0, spacing_mm=self.ct.spacing_mm[1:],
            distances_mm=self.ct.slice_distances_mm[self.box[0]],
        )  # fmt: skip

    @cached_property
    def excess_hu(self) -> torch.Tensor:
        """Over what is normal, in the box."""
        return OURS.excess_hu(self.scan)


def swin_of(segmenter: Segmenter) -> HemorrhageClassifier:
    """Its network."""
    model = segmenter.weights.model
    if not isinstance(model, HemorrhageClassifier) or model.n_stages != len(STAGES):
        raise SystemExit("expected weights of a Swin Transformer of four stages; got others; give such")
    return model


def look_at(segmenter: Segmenter, head: Head) -> Seen:
    """Ask the network all that the rows need."""
    ct, reference = head.make()
    result = segmenter.segment((ct.hu.numpy(), ct.affine.numpy()))
    metadata, model = segmenter.weights.metadata, swin_of(segmenter)
    midline = midsagittal_line(result.ct, result.region, BrainOptions.model_validate(metadata.brain))
    options = PreprocessOptions.model_validate(metadata.preprocess)
    batch = preprocess(result.ct, result.region, midline, result.brain_median_hu, options)
    bare = replace(batch, images=batch.images[:, :0], relative_hu=torch.zeros_like(batch.relative_hu))
    erased, erased_s = look_again(segmenter, result, result.brain_median_hu)
    seen = Seen(
        kind=head.kind, name=head.name, ct=result.ct, reference=reference, region=result.region,
        median_hu=result.brain_median_hu, batch=bare, swin=model.options.swin,
        probabilities=torch.from_numpy(result.slice_probabilities), gated=torch.from_numpy(result.slice_gated),
        log_odds=torch.zeros(0), blocks={}, pose_log_odds={}, poses={}, erased=erased, pass_s=0.0, erased_s=erased_s,
    )  # fmt: skip
    log_odds, blocks = as_it_is(model, windows_of(seen, batch.images, seen.slices))
    to_pose = windows_of(seen, batch.images, seen.posed_slices)
    pose_log_odds: dict[str, torch.Tensor] = {}
    poses: dict[tuple[str, str, int], torch.Tensor] = {}
    pass_s = 0.0
    if len(to_pose):
        pose_log_odds, poses = in_poses(model, to_pose)
        pass_s = seconds_per_pass(model, to_pose)
    calibrated = {pose: found / metadata.temperature for pose, found in pose_log_odds.items()}
    return replace(
        seen, log_odds=log_odds / metadata.temperature, blocks=blocks, pose_log_odds=calibrated, poses=poses,
        pass_s=pass_s,
    )  # fmt: skip


def windows_of(seen: Seen, images: torch.Tensor, slices: list[int]) -> torch.Tensor:
    """What the network sees of slices, window by window."""
    side = seen.swin.img_size
    cut = [images[i, :, top : top + side, left : left + side] for i in slices for top, left in seen.windows]
    return torch.stack(cut) if cut else images.new_zeros(0, images.shape[1], side, side)


def as_it_is(
    model: HemorrhageClassifier, images: torch.Tensor
) -> tuple[torch.Tensor, dict[tuple[str, int], torch.Tensor]]:
    """Log-odds, and all blocks' maps, of windows."""
    found = [block_maps(model, part) for part in torch.split(images, BATCH)]
    blocks = {
        (name, stage): torch.cat(
            [torch.stack([m for grid, m in maps[name] if grid.stage == stage], dim=1) for _, maps in found]
        )
        for name in WEIGHTINGS
        for stage in STAGES
    }
    return torch.cat([log_odds for log_odds, _ in found]), blocks


def in_poses(
    model: HemorrhageClassifier, images: torch.Tensor
) -> tuple[dict[str, torch.Tensor], dict[tuple[str, str, int], torch.Tensor]]:
    """Log-odds and stage maps of windows in every pose."""
    log_odds, maps = {}, {}
    for pose in POSES:
        log_odds[pose], blocks = as_it_is(model, posed(images, pose, shift_px(pose, model.options.swin)))
        for name in POSED:
            for stage in STAGES:
                maps[pose, name, stage] = pair_product(blocks[name, stage].unbind(dim=1))
    return log_odds, maps


def seconds_per_pass(model: HemorrhageClassifier, images: torch.Tensor) -> float:
    """CPU seconds that HGI-SAM takes for a window's maps."""
    started = time.process_time()
    for part in torch.split(images, BATCH):
        HGI_SAM.stage_maps(model, part)
    return (time.process_time() - started) / max(1, len(images))


def look_again(segmenter: Segmenter, result: SegmentationResult, median_hu: float) -> tuple[torch.Tensor, list[float]]:
    """Erase what was found, ask again, and so on: the saliency of each round, and its CPU seconds.

    What was found becomes brain of median HU. It ends where nothing is left to erase, or no slice passes the gate.
    """
    ct = result.ct
    hu, found = ct.hu.clone(), result.mask_volume.voxels
    rounds: list[torch.Tensor] = []
    seconds: list[float] = []
    while len(rounds) < ROUNDS and found.any():
        hu[around(found, ct.spacing_mm[1:]) & result.region] = median_hu
        started = time.process_time()
        again = segmenter.segment((hu.numpy(), ct.affine.numpy()))
        seconds.append(time.process_time() - started)
        if not again.slice_gated.any():
            break
        rounds.append(again.saliency_house * result.region)
        found = again.mask_volume.voxels
    return torch.stack(rounds) if rounds else torch.zeros(0, *hu.shape), seconds


def around(mask: torch.Tensor, spacing_mm: tuple[float, float]) -> torch.Tensor:
    """A mask grown in plane by `ERASED_MM`."""
    grown = mask.clone()
    for index in torch.nonzero(mask.flatten(1).any(dim=1)).flatten().tolist():
        away_mm = ndimage.distance_transform_edt(~mask[index].numpy(), sampling=spacing_mm)
        grown[index] = torch.from_numpy(away_mm <= ERASED_MM)
    return grown


def kept(cache: Path, segmenter: Segmenter, head: Head) -> Seen:
    """A look from the cache of this edition of weights, put there where it is not."""
    folder = cache / str(segmenter.weights.sha256)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{head.kind}_{head.name}.npz"
    if not path.exists():
        save(path, look_at(segmenter, head))
    return load(path, head, segmenter)


def save(path: Path, seen: Seen) -> None:
    """Into one file, whole or not at all."""
    keyed = {f"block/{name}/{stage}": maps for (name, stage), maps in seen.blocks.items()}
    keyed |= {f"pose/{pose}/{name}/{stage}": maps for (pose, name, stage), maps in seen.poses.items()}
    keyed |= {f"log_odds/{pose}": log_odds for pose, log_odds in seen.pose_log_odds.items()}
    keyed |= {name: getattr(seen, name) for name in FIELDS} | {"hu": seen.ct.hu, "affine": seen.ct.affine}
    keyed |= {"canvas": seen.batch.region, "sampling": seen.batch.sampling}
    partial = path.with_suffix(".part.npz")
    arrays = {name: t.numpy() for name, t in keyed.items()}
    arrays |= {"erased_s": np.array(seen.erased_s), "median_hu": np.array(seen.median_hu)}
    arrays |= {"spacing_mm": np.array(seen.batch.spacing_mm), "pass_s": np.array(seen.pass_s)}
    np.savez_compressed(partial, allow_pickle=False, **arrays)
    partial.rename(path)


def load(path: Path, head: Head, segmenter: Segmenter) -> Seen:
    """What `save` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    t = {name: torch.from_numpy(array) for name, array in arrays.items()}
    canvas = t["canvas"]
    bare = torch.zeros(len(canvas), 0, *canvas.shape[1:])
    ct = CTVolume(t["hu"], t["affine"], f"{head.kind} {head.name}")
    depth, height, width = ct.hu.shape
    batch = SliceBatch(
        bare, canvas, torch.zeros(canvas.shape), t["sampling"], (depth, height, width), float(arrays["spacing_mm"])
    )
    blocks: dict[tuple[str, int], torch.Tensor] = {}
    poses: dict[tuple[str, str, int], torch.Tensor] = {}
    pose_log_odds: dict[str, torch.Tensor] = {}
    for key in arrays:
        match key.split("/"):
            case ["block", name, stage]:
                blocks[name, int(stage)] = t[key]
            case ["pose", pose, name, stage]:
                poses[pose, name, int(stage)] = t[key]
            case ["log_odds", pose]:
                pose_log_odds[pose] = t[key]
    return Seen(
        kind=head.kind, name=head.name, ct=ct, median_hu=float(arrays["median_hu"]), batch=batch,
        swin=swin_of(segmenter).options.swin, blocks=blocks, poses=poses, pose_log_odds=pose_log_odds,
        pass_s=float(arrays["pass_s"]), erased_s=arrays["erased_s"].tolist(), **{name: t[name] for name in FIELDS},
    )  # fmt: skip
