"""What a recipe, and each of its ingredients, is worth: every patient is judged by a network that never saw them.

    python tools/cross_validate.py tools/ct_ich_full_length.yaml --data FOLDER -o runs/full_length [--rows final ...]
        [--against final] [--device cuda]

The YAML names a recipe, for each row what differs from it and the seeds, and, as `common`, what differs in all of them.
Each row, seed and fold is one training in OUTPUT/ROW/seed_S/fold_K; what is finished is not done again, and what was
stopped goes on. Then every row's out-of-fold probabilities are held against the labels, with 95 % bootstrap intervals
by patient: slice AUC; scan AUC by the highest slice, and by a scan head fitted on the other folds; and the Dice of the
map on bleeds painted into the judges' own slices, and with `--phantoms N` on heads of unseen seeds (volume Dice, no
gate, cut at the threshold that serves them best). `--against` names a row from which the others' AUCs are subtracted,
patient by patient resampled.
Nothing is chosen on the patients that are tested: steps, and how slices become scans, are fixed beforehand.
"""

import argparse
import json
import logging
import math
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from tune_map_thresholds import best_threshold

from hgisam import Segmenter
from hgisam.cases import own_record
from hgisam.config import load_settings
from hgisam.evaluate.detection import Estimate, auc, detection
from hgisam.evaluate.scored import ScoredSlices, averaged_slices, detection_by_target, read_scored_slices
from hgisam.evaluate.statistics import figure_interval
from hgisam.labels import Subtype
from hgisam.model.checkpoint import WeightsError, load_weights
from hgisam.model.classifier import HemorrhageClassifier
from hgisam.phantom import Phantom, PhantomOptions, generate_phantoms
from hgisam.pipeline import SegmentOptions, pick_device
from hgisam.refine import Threshold
from hgisam.segment import to_log_odds
from hgisam.train.calibration import fit_scan_head
from hgisam.train.recipe import (
    TrainOptions,
    check_initial_weights,
    read_out_of_fold,
    recorded_settings,
    train_classifier,
)
from hgisam.train.training import BEST, RUN_RECORD, as_now
from hgisam.weak import HGI_SAM, GradCam

