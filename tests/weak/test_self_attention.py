"""HGI-SAM and Swin-SAM against the authors' maps and against plain autograd."""

import numpy as np
import pytest
import torch
from networks import golden_images, reference_network, small_network, timm_network
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from hgisam.labels import Subtype
from hgisam.weak import HGI_SAM, SWIN_SAM, SWIN_SAM_AS_PUBLISHED, SelfAttention


def test_the_authors_maps() -> None:
    """HGI-SAM to 1e-5, alone as in a batch; Swin-SAM as published to 1e-5; with its true shift it differs."""
    model, golden = reference_network()
    images, region = golden_images(golden), torch.from_numpy(golden["brains"])
    hgi_sam = HGI_SAM(model, images, region).maps
    torch.testing.assert_close(hgi_sam, torch.from_numpy(golden["hgi_sam"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(HGI_SAM(model, images[1:], region[1:]).maps, hgi_sam[1:], atol=1e-6, rtol=0)
    published = torch.from_numpy(golden["swin_sam_as_published"])
    torch.testing.assert_close(SWIN_SAM_AS_PUBLISHED(model, images, region).maps, published, atol=1e-5, rtol=0)
    assert (SWIN_SAM(model, images, region).maps - published).abs().max() > 0.1


@pytest.mark.parametrize("gradient_of", ["scores", "weights"])
def test_stage_maps_are_those_of_timm_and_plain_autograd(gradient_of: str) -> None:
    model, golden = timm_network()
    method = SelfAttention(gradient_of=gradient_of, stages=(1, 2, 3, 4))
    _, stages = method.stage_maps(model, golden_images(golden))
    for stage, got in enumerate(stages, start=1):
        expected = torch.from_numpy(golden[f"{gradient_of}/stage{stage}"])
        torch.testing.assert_close(got, expected, atol=1e-5 * float(expected.max()), rtol=1e-4)


def test_the_two_gradients_give_different_maps() -> None:
    """Difference 1 of the method's notes: the code differentiates by scores, the figure says weights."""
    _, golden = timm_network()
    by_scores, by_weights = (golden[f"{kind}/stage1"] for kind in ("scores", "weights"))
    assert np.abs(by_scores / by_scores.max() - by_weights / by_weights.max()).max() > 0.1


def test_what_speaks_against_blood_is_no_part_of_positive_weights() -> None:
    """Where the logit is turned over, what raised it lowers it: the two maps share no pair, the norms' are the same."""
    model, images = small_network(), torch.rand(2, 3, 64, 64)
    turned = small_network()
    turned.head.weight.data.neg_()
    turned.head.bias.data.neg_()
    for gradient_of, alike in (("weights", True), ("positive_weights", False)):
        method = SelfAttention(gradient_of=gradient_of)
        one, other = (method.stage_maps(network, images)[1][0] for network in (model, turned))
        assert torch.allclose(one, other, rtol=1e-3) is alike


@pytest.mark.parametrize("stages", [(3,), (2, 3), (1,), (1, 2, 3, 4)])
def test_a_stage_map_does_not_depend_on_which_others_are_asked_for(stages: tuple[int, ...]) -> None:
    model = small_network()
    images = torch.rand(2, 3, 64, 64)
    _, every = SelfAttention(stages=(1, 2, 3, 4)).stage_maps(model, images)
    _, some = SelfAttention(stages=stages).stage_maps(model, images)
    for stage, got in zip(stages, some, strict=True):
        torch.testing.assert_close(got, every[stage - 1])


def test_the_map_is_of_the_target_that_is_asked_for() -> None:
    """With the subdural row of the head turned off, nothing depends on it; the map of `any` is untouched."""
    model = small_network(outputs=6)
    images = torch.rand(1, 3, 64, 64)
    expected = HGI_SAM.stage_maps(model, images)[1]
    with torch.no_grad():
        model.head.weight[4] = 0.0
    for got, want in zip(HGI_SAM.stage_maps(model, images)[1], expected, strict=True):
        assert torch.equal(got, want)
    assert all(not s.any() for s in HGI_SAM.stage_maps(model, images, Subtype.SUBDURAL)[1])


def test_raw_maps_grow_with_the_square_of_the_gradient() -> None:
    """Doubling the head doubles every norm, and a pair's product has two of them."""
    model = small_network()
    images = torch.rand(1, 3, 64, 64)
    _, before = HGI_SAM.stage_maps(model, images)
    with torch.no_grad():
        model.head.weight.mul_(2.0)
    _, after = HGI_SAM.stage_maps(model, images)
    for single, double in zip(before, after, strict=True):
        torch.testing.assert_close(double, 4 * single)


def test_bfloat16_autocast_gives_nearly_the_same_map() -> None:
    model = small_network(spread=1.0)
    images, region = torch.rand(2, 3, 64, 64), torch.ones(2, 64, 64, dtype=torch.bool)
    exact = HGI_SAM(model, images, region).maps
    with torch.autocast("cpu", torch.bfloat16):
        rounded = HGI_SAM(model, images, region).maps
    assert rounded.dtype == torch.float32
    assert correlation(exact, rounded) > 0.99


@pytest.mark.parametrize("stages", [(), (0, 1), (2, 1), (1, 1)])
def test_stages_out_of_order_are_refused(stages: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        SelfAttention(stages=stages)


def test_stages_and_depths_that_the_network_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="expected stages of a network with 4"):
        SelfAttention(stages=(1, 5)).stage_maps(small_network(), torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="got 1 blocks; use even depths"):
        HGI_SAM.stage_maps(small_network(depths=(1, 2, 2, 2)), torch.zeros(1, 3, 64, 64))


def test_settings_survive_json_and_name_their_method() -> None:
    text = SWIN_SAM_AS_PUBLISHED.model_dump_json()
    assert '"method":"self_attention"' in text
    assert TypeAdapter(SelfAttention).validate_json(text) == SWIN_SAM_AS_PUBLISHED
    with pytest.raises(ValidationError, match="Extra inputs"):
        SelfAttention.model_validate({"gradient": "scores"})


def correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])
