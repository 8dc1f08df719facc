"""What may raise the map: every candidate on the same looks of the network, one row each.

    python tools/map_ablation.py --for choosing --data ../shared/realdata/ct_ich --cache CACHE
    python tools/map_ablation.py --for judging --data ../shared/realdata/ct_ich --cache CACHE

Heads are those of ablation_heads.py; `--for choosing` fits what a row learns (on phantoms alone) and the threshold that
is best for its map (on all heads that bled), and keeps both in the cache for `--for judging`. Weights that have learned
from these very patients say nothing of painted bleeds: `--out-of-fold FOLDER...` looks at each patient with the network
of the fold that had not seen them (tools/cross_validate.py), at phantoms with `--weights`.

AP: voxel average precision of the map, free of any threshold, inside the region of a head's slices that hold blood,
whether the gate passes them or not. Dice: of the default outline on the map of the slices that the gate passes; a head
that it closes counts as 0. Cut: Dice of that map cut at the kept threshold. False ml: of that outline in heads that did
not bleed. Gains are over the row that is named, head by head; intervals are 95 % bootstrap intervals over heads.
Seconds are of CPU per head that the gate passes: passes of the network at the slices that pass it, and the row's own. A
pass counts as one of HGI-SAM's.

The network looks at a head once; the looks are kept by the weights' sha256, so that a table is soon made again.
"""

import argparse
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from ablation_heads import BLED, Compared, Head, add_arguments, heads, shown, with_compared
from evaluate_on_labels import segmenters
from map_looks import OURS, POSED, POSES, Seen, kept, shift_px, unposed, windows_of
from scipy.optimize import minimize
from torch.nn.functional import interpolate

from hgisam import Segmenter
from hgisam.evaluate.overlap import overlap
from hgisam.evaluate.statistics import mean_interval
from hgisam.pipeline import SegmentOptions
from hgisam.refine import remove_small_components
from hgisam.segment import AggregationOptions, aggregate, agreed_over_slices, over_own_mean

PUBLISHED = "norm of scores"
"""HGI-SAM's gradient in the package's aggregation, against which others are held."""
VOLUME = AggregationOptions()
SLICE = AggregationOptions(normalisation="slice")
TINY = torch.finfo(torch.float32).tiny
FLOOR = 1e-6
"""A stage's share of its highest value counts as no less, where its logarithm is learned from."""
N_NEGATIVE = 3
"""Slices at least that show what a scan's maps are like without blood."""
LEAST_TYPICAL = 0.1
"""Nowhere does a map without blood count as less than this share of its mean."""
CUTS = np.geomspace(0.01, 0.9, 60)
"""Thresholds that are tried."""
SAMPLED = 2000
"""Voxels of blood, and as many times two of others, that a phantom gives to what is learned."""

Learned = dict[str, tuple[float, ...]]
"""By weighting: how much each stage counts."""
Mapped = Callable[[Seen, Learned], torch.Tensor]


@dataclass(frozen=True)
class Row(Compared):
    """A candidate: the row that it is compared with, and its way from a look to a map.

    Attributes:
        mapped: the map [slices, height, width] on the canvas, of the slices with brain.
        passes: of the network, per head.
        rounds: of erasing that are added to it.
    """

    mapped: Mapped
    passes: Callable[[Seen], float] = field(default=lambda seen: seen.n_passes)
    rounds: int = 0


def combined(stages: torch.Tensor, seen: Seen, options: AggregationOptions = VOLUME) -> torch.Tensor:
    """The package's product over stages."""
    return aggregate(stages, seen.batch.region[seen.slices], options)


def product(weighting: str, *stages: int) -> Mapped:
    """Of these stages, the package's for a weighting."""
    return lambda seen, _: combined(seen.canvas(weighting)[:, [stage - 1 for stage in stages]], seen)


by_scores = product("scores", 1, 2, 3)


def relative(seen: Seen, stages: torch.Tensor) -> torch.Tensor:
    """Each stage's share of its highest value over the scan's region."""
    visible = stages * seen.batch.region[seen.slices][:, None]
    return visible / visible.amax(dim=(0, 2, 3), keepdim=True).clamp_min(TINY)


def pairs_mean(seen: Seen, _: Learned) -> torch.Tensor:
    """The regular and the shifted block's mean, squared, where else is their product."""
    stages = []
    for stage in (1, 2, 3):
        blocks = seen.blocks["scores", stage]
        stages.append(((blocks[:, ::2] + blocks[:, 1::2]) / 2).square().mean(dim=1))
    return combined(seen.stitched(stages), seen)