FOLDS = 5
FIRST_SEED = 4_000_000
"""Of the phantoms that judge maps; no other tool takes these."""


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="YAML with `recipe` and `rows`")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rows", nargs="*", help="these only, in this order")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="trainings at a time, one thread each, on a GPU two"
    )
    parser.add_argument("--device", default="cpu", help="where to train; on a GPU, --jobs trainings share it")
    parser.add_argument("--against", metavar="ROW", help="a row to subtract from the others")
    parser.add_argument("--phantoms", type=int, default=0, metavar="N", help="judge maps on so many heads that bled")
    parser.add_argument("--report", action="store_true", help="train nothing, print what is there")
    given = parser.parse_args()
    study = yaml.safe_load(given.study.read_text(encoding="utf-8"))
    rows: dict[str, dict[str, Any]] = study["rows"]
    chosen = given.rows or list(rows)
    unknown = {*chosen, *([given.against] if given.against else [])} - ({*rows} & {*chosen})
    if unknown:
        parser.error(f"expected rows of {given.study.name} among those chosen; got {', '.join(sorted(unknown))}")
    recipe = given.study.parent / study["recipe"]
    trainings = {
        fold_folder(given.output / row, seed, fold): fold_options(
            recipe, merged(study.get("common", {}), rows[row].get("train", {})), seed, fold
        )
        for row in chosen
        for seed in rows[row]["seeds"]
        for fold in range(FOLDS)
    }
    for job in trainings.items():
        stop_at_other_settings(*job)
    missing = [(folder, options) for folder, options in trainings.items() if not is_finished(folder)]
    if not given.report:
        pick_device(given.device)
        stop_without_initial_weights(missing)
        with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
            where = given.data, given.output / "cache", given.device
            running = [pool.submit(run_fold, *job, *where) for job in missing]
            try:
                for done in running:
                    done.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # what waits is not begun
                raise
    bled = PhantomOptions(bleed_probability=1.0)
    heads = list(generate_phantoms(given.phantoms, FIRST_SEED, bled, workers=given.jobs))
    columns = ["row", "seed", "slices: AUC", "scans: AUC, highest slice", "scans: AUC, scan head", "map: Dice"]
    columns += ["as published", "on phantoms"] if heads else ["as published"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    scored = {}
    for row in chosen:
        found = [seed for seed in rows[row]["seeds"] if is_whole(given.output / row / f"seed_{seed}")]
        folders = [given.output / row / f"seed_{seed}" for seed in found]
        for seed, folder in zip(found, folders, strict=True):
            print_row(row, str(seed), [folder], heads)
        if len(found) > 1:
            print_row(row, "seeds together", folders, heads)
        if found:
            scored[row] = averaged(folders)
    if given.against in scored:
        print_differences(scored, given.against)
    for row, slices in scored.items():
        print_subtypes(row, slices)
    print("\nResearch use only, not a medical device.")


def fold_folder(row: Path, seed: int, fold: int) -> Path:
    """Where one training of a row leaves what it makes."""
    return row / f"seed_{seed}" / f"fold_{fold}"


def fold_options(recipe: Path, changed: dict[str, Any], seed: int, fold: int) -> TrainOptions:
    """One training's settings: a recipe's, those of a row laid over them, and nobody who chooses."""
    common = {"split": {"folds": FOLDS, "fold": fold, "tuning_share": 0.0}, "loop": {"seed": seed}}
    return load_settings(recipe, {"train": merged(changed, common)}).train


def stop_at_other_settings(folder: Path, options: TrainOptions) -> None:
    """Stop where a training that is there, finished or not, is by other settings or began with other weights."""
    before = own_record(folder / RUN_RECORD)
    if before and as_now(before.get("settings"), TrainOptions) != recorded_settings(options):
        raise SystemExit(f"{folder}: expected a training by this row; got one by other settings; move it away")


def stop_without_initial_weights(trainings: list[tuple[Path, TrainOptions]]) -> None:
    """Stop before the first of many trainings, where one of them would find no weights to begin with."""
    for row, options in {folder.parent.parent: options for folder, options in trainings}.items():
        try:
            check_initial_weights(options)
        except WeightsError as error:
            raise SystemExit(f"row {row.name}: {error}") from error


def is_finished(folder: Path) -> bool:
    """Whether a training is."""
    return own_record(folder / RUN_RECORD).get("state") == "finished"


def run_fold(folder: Path, options: TrainOptions, data: Path, cache: Path, device: str) -> None:
    """One training, from where it is to its end."""
    stop_at_other_settings(folder, options)
    if is_finished(folder):
        return
    torch.set_num_threads(1)
    name = " ".join(folder.parts[-3:])
    logging.basicConfig(
        level=logging.INFO, format=f"{name}: %(message)s", force=True
    )  # a process has one after another
    command = f"tools/cross_validate.py: {name}"
    where = pick_device(device)
    train_classifier(options, data, folder, resume=True, cache=cache, workers=1, device=where, command=command)


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Nested settings, those above laid over those below."""
    both = {key: merged(below[key], above[key]) for key in below.keys() & above.keys() if isinstance(above[key], dict)}
    return below | above | both


def is_whole(folder: Path) -> bool:
    """Whether all folds of a seed are finished."""
    return all(is_finished(folder / f"fold_{fold}") for fold in range(FOLDS))


def averaged(folders: list[Path]) -> ScoredSlices:
    """Out-of-fold slices; of several seeds, with the probability whose log-odds are the mean."""
    return averaged_slices([read_out_of_fold(folder) for folder in folders])


def table(folder: Path, fold: int) -> ScoredSlices:
    """What one training says of the patients that it had not seen."""
    return read_scored_slices(folder / f"fold_{fold}" / "test.csv")


def scan_head_auc(scored: ScoredSlices, folds: list[ScoredSlices]) -> Estimate:
    """AUC over scans, each by a scan head that was fitted on the scans of the other folds.

    A scan of which it is not known whether it bled is left out; one that shows no brain has probability 0, and teaches
    no head.
    """
    slices: dict[str, torch.Tensor] = {}
    bled: dict[str, bool] = {}
    for scan, rows in scored.rows_by_scan.items():
        did = has_bled(scored, rows)
        if did is not None:
            slices[scan] = to_log_odds(scored.probabilities[rows[scored.has_brain[rows]]])
            bled[scan] = did
    whose = dict(zip(scored.scans, scored.patients, strict=True))
    probabilities: dict[str, torch.Tensor] = {}
    nil = torch.zeros((), dtype=torch.float64)
    for fold in folds:
        tested = set(fold.scans)
        others = [scan for scan in slices if scan not in tested]
        head = fit_scan_head(
            [slices[scan] for scan in others], [bled[scan] for scan in others], [whose[scan] for scan in others]
        )
        for scan in sorted(tested & slices.keys()):
            probabilities[scan] = head(slices[scan]).sigmoid() if len(slices[scan]) else nil
    labels = torch.tensor([bled[scan] for scan in probabilities])
    return detection(torch.stack([*probabilities.values()]), labels, [whose[scan] for scan in probabilities]).auc


def has_bled(scored: ScoredSlices, rows: torch.Tensor) -> bool | None:
    """Whether a scan of these rows shows hemorrhage; None where no slice is known to, and some are not known."""
    if scored.positive[rows].any():
        return True
    return False if scored.negative[rows].all() else None


def dice_on_phantoms(weights: Path, heads: list[Phantom]) -> float:
    """Mean volume Dice of a network's map (a CNN's: Grad-CAM) on heads that bled, cut where that is best."""
    weak = HGI_SAM if isinstance(load_weights(weights).model, HemorrhageClassifier) else GradCam()
    options = SegmentOptions(weak=weak, refine=Threshold(), gate=False)
    return best_threshold(Segmenter(weights, options=options), heads)[1]


def print_row(row: str, seed: str, folders: list[Path], heads: list[Phantom]) -> None:
    """One line of the table."""
    scored = averaged(folders)
    (of_any,) = detection_by_target(scored, targets=(Subtype.ANY,))
    of_scans = scan_head_auc(scored, [averaged_slices([table(f, k) for f in folders]) for k in range(FOLDS)])
    records = [json.loads((f / f"fold_{k}" / RUN_RECORD).read_text()) for f in folders for k in range(FOLDS)]
    maps = [record["maps_on_painted_bleeds"] for record in records if record["maps_on_painted_bleeds"]]
    n = sum(found["n"] for found in maps) or math.nan
    dice, published = (sum(found[key] * found["n"] for found in maps) / n for key in ("dice", "published_dice"))
    aucs = f"{shown(of_any.slices.auc)} | {shown(of_any.scans_by_highest.auc)} | {shown(of_scans)}"
    found = [dice_on_phantoms(f / f"fold_{k}" / BEST, heads) for f in folders for k in range(FOLDS) if heads]
    on_phantoms = f" {statistics.mean(found):.3f} |" if found else ""
    print(f"| {row} | {seed} | {aucs} | {dice:.3f} | {published:.3f} |{on_phantoms}", flush=True)


def print_differences(scored: dict[str, ScoredSlices], against: str) -> None:
    """Each row's AUCs minus those of one, with intervals from resampling the patients of both together."""
    print(f"\nDifference to {against}:\n")
    print("| row | slices: AUC | scans: AUC, highest slice |\n|---|---|---|")
    for row, slices in scored.items():
        if row == against:
            continue
        differences = []
        for of_scans in (False, True):
            above, below = (judged_by_patient(table, of_scans=of_scans) for table in (slices, scored[against]))
            pairs = [(scores, below[patient][0], positive) for patient, (scores, positive) in above.items()]
            value, low, high = figure_interval(pairs, auc_difference, lambda pair: bool(pair[2].any()))
            differences.append(f"{value:+.3f} [{low:+.3f}, {high:+.3f}]")
        print(f"| {row} | {' | '.join(differences)} |", flush=True)


