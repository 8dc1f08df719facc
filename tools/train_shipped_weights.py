"""Train the weights that come with hgisam: phantoms in, one safetensors file out. No mask of a patient is used.

    torchrun --nproc-per-node 2 tools/train_shipped_weights.py --config configs/phantoms.yaml -o runs/phantoms
    cp runs/phantoms/hgisam-phantoms.safetensors* hgisam/weights/

One process per CPU core, one thread each, learns nearly twice as fast as one process with two threads; `python` in
place of `torchrun --nproc-per-node 2` trains in one process, on half the slices per step.

1. Trains on phantoms; some heads also come as their twins before they bled. Prepared phantoms are kept in OUT/cache.
2. On tuning phantoms of later seeds, of which as many bleed as by default, with the whole pipeline: the scan's context,
   temperature, operating point, saliency threshold.
3. Writes OUT/hgisam-phantoms.safetensors with all of it in the header, and its .sha256 beside it.
"""

import argparse
import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from hgisam import Segmenter, __version__
from hgisam.config import load_settings
from hgisam.evaluate.overlap import overlap
from hgisam.model.checkpoint import WeightsMetadata, load_weights, save_weights
from hgisam.model.slice_classifier import SliceClassifier
from hgisam.phantom import Phantom, PhantomOptions, generate_phantoms
from hgisam.pipeline import SegmentationResult, SegmentOptions, pick_device
from hgisam.refine import RefineOptions, refine
from hgisam.segment import in_scan_context, to_log_odds
from hgisam.train.calibration import auc, fit_temperature, pick_operating_point
from hgisam.train.recipe import TrainOptions, train_on_phantoms
from hgisam.weak import WeakMethod

log = logging.getLogger("train_shipped_weights")

NAME = "hgisam-phantoms.safetensors"
SENSITIVITY = 0.85
"""Share of the tuning phantoms' positive slices that the operating point must find. What it misses is small: a missed
slice costs little volume, while each false one may invent some."""
THRESHOLD_HEADS = 12
"""How many of the tuning phantoms choose the saliency threshold."""
CONTEXTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
THRESHOLDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def main() -> None:
    """Train, calibrate, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML with a section `train`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder")
    parser.add_argument("--calibrate", type=Path, metavar="FILE", help="leave out 1: take this network as it is")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    given.output.mkdir(parents=True, exist_ok=True)
    settings = load_settings(given.config)
    options = settings.train
    path = given.output / NAME
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    start = f"torchrun --nproc-per-node {processes}" if processes > 1 else "python"
    metadata = describe(options, f"{start} tools/train_shipped_weights.py --config {given.config} -o {given.output}")

    if given.calibrate:
        loaded = load_weights(given.calibrate)
        model = loaded.model
        metadata = describe(options, loaded.metadata.command)
    else:
        if processes > 1:
            dist.init_process_group("gloo", timeout=timedelta(hours=3))

        def keep(averaged: SliceClassifier, step: int) -> None:
            save_weights(given.output / f"step_{step}.safetensors", averaged, metadata, half=True)

        device = pick_device(given.device)
        model = train_on_phantoms(options, given.output / "cache", given.workers, device, keep)
        if processes > 1:
            rank = dist.get_rank()
            dist.destroy_process_group()
            if rank:
                return
            torch.set_num_threads(given.workers)
    save_weights(path, model, metadata, half=True)

    seeds = options.tuning_seeds
    phantoms = list(generate_phantoms(len(seeds), seeds[0], PhantomOptions(), workers=given.workers))
    scan_context, temperature = calibrated(tuning_slices(path, phantoms, options))
    metadata = metadata.model_copy(update={"scan_context": scan_context, "temperature": temperature})
    save_weights(path, model, metadata, half=True)
    operating_point, figures = gate(tuning_slices(path, phantoms, options))
    metadata = metadata.model_copy(update={"operating_point": operating_point, "figures": figures})
    save_weights(path, model, metadata, half=True)
    threshold, dice = best_threshold(path, phantoms[:THRESHOLD_HEADS], settings.segment.weak)
    metadata = metadata.model_copy(
        update={"threshold": threshold, "figures": figures | {"tuning_dice_threshold_only": dice}}
    )
    sha256 = save_weights(path, model, metadata, half=True)
    log.info("wrote %s  sha256 %s", path, sha256)
    log.info("%s", metadata.model_dump_json(indent=2, exclude={"architecture", "brain", "preprocess"}))


def describe(options: TrainOptions, command: str) -> WeightsMetadata:
    """Metadata of a network that has not been calibrated yet."""
    return WeightsMetadata(
        architecture=options.classifier,
        brain=options.brain.model_dump(mode="json"),
        preprocess=options.preprocess.model_dump(mode="json"),
        operating_point=0.5,
        threshold=0.5,
        data=(
            f"{options.n_phantoms} hgisam phantoms, of which {options.n_twins} also without their blood; "
            f"{options.n_tuning} more for calibration; no patient"
        ),
        command=command,
        seed=options.loop.seed,
        created=datetime.now(UTC).replace(microsecond=0),
        version=__version__,
        licence="Apache-2.0",
    )


def slice_truth(phantom: Phantom, options: TrainOptions) -> tuple[torch.Tensor, torch.Tensor]:
    """Which slices are positive, and which are clear: positive or without any blood."""
    _, dy, dx = phantom.ct.spacing_mm
    blood_mm2 = (phantom.labels > 0).sum(dim=(1, 2)) * dy * dx
    positive = blood_mm2 >= options.sampling.min_blood_mm2
    return positive, positive | (blood_mm2 == 0)


@dataclass(frozen=True, eq=False)
class ScoredScan:
    """One scan's slices that show brain: probability, label, and whether the slice is clearly one or the other."""

    probabilities: torch.Tensor
    labels: torch.Tensor
    clear: torch.Tensor


