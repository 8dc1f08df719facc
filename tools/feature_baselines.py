"""The bar that a network must beat: simple models on where a slice lies and on its Hounsfield units, out of fold.

    python tools/feature_baselines.py ../shared/realdata/ct_ich -o out/baselines

Any data set that `hgisam.train.layouts` reads. Five folds by patient; every slice is judged by models that have not
seen its patient. Nothing is tuned: one set of settings, on which the folds had no influence.

- position: logistic regression on splines of where the slice lies between the lowest and the highest with brain, and
  of its distance from the latter in mm.
- logistic, trees: logistic regression, and extremely randomised trees (Geurts et al. 2006), on 105 features: HU over
  the scan's brain median in bins and percentiles, left-right differences, dense regions, area and position of a slice,
  and the same of its two neighbours (their mean, their maximum).

Writes baselines.json, a CSV of all slices with their probabilities for each model and seed, and figures of the trees.
Intervals are of the first seed; what other seeds (other folds, other trees) give is printed below the table.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from scipy import ndimage
from sklearn.base import ClassifierMixin
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer, StandardScaler

from hgisam.brain import BrainOptions
from hgisam.evaluate.detection import auc, detection_curves, reliability
from hgisam.evaluate.detection_report import detection_table, write_detection
from hgisam.evaluate.figures import write_reliability, write_roc_and_precision_recall
from hgisam.evaluate.scored import ScoredSlices, TargetDetection, detection_by_target
from hgisam.labels import Subtype
from hgisam.preprocess import PreprocessOptions
from hgisam.train.cohort import Cohort
from hgisam.train.layouts import read_cohort
from hgisam.train.prepared import HU_STEP, PreparedScan, PreparedScans, prepare_cohort
from hgisam.train.splits import Role, make_splits

N_FOLDS = 5
MODELS = ("position", "logistic", "trees")
HU_EDGES = np.array([-np.inf, -32, -24, -16, -8, -4, 0, 4, 8, 12, 16, 24, 32, np.inf])
MIRROR_EDGES_HU = np.array([4, 8, 12, 20, 30])
DENSE_HU = (8, 12, 16, 20, 30)
PERCENTILES = (1, 50, 90, 99, 99.9)
SMOOTHING_MM = 1.5


def main() -> None:
    """Read, prepare, describe, learn, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of a data set")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder; made if absent")
    parser.add_argument("--cache", type=Path, help="where prepared scans are kept; OUTPUT/cache where not given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the folds and of the trees")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare scans")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    cohort = read_cohort(given.data)
    print(cohort.summary())
    options = PreprocessOptions()
    prepared = prepare_cohort(cohort, BrainOptions(), options, given.cache or given.output / "cache", given.workers)
    n_dark = sum(scan.n_slices for scan in prepared.scans) - len(prepared.slice_index.scan)
    print(f"{n_dark} slices without brain count with probability 0", *prepared.findings, sep="\n")
    started = time.perf_counter()
    features = describe(prepared, options.spacing_mm)
    print(f"features of {len(features['position']):,} slices: {time.perf_counter() - started:.0f} s")

    found: dict[str, tuple[TargetDetection, ...]] = {}
    by_seed: dict[str, list[float]] = {}
    for seed in given.seeds:
        for model in MODELS:
            raw = out_of_fold(model, features, prepared, cohort, seed)
            raw.save(given.output / f"{model}_seed{seed}.csv")
            for name, scored in ((model, raw), (f"{model}, smoothed", raw.smoothed())):
                judged = scored.positive | scored.negative
                by_seed.setdefault(name, []).append(auc(scored.probabilities[judged], scored.positive[judged]))
                if seed == given.seeds[0]:
                    found[name] = detection_by_target(scored)
                    if model == MODELS[-1]:
                        draw(given.output, f"{given.data.name}, out of fold: {name}", scored, found[name])
    Console(width=None if sys.stdout.isatty() else 160).print(detection_table(found))
    print(f"slice AUC by seed ({', '.join(map(str, given.seeds))}):")
    for name, values in by_seed.items():
        print(f"    {name:20s} {'  '.join(f'{value:.3f}' for value in values)}")
    about = {"data": given.data.name, "cohort_sha256": cohort.sha256, "folds": N_FOLDS, "seeds": given.seeds}
    write_detection(given.output / "baselines.json", found, **about, slice_auc_by_seed=by_seed)


def describe(prepared: PreparedScans, spacing_mm: float) -> dict[str, NDArray[np.float64]]:
    """What each model sees of every prepared slice, in the order of `slice_index`."""
    positions, own = [], []
    for scan, labelled in zip(prepared, prepared.scans, strict=True):
        positions.append(position_features(scan, labelled.load().spacing_mm[0]))
        own.append(np.concatenate([slice_features(scan, spacing_mm), positions[-1]], axis=1))
    everything = np.concatenate([with_neighbours(of_scan) for of_scan in own])
    return {"position": np.concatenate(positions), "logistic": everything, "trees": everything}


