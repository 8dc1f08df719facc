"""What holds for every weak-label method, with the options of each recipe in configs/. A method joins by its recipe."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from networks import small_cnn, small_network
from torch import Tensor

from hgisam.config import load_settings
from hgisam.labels import Subtype
from hgisam.model.slice_classifier import SliceClassifier
from hgisam.weak import GradCam, HuThreshold, SelfAttention, WeakLabeler, WeakMethod

Make = Callable[..., SliceClassifier]

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECIPES = [p for p in sorted(CONFIGS.glob("*.yaml")) if not p.name.startswith("compare_")]
SHIPPED: dict[WeakLabeler | HuThreshold, str] = {}
for recipe in RECIPES:
    SHIPPED.setdefault(load_settings(recipe).segment.weak, recipe.stem)
"""Every method as some recipe has it, with the first recipe that does."""

OTHERS = {
    SelfAttention(gradient_of="weights"): "gradient of weights",
    GradCam(stage=3): "grad_cam of an inner stage",
}
"""Options that no recipe has."""

SEED = 15
"""Of a network with which no method's map is dark, even of a last stage of 2 x 2."""

NETWORKS: dict[str, Make] = {"swin": small_network, "cnn": small_cnn}


def works_on(method: WeakLabeler, make: Make) -> bool:
    """Whether the method says that it can read such a network."""
    try:
        method.check(make())
    except ValueError:
        return False
    return True


METHODS: dict[str, tuple[WeakLabeler, Make]] = {
    f"{name}-{kind}": (method, make)
    for method, name in (SHIPPED | OTHERS).items()
    for kind, make in NETWORKS.items()
    if isinstance(method, WeakLabeler) and works_on(method, make)
}
"""A method and what makes a network for it."""


