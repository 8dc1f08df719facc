"""A scan through the pipeline of a network that learned from masks: whatever it says of a voxel, the voxel gets."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from analytic_head import draw_head
from mask_weights import write_weights
from torch import Tensor

from hgisam.model.checkpoint import WeightsError
from hgisam.model.supervised import MaskNetwork
from hgisam.pipeline import MaskSegmenter, SupervisedOptions
from hgisam.volume import Orientation


def echo(images: Tensor) -> Tensor:
    """A network's answer that says what it sees: the probability of blood is the first channel."""
    return images[:, 0].clamp(1e-4, 1 - 1e-4).logit()


@pytest.mark.parametrize("axes", ["LPS", "RAS", "ASL"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_an_index_coded_volume_comes_back_on_the_native_grid(
    axes: str, spatial_dims: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HU that code for each voxel's place, in a file of any axes; slices 6 mm apart, but the 3D stack's 5 mm."""
    head = draw_head((6.0, 2.0, 2.0), angle_deg=6.0, noise_hu=0.0)
    depth, height, width = head.ct.hu.shape
    up, along, across = (torch.arange(n, dtype=torch.float32) / n for n in (depth, height, width))
    coded = 25.0 + 10.0 * up[:, None, None] + 6.0 * along[:, None] + 9.0 * across
    hu = torch.where(head.inside, coded, head.ct.hu).numpy()
    orientation = Orientation.from_axis_codes(axes)
    array = orientation.to_file(hu)
    affine = orientation.file_affine(head.ct.affine.numpy(), array.shape)
    monkeypatch.setattr(MaskNetwork, "forward", lambda _, images: echo(images))
    segmenter = MaskSegmenter(write_weights(tmp_path / "echo.safetensors", spatial_dims), device="cpu")
    result = segmenter.segment((array, affine))
    well_inside = (head.along_mm.abs() < 45) & (head.across_mm.abs() < 32) & (head.up_mm.abs() < 25)
    inner = np.asarray(orientation.to_file(well_inside.numpy()))
    expected = np.clip((orientation.to_file(coded.numpy()) - result.brain_median_hu + 40.0) / 120.0, 0.0, 1.0)
    np.testing.assert_allclose(result.saliency[inner], expected[inner], atol=0.01)
    assert result.slice_probabilities.shape == (array.shape[result.slice_axis],)
    np.testing.assert_allclose(result.affine, affine, atol=1e-9)


def test_a_slice_is_positive_where_a_voxel_of_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = draw_head((10.0, 2.0, 2.0))
    bleed = head.inside & (head.across_mm.abs() < 14) & (head.along_mm.abs() < 14) & (head.up_mm.abs() < 11)
    scan = (head.with_hu(bleed, 80.0).hu.numpy(), head.ct.affine.numpy())
    monkeypatch.setattr(MaskNetwork, "forward", lambda _, images: 40.0 * (images[:, 0] - 0.6) * (images[:, 0] < 0.95))
    weights = write_weights(tmp_path / "bright.safetensors", 2)
    result = MaskSegmenter(weights, device="cpu").segment(scan)
    positive = result.slice_probabilities >= result.operating_point
    with_blood = bleed.flatten(1).any(dim=1).numpy()
    assert positive[with_blood].all()
    assert result.probability == result.slice_probabilities.max() == result.saliency.max()
    assert np.array_equal(result.slice_gated, result.slice_has_brain)
    assert result.mask[bleed.numpy()].mean() > 0.8
    assert result.volume_ml == pytest.approx(int(result.mask.sum()) * 0.04)
    strict = MaskSegmenter(weights, options=SupervisedOptions(min_component_mm3=1e9), device="cpu").segment(scan)
    assert not strict.mask.any() and strict.volume_ml == 0.0
    said = "slices are at or above the operating point, but nothing could be outlined"
    assert said in strict.warnings[-1] == strict.volume_doubts[-1].text
    assert not any(said in warning for warning in result.warnings)


def test_weights_of_another_network_than_the_one_asked_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected weights of a swin_unetr; got a unet"):
        MaskSegmenter(write_weights(tmp_path / "a.safetensors", 2), options=SupervisedOptions(method="swin_unetr"))


def test_it_goes_to_another_process_as_what_it_was_made_of(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "a.safetensors", 2)
    segmenter = MaskSegmenter(weights, options=SupervisedOptions(threshold=0.3), device="cpu", batch_size=3)
    again = pickle.loads(pickle.dumps(segmenter))  # noqa: S301  # its own
    assert (again.settings, again.batch_size, again.device) == (segmenter.settings, 3, segmenter.device)


def test_out_of_memory_it_takes_fewer_windows_at_a_time_until_one_is_too_many(tmp_path: Path) -> None:
    segmenter = MaskSegmenter(write_weights(tmp_path / "a.safetensors", 2), device="cpu", batch_size=3)
    assert segmenter.use_less_memory(allow_cpu=True) == "a batch of 1"
    assert segmenter.use_less_memory(allow_cpu=True) is None
