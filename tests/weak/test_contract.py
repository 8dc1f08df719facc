"""What holds for every weak-label method. A new method joins by one entry in METHODS."""

import gc

import pytest
import torch
from networks import small_network
from torch import Tensor

from hgisam.labels import Subtype
from hgisam.model.classifier import HemorrhageClassifier
from hgisam.weak import HGI_SAM, SWIN_SAM, SWIN_SAM_AS_PUBLISHED, SelfAttention, WeakLabeler

METHODS: dict[str, WeakLabeler] = {
    "hgi_sam": HGI_SAM,
    "hgi_sam_weights": SelfAttention(gradient_of="weights"),
    "swin_sam": SWIN_SAM,
    "swin_sam_as_published": SWIN_SAM_AS_PUBLISHED,
}


@pytest.fixture(params=METHODS, ids=str)
def method(request: pytest.FixtureRequest) -> WeakLabeler:
    return METHODS[request.param]


@pytest.fixture
def model() -> HemorrhageClassifier:
    return small_network(outputs=2, stem="deep")


def inputs(batch: int = 3) -> tuple[Tensor, Tensor]:
    """Images, and regions with a hole; the last image's region is empty."""
    generator = torch.Generator().manual_seed(5)
    region = torch.zeros(batch, 64, 64, dtype=torch.bool)
    region[:-1, 8:56, 12:60] = True
    region[:-1, 20:28, 20:28] = False
    return torch.rand(batch, 3, 64, 64, generator=generator), region


def test_maps_are_finite_in_range_and_inside_the_region(method: WeakLabeler, model: HemorrhageClassifier) -> None:
    images, region = inputs()
    found = method(model, images, region)
    assert found.maps.shape == region.shape
    assert torch.isfinite(found.maps).all() and found.maps.min() == 0.0
    assert found.maps[:-1].amax(dim=(1, 2)).tolist() == [1.0, 1.0]
    assert found.maps[~region].abs().max() == 0.0
    assert not found.maps.requires_grad and not found.log_odds.requires_grad


@pytest.mark.parametrize("outputs", [1, 2, 6])
def test_the_sigmoid_of_the_log_odds_is_the_probability(method: WeakLabeler, outputs: int) -> None:
    model = small_network(outputs=outputs)
    images, region = inputs()
    with torch.no_grad():
        expected = model.eval().probabilities(model(images))[:, -1]
    torch.testing.assert_close(method(model, images, region).log_odds.sigmoid(), expected)


def test_raw_maps_are_coarse_and_not_negative(method: WeakLabeler, model: HemorrhageClassifier) -> None:
    images, _ = inputs()
    log_odds, stages = method.stage_maps(model, images)
    assert log_odds.shape == (3,)
    for stage in stages:
        assert stage.shape[0] == 3 and stage.shape[1] <= 16
        assert torch.isfinite(stage).all() and stage.min() >= 0.0 and not stage.requires_grad


def test_an_image_does_not_depend_on_its_batch_mates(method: WeakLabeler, model: HemorrhageClassifier) -> None:
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
def test_the_callers_gradient_mode_does_not_matter(method: WeakLabeler, caller: type) -> None:
    images, region = inputs()
    network = small_network()
    expected = method(network, images, region).maps
    with caller():
        grad_mode = torch.is_grad_enabled()
        assert torch.equal(method(network, images, region).maps, expected)
        assert torch.is_grad_enabled() is grad_mode


def test_the_network_is_left_as_it_was_found(method: WeakLabeler, model: HemorrhageClassifier) -> None:
    images, region = inputs()
    model.train()
    model.swin.layers[1].eval()
    model.head.bias.requires_grad_(False)
    model.head.weight.grad = torch.full_like(model.head.weight, 7.0)
    before = snapshot(model)
    method(model, images, region)
    assert snapshot(model) == before


def test_a_failing_call_leaves_the_network_as_it_was_found(method: WeakLabeler) -> None:
    model = small_network().train()
    before = snapshot(model)
    with pytest.raises(ValueError, match="expected one of the classifier's targets"):
        method(model, *inputs(), target=Subtype.SUBDURAL)
    with pytest.raises(ValueError, match="expected images"):
        method(model, torch.zeros(1, 3, 8, 8), torch.ones(1, 8, 8, dtype=torch.bool))
    assert snapshot(model) == before


def test_two_hundred_calls_leave_no_tensor_behind(method: WeakLabeler) -> None:
    model = small_network()
    images, region = inputs(batch=1)

    def live() -> tuple[int, int]:
        gc.collect()
        tensors = [o for o in gc.get_objects() if issubclass(type(o), Tensor)]
        return len(tensors), sum(t.numel() for t in tensors)

    method(model, images, region)
    before = live()
    for _ in range(200):
        method(model, images, region)
    assert live() == before


def snapshot(model: HemorrhageClassifier) -> dict[str, object]:
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
