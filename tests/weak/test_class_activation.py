"""Grad-CAM, Grad-CAM++ and LayerCAM against torchcam and pytorch-grad-cam, and against sums written out."""

import pytest
import torch
from networks import GOLDEN, Arrays, arrays, golden_images, small_cnn, small_network, stored_weights
from pydantic import ValidationError
from torch import Tensor

from hgisam.attention import fuse_stages
from hgisam.labels import Subtype
from hgisam.model.cnn import CnnClassifier, CnnOptions
from hgisam.weak import GradCam, GradCamPlusPlus, LayerCam, WeakLabeler
from hgisam.weak.activations import StageActivation, stage_activations
from hgisam.weak.grad_cam import grad_cam
from hgisam.weak.grad_cam_plus_plus import grad_cam_plus_plus
from hgisam.weak.layer_cam import layer_cam

STAGES = (2, 3, 4)


def golden_network() -> tuple[CnnClassifier, Arrays]:
    """The network of cams.npz, and the file."""
    golden = arrays(GOLDEN / "cams.npz")
    weights = stored_weights(golden)
    head = {f"head.{kind}": weights.pop(f"fc.{kind}") for kind in ("weight", "bias")}
    model = CnnClassifier(CnnOptions(in_channels=3, width=4, outputs=2))
    missing = model.load_state_dict({f"resnet.{name}": w for name, w in weights.items()} | head, strict=False)
    assert not missing.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)
    return model.eval(), golden


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("grad_cam", lambda stage: GradCam(stage=stage)),
        ("grad_cam_plus_plus", lambda stage: GradCamPlusPlus(stage=stage)),
        ("layer_cam", lambda stage: LayerCam(stages=(stage,))),
    ],
)
def test_raw_maps_are_those_of_other_libraries(name: str, method: type[WeakLabeler], stage: int) -> None:
    model, golden = golden_network()
    _, (got,) = method(stage).stage_maps(model, golden_images(golden))
    expected = torch.from_numpy(golden[f"{name}/stage{stage}"])
    torch.testing.assert_close(got, expected, atol=1e-5 * float(expected.max()), rtol=1e-4)


def test_the_fused_layer_cam_is_torchcams() -> None:
    model, golden = golden_network()
    images, region = golden_images(golden), torch.ones(2, 64, 64, dtype=torch.bool)
    fused = torch.from_numpy(golden["layer_cam/fused"])
    low, high = fused.amin(dim=(1, 2), keepdim=True), fused.amax(dim=(1, 2), keepdim=True)
    got = LayerCam(stages=STAGES)(model, images, region).maps
    torch.testing.assert_close(got, (fused - low) / (high - low), atol=1e-5, rtol=0)
    _, stages = LayerCam(stages=STAGES).stage_maps(model, images)
    assert torch.equal(fuse_stages(stages, region), got)


def test_without_a_stage_it_is_the_last() -> None:
    images = torch.rand(1, 3, 64, 64)
    for model in (small_network(), small_cnn()):
        for method in (GradCam, GradCamPlusPlus):
            none, last = (method(stage=stage).stage_maps(model, images)[1][0] for stage in (None, 4))
            assert torch.equal(none, last)


def test_grad_cam_of_mean_pooled_last_features_is_the_class_activation_map() -> None:
    """Zhou et al. 2016: the head's weights times the feature maps; Grad-CAM has them divided by the places."""
    model = small_cnn(outputs=6).eval()
    images = torch.rand(2, 3, 96, 96)
    seen: list[Tensor] = []

    def watch(stage: int, features: Tensor) -> Tensor:
        seen.append(features)
        return features

    with torch.no_grad():
        model.forward_watched(images, watch)
    cam = torch.einsum("k,bkrc->brc", model.head.weight[-1].detach(), seen[-1]).relu() / 9
    torch.testing.assert_close(GradCam().stage_maps(model, images)[1][0], cam)


@pytest.mark.parametrize("pooling", ["mean", "log_sum_exp"])
def test_the_gradient_of_tokens_is_that_of_the_logit(pooling: str) -> None:
    """Of a Swin Transformer: by finite differences along one token's gradient, at its place on the grid."""
    model = small_network().double().eval()
    model.options = model.options.model_copy(update={"pooling": pooling})
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    step, (row, col) = 1e-3, (1, 5)
    _, (found,) = stage_activations(model, images, [2], Subtype.ANY)
    gradient = found.gradient[0, :, row, col].double()
    direction = gradient / gradient.norm()

    def logit(change: float) -> float:
        def watch(stage: int, features: Tensor) -> Tensor:
            if stage == 2:
                features = features.clone()
                features[0, :, row, col] += change * direction
            return features

        with torch.no_grad():
            return float(model.forward_watched(images, watch))

    slope = (logit(step) - logit(-step)) / (2 * step)
    assert slope == pytest.approx(float(gradient.norm()), rel=0.02)


def two_places(features: list[list[float]], gradient: list[list[float]]) -> StageActivation:
    """Channels of a map of one row and two columns."""
    return StageActivation(torch.tensor(features)[None, :, None], torch.tensor(gradient)[None, :, None])


def test_the_three_formulae_by_hand() -> None:
    """Two channels, two places. Grad-CAM++: alpha of channel 1 is 1/(2 + 3 * 1), of channel 2 at place 1 4/(8 + 5 * 8),
    and its weights 2 * 1/5 and 2 * 4/48."""
    found = two_places([[1.0, 2.0], [4.0, 1.0]], [[1.0, 1.0], [2.0, -4.0]])
    assert grad_cam(found).flatten().tolist() == pytest.approx([0.0, 1.0])  # w = 1, -1: 1 - 4 < 0, 2 - 1
    first, second = 2 / 5, 2 * 4 / 48
    plus_plus = [first * 1 + second * 4, first * 2 + second * 1]
    assert grad_cam_plus_plus(found).flatten().tolist() == pytest.approx(plus_plus)
    assert layer_cam(found).flatten().tolist() == pytest.approx([1 * 1 + 2 * 4, 1 * 2 + 0 * 1])


def test_grad_cam_plus_plus_without_gradient_or_denominator_is_nothing() -> None:
    flat = two_places([[1.0, 2.0]], [[0.0, 0.0]])
    cancelled = two_places([[-1.0, 0.0]], [[2.0, 2.0]])  # 2 * 4 - 1 * 8
    assert grad_cam_plus_plus(flat).flatten().tolist() == [0.0, 0.0]
    assert grad_cam_plus_plus(cancelled).flatten().tolist() == [0.0, 0.0]


def test_tiny_gradients_do_not_vanish() -> None:
    """A sure network's gradients are small: float32 would lose their cubes."""
    found = two_places([[1.0, 2.0]], [[1e-16, 1e-16]])
    assert grad_cam_plus_plus(found)[0, 0, 1] == 2 * grad_cam_plus_plus(found)[0, 0, 0] > 0


@pytest.mark.parametrize("stages", [(), (0, 1), (3, 2), (2, 2)])
def test_stages_out_of_order_are_refused(stages: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        LayerCam(stages=stages)


@pytest.mark.parametrize("method", [GradCam(stage=5), GradCamPlusPlus(stage=5), LayerCam(stages=(2, 5))])
def test_a_stage_that_the_network_lacks_is_refused(method: WeakLabeler) -> None:
    with pytest.raises(ValueError, match="expected stages of a network with 4"):
        method.stage_maps(small_cnn(), torch.zeros(1, 3, 64, 64))
