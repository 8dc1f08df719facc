"""What a network says of prepared scans: the same scores that the pipeline gives, without reading a file again."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from hgisam.evaluate.scored import ScoredSlices
from hgisam.labels import ANY_COLUMN, Subtype
from hgisam.model.slice_classifier import SliceClassifier
from hgisam.preprocess import PreprocessOptions, neighbour_rows, network_images
from hgisam.segment import smooth_over_slices, to_log_odds
from hgisam.train.calibration import Calibration, ScoredScan
from hgisam.train.prepared import HU_STEP, PreparedScan, PreparedScans
from hgisam.train.processes import shared_out

BATCH_SIZE = {"cpu": 4, "cuda": 64}
"""Images per pass, by kind of device."""


@dataclass(frozen=True, eq=False)
class Judge:
    """A scan that chooses or judges, and never teaches.

    Attributes:
        patient: whose it is.
        scan: its slices that show brain.
        labels: of all its slices, with brain or without.
        known: which of them are known.
    """

    patient: str
    scan: PreparedScan
    labels: Bool[Tensor, "slices 6"]
    known: Bool[Tensor, "slices 6"]

    @property
    def bled(self) -> bool | None:
        """Whether the scan holds hemorrhage of any kind; None where no slice is known to, and some are not known."""
        shown, known = self.labels[:, ANY_COLUMN], self.known[:, ANY_COLUMN]
        if (shown & known).any():
            return True
        return False if known.all() else None


def judges_of(prepared: PreparedScans, patients: Collection[str]) -> list[Judge]:
    """The scans of some patients of a cohort."""
    return [
        Judge(labelled.patient, prepared[index], labelled.labels, labelled.known)
        for index, labelled in enumerate(prepared.scans)
        if labelled.patient in patients
    ]


def phantom_judges(scans: Sequence[PreparedScan]) -> list[Judge]:
    """Phantoms as judges; slices with a trace of blood below the least that counts are unknown."""
    judges = []
    for scan in scans:
        if scan.labels is None or scan.known is None:
            raise ValueError(f"{scan.name}: expected a phantom with labels")
        known = scan.known.clone()
        known[:, ANY_COLUMN] &= scan.labels[:, ANY_COLUMN] == scan.blood.any(dim=2).any(dim=1)
        rows = torch.tensor(scan.slices)
        everywhere = torch.zeros(max(scan.slices, default=-1) + 1, len(Subtype), dtype=torch.bool)
        labels, all_known = everywhere.clone(), ~everywhere
        labels[rows], all_known[rows] = scan.labels, known
        judges.append(Judge(scan.name, scan, labels, all_known))
    return judges


@torch.inference_mode()
def score_scan(
    model: SliceClassifier, scan: PreparedScan, preprocessing: PreprocessOptions, *, bfloat16: bool
) -> Float64[Tensor, " slices"]:
    """Log-odds of any hemorrhage in each prepared slice: the mean logits of the slice and its mirror image, smoothed
    over slices; neither calibrated nor seen in the scan's context.

    Args:
        model: in eval mode, on the device that is to be used.
        scan: its slices.
        preprocessing: what the network sees.
        bfloat16: whether passes run in bfloat16.
    """
    device = next(model.parameters()).device
    found = [torch.zeros(0)]
    beside = neighbour_rows(scan.slices, preprocessing.neighbours)
    for rows in torch.split(torch.arange(len(scan.slices)), BATCH_SIZE.get(device.type, 4)):
        relative = scan.relative_hu[rows].float() * HU_STEP
        median_hu = torch.full((len(rows), 1, 1), scan.median_hu)
        beside_hu = scan.relative_hu[beside[rows]].float() * HU_STEP
        images = network_images(relative + scan.median_hu, scan.region[rows], median_hu, preprocessing, beside_hu)
        images = images.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
            logits = (model(images).float() + model(images.flip(3)).float()) / 2
        found.append(model.probabilities(logits)[:, -1].cpu())
    return to_log_odds(smooth_over_slices(torch.cat(found)))


def score_judges(
    model: SliceClassifier, judges: Sequence[Judge], preprocessing: PreprocessOptions, *, bfloat16: bool
) -> list[ScoredScan]:
    """What a network says of scans. Where processes share a training, each scores its part, and all get all."""
    log_odds = shared_out(
        len(judges), lambda number: score_scan(model, judges[number].scan, preprocessing, bfloat16=bfloat16)
    )
    scored = []
    for found, judge in zip(log_odds, judges, strict=True):
        known, labels = judge.known[:, ANY_COLUMN], judge.labels[:, ANY_COLUMN]
        seen = torch.zeros_like(known)
        seen[judge.scan.slices] = True
        n_unseen = int((labels & known & ~seen).sum())
        rows = judge.scan.slices
        scored.append(ScoredScan(found, labels[rows], known[rows], judge.bled, judge.patient, n_unseen))
    return scored


def scored_slices(judges: Sequence[Judge], scored: Sequence[ScoredScan], calibration: Calibration) -> ScoredSlices:
    """The slices of judges as a table, with their calibrated probabilities; 0 where a slice shows no brain."""
    patients, names, numbers, has_brain, probabilities = [], [], [], [], []
    for judge, found in zip(judges, scored, strict=True):
        n = len(judge.labels)
        shown = torch.zeros(n, dtype=torch.bool)
        shown[judge.scan.slices] = True
        probability = torch.zeros(n, dtype=torch.float64)
        probability[judge.scan.slices] = calibration.log_odds(found.log_odds).sigmoid()
        patients += [judge.patient] * n
        names += [judge.scan.name] * n
        numbers.append(torch.arange(n))
        has_brain.append(shown)
        probabilities.append(probability)
    return ScoredSlices(
        patients=tuple(patients),
        scans=tuple(names),
        slices=torch.cat(numbers),
        has_brain=torch.cat(has_brain),
        labels=torch.cat([judge.labels for judge in judges]),
        known=torch.cat([judge.known for judge in judges]),
        probabilities=torch.cat(probabilities),
    )
