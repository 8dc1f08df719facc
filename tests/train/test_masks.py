"""What an outline costs, by hand and by MONAI, and how masks are judged where some scans did not bleed."""

import csv
import math
from pathlib import Path

import pytest
import torch
from monai.losses.dice import DiceCELoss

from hgisam.evaluate.overlap import Overlap
from hgisam.model.supervised import MaskNetwork, UNetOptions
from hgisam.train.crops import MaskBatch
from hgisam.train.loop import LoopOptions, Trainer
from hgisam.train.masks import (
    MaskJudge,
    MaskLossOptions,
    SegmenterObjective,
    mean_dice,
    pixel_loss,
    soft_dice_loss,
    write_masks_judgement,
)
from hgisam.train.prepared import PreparedScan


def bright_squares(seed: int, n: int = 4) -> MaskBatch:
    generator = torch.Generator().manual_seed(seed)
    blood = torch.zeros(n, 16, 16, dtype=torch.bool)
    for index in range(n // 2):
        top, left = (int(torch.randint(0, 10, (1,), generator=generator)) for _ in range(2))
        blood[index, top : top + 6, left : left + 6] = True
    images = 0.3 + 0.02 * torch.randn(n, 1, 16, 16, generator=generator) + 0.4 * blood[:, None]
    return MaskBatch(images.clamp(0, 1), blood)


def trainer(dropout: float = 0.0, **loop: object) -> Trainer[MaskNetwork, MaskBatch]:
    torch.manual_seed(0)
    network = UNetOptions(in_channels=1, channels=(4, 8), slice_halvings=1, residual_units=1, dropout=dropout)
    options = LoopOptions.model_validate({"steps": 40, "learning_rate": 2e-2, "bfloat16": False} | loop)
    return Trainer(MaskNetwork(network), options, SegmenterObjective(MaskLossOptions()), torch.device("cpu"))


def test_a_network_that_knows_nothing_costs_what_one_works_out_by_hand() -> None:
    """p = 1/2 in 4 pixels of which one is blood: Dice 2 * 1/2 / (2 + 1), cross-entropy log 2."""
    logits, blood = torch.zeros(1, 2, 2), torch.tensor([[[True, False], [False, False]]])
    assert float(soft_dice_loss(logits, blood)) == pytest.approx(1 - 1 / 3, abs=1e-4)
    costs_of = SegmenterObjective(MaskLossOptions(dice_weight=0.5)).costs_of(
        batch := MaskBatch(torch.zeros(1, 1, 2, 2), blood), trainer().model
    )
    costs = costs_of(lambda _: logits, batch)
    assert float(costs["dice_loss"]) == pytest.approx(0.5 * (1 - 1 / 3), abs=1e-4)
    assert float(costs["cross_entropy"]) == pytest.approx(0.6931, abs=1e-4)


def test_what_is_made_small_is_monai_s_dice_ce_over_the_batch() -> None:
    batch = bright_squares(1)
    logits = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(2))
    costs = SegmenterObjective(MaskLossOptions()).costs_of(batch, trainer().model)(lambda _: logits, batch)
    expected = DiceCELoss(sigmoid=True, batch=True)(logits[:, None], batch.blood[:, None].float())
    assert float(sum(costs.values())) == pytest.approx(float(expected), rel=1e-5)


def test_a_pixel_in_doubt_costs_nothing_and_teaches_nothing() -> None:
    """Of four pixels two are certain, p = 1/2 in both and one is blood: Dice 2 * 1/2 / (1 + 1), cross-entropy log 2."""
    logits = torch.tensor([[[0.0, 0.0], [50.0, -50.0]]], requires_grad=True)
    blood, certain = torch.tensor([[[True, False], [False, True]]]), torch.tensor([[[True, True], [False, False]]])
    batch = MaskBatch(torch.zeros(1, 1, 2, 2), blood, certain)
    costs = SegmenterObjective(MaskLossOptions()).costs_of(batch, trainer().model)(lambda _: logits, batch)
    assert costs["dice_loss"].item() == pytest.approx(1 - 1 / 2, abs=1e-4)
    assert costs["cross_entropy"].item() == pytest.approx(math.log(2), abs=1e-4)
    (gradient,) = torch.autograd.grad(costs["dice_loss"] + costs["cross_entropy"], logits)
    assert gradient[0, 1].tolist() == [0.0, 0.0]
    assert bool((gradient[0, 0] != 0).all() and gradient.isfinite().all())
    everywhere = torch.ones_like(certain)
    for found, plain in (
        (soft_dice_loss(logits, blood, everywhere), soft_dice_loss(logits, blood)),
        (pixel_loss(logits, blood, everywhere), pixel_loss(logits, blood)),
    ):
        assert found.item() == pytest.approx(plain.item(), rel=1e-6)
    assert pixel_loss(logits, blood, ~everywhere, 0.7).item() == 0.0


