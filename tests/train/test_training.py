"""Of whom a training learns: as many as it is told, fewer among more, and somebody who bled among the fewest."""

from itertools import pairwise

import pytest
from drawn_cohort import write_drawn_cohort

from hgisam.train.cohort import Cohort
from hgisam.train.layouts import read_cohort
from hgisam.train.splits import Role, make_splits
from hgisam.train.training import SplitOptions, taught_by


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Sixteen heads; those of even numbers bleed."""
    return read_cohort(write_drawn_cohort(tmp_path_factory.mktemp("heads"), 16))


@pytest.mark.parametrize("seed", range(8))
def test_fewer_patients_are_among_more_and_the_first_has_bled(cohort: Cohort, seed: int) -> None:
    fold = make_splits(cohort, 4, seed=seed).folds[0]
    everyone = fold.patients(Role.TRAIN)
    drawn = [taught_by(fold, SplitOptions(seed=seed, train_patients=n), cohort) for n in range(1, len(everyone) + 1)]
    assert [len(some) for some in drawn] == list(range(1, len(everyone) + 1))
    assert all(fewer < more for fewer, more in pairwise(drawn))
    assert {int(patient[1:]) % 2 for patient in drawn[0]} == {0}
    assert drawn[-1] == everyone == taught_by(fold, SplitOptions(seed=seed), cohort)


def test_more_than_there_are_is_all(cohort: Cohort) -> None:
    fold = make_splits(cohort, 2, seed=0).folds[1]
    assert taught_by(fold, SplitOptions(train_patients=99), cohort) == fold.patients(Role.TRAIN)