def position_features(scan: PreparedScan, step_mm: float) -> NDArray[np.float64]:
    """Height between the lowest and the highest slice with brain, 0 to 1, and mm below the latter."""
    slices = np.array(scan.slices, dtype=np.float64)
    extent = max(1.0, slices[-1] - slices[0])
    return np.stack([(slices - slices[0]) / extent, (slices[-1] - slices) * step_mm], axis=1)


def slice_features(scan: PreparedScan, spacing_mm: float) -> NDArray[np.float64]:
    """HU, left-right difference and dense regions inside the skull, slice by slice."""
    rows = []
    for stored, region in zip(scan.relative_hu.numpy(), scan.region.numpy(), strict=True):
        hu = stored.astype(np.float32) * HU_STEP
        inside = np.clip(hu, -40, 80)
        smooth = smoothed_within(inside, region, SMOOTHING_MM / spacing_mm)
        counted = np.histogram(hu[region], HU_EDGES)[0] / max(1, int(region.sum()))
        both = region & region[:, ::-1]
        difference = np.abs(smooth - smooth[:, ::-1])[both]
        mirror = [float((difference > edge).mean()) if difference.size else 0.0 for edge in MIRROR_EDGES_HU]
        dense = [float(((smooth > hu_over) & region).sum()) * spacing_mm**2 for hu_over in DENSE_HU]
        largest = [largest_mm2((smooth > hu_over) & region, spacing_mm) for hu_over in (12, 20)]
        percentiles = np.percentile(smooth[region], PERCENTILES)
        spread = (float(smooth[region].max()), float(inside[region].std()), float(region.sum()) * spacing_mm**2)
        rows.append([*counted, *mirror, *np.log1p(dense), *np.log1p(largest), *percentiles, *spread])
    return np.array(rows, dtype=np.float64)


def smoothed_within(hu: NDArray[np.float32], region: NDArray[np.bool_], sigma_px: float) -> NDArray[np.float32]:
    """A Gaussian mean over the region's own pixels, so that the skull does not shine in; 0 outside."""
    weight = ndimage.gaussian_filter(region.astype(np.float32), sigma_px)
    total = ndimage.gaussian_filter(np.where(region, hu, 0).astype(np.float32), sigma_px)
    mean: NDArray[np.float32] = np.where(region, total / np.maximum(weight, 1e-6), 0)
    return mean


def largest_mm2(mask: NDArray[np.bool_], spacing_mm: float) -> float:
    """Area of the largest connected component; 0 where there is none."""
    components, n = ndimage.label(mask)
    return float(np.bincount(components.ravel())[1:].max()) * spacing_mm**2 if n else 0.0


def with_neighbours(own: NDArray[np.float64]) -> NDArray[np.float64]:
    """A slice's features, the mean of its two neighbours' and their maximum; the ends are their own neighbours."""
    padded = np.concatenate([own[:1], own, own[-1:]])
    below, above = padded[:-2], padded[2:]
    return np.concatenate([own, (below + above) / 2, np.maximum(below, above)], axis=1)


def new_model(model: str, seed: int) -> ClassifierMixin:
    """A model that has learned nothing yet."""
    if model == "position":
        return make_pipeline(SplineTransformer(n_knots=6), StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    if model == "logistic":
        return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=5000))
    return ExtraTreesClassifier(500, min_samples_leaf=3, max_features="sqrt", random_state=seed)


def out_of_fold(
    model: str, features: dict[str, NDArray[np.float64]], prepared: PreparedScans, cohort: Cohort, seed: int
) -> ScoredSlices:
    """Probabilities of any hemorrhage by models that have not seen the patient."""
    index = prepared.slice_index
    known, positive = index.known[:, -1].numpy(), index.labels[:, -1].numpy()
    patients = np.array([scan.patient for scan in prepared.scans])[index.scan.numpy()]
    seen = features[model]
    probabilities = np.zeros(len(seen))
    for fold in make_splits(cohort, N_FOLDS, 0.0, seed).folds:
        tested = np.isin(patients, list(fold.patients(Role.TEST)))
        learned = new_model(model, seed).fit(seen[~tested & known], positive[~tested & known])
        probabilities[tested] = learned.predict_proba(seen[tested])[:, 1]
    return prepared.scored(torch.from_numpy(probabilities))


def draw(folder: Path, title: str, scored: ScoredSlices, found: Sequence[TargetDetection]) -> None:
    """The figures of a model's slices; those of its smoothed ones take the place of those of its raw ones."""
    judged = scored.positive | scored.negative
    patients = [patient for patient, is_judged in zip(scored.patients, judged.tolist(), strict=True) if is_judged]
    cases = scored.probabilities[judged], scored.positive[judged], patients
    of_any = next(its.slices for its in found if its.target is Subtype.ANY)
    write_roc_and_precision_recall(folder / "roc_pr.png", detection_curves(*cases), of_any, title, "slices")
    write_reliability(folder / "reliability.png", {"out of fold": (reliability(*cases), of_any)}, title, "slices")


if __name__ == "__main__":
    main()
