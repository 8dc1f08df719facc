"""A tiny network that learns, the same way every time, and goes on where it stopped."""

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from hgisam.io.errors import InputError
from hgisam.labels import Subtype
from hgisam.model.classifier import ClassifierOptions, HemorrhageClassifier
from hgisam.model.swin import SwinOptions
from hgisam.train.batches import TrainingBatch
from hgisam.train.loop import LoopOptions, Trainer
from hgisam.train.losses import ClassifierObjective, LossOptions

SWIN = SwinOptions(img_size=32, window=4, embed_dim=8, depths=(2, 2, 2), heads=(1, 2, 4), in_channels=1)
ANY = list(Subtype).index(Subtype.ANY)


def bright_squares(seed: int) -> TrainingBatch:
    """Eight images, the first four with a bright square."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 + 0.05 * torch.randn(8, 1, 32, 32, generator=generator)
    blood = torch.zeros(8, 32, 32, dtype=torch.bool)
    for index in range(4):
        top, left = (int(torch.randint(0, 24, (1,), generator=generator)) for _ in range(2))
        blood[index, top : top + 8, left : left + 8] = True
    labels = torch.zeros(8, 6, dtype=torch.bool)
    labels[:4, [1, ANY]] = True
    known, traced = torch.ones_like(labels), torch.ones(8, dtype=torch.bool)
    return TrainingBatch((images + 0.4 * blood[:, None]).clamp(0, 1), labels, known, blood, traced)


def trainer(
    outputs: int = 1, loss: LossOptions | None = None, drop_path: float = 0.0, stem: str = "none", **loop: object
) -> Trainer:
    torch.manual_seed(0)
    swin = SWIN.model_copy(update={"drop_path": drop_path, "stem": stem})
    classifier = ClassifierOptions(swin=swin, outputs=outputs, pooling="log_sum_exp")
    model = HemorrhageClassifier(classifier, token_heads=True)
    options = LoopOptions.model_validate({"steps": 100, "learning_rate": 6e-3, "bfloat16": False, **loop})
    return Trainer(model, options, ClassifierObjective(loss or LossOptions()), torch.device("cpu"))


def same(a: Trainer, b: Trainer) -> bool:
    left, right = a.tensors(), b.tensors()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("outputs", [1, 2, 6])
@pytest.mark.parametrize("kind", ["cross_entropy", "focal"])
def test_a_tiny_network_learns_whatever_it_is_asked(outputs: int, kind: str) -> None:
    training = trainer(outputs, LossOptions(kind=kind), average_decay=0.9)
    for step in range(60):
        training.learn(bright_squares(step))
    with torch.inference_mode():
        images = bright_squares(99).images
        log_odds = training.averaged.log_odds(training.averaged(images))
    assert float(log_odds[:4].min()) > float(log_odds[4:].max())


@pytest.mark.parametrize("outputs", [1, 2, 6])
def test_a_step_s_loss_is_torch_s_of_the_logits_with_no_softmax_before_it(outputs: int) -> None:
    """Of two outputs torch's cross-entropy, which smooths over both classes; of one and six its binary one."""
    training, batch = trainer(outputs, LossOptions(label_smoothing=0.05)), bright_squares(0)
    with torch.inference_mode():
        logits = training.model(batch.images)
    if outputs == 2:
        expected = cross_entropy(logits, batch.labels[:, ANY].long(), label_smoothing=0.1)
    else:
        labels = batch.labels.float() if outputs == 6 else batch.labels[:, [ANY]].float()
        expected = binary_cross_entropy_with_logits(logits, 0.05 + 0.9 * labels)
    assert training.learn(batch).losses["slice_loss"] == pytest.approx(float(expected), rel=1e-5)


def test_two_runs_of_one_seed_agree_to_the_bit() -> None:
    first, second = trainer(drop_path=0.3), trainer(drop_path=0.3)
    for step in range(3):
        first.learn(bright_squares(step))
        second.learn(bright_squares(step))
    assert same(first, second)