def tuning_slices(path: Path, phantoms: list[Phantom], options: TrainOptions) -> list[ScoredScan]:
    """Slice probabilities of the pipeline, and labels."""
    segmenter = Segmenter(path)
    scored = []
    for phantom in phantoms:
        result = segmenter.classify((phantom.ct.hu.numpy(), phantom.ct.affine.numpy()))
        shown = torch.from_numpy(result.slice_has_brain)
        positive, clear = slice_truth(phantom, options)
        scored.append(ScoredScan(torch.from_numpy(result.slice_probabilities)[shown], positive[shown], clear[shown]))
    return scored


def calibrated(scored: list[ScoredScan]) -> tuple[float, float]:
    """The weight of the scan's context with the best AUC over slices, and the temperature that then fits the labels.

    Args:
        scored: of weights without context, at temperature 1.
    """
    labels = torch.cat([scan.labels[scan.clear] for scan in scored])

    def in_context(weight: float) -> torch.Tensor:
        return torch.cat([in_scan_context(to_log_odds(scan.probabilities), weight)[scan.clear] for scan in scored])

    found = {weight: auc(in_context(weight), labels) for weight in CONTEXTS}
    log.info("AUC by weight of the scan's context: %s", {weight: round(value, 4) for weight, value in found.items()})
    best = max(found, key=lambda weight: found[weight])
    return best, fit_temperature(in_context(best).float(), labels)


def gate(scored: list[ScoredScan]) -> tuple[float, dict[str, float]]:
    """The operating point, and what it does on the tuning phantoms."""
    probabilities = torch.cat([scan.probabilities[scan.clear] for scan in scored])
    labels = torch.cat([scan.labels[scan.clear] for scan in scored])
    operating_point = pick_operating_point(probabilities, labels, SENSITIVITY)
    found = probabilities >= operating_point
    figures = {
        "tuning_slice_auc": auc(probabilities, labels),
        "tuning_sensitivity": float(found[labels].float().mean()),
        "tuning_specificity": float((~found[~labels]).float().mean()),
    }
    return operating_point, {name: round(value, 4) for name, value in figures.items()}


def best_threshold(path: Path, phantoms: list[Phantom], weak: WeakMethod) -> tuple[float, float]:
    """The saliency threshold of the best mean volume Dice on tuning phantoms that bled, and that Dice.

    Args:
        path: the weights.
        phantoms: the heads.
        weak: the method whose maps are cut.
    """
    segmenter = Segmenter(path, options=SegmentOptions(weak=weak, refine=RefineOptions(method="threshold")))
    dice: dict[float, list[float]] = {threshold: [] for threshold in THRESHOLDS}
    for phantom in phantoms:
        if not phantom.bleeds:
            continue
        result = segmenter.segment((phantom.ct.hu.numpy(), phantom.ct.affine.numpy()))
        for threshold, found in dice.items():
            found.append(cut_dice(result, phantom, threshold, segmenter))
    means = {threshold: sum(found) / len(found) for threshold, found in dice.items()}
    best = max(means, key=lambda threshold: means[threshold])
    return best, round(means[best], 4)


def cut_dice(result: SegmentationResult, phantom: Phantom, threshold: float, segmenter: Segmenter) -> float:
    """Volume Dice of the map cut at a threshold."""
    region = torch.ones_like(phantom.labels, dtype=torch.bool)
    mask = refine(result.saliency_house, result.ct, region, 0.0, threshold, segmenter.options.refine)
    return overlap(mask.voxels, phantom.labels > 0, mask.voxel_ml).dice or 0.0


if __name__ == "__main__":
    main()
