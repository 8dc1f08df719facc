"""Losses by hand, and a tiny network that learns."""

import math
from collections.abc import Iterator

import pytest
import torch

from hgisam.model.architecture import build_classifier
from hgisam.model.classifier import ClassifierOptions, HemorrhageClassifier
from hgisam.model.cnn import CnnOptions
from hgisam.model.slice_classifier import SliceClassifier
from hgisam.model.swin import SwinOptions
from hgisam.train.loop import LoopOptions, TrainingBatch, slice_loss, token_loss, train

TINY = ClassifierOptions(
    swin=SwinOptions(img_size=32, window=4, embed_dim=8, depths=(2, 2, 2), heads=(1, 2, 4), in_channels=1)
)


def bright_squares(seed: int) -> Iterator[TrainingBatch]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        images = 0.3 + 0.05 * torch.randn(8, 1, 32, 32, generator=generator)
        blood = torch.zeros(8, 32, 32, dtype=torch.bool)
        for index in range(4):
            top, left = (int(torch.randint(0, 24, (1,), generator=generator)) for _ in range(2))
            blood[index, top : top + 8, left : left + 8] = True
        yield TrainingBatch((images + 0.4 * blood[:, None]).clamp(0, 1), torch.arange(8) < 4, blood)


def test_slice_loss_of_an_undecided_network_is_log_two() -> None:
    assert float(slice_loss(torch.zeros(2), torch.tensor([True, False]), 0.05)) == pytest.approx(math.log(2))


def test_label_smoothing_is_least_at_the_smoothed_odds() -> None:
    label = torch.tensor([True])
    best = torch.tensor([math.log(0.95 / 0.05)])
    at_best = float(slice_loss(best, label, 0.05))
    assert at_best < float(slice_loss(best + 0.5, label, 0.05))
    assert at_best < float(slice_loss(best - 0.5, label, 0.05))


def test_token_loss_weighs_blood_and_the_rest_alike() -> None:
    blood = torch.zeros(1, 8, 8, dtype=torch.bool)
    blood[0, :4, :4] = True
    logits = torch.full((1, 2, 2), -100.0)
    assert float(token_loss([logits], blood)) == pytest.approx(50.0)
    logits[0, 0, 0] = 100.0
    assert float(token_loss([logits], blood)) == pytest.approx(0.0, abs=1e-6)


def test_token_loss_without_blood_is_finite() -> None:
    blood = torch.zeros(2, 8, 8, dtype=torch.bool)
    assert float(token_loss([torch.zeros(2, 2, 2)], blood)) == pytest.approx(0.5 * math.log(2))


def test_a_tiny_network_learns_and_two_runs_of_one_seed_agree() -> None:
    options = LoopOptions(steps=60, learning_rate=3e-3, average_decay=0.9, bfloat16=False)

    def trained() -> SliceClassifier:
        torch.manual_seed(0)
        model = HemorrhageClassifier(TINY, token_heads=True)
        return train(model, bright_squares(0), options, torch.device("cpu"))

    first, second = trained(), trained()
    batch = next(bright_squares(99))
    with torch.inference_mode():
        logits = first(batch.images)[:, 0]
    assert float(logits[:4].min()) > float(logits[4:].max())
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_the_training_flag_of_the_kept_network_is_off() -> None:
    model = HemorrhageClassifier(TINY, token_heads=True)
    kept = train(model, bright_squares(0), LoopOptions(steps=1, bfloat16=False), torch.device("cpu"))
    assert not kept.training


def test_a_cnn_learns_in_the_same_loop() -> None:
    torch.manual_seed(0)
    model = build_classifier(CnnOptions(in_channels=1, width=8))
    options = LoopOptions(steps=60, learning_rate=3e-3, average_decay=0.9, token_weight=0.0, bfloat16=False)
    kept = train(model, bright_squares(0), options, torch.device("cpu"))
    with torch.inference_mode():
        logits = kept(next(bright_squares(99)).images)[:, 0]
    assert float(logits[:4].min()) > float(logits[4:].max())