@pytest.fixture(params=METHODS, ids=str)
def named(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def method(named: str) -> WeakLabeler:
    return METHODS[named][0]


@pytest.fixture
def make(named: str) -> Make:
    return METHODS[named][1]


@pytest.fixture
def model(make: Make) -> SliceClassifier:
    return small_network(SEED, outputs=2, stem="deep") if make is small_network else make(outputs=2)


def test_every_method_has_a_recipe_and_a_network_that_it_is_held_to_the_contract_with() -> None:
    (union, _) = get_args(WeakMethod)
    assert {type(method) for method in SHIPPED} == {get_args(member)[0] for member in get_args(union)}
    held = {method for method, _ in METHODS.values()}
    assert held == {method for method in SHIPPED | OTHERS if isinstance(method, WeakLabeler)}


def inputs(batch: int = 3) -> tuple[Tensor, Tensor]:
    """Images, and regions with a hole; the last image's region is empty."""
    generator = torch.Generator().manual_seed(5)
    region = torch.zeros(batch, 64, 64, dtype=torch.bool)
    region[:-1, 8:56, 12:60] = True
    region[:-1, 20:28, 20:28] = False
    return torch.rand(batch, 3, 64, 64, generator=generator), region


def test_maps_are_finite_in_range_and_inside_the_region(method: WeakLabeler, model: SliceClassifier) -> None:
    images, region = inputs()
    found = method(model, images, region)
    assert found.maps.shape == region.shape
    assert torch.isfinite(found.maps).all() and found.maps.min() == 0.0
    assert found.maps[:-1].amax(dim=(1, 2)).tolist() == [1.0, 1.0]
    assert found.maps[~region].abs().max() == 0.0
    assert not found.maps.requires_grad and not found.log_odds.requires_grad


@pytest.mark.parametrize("outputs", [1, 2, 6])
def test_the_sigmoid_of_the_log_odds_is_the_probability(method: WeakLabeler, make: Make, outputs: int) -> None:
    model = make(outputs=outputs)
    images, region = inputs()
    with torch.no_grad():
        expected = model.eval().probabilities(model(images))[:, -1]
    torch.testing.assert_close(method(model, images, region).log_odds.sigmoid(), expected)


def test_raw_maps_are_coarse_and_not_negative(method: WeakLabeler, model: SliceClassifier) -> None:
    images, _ = inputs()
    log_odds, stages = method.stage_maps(model, images)
    assert log_odds.shape == (3,)
    for stage in stages:
        assert stage.shape[0] == 3 and stage.shape[1] <= 16
        assert torch.isfinite(stage).all() and stage.min() >= 0.0 and not stage.requires_grad


def test_an_image_does_not_depend_on_its_batch_mates(method: WeakLabeler, model: SliceClassifier) -> None:
    """Difference 3 of the method's notes: the authors stretch over the batch.

    In double precision, since a lively random network blows up what matrix products of other sizes round otherwise.
    """
    images, region = inputs(batch=5)
    model, images = model.double(), images.double()
    together = method(model, images, region)
    for i in range(len(images)):
        alone = method(model, images[i : i + 1], region[i : i + 1])
        torch.testing.assert_close(alone.maps[0], together.maps[i], atol=1e-6, rtol=0)


@pytest.mark.parametrize("caller", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_the_callers_gradient_mode_does_not_matter(method: WeakLabeler, make: Make, caller: type) -> None:
    images, region = inputs()
    network = make()
    expected = method(network, images, region).maps
    with caller():
        grad_mode = torch.is_grad_enabled()
        assert torch.equal(method(network, images, region).maps, expected)
        assert torch.is_grad_enabled() is grad_mode


def test_the_network_is_left_as_it_was_found(method: WeakLabeler, model: SliceClassifier) -> None:
    images, region = inputs()
    model.train()
    next(iter(model.children())).eval()
    model.head.bias.requires_grad_(False)
    model.head.weight.grad = torch.full_like(model.head.weight, 7.0)
    before = snapshot(model)
    method(model, images, region)
    assert snapshot(model) == before


def test_a_failing_call_leaves_the_network_as_it_was_found(method: WeakLabeler, make: Make) -> None:
    model = make().train()
    before = snapshot(model)
    with pytest.raises(ValueError, match="expected one of the classifier's targets"):
        method(model, *inputs(), target=Subtype.SUBDURAL)
    with pytest.raises(ValueError, match="expected images"):
        method(model, torch.zeros(1, 3, 8, 8), torch.ones(1, 8, 8, dtype=torch.bool))
    assert snapshot(model) == before


def test_thirty_calls_leave_no_tensor_behind(method: WeakLabeler, make: Make) -> None:
    model = make()
    images, region = inputs(batch=1)

    def live() -> tuple[int, int]:
        gc.collect()
        tensors = [o for o in gc.get_objects() if issubclass(type(o), Tensor)]
        return len(tensors), sum(t.numel() for t in tensors)

    method(model, images, region)
    before = live()
    for _ in range(30):
        method(model, images, region)
    assert live() == before


@pytest.mark.parametrize("method", [method for method in SHIPPED if isinstance(method, HuThreshold)], ids=SHIPPED.get)
def test_the_contract_without_a_network(method: HuThreshold) -> None:
    """Finite, in [0, 1], zero outside the region, each slice by itself: what is left where there is no network."""
    generator = torch.Generator().manual_seed(5)
    _, region = inputs()
    hu = 30.0 + 40.0 * torch.randn(3, 64, 64, generator=generator)
    hu[:, :4] = 1000.0
    before = hu.clone()
    together = method(hu, region, 31.0, (0.5, 0.7))
    assert together.shape == region.shape and torch.isfinite(together).all()
    assert together.min() == 0.0 < together.max() <= 1.0
    assert together[~region].abs().max() == 0.0
    for i in range(3):
        assert torch.equal(method(hu[i : i + 1], region[i : i + 1], 31.0, (0.5, 0.7))[0], together[i])
    assert torch.equal(hu, before)


def snapshot(model: SliceClassifier) -> dict[str, object]:
    """Everything about a network that a method must not change."""
    return {
        "state": {name: tensor.clone().tolist() for name, tensor in model.state_dict().items()},
        "training": {name: module.training for name, module in model.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": {n: None if p.grad is None else p.grad.tolist() for n, p in model.named_parameters()},
        "hooks": [
            hooks
            for module in model.modules()
            for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
            if hooks
        ],
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
    }