def test_the_generalised_cross_entropy_is_what_one_works_out_by_hand() -> None:
    """(1 - p^q) / q, where p = 3/4 is given to a pixel of blood, and then to one without."""
    for logit, is_blood in ((math.log(3), True), (-math.log(3), False)):
        logits, blood = torch.tensor([[logit]]), torch.tensor([[is_blood]])
        assert float(pixel_loss(logits, blood, power=0.5)) == pytest.approx(2 - math.sqrt(3), rel=1e-5)
        assert float(pixel_loss(logits, blood, power=1.0)) == pytest.approx(1 / 4, rel=1e-5)
        assert float(pixel_loss(logits, blood)) == pytest.approx(math.log(4 / 3), rel=1e-5)
        assert float(pixel_loss(logits, blood, power=1e-3)) == pytest.approx(math.log(4 / 3), rel=1e-3)


def test_a_wrong_label_moves_a_sure_network_little_where_the_loss_is_robust() -> None:
    """The gradient is that of the cross-entropy times p^q: with p = 1/1001 and q = 1/2 a 32nd of it."""
    gradients = []
    for power in (0.0, 0.5):
        logits = torch.tensor([[-math.log(1000.0)]], requires_grad=True)
        loss = pixel_loss(logits, torch.tensor([[True]]), power=power)
        gradients.append(float(torch.autograd.grad(loss, logits)[0]))
    assert gradients[1] / gradients[0] == pytest.approx(1001**-0.5, rel=1e-4)


def test_it_learns_goes_on_where_it_stopped_and_takes_a_step_in_parts() -> None:
    whole, other = trainer(dropout=0.1), trainer(dropout=0.1)
    first = whole.learn(bright_squares(0)).loss
    for step in range(1, 20):
        whole.learn(bright_squares(step))
    other.restore({name: value.clone() for name, value in whole.tensors().items()}, whole.step)
    last = [one.learn(bright_squares(20)).loss for one in (whole, other)]
    assert last[0] == last[1] < 0.5 * first
    left, right = whole.tensors(), other.tensors()
    assert all(torch.equal(left[name], right[name]) for name in left)
    at_once, in_parts = (trainer(accumulate=parts).learn(bright_squares(0)).losses for parts in (1, 2))
    assert in_parts["cross_entropy"] == pytest.approx(at_once["cross_entropy"], rel=1e-5)


def test_scans_that_did_not_bleed_have_no_dice_and_are_counted(tmp_path: Path) -> None:
    counts = [(10, 10, 5), (0, 4, 0), (0, 0, 0), (3, 0, 0)]
    found = [Overlap(*n, float(n[0]), float(n[1])) for n in counts]
    assert mean_dice(found) == pytest.approx((0.5 + 0.0) / 2)
    assert mean_dice(found[2:]) is None
    nothing = torch.zeros(1, 2, 2, dtype=torch.bool)
    scan = PreparedScan("s", nothing.to(torch.int16), 30.0, nothing, nothing, [0], [0.0])
    figures = write_masks_judgement(tmp_path / "a.csv", [MaskJudge(name, scan) for name in "abcd"], found)
    assert figures == {
        "n_scans": 4, "n_that_bled": 2, "mean_dice_of_those": 0.25, "n_others": 2, "n_others_with_an_empty_mask": 1,
    }  # fmt: skip
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["dice"] for row in rows] == ["0.5", "0", "", "0"]
