"""Who is learned from, who chooses, and who judges: patients dealt into folds, each subtype in its share of each."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hgisam.io.tables import write_csv
from hgisam.train.cohort import Cohort, CohortRefused, LabelledScan

_PATIENT, _COHORT, _FOLD = "patient", "cohort_sha256", "fold_"


class Role(StrEnum):
    """What a patient is for in a fold."""

    TRAIN = "train"
    """Parameters are fitted to these."""
    TUNING = "tuning"
    """These stop the training and choose thresholds."""
    TEST = "test"
    """These are looked at once, at the end."""


@dataclass(frozen=True)
class Fold:
    """One division of all patients into three roles, none in two of them.

    Attributes:
        roles: each patient's role.
    """

    roles: dict[str, Role]

    def patients(self, role: Role) -> frozenset[str]:
        """Who has this role."""
        return frozenset(patient for patient, its in self.roles.items() if its is role)

    def scans(self, cohort: Cohort, role: Role) -> tuple[LabelledScan, ...]:
        """The scans of those who have this role."""
        return cohort.of(self.patients(role))


@dataclass(frozen=True)
class Splits:
    """Folds of one cohort. Each patient is tested in exactly one of them, or, where there is a single fold, in none.

    Attributes:
        cohort_sha256: of the cohort that was divided.
        folds: at least one.
    """

    cohort_sha256: str
    folds: tuple[Fold, ...]

    def save(self, path: Path) -> None:
        """Write one row for each patient: its role in each fold, and the cohort's hash.

        Raises:
            OutputError: where the file cannot be written.
        """
        columns = [_PATIENT, *(f"{_FOLD}{k}" for k in range(len(self.folds))), _COHORT]
        rows = (
            {_PATIENT: patient, _COHORT: self.cohort_sha256}
            | {f"{_FOLD}{k}": fold.roles[patient] for k, fold in enumerate(self.folds)}
            for patient in sorted(self.folds[0].roles)
        )
        write_csv(path, rows, columns)


def make_splits(cohort: Cohort, n_folds: int = 5, tuning_share: float = 0.15, seed: int = 0) -> Splits:
    """Deal a cohort's patients into folds of equal size, each subtype spread evenly over them.

    Args:
        cohort: whose patients are dealt.
        n_folds: each fold's share is tested once; 1 tests nobody and leaves all for training and tuning.
        tuning_share: share of the patients not tested that tune, at least one; 0 for none.
        seed: the same cohort and seed give the same folds, in whatever order or folder its scans lie.

    Raises:
        ValueError: where there are fewer patients than the folds need, or the tuning share leaves none to train.
    """
    patients, subtypes = cohort.patients, cohort.patient_subtypes.numpy()
    if not 0 <= tuning_share < 1:
        raise ValueError(f"expected a tuning share from 0 to below 1; got {tuning_share:g}")
    if n_folds < 1 or len(patients) < n_folds:
        raise ValueError(f"expected 1 to {len(patients)} folds, one patient in each; got {n_folds}")
    random = np.random.default_rng(seed)
    tested_in = deal(subtypes, [1 / n_folds] * n_folds, random)
    folds = []
    for k in range(n_folds):
        tested = tested_in == k if n_folds > 1 else np.zeros(len(patients), dtype=bool)
        roles = np.where(tested, Role.TEST, Role.TRAIN).astype(object)
        rest = np.flatnonzero(~tested)
        if tuning_share:
            share = max(tuning_share, 1 / len(rest))
            if len(rest) < 2:
                raise ValueError(f"expected two patients or more beside those tested; got {len(rest)}; use fewer folds")
            roles[rest[deal(subtypes[rest], [share, 1 - share], random) == 0]] = Role.TUNING
        folds.append(Fold({patient: Role(role) for patient, role in zip(patients, roles, strict=True)}))
    return Splits(cohort.sha256, tuple(folds))


def load_splits(path: Path, cohort: Cohort) -> Splits:
    """Read splits and check that they are of this cohort: its hash, and every patient with one role in each fold.

    Raises:
        CohortRefused: where the table is damaged, or of another cohort (other patients, scans or labels).
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            folds = [column for column in reader.fieldnames or () if column.startswith(_FOLD)]
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise CohortRefused(f"{path.name}: expected a table of splits; got {error}; make it again") from error
    if not folds or list(reader.fieldnames or ()) != [_PATIENT, *(f"{_FOLD}{k}" for k in range(len(folds))), _COHORT]:
        raise CohortRefused(f"{path.name}: expected the columns {_PATIENT}, {_FOLD}0 ... and {_COHORT}; make it again")
    hashes = {row[_COHORT] for row in rows}
    if hashes != {cohort.sha256}:
        got = ", ".join(sorted(str(found)[:12] for found in hashes)) or "none"
        raise CohortRefused(
            f"{path.name}: expected splits of the cohort {cohort.sha256[:12]}; got {got}; the scans or labels have"
            " changed since: make the splits again"
        )
    listed = [row[_PATIENT] for row in rows]
    roles = {str(role) for role in Role}
    if sorted(listed) != list(cohort.patients) or not all(row[fold] in roles for row in rows for fold in folds):
        raise CohortRefused(
            f"{path.name}: expected each patient once, with a role in each fold; got others; make it again"
        )
    return Splits(cohort.sha256, tuple(Fold({row[_PATIENT]: Role(row[fold]) for row in rows}) for fold in folds))


def deal(labels: NDArray[np.bool_], shares: Sequence[float], random: np.random.Generator) -> NDArray[np.intp]:
    """Deal cases into groups of fixed sizes, so that each label is spread by the groups' shares.

    Iterative stratification: the rarest label is dealt first, each of its cases to the group that lacks it most; cases
    without a label fill up. A full group takes no more, so that sizes are exact.

    Args:
        labels: [cases, labels].
        shares: of the groups; they sum to 1.
        random: decides ties.

    Returns:
        Each case's group. Sizes differ from their shares by less than 1, and sum to the number of cases.

    Source: Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011, algorithm 1.
    Deviation: sizes are quotas (largest remainder, ties drawn), not wishes.
    """
    room = _quotas(len(labels), shares, random).astype(float)
    wanted = np.outer(shares, labels.sum(axis=0)).astype(float)
    group = np.full(len(labels), -1, dtype=np.intp)
    shuffled = random.permutation(len(labels))
    while True:
        undealt = shuffled[group[shuffled] < 0]
        counts = labels[undealt].sum(axis=0)
        if not counts.any():
            break
        rarest = int(np.argmin(np.where(counts > 0, counts, len(labels) + 1)))
        for case in undealt[labels[undealt, rarest]]:
            neediest = np.lexsort((random.random(len(room)), room, wanted[:, rarest], room > 0))[-1]
            group[case] = neediest
            room[neediest] -= 1
            wanted[neediest] -= labels[case]
    group[undealt] = random.permutation(np.repeat(np.arange(len(room)), room.astype(int)))
    return group


def _quotas(n_cases: int, shares: Sequence[float], random: np.random.Generator) -> NDArray[np.intp]:
    """Whole numbers nearest to the shares that sum to the number of cases."""
    exact = n_cases * np.asarray(shares) / sum(shares)
    sizes = np.floor(exact + 1e-9).astype(np.intp)
    remainder = np.lexsort((random.random(len(sizes)), exact - sizes))[::-1]
    sizes[remainder[: n_cases - sizes.sum()]] += 1
    return sizes
