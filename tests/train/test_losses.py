"""What an answer costs, by hand."""

import math

import pytest
import torch

from hgisam.labels import Subtype
from hgisam.train.batches import TrainingBatch
from hgisam.train.losses import LossOptions, count_answers, slice_loss, token_loss, wanted

ANY = list(Subtype).index(Subtype.ANY)
KNOWN = torch.ones(1, 1, dtype=torch.bool)


def batch(blood: torch.Tensor, traced: list[bool] | None = None) -> TrainingBatch:
    """Images that show any hemorrhage where there is blood; nothing else is known of them."""
    labels = torch.zeros(len(blood), 6, dtype=torch.bool)
    labels[:, ANY] = blood.any(dim=2).any(dim=1)
    known = torch.zeros_like(labels)
    known[:, ANY] = True
    images = torch.zeros(len(blood), 1, *blood.shape[1:])
    return TrainingBatch(images, labels, known, blood, torch.tensor(traced or [True] * len(blood)))


def test_an_undecided_answer_costs_log_two() -> None:
    labels = torch.tensor([[True], [False]])
    cost = slice_loss(torch.zeros(2, 1), labels, torch.ones_like(labels), LossOptions())
    assert float(cost) == pytest.approx(2 * math.log(2))


def test_what_is_unknown_costs_nothing() -> None:
    labels, known = torch.tensor([[True, False]]), torch.tensor([[True, False]])
    cost = slice_loss(torch.tensor([[0.0, 50.0]]), labels, known, LossOptions())
    assert float(cost) == pytest.approx(math.log(2))


def test_label_smoothing_is_least_at_the_smoothed_odds() -> None:
    label, best = torch.tensor([[True]]), torch.tensor([[math.log(0.95 / 0.05)]])
    at_best, above, below = (float(slice_loss(best + off, label, KNOWN, LossOptions())) for off in (0.0, 0.5, -0.5))
    assert at_best < above
    assert at_best < below


def test_focal_loss_is_the_published_formula() -> None:
    options = LossOptions(kind="focal", focal_gamma=2.0, label_smoothing=0.0)
    odds, label = torch.tensor([[1.2]]), torch.tensor([[False]])
    p_right = 1.0 - 1.0 / (1.0 + math.exp(-1.2))
    expected = -((1.0 - p_right) ** 2) * math.log(p_right)
    assert float(slice_loss(odds, label, KNOWN, options)) == pytest.approx(expected, rel=1e-5)


def test_a_confidently_wrong_answer_gets_a_gradient() -> None:
    odds = torch.tensor([[12.0]], requires_grad=True)
    slice_loss(odds, torch.tensor([[False]]), KNOWN, LossOptions(label_smoothing=0.0)).backward()
    assert odds.grad is not None
    assert float(odds.grad) == pytest.approx(1.0, abs=1e-4)


def test_token_loss_weighs_blood_and_the_rest_alike() -> None:
    blood = torch.zeros(1, 8, 8, dtype=torch.bool)
    blood[0, :4, :4] = True
    given = batch(blood)
    counts = count_answers(given, [Subtype.ANY], [2])
    logits = torch.full((1, 2, 2), -100.0)
    assert float(token_loss([logits], given, counts)) == pytest.approx(50.0)
    logits[0, 0, 0] = 100.0
    assert float(token_loss([logits], given, counts)) == pytest.approx(0.0, abs=1e-6)


def test_token_loss_without_blood_is_finite() -> None:
    given = batch(torch.zeros(2, 8, 8, dtype=torch.bool))
    counts = count_answers(given, [Subtype.ANY], [2])
    assert float(token_loss([torch.zeros(2, 2, 2)], given, counts)) == pytest.approx(0.5 * math.log(2))


def test_blood_that_is_not_traced_costs_no_token_anything() -> None:
    blood = torch.zeros(2, 8, 8, dtype=torch.bool)
    given = batch(blood, [True, False])
    counts = count_answers(given, [Subtype.ANY], [2])
    logits = torch.zeros(2, 2, 2)
    logits[1] = 70.0
    assert float(token_loss([logits], given, counts)) == pytest.approx(0.5 * math.log(2))


def test_the_parts_of_a_step_cost_together_what_it_costs_as_a_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    blood = torch.rand(6, 8, 8, generator=generator) < 0.1
    given, logits = batch(blood, [True, False, True, True, True, False]), torch.randn(6, 4, 4, generator=generator)
    counts = count_answers(given, [Subtype.ANY], [4])
    whole = token_loss([logits], given, counts)
    parts = [token_loss([cut], part, counts) for cut, part in zip(logits.split(2), given.split(3), strict=True)]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)


def test_labels_come_in_the_order_of_what_the_network_tells_apart() -> None:
    given = batch(torch.ones(1, 8, 8, dtype=torch.bool))
    labels, known = wanted(given, [Subtype.ANY, Subtype.SUBDURAL])
    assert labels.tolist() == [[True, False]]
    assert known.tolist() == [[True, False]]
