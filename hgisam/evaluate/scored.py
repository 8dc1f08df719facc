"""A table of slices with labels and probabilities, and what it says of slices, of scans, and of each subtype."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hgisam.evaluate.detection import NO_POINT, Detection, detection
from hgisam.io.errors import InputError
from hgisam.io.tables import read_rows, write_csv
from hgisam.labels import ANY_COLUMN, Subtype
from hgisam.segment import SCAN_SLICES, smooth_over_slices, to_log_odds

COLUMNS = ("patient", "scan", "slice", "has_brain", *Subtype, "probability")
"""Of the table as CSV. A label is 1, 0, or empty where it is unknown."""

_LABELS = {"1": 1, "0": 0, "": -1}
_FLAGS = {"1": True, "0": False}


@dataclass(frozen=True, eq=False)
class ScoredSlices:
    """Slices in any order, each once, with what is known and what was said of them.

    Attributes:
        patients: whose slice each is.
        scans: of which scan.
        slices: its index in that scan, the lowest slice first.
        has_brain: whether it shows brain; one that does not was not looked at, and has probability 0.
        labels: which of `hgisam.labels.Subtype` it shows; False where unknown.
        known: of which that is known.
        probabilities: of any hemorrhage, in [0, 1].
    """

    patients: tuple[str, ...]
    scans: tuple[str, ...]
    slices: Int64[Tensor, " n"]
    has_brain: Bool[Tensor, " n"]
    labels: Bool[Tensor, "n 6"]
    known: Bool[Tensor, "n 6"]
    probabilities: Float[Tensor, " n"]

    def __post_init__(self) -> None:
        columns = (self.patients, self.scans, self.slices, self.has_brain, self.labels, self.known, self.probabilities)
        lengths = [len(column) for column in columns]
        if len(set(lengths)) > 1:
            raise ValueError(f"expected columns of one length; got {lengths}")
        if len(set(zip(self.scans, self.slices.tolist(), strict=True))) < len(self):
            raise ValueError("expected each slice of a scan once; got one again")
        if len(set(zip(self.scans, self.patients, strict=True))) > len(set(self.scans)):
            raise ValueError("expected scans of one patient each; got a scan of two")
        if not bool(((self.probabilities >= 0) & (self.probabilities <= 1)).all()):
            raise ValueError("expected probabilities in [0, 1]; got one that is none")
        if bool(self.probabilities[~self.has_brain].any()):
            raise ValueError("expected probability 0 of slices without brain; got more")

    def __len__(self) -> int:
        return len(self.scans)

    @property
    def positive(self) -> Bool[Tensor, " n"]:
        """Slices known to show any hemorrhage."""
        return self.labels[:, ANY_COLUMN]

    @property
    def negative(self) -> Bool[Tensor, " n"]:
        """Slices known to show none. One that is neither is unknown."""
        return self.known[:, ANY_COLUMN] & ~self.labels[:, ANY_COLUMN]

    def smoothed(self) -> "ScoredSlices":
        """The same slices, each scan's probabilities smoothed over its slices with brain, as `hgisam segment` does."""
        smooth = self.probabilities.clone()
        for rows in self.rows_by_scan.values():
            shown = rows[self.has_brain[rows]]
            smooth[shown] = smooth_over_slices(self.probabilities[shown])
        return replace(self, probabilities=smooth)

    @cached_property
    def rows_by_scan(self) -> dict[str, Int64[Tensor, " slices"]]:
        """Each scan's rows, the lowest slice first; scans sorted by name."""
        names, of_row = np.unique(np.asarray(self.scans, dtype=np.str_), return_inverse=True)
        order = np.lexsort((self.slices.numpy(), of_row))
        starts = np.cumsum(np.bincount(of_row))[:-1]
        return dict(zip(names.tolist(), map(torch.from_numpy, np.split(order, starts)), strict=False))

    def save(self, path: Path) -> None:
        """Write the table as CSV, with all digits that its probabilities have.

        Raises:
            OutputError: where the file cannot be written.
        """
        known, labels = self.known.tolist(), self.labels.tolist()
        rows = (
            {"patient": patient, "scan": scan, "slice": index, "has_brain": brain, "probability": repr(probability)}
            | {s: int(label) if is_known else None for s, label, is_known in zip(Subtype, *of_slice, strict=True)}
            for patient, scan, index, brain, probability, *of_slice in zip(
                self.patients,
                self.scans,
                self.slices.tolist(),
                self.has_brain.tolist(),
                self.probabilities.tolist(),
                labels,
                known,
                strict=True,
            )
        )
        write_csv(path, rows, COLUMNS)