def rolled_last(seen: Seen, _: Learned) -> torch.Tensor:
    """All four stages, the last one's second block rolled by half a window as published, though it did not shift."""
    regular, second = seen.blocks["scores", 4].unbind(dim=1)
    half = min(seen.swin.window, second.shape[-1]) // 2
    return combined(seen.stitched([*seen.stages()[:3], regular * second.roll((half, half), dims=(1, 2))]), seen)


def mean_of_stages(weighting: str) -> Mapped:
    """Of the roots of stages 1 to 3, which have the product's scale."""
    return lambda seen, _: relative(seen, seen.canvas(weighting))[:, :3].sqrt().mean(dim=1)


def maximum_of_stages(seen: Seen, _: Learned) -> torch.Tensor:
    """Of the roots."""
    return relative(seen, seen.canvas())[:, :3].sqrt().amax(dim=1)


def learned(weighting: str) -> Mapped:
    """A geometric mean with weights that were fitted on phantoms."""
    return lambda seen, weights: geometric(relative(seen, seen.canvas(weighting)), weights[weighting])


def learned_over(*poses: str, weighting: str, against: str) -> Row:
    """The same of the mean over poses."""
    return Row(
        against,
        lambda seen, weights: geometric(relative(seen, posed_mean(seen, poses, weighting)), weights[weighting]),
        lambda seen: seen.n_passes * (1 + len(poses)),
    )


