"""The convolutional classifier, and what holds for every kind of network."""

from collections.abc import Callable

import pytest
import torch
from networks import small_cnn, small_network
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from hgisam.model.architecture import Architecture, build_classifier
from hgisam.model.classifier import ClassifierOptions
from hgisam.model.cnn import CnnOptions
from hgisam.model.slice_classifier import SliceClassifier
from hgisam.train.recipe import TrainOptions

NETWORKS: dict[str, Callable[..., SliceClassifier]] = {"swin": small_network, "resnet18": small_cnn}


@pytest.fixture(params=NETWORKS, ids=str)
def make(request: pytest.FixtureRequest) -> Callable[..., SliceClassifier]:
    return NETWORKS[request.param]


def test_the_default_is_a_resnet_18() -> None:
    """Its published 11.69 M parameters, less the 1000-class head (0.513 M) and one of three input channels."""
    network = build_classifier(CnnOptions())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert parameters == 11_689_512 - 512 * 1000 - 1000 - 64 * 49 + 512 + 1


def test_the_logits_are_those_of_monais_own_forward_pass() -> None:
    model = small_cnn(outputs=6).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images), model.head(model.resnet(images)))


@pytest.mark.parametrize("pooling", ["mean", "log_sum_exp"])
def test_watching_changes_nothing_and_sees_every_stage(make: Callable[..., SliceClassifier], pooling: str) -> None:
    model = make().eval()
    model.options = model.options.model_copy(update={"pooling": pooling})
    seen: dict[int, Tensor] = {}

    def watch(stage: int, features: Tensor) -> Tensor:
        seen[stage] = features
        return features

    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.forward_watched(images, watch), model(images))
    assert [tuple(seen[stage].shape[2:]) for stage in seen] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert len(seen) == model.n_stages


def test_what_the_watcher_hands_on_is_what_the_next_stage_gets(make: Callable[..., SliceClassifier]) -> None:
    model = make(outputs=2).eval()
    with torch.no_grad():
        quiet = model.forward_watched(torch.rand(1, 3, 64, 64), lambda stage, features: torch.zeros_like(features))
        same = model.forward_watched(torch.rand(1, 3, 64, 64), lambda stage, features: torch.zeros_like(features))
    assert torch.equal(quiet, same)


def test_features_lie_where_their_pixels_are(make: Callable[..., SliceClassifier]) -> None:
    """A change in one corner of the image changes stage 1 most near that corner."""
    model = make().eval()
    seen: list[Tensor] = []

    def watch(stage: int, features: Tensor) -> Tensor:
        seen.append(features)
        return features

    images = torch.zeros(2, 3, 64, 64)
    images[1, :, 40:44, 8:12] = 1.0
    with torch.no_grad():
        model.forward_watched(images, watch)
    change = (seen[0][1] - seen[0][0]).abs().sum(dim=0)
    row, col = divmod(int(change.argmax()), 16)
    assert abs(row - 10) <= 1 and abs(col - 2) <= 1


@pytest.mark.parametrize("shape", [(1, 2, 64, 64), (1, 3, 31, 64)])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected images \[batch, 3, height, width\] of at least 32 px"):
        small_cnn()(torch.zeros(shape))


def test_a_cnn_has_no_tokens() -> None:
    with pytest.raises(ValueError, match="token heads"):
        small_cnn().forward_with_tokens(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="set token_weight to 0"):
        build_classifier(CnnOptions(), token_heads=True)


def test_options_name_their_kind_and_none_is_a_swin_transformer() -> None:
    parsed = TypeAdapter(Architecture).validate_python
    assert parsed({"kind": "resnet18", "width": 8}) == CnnOptions(width=8)
    assert parsed({"outputs": 2}) == parsed({"kind": "swin", "outputs": 2}) == ClassifierOptions(outputs=2)
    with pytest.raises(ValidationError, match="resnet99"):
        parsed({"kind": "resnet99"})
    with pytest.raises(ValidationError, match="Extra inputs"):
        parsed({"kind": "swin", "width": 8})


def test_a_recipe_whose_network_cannot_learn_it_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"expected loss\.token_weight 0 with resnet18"):
        TrainOptions.model_validate({"classifier": {"kind": "resnet18"}})
    with pytest.raises(ValidationError, match="for the 3 channels that preprocess makes; got one for 2"):
        TrainOptions.model_validate({"preprocess": {"channels": "windows_fixed"}})
