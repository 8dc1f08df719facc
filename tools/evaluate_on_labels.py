"""How well the weights tell slices and scans of real patients apart, by slice labels: a folder in the layout of ct_ich.

    python tools/evaluate_on_labels.py FOLDER
    python tools/evaluate_on_labels.py FOLDER --out-of-fold runs/full_length/final/seed_1 runs/full_length/final/seed_2

FOLDER holds one NIfTI file per patient and slice_labels.csv (file, slice_index, ..., any). Intervals are 95 % bootstrap
intervals over patients. Nothing is chosen here; the weights bring their own operating point.

Weights that have learned from these very patients say nothing here. `--out-of-fold` looks at each patient with the
network of the fold that had not seen them (`tools/cross_validate.py`), or, of several seeds, with the mean of their
parameters, as the weights that ship are a mean. They are calibrated as the weights are; since that calibration was
chosen on the same out-of-fold probabilities, sensitivity and specificity flatter a little.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from train_shipped_weights import averaged

from hgisam import Segmenter
from hgisam.config import load_settings
from hgisam.evaluate.detection import auc
from hgisam.evaluate.scored import read_scored_slices
from hgisam.evaluate.statistics import figure_interval
from hgisam.io.tables import read_slice_labels
from hgisam.model.checkpoint import save_weights
from hgisam.pipeline import SegmentOptions
from hgisam.train.calibration import Calibration
from hgisam.train.training import BEST


@dataclass(frozen=True, eq=False)
class Patient:
    """One scan's probabilities, labels and mL of mask, by slice."""

    name: str
    probability: float
    probabilities: torch.Tensor
    labels: torch.Tensor
    found: torch.Tensor
    mask_ml: torch.Tensor

    @property
    def bled(self) -> bool:
        """Whether any slice is labelled."""
        return bool(self.labels.any())


def main() -> None:
    """Print one line per figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument(
        "--out-of-fold", type=Path, nargs="+", default=(), metavar="FOLDER", help="trainings fold_0, fold_1, ..."
    )
    parser.add_argument("--config", type=Path, help="a recipe with `segment`")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for every patient")
    given = parser.parse_args()
    labels = read_labels(given.folder / "slice_labels.csv")
    options = load_settings(given.config).segment
    with TemporaryDirectory() as scratch:
        segmenter_of = segmenters(given.weights, given.out_of_fold, Path(scratch), options)
        patients = [look_at(segmenter_of(name), given.folder / name, rows) for name, rows in sorted(labels.items())]
    if given.verbose:
        for p in patients:
            found = f"probability {p.probability:.3f}  slices {int(p.found.sum())}  {float(p.mask_ml.sum()):.1f} ml"
            print(f"{p.name:16s} bled: {p.bled!s:5s}  {found}")
    bled = sum(p.bled for p in patients)
    print(f"{len(patients)} patients, {bled} with hemorrhage; {sum(len(p.labels) for p in patients)} slices")
    figures: dict[str, Callable[[Sequence[Patient]], float]] = {
        "slice AUC": lambda ps: auc(torch.cat([p.probabilities for p in ps]), torch.cat([p.labels for p in ps])),
        "scan AUC": lambda ps: auc(torch.tensor([p.probability for p in ps]), torch.tensor([p.bled for p in ps])),
        "sensitivity for slices at the operating point": lambda ps: share(ps, positive=True),
        "specificity for slices at the operating point": lambda ps: 1 - share(ps, positive=False),
        "mask in ml, patients without hemorrhage": lambda ps: mean_ml([p for p in ps if not p.bled]),
        "mask in ml, patients with hemorrhage": lambda ps: mean_ml([p for p in ps if p.bled]),
        "share of that mask in slices with hemorrhage": lambda ps: share_of_mask([p for p in ps if p.bled]),
    }
    for name, figure in figures.items():
        value, low, high = figure_interval(patients, figure, lambda p: p.bled)
        print(f"{name:48s} {value:.3f}  [{low:.3f}, {high:.3f}]")
    print("Research use only, not a medical device.")


def segmenters(
    weights: Path | None, out_of_fold: Sequence[Path], scratch: Path, options: SegmentOptions
) -> Callable[[str], Segmenter]:
    """Who looks at a file: one network, or of several the one that had not seen it, calibrated like the weights."""
    given = Segmenter(weights, options=options)
    if not out_of_fold:
        return lambda name: given
    kept = given.weights.metadata
    by_scan: dict[str, Segmenter] = {}
    for folder in sorted(out_of_fold[0].glob("fold_*")):
        model, metadata = averaged([seed / folder.name / BEST for seed in out_of_fold])
        calibrated = {name: getattr(kept, name) for name in (*Calibration.model_fields, "threshold")}
        path = scratch / f"{folder.name}.safetensors"
        save_weights(path, model, metadata.model_copy(update=calibrated), half=True)
        segmenter = Segmenter(path, options=options)
        by_scan |= dict.fromkeys(read_scored_slices(folder / "test.csv").scans, segmenter)
    return lambda name: by_scan[name.split(".")[0]]


def read_labels(path: Path) -> dict[str, dict[int, bool]]:
    """By file, by slice index: whether any hemorrhage is labelled."""
    labels: dict[str, dict[int, bool]] = defaultdict(dict)
    for label in read_slice_labels(path):
        labels[label.file][label.slice_index] = label.positive
    return labels


def look_at(segmenter: Segmenter, path: Path, rows: dict[int, bool]) -> Patient:
    """One scan, its labels joined by slice index."""
    result = segmenter.segment(path)
    probabilities = torch.from_numpy(result.slice_probabilities)
    labels = torch.tensor([rows[index] for index in range(len(probabilities))])
    if segmenter.operating_point is None:
        raise SystemExit("expected weights with an operating point; got a method without a network")
    found = probabilities >= segmenter.operating_point
    in_slices = np.moveaxis(result.mask, result.slice_axis, 0).reshape(len(labels), -1).sum(axis=1, dtype=np.int64)
    mask_ml = torch.from_numpy(in_slices) * result.mask_volume.voxel_ml
    return Patient(path.name, result.probability or 0.0, probabilities, labels, found, mask_ml)


def share(patients: Sequence[Patient], *, positive: bool) -> float:
    """Share of the positive, or negative, slices at or above the operating point."""
    return float(torch.cat([p.found[p.labels == positive] for p in patients]).float().mean())


def mean_ml(patients: Sequence[Patient]) -> float:
    """Mean volume of the masks."""
    return float(torch.stack([p.mask_ml.sum() for p in patients]).mean())


def share_of_mask(patients: Sequence[Patient]) -> float:
    """Share of all the patients' mask that lies in positive slices."""
    return float(sum(p.mask_ml[p.labels].sum() for p in patients) / sum(p.mask_ml.sum() for p in patients))


if __name__ == "__main__":
    main()