def read_scored_slices(path: Path) -> ScoredSlices:
    """Read a table that `ScoredSlices.save` wrote.

    Raises:
        InputError: where columns are missing, a cell is none of what it should be, or the rows contradict each other.
    """
    rows = [row for _, row in read_rows(path, COLUMNS)]
    try:
        cells = [[_LABELS[row[subtype]] for subtype in Subtype] for row in rows]
        labels = torch.tensor(cells, dtype=torch.int64).reshape(len(rows), len(Subtype))
        return ScoredSlices(
            patients=tuple(row["patient"] for row in rows),
            scans=tuple(row["scan"] for row in rows),
            slices=torch.tensor([int(row["slice"]) for row in rows], dtype=torch.int64),
            has_brain=torch.tensor([_FLAGS[row["has_brain"]] for row in rows], dtype=torch.bool),
            labels=labels == 1,
            known=labels >= 0,
            probabilities=torch.tensor([float(row["probability"]) for row in rows], dtype=torch.float64),
        )
    except (KeyError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(f"{path.name}: expected a table of scored slices; got {error}; make it again") from error


def joined_slices(tables: Sequence[ScoredSlices]) -> ScoredSlices:
    """The slices of several tables as one, such as those of the folds of a cross-validation.

    Raises:
        ValueError: where a slice is in two of them, or there is no table.
    """
    if not tables:
        raise ValueError("expected tables of scored slices; got none")
    return ScoredSlices(
        patients=tuple(patient for table in tables for patient in table.patients),
        scans=tuple(scan for table in tables for scan in table.scans),
        slices=torch.cat([table.slices for table in tables]),
        has_brain=torch.cat([table.has_brain for table in tables]),
        labels=torch.cat([table.labels for table in tables]),
        known=torch.cat([table.known for table in tables]),
        probabilities=torch.cat([table.probabilities for table in tables]),
    )


def averaged_slices(tables: Sequence[ScoredSlices]) -> ScoredSlices:
    """What several networks say together of the same slices: the probability whose log-odds are the mean of theirs.

    Raises:
        ValueError: where the tables are not of the same slices in the same order, or there is none.
    """
    if not tables:
        raise ValueError("expected tables of scored slices; got none")
    first = tables[0]
    if any(t.scans != first.scans or not torch.equal(t.slices, first.slices) for t in tables):
        raise ValueError("expected tables of the same slices in the same order; got others")
    mean = torch.stack([to_log_odds(table.probabilities) for table in tables]).mean(dim=0).sigmoid()
    return replace(first, probabilities=torch.where(first.has_brain, mean, 0.0))


@dataclass(frozen=True)
class TargetDetection:
    """How well one kind of hemorrhage is told from none at all, by the probability of any.

    The positive cases show the target; the negative ones show no hemorrhage whatsoever. Slices, or scans, that show
    only other kinds are left out, so that a subtype is not blamed for the finding of another; so are unknown ones.

    Attributes:
        target: a subtype, or any.
        slices: slice by slice.
        scans_by_highest: scan by scan, the highest of its slices' probabilities.
        scans_by_mean: the same, the mean of its SCAN_SLICES highest.
    """

    target: Subtype
    slices: Detection
    scans_by_highest: Detection
    scans_by_mean: Detection


def detection_by_target(
    scored: ScoredSlices, operating_point: float | None = None, targets: Sequence[Subtype] = tuple(Subtype)
) -> tuple[TargetDetection, ...]:
    """Judge slices and scans, for hemorrhage of any kind and for each subtype, with intervals by patient.

    Args:
        scored: the slices, as they are: smooth them first where that is wanted.
        operating_point: a probability at or above it is a finding, in a slice and in a scan.
        targets: what to judge.
    """
    highest: dict[str, float] = {}
    mean: dict[str, float] = {}
    for scan, rows in scored.rows_by_scan.items():
        top = scored.probabilities[rows].double().topk(min(SCAN_SLICES, len(rows))).values
        highest[scan], mean[scan] = float(top[0]), float(top.mean())
    return tuple(
        TargetDetection(
            target,
            slice_detection(scored, target, operating_point),
            scan_detection(scored, highest, target, operating_point),
            scan_detection(scored, mean, target, operating_point),
        )
        for target in targets
    )


def slice_detection(
    scored: ScoredSlices, target: Subtype, operating_point: float | None = None, *, why_no_point: str = NO_POINT
) -> Detection:
    """Judge slices: those that show the target against those known to show nothing. Others count nowhere.

    Args:
        scored: the slices.
        target: a subtype, or any.
        operating_point: a probability at or above it is a finding.
        why_no_point: as `hgisam.evaluate.detection.detection` takes it.
    """
    positive = scored.labels[:, list(Subtype).index(target)]
    return _judge(scored.probabilities, positive, scored.negative, scored.patients, operating_point, why_no_point)


def scan_detection(
    scored: ScoredSlices,
    probabilities: Mapping[str, float],
    target: Subtype,
    operating_point: float | None = None,
    *,
    why_no_point: str = NO_POINT,
) -> Detection:
    """Judge scans: one is positive where a slice of it shows the target, and negative where all are known to show
    nothing. Others count nowhere.

    Args:
        scored: the slices of all scans.
        probabilities: of each scan, by its name.
        target: a subtype, or any.
        operating_point: a probability at or above it is a finding.
        why_no_point: as `hgisam.evaluate.detection.detection` takes it.
    """
    of_scans = scored.rows_by_scan
    column = list(Subtype).index(target)
    return _judge(
        torch.tensor([probabilities[scan] for scan in of_scans], dtype=torch.float64),
        torch.tensor([bool(scored.labels[rows, column].any()) for rows in of_scans.values()], dtype=torch.bool),
        torch.tensor([bool(scored.negative[rows].all()) for rows in of_scans.values()], dtype=torch.bool),
        [scored.patients[int(rows[0])] for rows in of_scans.values()],
        operating_point,
        why_no_point,
    )


def _judge(
    probabilities: Float[Tensor, " cases"],
    positive: Bool[Tensor, " cases"],
    negative: Bool[Tensor, " cases"],
    patients: Sequence[str],
    operating_point: float | None,
    why_no_point: str,
) -> Detection:
    shown = positive | negative
    whose = [patient for patient, is_shown in zip(patients, shown.tolist(), strict=True) if is_shown]
    return detection(probabilities[shown], positive[shown], whose, operating_point, why_no_point=why_no_point)
