"""Temperature, operating point, AUC."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hgisam.train.calibration import auc, fit_temperature, pick_operating_point


def test_auc_by_hand() -> None:
    scores = torch.tensor([0.1, 0.4, 0.35, 0.8])
    labels = torch.tensor([False, False, True, True])
    assert auc(scores, labels) == 0.75


def test_ties_count_half() -> None:
    assert auc(torch.zeros(6), torch.tensor([True, False, True, False, False, True])) == 0.5


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[int, bool]]) -> None:
    scores = torch.tensor([float(score) for score, _ in rows])
    labels = torch.tensor([label for _, label in rows])
    if labels.all() or not labels.any():
        with pytest.raises(ValueError, match="positive and negative"):
            auc(scores, labels)
        return
    pairs = scores[labels][:, None] - scores[~labels][None]
    expected = float(((pairs > 0).double() + 0.5 * (pairs == 0).double()).mean())
    assert auc(scores, labels) == pytest.approx(expected)


def test_the_temperature_that_made_the_labels_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    true_logits = 2 * torch.randn(40_000, generator=generator)
    labels = torch.rand(40_000, generator=generator) < true_logits.sigmoid()
    assert fit_temperature(3.0 * true_logits, labels) == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize(("sensitivity", "expected"), [(1.0, 0.2), (0.75, 0.5), (0.5, 0.7), (0.1, 0.9)])
def test_the_operating_point_is_the_highest_that_finds_enough(sensitivity: float, expected: float) -> None:
    probabilities = torch.tensor([0.9, 0.1, 0.7, 0.5, 0.6, 0.2])
    labels = torch.tensor([True, False, True, True, False, True])
    assert pick_operating_point(probabilities, labels, sensitivity) == pytest.approx(expected)
