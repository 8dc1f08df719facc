"""Train the weights that come with hgisam. No mask of a patient is used.

    python tools/train_shipped_weights.py --data FOLDER -o runs/shipped

1. Phantoms alone: configs/phantoms.yaml, one process per CPU core -> OUTPUT/phantoms (`--start FILE` leaves this out).
2. All patients of FOLDER: configs/ct_ich.yaml from there, once for each seed -> OUTPUT/seed_S; the mean of them all.
3. Calibration: temperature, scan head and operating point on probabilities of patients that the same recipe had not
   seen: one seed of the five folds of tools/cross_validate.py -> OUTPUT/out_of_fold (`--out-of-fold FOLDER` takes a row
   of that tool, which may have more seeds); the saliency threshold on phantoms.
4. OUTPUT/hgisam-head-ct.safetensors, with all of it in the header, and its .sha256 beside it.

Every part goes on where it was stopped. One process per core, one thread each, learns faster than one process with as
many threads.
"""

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import torch
from cross_validate import FOLDS, fold_folder, fold_options, has_bled, run_fold
from tune_map_thresholds import best_threshold, tuning_phantoms

from hgisam import Segmenter
from hgisam.config import load_settings
from hgisam.evaluate.detection import auc
from hgisam.evaluate.scored import averaged_slices
from hgisam.model.checkpoint import WeightsMetadata, load_weights, save_weights
from hgisam.model.slice_classifier import SliceClassifier
from hgisam.pipeline import SegmentOptions, pick_device
from hgisam.refine import Threshold
from hgisam.segment import to_log_odds
from hgisam.train.calibration import fit_scan_head, fit_temperature, pick_operating_point
from hgisam.train.recipe import read_out_of_fold, train_classifier
from hgisam.train.training import BEST

log = logging.getLogger("train_shipped_weights")

NAME = "hgisam-head-ct.safetensors"
CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SEEDS = (0, 1)
SENSITIVITY = 0.8
"""Share of the positive slices that the operating point must find, out of fold: about where that and the specificity
have their highest sum. What it misses is small: a missed slice costs little volume, a false one may invent some."""
COMMAND = "python tools/train_shipped_weights.py --data ct_ich -o runs/shipped"


def main() -> None:
    """Train, average, calibrate, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="labelled scans")
    parser.add_argument(
        "--out-of-fold", type=Path, metavar="FOLDER", help="a row of tools/cross_validate.py for part 3"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder")
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights to begin with, in place of part 1")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes, one thread each")
    parser.add_argument("--device", default="cpu", help="of parts 2 and 3; on a GPU, --jobs trainings share it")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    given.output.mkdir(parents=True, exist_ok=True)
    start = given.start or trained_on_phantoms(given.output / "phantoms", given.jobs)
    out_of_fold = given.out_of_fold or given.output / "out_of_fold"
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        seeds = [pool.submit(train_seed, seed, start, given.data, given.output, given.device) for seed in SEEDS]
        folds = [
            pool.submit(train_fold, fold, start, given.data, given.output, given.device)
            for fold in range(FOLDS)
            if given.out_of_fold is None
        ]
        try:
            files = [trained.result() for trained in seeds]
            for done in folds:
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what waits is not begun
            raise
    path = given.output / NAME
    flags = {"--start": given.start, "--out-of-fold": given.out_of_fold}
    metadata = average(files, path, " ".join([COMMAND, *(f"{flag} {p.name}" for flag, p in flags.items() if p)]))
    metadata = calibrate(metadata, out_of_fold)
    save_weights(path, load_weights(path).model, metadata, half=True)
    cut = Segmenter(path, options=SegmentOptions(refine=Threshold()))
    threshold, dice = best_threshold(cut, tuning_phantoms(given.jobs))
    figures = metadata.figures | {"phantoms_dice_threshold_only": dice}
    metadata = metadata.model_copy(update={"threshold": threshold, "figures": figures})
    sha256 = save_weights(path, load_weights(path).model, metadata, half=True)
    log.info("wrote %s  sha256 %s", path, sha256)
    log.info("%s", metadata.model_dump_json(indent=2, exclude={"architecture", "brain", "preprocess"}))


def trained_on_phantoms(folder: Path, jobs: int) -> Path:
    """Part 1, by the command of the README; it goes on where it was stopped."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(jobs)]
    command = ["-m", "hgisam", "train", "classifier", "--config", str(CONFIGS / "phantoms.yaml")]
    subprocess.run([*torchrun, *command, "-o", str(folder), "--resume"], check=True)
    return folder / BEST