def test_a_training_that_is_restored_goes_on_as_if_it_had_not_stopped() -> None:
    whole = trainer(drop_path=0.3)
    for step in range(3):
        whole.learn(bright_squares(step))
    tensors = {name: value.clone() for name, value in whole.tensors().items()}
    torch.rand(7)  # whatever the process drew meanwhile
    other = trainer(drop_path=0.3)
    other.restore(tensors, whole.step)
    for step in range(3, 6):
        whole.learn(bright_squares(step))
        other.learn(bright_squares(step))
    assert same(whole, other)


def test_without_batch_norms_a_step_in_parts_is_the_step_as_a_whole() -> None:
    whole, in_parts = (trainer(accumulate=parts).learn(bright_squares(0)) for parts in (1, 3))
    assert in_parts.losses == pytest.approx(whole.losses, rel=1e-6)
    assert in_parts.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-5)


def broken_squares(seed: int) -> TrainingBatch:
    broken = bright_squares(seed)
    broken.images[0, 0, 0, 0] = torch.nan
    return broken


@pytest.mark.parametrize("stem", ["none", "deep"])
def test_a_step_whose_gradient_is_not_finite_changes_nothing_and_many_in_a_row_end_the_training(
    stem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hgisam.train.loop.MOST_LOST", few := 5)
    training = trainer(stem=stem)
    training.learn(bright_squares(0))

    def networks() -> dict[str, torch.Tensor]:
        return {name: value for name, value in training.tensors().items() if name != "loop.n_lost"}

    before = {name: value.clone() for name, value in networks().items()}
    for _ in range(few - 1):
        training.learn(broken_squares(1))
    assert training.step == few
    assert all(torch.equal(value, before[name]) for name, value in networks().items())
    training.learn(bright_squares(2))
    assert not all(torch.equal(value, before[name]) for name, value in networks().items())
    assert all(value.isfinite().all() for value in networks().values())
    with pytest.raises(InputError, match="expected finite gradients"):
        for _ in range(few):
            training.learn(broken_squares(1))


def test_steps_that_were_lost_before_a_training_was_stopped_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hgisam.train.loop.MOST_LOST", few := 5)
    training, other = trainer(), trainer()
    for _ in range(few - 1):
        training.learn(broken_squares(1))
    other.restore(training.tensors(), training.step)
    with pytest.raises(InputError, match="expected finite gradients"):
        other.learn(broken_squares(1))


def parameters(training: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in training.model.named_parameters()}


@pytest.mark.parametrize(("step", "share"), [(0, 0.5), (1, 1.0), (7, 0.01 + 0.99 / 2), (10, 0.01 + 0.99 * 0.0954915)])
def test_the_rate_rises_over_the_warm_up_and_falls_along_a_cosine(step: int, share: float) -> None:
    """Two steps of warm-up, then ten along the cosine: half of it after five, (1 + cos 144 degrees) / 2 after eight.

    AdamW's first step, whatever the gradient is, moves a parameter by the rate.
    """
    training = trainer(steps=12, warmup_share=1 / 6, weight_decay=0.0, learning_rate=6e-3)
    training.restore(training.tensors(), step)
    before = parameters(training)
    report = training.learn(bright_squares(0))
    assert report.learning_rate == pytest.approx(6e-3 * share, rel=1e-5)
    moved = (parameters(training)["head.weight"] - before["head.weight"]).abs().max()
    assert float(moved) == pytest.approx(6e-3 * share, rel=1e-3)


@pytest.mark.parametrize("clip_norm", [0.01, 1e6])
def test_a_gradient_is_made_no_longer_than_the_options_say(clip_norm: float) -> None:
    """AdamW's first moment is a tenth of the first gradient that it is given."""
    training = trainer(clip_norm=clip_norm)
    report = training.learn(bright_squares(0))
    moments = [value.flatten() for name, value in training.tensors().items() if name.startswith("optimizer.exp_avg.")]
    assert report.gradient_norm > 0.02
    expected = 0.1 * min(clip_norm, report.gradient_norm)
    assert float(torch.cat(moments).norm()) == pytest.approx(expected, rel=1e-4)


def test_matrices_alone_decay() -> None:
    """By the rate times weight_decay of themselves, beside the step that they make without."""
    after = []
    for weight_decay in (0.0, 0.5):
        training = trainer(weight_decay=weight_decay, warmup_share=0.0, learning_rate=0.01, stem="deep")
        with torch.no_grad():
            for value in training.model.parameters():
                if value.ndim == 1:  # biases begin as 0, of which nothing decays
                    value.fill_(0.5)
        before = parameters(training)
        training.learn(bright_squares(0))
        after.append(parameters(training))
    plain, decayed = after
    matrices = {name for name in plain if name.endswith(".weight") and "norm" not in name}
    assert {name for name in plain if not torch.equal(plain[name], decayed[name])} == matrices
    for name in matrices:
        torch.testing.assert_close(plain[name] - decayed[name], 0.01 * 0.5 * before[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("bfloat16", [True, False])
def test_the_network_computes_in_bfloat16_where_that_is_wanted(bfloat16: bool) -> None:
    training = trainer(bfloat16=bfloat16)
    seen = []
    for module in (training.model.swin.patch_embed.proj, training.model.swin.layers[2].blocks[1].mlp.fc1):
        module.register_forward_hook(lambda _module, _given, found: seen.append(found.dtype))
    training.learn(bright_squares(0))
    assert seen == [torch.bfloat16 if bfloat16 else torch.float32] * 2
    assert {value.dtype for value in parameters(training).values()} == {torch.float32}


def test_the_average_is_what_one_works_out_by_hand() -> None:
    """It forgets quickly at first, by step / (step + 9): 1/10, 2/11; later by the decay of the options."""
    training = trainer(stem="deep", average_decay=0.9)
    expected = {name: value.clone() for name, value in training.averaged.state_dict().items()}
    for step, decay in ((0, 1 / 10), (1, 2 / 11), (95, 0.9)):
        training.step = step
        training.learn(bright_squares(step))
        for name, value in training.model.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in training.averaged.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)
    counts = [int(value) for name, value in training.averaged.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts == [3] * 6


@pytest.mark.parametrize("stem", ["none", "deep"])
def test_frozen_layers_stay_and_heads_learn(stem: str) -> None:
    """The deep stem's running means and variances, and their count, stay as well."""
    training = trainer(stem=stem, freeze_steps=2)
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    training.learn(bright_squares(0))
    changed = {name for name, value in training.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith(("head.", "token_heads."))}
    training.learn(bright_squares(1))
    training.learn(bright_squares(2))
    embedding = {name for name in before if name.startswith("swin.patch_embed.") and name.endswith("weight")}
    assert embedding
    assert not any(torch.equal(training.model.state_dict()[name], before[name]) for name in embedding)


def first_step(layer_decay: float) -> Callable[[str], float]:
    training = trainer(layer_decay=layer_decay, weight_decay=0.0, warmup_share=0.0)
    before = {name: value.detach().clone() for name, value in training.model.named_parameters()}
    training.learn(bright_squares(0))
    after = dict(training.model.named_parameters())
    return lambda name: float((after[name].detach() - before[name]).abs().max())


def test_lower_layers_learn_more_slowly_by_the_layer() -> None:
    moved, evenly = first_step(0.5), first_step(1.0)
    for name, layers_above in (
        ("head.weight", 0),
        ("swin.layers.2.blocks.1.mlp.fc1.weight", 1),
        ("swin.layers.2.downsample.reduction.weight", 2),
        ("swin.layers.0.blocks.0.mlp.fc1.weight", 6),
        ("swin.patch_embed.proj.weight", 7),
    ):
        assert moved(name) / evenly(name) == pytest.approx(0.5**layers_above, rel=0.02), name


def test_the_kept_network_is_in_eval_mode_and_lags_behind() -> None:
    training = trainer(average_decay=0.99)
    for step in range(4):
        training.learn(bright_squares(step))
    assert not training.averaged.training
    assert training.model.training
    assert not torch.equal(training.averaged.head.weight, training.model.head.weight)