def geometric(stages: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """The product over stages [slices, stages, ...] of their powers; one of weight 0 takes no part."""
    found = torch.ones_like(stages[:, 0])
    for stage, weight in zip(stages.unbind(dim=1), weights, strict=True):
        if weight > 0:
            found = found * stage.pow(weight)
    return found


def by_slice(seen: Seen, _: Learned) -> torch.Tensor:
    """Each slice stretched by itself, as published."""
    return combined(seen.stitched(seen.stages()[:3], comparable=False), seen, SLICE)


def raw(seen: Seen, _: Learned) -> torch.Tensor:
    """One scale for the volume, but neither multiples of the mean nor probabilities."""
    return combined(seen.stitched(seen.stages()[:3], comparable=False), seen)


def over_window(weighting: str) -> Mapped:
    """Stages 1 to 3 in multiples of the whole window's mean, so that they are the brighter the less brain it shows."""
    return lambda seen, _: combined(seen.stitched(seen.stages(weighting)[:3], over_brain=False), seen)


def over_both(seen: Seen, _: Learned) -> torch.Tensor:
    """Stages 1 to 3 in multiples of the geometric mean of the mean over brain and the whole window's."""
    stages = seen.stages("attended")[:3]
    return combined((seen.stitched(stages) * seen.stitched(stages, over_brain=False)).sqrt(), seen)


def multiples(seen: Seen) -> torch.Tensor:
    """Stages 1 to 3 in multiples of each window's mean, without its probability."""
    return seen.stitched(seen.stages()[:3], torch.full_like(seen.log_odds, torch.inf))


def negative_rows(seen: Seen) -> list[int]:
    """The slices with brain that the gate closes; where those are few, the least likely third."""
    closed = [row for row, index in enumerate(seen.slices) if not seen.gated[index]]
    if len(closed) >= N_NEGATIVE:
        return closed
    least = max(N_NEGATIVE, len(seen.slices) // 3)
    return seen.probabilities[seen.slices].argsort()[:least].tolist()


def against_negatives(*, divided: bool) -> Row:
    """The map over, or less, the mean of the scan's negative slices that show brain at the same place of the canvas, by
    stage; 1, the mean over brain, where none does."""

    def mapped(seen: Seen, _: Learned) -> torch.Tensor:
        stages, rows = multiples(seen), negative_rows(seen)
        brain = seen.batch.region[seen.slices][rows][:, None]
        n = brain.sum(dim=0, keepdim=True)
        mean = stages[rows].sum(dim=0, keepdim=True) / n.clamp_min(1)
        typical = torch.where(n > 0, mean, 1.0).clamp_min(LEAST_TYPICAL)
        standing_out = stages / typical if divided else (stages - typical).clamp_min(0)
        likely = seen.stitched([torch.ones_like(stage) for stage in seen.stages()[:1]])
        return combined(standing_out * likely, seen)

    def passes(seen: Seen) -> float:
        return seen.n_passes + len(negative_rows(seen)) * len(seen.windows)

    return Row(PUBLISHED, mapped, passes)


def neighbours(mapped: Mapped, *, times: bool) -> Mapped:
    """Each slice's map as a Gaussian mean over slices by their distance in mm, or its geometric mean with that."""

    def smoothed(seen: Seen, weights: Learned) -> torch.Tensor:
        own, at_mm = mapped(seen, weights), seen.ct.slice_distances_mm[seen.slices]
        if times:
            return agreed_over_slices(own, at_mm, VOLUME.neighbours_mm)
        away = (at_mm[:, None] - at_mm[None, :]) / VOLUME.neighbours_mm
        return torch.einsum("ij,jhw->ihw", (-0.5 * away.square()).float().softmax(dim=1), own)

    return smoothed


def averaged_over(*poses: str, weighting: str = "scores", against: str = PUBLISHED) -> Row:
    """The mean over poses, as it is among them: each in multiples of its own mean, the log-odds' mean for all."""
    return Row(
        against,
        lambda seen, _: combined(posed_mean(seen, poses, weighting)[:, :3], seen),
        lambda seen: seen.n_passes * (1 + len(poses)),
    )


def posed_mean(seen: Seen, poses: Sequence[str], weighting: str) -> torch.Tensor:
    """Of all stages, on the canvas. Slices that were not posed are as they are."""
    n, side = len(seen.windows), seen.swin.img_size
    rows = [seen.slices.index(i) * n + window for i in seen.posed_slices for window in range(n)]
    region = windows_of(seen, seen.batch.region[:, None], seen.slices)[:, 0]
    log_odds, stages = seen.log_odds.clone(), [over_brain(fine(maps, side), region) for maps in seen.stages(weighting)]
    log_odds[rows] = torch.stack([log_odds[rows], *(seen.pose_log_odds[pose] for pose in poses)]).mean(dim=0)
    for stage, maps in enumerate(stages, start=1):
        back = [
            unposed(fine(seen.poses[pose, weighting, stage], side), pose, shift_px(pose, seen.swin)) for pose in poses
        ]
        maps[rows] = torch.stack([maps[rows], *(over_brain(each, region[rows]) for each in back)]).mean(dim=0)
    return seen.stitched(stages, log_odds)


def fine(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Raw maps at the image's resolution."""
    return interpolate(maps[:, None], size=(side, side), mode="bilinear")[:, 0]


def over_brain(maps: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """In multiples of their own mean over brain; 0 elsewhere."""
    return torch.where(region, over_own_mean(maps[:, None], region[:, None])[:, 0], 0.0)


ATTENDED = "positive part x attention"
"""The package's map of a slice."""
DEFAULT = "it times neighbours"
"""The package's map of a scan, but for slices that the gate closes: there, they are dark to their neighbours."""
ROWS = {
    PUBLISHED: Row(None, by_scores),
    "no gradient": Row(PUBLISHED, product("none", 1, 2, 3)),
    "gradient of weights": Row(PUBLISHED, product("weights", 1, 2, 3)),
    "positive part, scores": Row(PUBLISHED, product("positive scores", 1, 2, 3)),
    "positive part, weights": Row(PUBLISHED, product("positive weights", 1, 2, 3)),
    "positive scores, by token": Row(PUBLISHED, product("raising", 1, 2, 3)),
    "positive sum, by token": Row(PUBLISHED, product("net raising", 1, 2, 3)),
    "mean of pairs": Row(PUBLISHED, pairs_mean),
    "stage 1": Row(PUBLISHED, product("scores", 1)),
    "stage 2": Row(PUBLISHED, product("scores", 2)),
    "stage 3": Row(PUBLISHED, product("scores", 3)),
    "stage 4": Row(PUBLISHED, product("scores", 4)),
    "stages 1, 2": Row(PUBLISHED, product("scores", 1, 2)),
    "stages 2, 3": Row(PUBLISHED, product("scores", 2, 3)),
    "stages 1 to 4": Row(PUBLISHED, product("scores", 1, 2, 3, 4)),
    "stages 1 to 4, last rolled": Row("stages 1 to 4", rolled_last),
    "mean of stages": Row(PUBLISHED, mean_of_stages("scores")),
    "maximum of stages": Row(PUBLISHED, maximum_of_stages),
    "learned on phantoms": Row(PUBLISHED, learned("scores")),
    "each slice by itself": Row(PUBLISHED, by_slice),
    "volume, raw": Row(PUBLISHED, raw),
    "over the window's mean": Row(PUBLISHED, over_window("scores")),
    "without probability": Row(PUBLISHED, lambda seen, _: combined(multiples(seen), seen)),
    "over negative slices": against_negatives(divided=True),
    "less negative slices": against_negatives(divided=False),
    "mean with neighbours": Row(PUBLISHED, neighbours(by_scores, times=False)),
    "times neighbours": Row(PUBLISHED, neighbours(by_scores, times=True)),
    "mirrored": averaged_over("mirrored"),
    "half a patch": averaged_over("half a patch"),
    "half a window": averaged_over("half a window"),
    "all poses": averaged_over(*POSES),
    ATTENDED: Row(PUBLISHED, product("attended", 1, 2, 3)),
    "its stages 1 to 4": Row(ATTENDED, product("attended", 1, 2, 3, 4)),
    "its stages 2, 3": Row(ATTENDED, product("attended", 2, 3)),
    "its stage 3": Row(ATTENDED, product("attended", 3)),
    "its mean of stages": Row(ATTENDED, mean_of_stages("attended")),
    "it over the window's mean": Row(ATTENDED, over_window("attended")),
    "it over both means": Row(ATTENDED, over_both),
    "it learned on phantoms": Row(ATTENDED, learned("attended")),
    DEFAULT: Row(ATTENDED, neighbours(product("attended", 1, 2, 3), times=True)),
    "it averaged with neighbours": Row(ATTENDED, neighbours(product("attended", 1, 2, 3), times=False)),
    "its half a window": averaged_over("half a window", weighting="attended", against=ATTENDED),
    "all its poses": averaged_over(*POSES, weighting="attended", against=ATTENDED),
    "it learned, all poses": learned_over(*POSES, weighting="attended", against="all its poses"),
    "it erased once": Row(ATTENDED, product("attended", 1, 2, 3), rounds=1),
    "it erased twice": Row("it erased once", product("attended", 1, 2, 3), rounds=2),
}
"""`it` is the positive part x attention."""


def saliency_of(seen: Seen, row: Row, weights: Learned) -> torch.Tensor:
    """A row's map on the scan's grid; rounds of erasing, each with a highest value of 1, are added."""
    found = seen.saliency(row.mapped(seen, weights))
    for again in seen.erased[: row.rounds]:
        found = found + again
    return seen.scaled(found)


def average_precision(scores: np.ndarray, blood: np.ndarray) -> float:
    """Sum over thresholds of precision times the recall it adds; equal scores are one threshold."""
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(blood[order])
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    true = found[ends]
    return float((np.diff(true, prepend=0) * true / (ends + 1)).sum() / true[-1])


def voxel_precision(seen: Seen, saliency: torch.Tensor) -> float:
    """Average precision inside the region of slices that hold blood."""
    inside = seen.region & seen.reference.flatten(1).any(dim=1)[:, None, None]
    return average_precision(saliency[inside].numpy(), seen.reference[inside].numpy())


def outline(seen: Seen, saliency: torch.Tensor) -> torch.Tensor:
    """The default outline's mask."""
    mask = torch.zeros_like(seen.region)
    if seen.gated.any():
        scan = seen.scan_with(saliency * seen.gated[:, None, None])
        blood = OURS.up_to_the_skull(scan, torch.from_numpy(OURS.outlined(scan, seen.excess_hu) > 0))
        mm3 = 1000.0 * seen.ct.slice_voxel_ml[seen.box[0]]
        mask[seen.box] = remove_small_components(blood, mm3, OURS.min_component_mm3)
    return mask


def cut_dice(seen: Seen, saliency: torch.Tensor) -> np.ndarray:
    """Dice of the map of gated slices cut at each of `CUTS`."""
    inside = seen.region & seen.gated[:, None, None]
    level = np.searchsorted(CUTS, saliency[inside].numpy(), side="right")
    blood = seen.reference[inside].numpy()
    marked = np.bincount(level, minlength=len(CUTS) + 1)[::-1].cumsum()[::-1][1:]
    both = np.bincount(level[blood], minlength=len(CUTS) + 1)[::-1].cumsum()[::-1][1:]
    dice: np.ndarray = 2 * both / (marked + int(seen.reference.sum()))
    return dice


def fitted(samples: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, ...]:
    """Weights of stages, at least 0, by which logarithms of their maps tell blood best: a logistic regression.

    They are brought to the sum of a half, which the package's have: a stage's map is a product of two.

    Args:
        samples: of each head, logarithms [voxels, stages], and which of the voxels are blood.
    """
    x, blood = np.concatenate([x for x, _ in samples]), np.concatenate([blood for _, blood in samples])
    sign = np.where(blood, 1.0, -1.0)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ parameters[:-1] + parameters[-1])
        slope = -sign / (1 + np.exp(margin.clip(-500, 500))) / len(x)
        return float(np.logaddexp(0, -margin).mean()), np.append(slope @ x, slope.sum())

    n = x.shape[1]
    if not blood.any():
        raise SystemExit("expected phantoms with blood to learn from; got none; ask for some with --phantoms")
    bounds = [(0.0, None)] * n + [(None, None)]
    found = minimize(loss, np.append(np.full(n, 0.5 / n), 0.0), jac=True, method="L-BFGS-B", bounds=bounds).x[:-1]
    return tuple(float(weight) for weight in 0.5 * found / found.sum())


def sampled(seen: Seen, weighting: str) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of slices that hold blood, on the canvas."""
    blood = seen.batch.to_canvas(seen.reference.float())[seen.slices] >= 0.5
    inside = seen.batch.region[seen.slices] & blood.flatten(1).any(dim=1)[:, None, None]
    logs = relative(seen, seen.canvas(weighting)).clamp_min(FLOOR).log().movedim(1, -1)
    chance = np.random.default_rng(0)
    parts = []
    for where, n in ((inside & blood, SAMPLED), (inside & ~blood, 2 * SAMPLED)):
        values = logs[where].double().numpy()
        parts.append(values[chance.permutation(len(values))[:n]])
    return np.concatenate(parts), np.arange(sum(map(len, parts))) < len(parts[0])


@dataclass
class Measured:
    """Every row's figures, head by head, in the order of the heads: of those of a kind that bled, or did not."""

    precision: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    dice: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cut: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    ml: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def main() -> None:
    """Print a table for each of the two sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--weights", type=Path)
    parser.add_argument(
        "--out-of-fold", type=Path, nargs="+", default=(), metavar="FOLDER", help="trainings fold_0, fold_1, ..."
    )
    parser.add_argument("--rows", nargs="*", choices=tuple(ROWS), help="these only, and what they are compared with")
    parser.add_argument("--pictures", type=Path, help="a folder for every row's map of every head that bled")
    given = parser.parse_args()
    with TemporaryDirectory() as scratch:
        whole = Segmenter(given.weights)
        of_patient = segmenters(given.weights, given.out_of_fold, Path(scratch), SegmentOptions())
        edition = str(whole.weights.sha256) + "".join(str(seed.resolve()) for seed in given.out_of_fold)
        chosen_path = given.cache / f"chosen_{hashlib.sha256(edition.encode()).hexdigest()[:16]}.json"
        chosen: dict[str, Any] = {"weights": {}, "cuts": {}}
        if given.purpose == "judging":
            if not chosen_path.exists():
                raise SystemExit(f"expected {chosen_path}; got none; run --for choosing first")
            chosen = json.loads(chosen_path.read_text())

        def looks(kind: str | None = None) -> Iterator[Seen]:
            for head in heads(given.purpose, given.phantoms, given.normal, given.patients, given.data):
                if kind in (None, head.kind):
                    yield kept(given.cache, looker(head), head)

        def looker(head: Head) -> Segmenter:
            return whole if head.patient is None else of_patient(head.patient)

        if given.purpose == "choosing":
            chosen["weights"] = {name: fitted([sampled(seen, name) for seen in looks("phantom")]) for name in POSED}
        for name, weights in chosen["weights"].items():
            print(f"learned weights of stages, {name}: " + ", ".join(f"{weight:.3f}" for weight in weights))
        rows = with_compared(given.rows or (), ROWS)
        measured: dict[str, Measured] = defaultdict(Measured)
        seconds: dict[str, list[float]] = defaultdict(list)
        for seen in looks():
            measure(seen, rows, chosen["weights"], measured[seen.kind], seconds)
            if given.pictures and seen.bled:
                draw(seen, rows, chosen["weights"], given.pictures)
    if given.purpose == "choosing":
        for name in rows:
            of_heads = [dice for kind in BLED for dice in measured[kind].cut[name]]
            chosen["cuts"][name] = int(np.mean(of_heads, axis=0).argmax()) if of_heads else 0
        chosen_path.write_text(json.dumps(chosen))
    for bled, other in BLED.items():
        if measured[bled].dice:
            print_table(bled, measured[bled], other, measured[other], rows, chosen["cuts"], seconds)


def measure(
    seen: Seen, rows: Sequence[str], weights: Learned, measured: Measured, seconds: dict[str, list[float]]
) -> None:
    """Every row on one head."""
    if not seen.bled and not seen.gated.any():
        for name in rows:
            measured.ml[name].append(0.0)
        return
    for name in rows:
        row = ROWS[name]
        started = time.process_time()
        saliency = saliency_of(seen, row, weights)
        own_s = time.process_time() - started
        if seen.gated.any():
            seconds[name].append(own_s + row.passes(seen) * seen.pass_s + sum(seen.erased_s[: row.rounds]))
        mask = outline(seen, saliency)
        found = overlap(mask, seen.reference, seen.ct.slice_voxel_ml[0].item())
        if not seen.bled:
            measured.ml[name].append(found.prediction_ml)
            continue
        measured.precision[name].append(voxel_precision(seen, saliency))
        measured.dice[name].append(found.dice or 0.0)
        measured.cut[name].append(cut_dice(seen, saliency))


def print_table(
    kind: str,
    measured: Measured,
    other: str,
    of_other: Measured,
    rows: Sequence[str],
    cuts: dict[str, int],
    seconds: dict[str, list[float]],
) -> None:
    """One set: a line for each row."""
    n_other = len(next(iter(of_other.ml.values()), []))
    print(f"{kind}: {len(measured.dice[rows[0]])} heads that bled; {other}: {n_other} that did not")
    print(f"{'':27s} {'AP':>21s} {'Dice':>6s} {'cut':>6s} {'at':>5s} {'false ml':>8s} "
          f"{'gain of AP':>24s} {'gain of Dice':>24s}  {'over':25s} {'s':>5s}")  # fmt: skip
    for name in rows:
        against = ROWS[name].against
        gains = []
        for values in (measured.precision, measured.dice):
            over = [] if against is None else [a - b for a, b in zip(values[name], values[against], strict=True)]
            gains.append(shown(mean_interval(over), "+") if over else "")
        at = cuts.get(name)
        cut = f"{np.mean([dice[at] for dice in measured.cut[name]]):6.3f} {CUTS[at]:5.3f}" if at is not None else ""
        false_ml = f"{np.mean(of_other.ml[name]):8.2f}" if n_other else f"{'-':>8s}"
        print(f"{name:27s} {shown(mean_interval(measured.precision[name])):>21s} {np.mean(measured.dice[name]):6.3f} "
              f"{cut:12s} {false_ml} {gains[0]:>24s} {gains[1]:>24s}  {against or '':25s} "
              f"{np.mean(seconds[name]):5.1f}")  # fmt: skip
    print()


def draw(seen: Seen, rows: Sequence[str], weights: Learned, folder: Path) -> None:
    """The slice with the most blood: the scan with the truth, and every row's map with it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    index = int(seen.reference.flatten(1).sum(dim=1).argmax())
    inside = seen.region[index].nonzero()
    (top, left), (bottom, right) = inside.amin(dim=0).tolist(), inside.amax(dim=0).tolist()
    place = (slice(top, bottom + 1), slice(left, right + 1))
    columns = 8
    figure = Figure(figsize=(2 * columns, 2.6 * (len(rows) // columns + 1)), layout="constrained")
    axes = figure.subplots(len(rows) // columns + 1, columns).flatten()
    maps = {name: saliency_of(seen, ROWS[name], weights)[index][place] for name in rows}
    relative_hu = seen.ct.hu[index][place] - seen.median_hu
    for axis, (name, shown_map) in zip(axes, {"HU": relative_hu, **maps}.items(), strict=False):
        limits = {"cmap": "gray", "vmin": -40, "vmax": 60} if name == "HU" else {"cmap": "inferno", "vmin": 0}
        axis.imshow(shown_map.numpy(), **limits)
        axis.contour(seen.reference[index][place].numpy(), levels=[0.5], colors="cyan", linewidths=0.7)
        axis.set_title(name, fontsize=8)
    for axis in axes:
        axis.set_axis_off()
    title = f"{seen.kind} {seen.name}, slice {index}, probability {float(seen.probabilities[index]):.2f}"
    figure.suptitle(title, fontsize=10)
    folder.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(folder / f"{seen.kind}_{seen.name}.png", format="png", metadata={"Software": None})


if __name__ == "__main__":
    main()