def judged_by_patient(scored: ScoredSlices, *, of_scans: bool) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """By patient: the probability of each slice, or of each scan by its highest slice, and whether it bled.

    What is not known is left out: slices, scans, and patients of whom nothing is.
    """
    found: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for rows in scored.rows_by_scan.values():
        did, known = has_bled(scored, rows), rows[scored.positive[rows] | scored.negative[rows]]
        if not len(known) or (of_scans and did is None):
            continue
        if of_scans:
            judged = scored.probabilities[rows].amax().view(1), torch.tensor([did])
        else:
            judged = scored.probabilities[known], scored.positive[known]
        found.setdefault(scored.patients[int(rows[0])], []).append(judged)
    return {
        patient: (torch.cat([scores for scores, _ in parts]), torch.cat([positive for _, positive in parts]))
        for patient, parts in found.items()
    }


def auc_difference(pairs: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> float:
    """AUC by the first probabilities minus AUC by the second, over all that patients have."""
    first, second, positive = (torch.cat(column) for column in zip(*pairs, strict=True))
    return auc(first, positive) - auc(second, positive)


def print_subtypes(row: str, scored: ScoredSlices) -> None:
    """A row's slices and scans by subtype."""
    print(f"\n{row}, by subtype:\n")
    print("| subtype | positive slices | patients | slices: AUC | scans: AUC, highest slice |\n|---|---|---|---|---|")
    for found in detection_by_target(scored):
        n, patients = found.slices.n_positive, found.slices.n_positive_patients
        aucs = f"{shown(found.slices.auc)} | {shown(found.scans_by_highest.auc)}"
        print(f"| {found.target} | {n} | {patients} | {aucs} |")


def shown(estimate: Estimate) -> str:
    """A figure and its interval."""
    if estimate.value is None:
        return f"none: {estimate.reason}"
    interval = "no interval" if estimate.low is None else f"{estimate.low:.3f}, {estimate.high:.3f}"
    return f"{estimate.value:.3f} [{interval}]"


if __name__ == "__main__":
    main()