def train_seed(seed: int, start: Path, data: Path, output: Path, device: str) -> Path:
    """Part 2, one seed: all patients, for as many steps as the recipe has; nobody is left to choose."""
    torch.set_num_threads(1)
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s seed {seed}: %(message)s", datefmt="%H:%M:%S", force=True
    )
    changed = {"initial_weights": start, "split": {"folds": 1, "tuning_share": 0.0}, "loop": {"seed": seed}}
    options = load_settings(CONFIGS / "ct_ich.yaml", {"train": changed}).train
    folder, where = output / f"seed_{seed}", pick_device(device)
    trained = train_classifier(
        options,
        data,
        folder,
        resume=True,
        cache=output / "cache",
        device=where,
        command="tools/train_shipped_weights.py",
    )
    if trained is None:
        raise SystemExit("expected to train in one process; got several; start with python")
    return trained.weights


def train_fold(fold: int, start: Path, data: Path, output: Path, device: str) -> None:
    """Part 3, one fold of one seed: what the recipe says of patients it has not seen."""
    options = fold_options(CONFIGS / "ct_ich.yaml", {"initial_weights": start}, SEEDS[0], fold)
    run_fold(fold_folder(output / "out_of_fold", SEEDS[0], fold), options, data, output / "cache", device)


def average(files: list[Path], path: Path, command: str) -> WeightsMetadata:
    """Part 2, the end: the mean of all parameters."""
    model, first = averaged(files)
    metadata = first.model_copy(
        update={
            "command": command,
            "data": f"{first.data}; mean of {len(files)} seeds",
            "created": datetime.now(UTC).replace(microsecond=0),
        }
    )
    save_weights(path, model, metadata, half=True)
    return metadata


def averaged(files: Sequence[Path]) -> tuple[SliceClassifier, WeightsMetadata]:
    """The mean of all files' parameters, which is a network of their kind where they began alike; the first's header.

    Source: Wortsman et al. 2022, arXiv 2203.05482 (model soups).
    """
    loaded = [load_weights(file) for file in files]
    model, states = loaded[0].model, [each.model.state_dict() for each in loaded]
    mean = {
        name: torch.stack([state[name] for state in states]).mean(dim=0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }
    model.load_state_dict(mean)
    return model, loaded[0].metadata


def calibrate(metadata: WeightsMetadata, out_of_fold: Path) -> WeightsMetadata:
    """Part 3: what the recipe said of patients it had not seen, held against their labels.

    Slices without brain are no part of it, but for positive ones: the operating point misses them, as a user would.
    """
    seeds = sorted(folder for folder in out_of_fold.glob("seed_*") if (folder / "fold_0" / "test.csv").is_file())
    scored = averaged_slices([read_out_of_fold(folder) for folder in seeds])
    raw = to_log_odds(scored.probabilities) * metadata.temperature + metadata.offset
    known = scored.has_brain & (scored.positive | scored.negative)
    temperature, offset = fit_temperature(raw[known], scored.positive[known])
    log_odds = (raw - offset) / temperature
    whose = dict(zip(scored.scans, scored.patients, strict=True))
    told = [
        (log_odds[rows[scored.has_brain[rows]]], bled, whose[scan])
        for scan, rows in scored.rows_by_scan.items()
        if (bled := has_bled(scored, rows)) is not None
    ]
    head = fit_scan_head([one[0] for one in told], [one[1] for one in told], [one[2] for one in told])
    n_unseen = int((scored.positive & ~scored.has_brain).sum())
    point = pick_operating_point(log_odds[known].sigmoid(), scored.positive[known], SENSITIVITY, n_unseen)
    found = scored.has_brain & (log_odds.sigmoid() >= point)
    figures = {
        "out_of_fold_slice_auc": auc(log_odds[known], scored.positive[known]),
        "out_of_fold_sensitivity": float(found[scored.positive].float().mean()),
        "out_of_fold_specificity": float((~found[known & scored.negative]).float().mean()),
    }
    return metadata.model_copy(
        update={
            "temperature": temperature,
            "offset": offset,
            "scan_head": head,
            "operating_point": point,
            "figures": {name: round(value, 4) for name, value in figures.items()},
        }
    )


if __name__ == "__main__":
    main()
