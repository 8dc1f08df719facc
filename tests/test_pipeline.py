"""One scan through all stages, with a tiny network of random weights: what holds whatever the network has learned."""

import pickle
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_writer import ct_slice, save, write_series
from numpy.typing import NDArray
from pydantic import TypeAdapter

from hgisam import Segmenter, __version__, pipeline
from hgisam.io.dicom_series import find_series
from hgisam.io.errors import ScanRefused
from hgisam.io.nifti import read_ct
from hgisam.labels import Subtype
from hgisam.model.architecture import Architecture, build_classifier
from hgisam.model.checkpoint import WeightsError, WeightsMetadata, save_weights
from hgisam.model.swin import SwinOptions
from hgisam.phantom import Phantom, PhantomOptions, make_phantom
from hgisam.pipeline import DeviceUnavailable, SegmentOptions, pick_device
from hgisam.preprocess import PreprocessOptions
from hgisam.records import segmentation_record
from hgisam.refine import Components, Threshold
from hgisam.weak import GradCam, GradCamPlusPlus, GradientRollout, HuThreshold, LayerCam, WeakLabeler

TINY = SwinOptions(img_size=96, window=3, embed_dim=8, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), in_channels=2)


@pytest.fixture(scope="module")
def make_weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("weights")

    def make(outputs: int = 1, spacing_mm: float = 2.0, kind: str = "swin") -> Path:
        torch.manual_seed(outputs)
        tiny = {"swin": {"swin": TINY}, "resnet18": {"kind": "resnet18", "width": 4}}[kind]
        options = TypeAdapter(Architecture).validate_python({"outputs": outputs, **tiny})
        metadata = WeightsMetadata(
            architecture=options,
            preprocess=PreprocessOptions(spacing_mm=spacing_mm, fov_px=96).model_dump(mode="json"),
            operating_point=0.0,
            threshold=0.5,
            data="none",
            command="none",
            seed=outputs,
            created=datetime.now(UTC),
            version=__version__,
            licence="Apache-2.0",
        )
        path = folder / f"{kind}-{outputs}-{spacing_mm}.safetensors"
        save_weights(path, build_classifier(options), metadata)
        return path

    return make


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    options = PhantomOptions(
        n_slices=15, slice_mm=10.0, size_px=112, pixel_mm=2.0, kinds=(Subtype.INTRAPARENCHYMAL,), volumes_ml=(40.0,)
    )
    return make_phantom(3, options)


@pytest.fixture(scope="module")
def array_and_affine(phantom: Phantom) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    return phantom.ct.hu.numpy(), phantom.ct.affine.numpy()


def test_a_file_an_image_a_volume_and_an_array_give_one_result(
    make_weights: Callable[..., Path],
    array_and_affine: tuple[NDArray[np.float32], NDArray[np.float64]],
    tmp_path: Path,
) -> None:
    array, affine = array_and_affine
    image = nib.Nifti1Image(array.astype(np.int16), affine)
    nib.save(image, tmp_path / "scan.nii.gz")
    segmenter = Segmenter(make_weights())
    from_array = segmenter.segment((array, affine))
    volume = read_ct(tmp_path / "scan.nii.gz")[0]
    for scan in (image, tmp_path / "scan.nii.gz", volume):
        other = segmenter.segment(scan)
        assert np.array_equal(other.mask, from_array.mask)
        np.testing.assert_allclose(other.saliency, from_array.saliency, atol=1e-4)
        assert other.volume_ml == from_array.volume_ml
    assert list(tmp_path.iterdir()) == [tmp_path / "scan.nii.gz"]


def test_the_result_turns_with_the_file(
    make_weights: Callable[..., Path], array_and_affine: tuple[NDArray[np.float32], NDArray[np.float64]]
) -> None:
    array, affine = array_and_affine
    segmenter = Segmenter(make_weights())
    straight = segmenter.segment((array, affine))
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    flip[0, 3] = array.shape[0] - 1
    swap = np.eye(4)[[1, 2, 0, 3]].T
    turned_affine = affine @ flip @ swap
    turned = segmenter.segment((np.transpose(array[::-1], (1, 2, 0)), turned_affine))
    assert turned.slice_axis == 2
    assert np.array_equal(np.transpose(turned.mask, (2, 0, 1))[::-1], straight.mask)
    np.testing.assert_allclose(turned.slice_probabilities[::-1], straight.slice_probabilities, atol=1e-6)
    np.testing.assert_allclose(turned.slice_positions_mm[::-1], straight.slice_positions_mm, atol=1e-6)
    assert turned.volume_ml == pytest.approx(straight.volume_ml)


def test_the_volume_is_voxels_times_determinant_and_the_map_is_in_range(
    make_weights: Callable[..., Path], array_and_affine: tuple[NDArray[np.float32], NDArray[np.float64]]
) -> None:
    result = Segmenter(make_weights()).segment(array_and_affine)
    assert result.volume_ml == pytest.approx(int(result.mask.sum()) * 10.0 * 2.0 * 2.0 / 1000)
    assert result.mask.dtype == np.uint8
    assert set(np.unique(result.mask)) <= {0, 1}
    assert 0.0 <= result.saliency.min() < result.saliency.max() <= 1.0
    assert result.saliency.shape == result.mask.shape == array_and_affine[0].shape


def test_slices_below_the_operating_point_get_neither_map_nor_mask(
    make_weights: Callable[..., Path], array_and_affine: tuple[NDArray[np.float32], NDArray[np.float64]]
) -> None:
    path = make_weights()
    every = Segmenter(path).segment(array_and_affine)
    middle = float(np.median(every.slice_probabilities[every.slice_has_brain]))
    gated = Segmenter(path, options=SegmentOptions(operating_point=middle)).segment(array_and_affine)
    assert np.array_equal(gated.slice_gated, every.slice_has_brain & (every.slice_probabilities >= middle))
    assert not gated.saliency[~gated.slice_gated].any()
    assert not gated.mask[~gated.slice_gated].any()
    ungated = Segmenter(path, options=SegmentOptions(operating_point=middle, gate=False)).segment(array_and_affine)
    assert np.array_equal(ungated.slice_gated, every.slice_has_brain)


def test_a_gate_that_no_slice_passes_measures_zero_not_null(
    make_weights: Callable[..., Path], array_and_affine: tuple[NDArray[np.float32], NDArray[np.float64]]
) -> None:
    result = Segmenter(make_weights(), options=SegmentOptions(operating_point=1.0)).segment(array_and_affine)
    assert result.volume_ml == 0.0
    assert result.volume_reason is None
    assert not result.mask.any()


def test_a_scan_below_the_scan_gate_gets_neither_map_nor_mask_and_the_result_says_why(
    make_weights: Callable[..., Path], array_and_affine: tuple[NDArray[np.float32], NDArray[np.float64]]
) -> None:
    path = make_weights()
    plain = Segmenter(path).segment(array_and_affine)
    assert plain.probability is not None and plain.mask.any()
    passed = Segmenter(path, options=SegmentOptions(scan_gate=plain.probability)).segment(array_and_affine)
    np.testing.assert_array_equal(passed.saliency, plain.saliency)
    np.testing.assert_array_equal(passed.mask, plain.mask)
    assert passed.warnings == plain.warnings
    above = plain.probability + 0.01
    closed = Segmenter(path, options=SegmentOptions(scan_gate=above)).segment(array_and_affine)
    assert not closed.slice_gated.any() and not closed.saliency.any() and not closed.mask.any()
    assert (closed.volume_ml, closed.volume_reason, closed.probability) == (0.0, None, plain.probability)
    np.testing.assert_array_equal(closed.slice_probabilities, plain.slice_probabilities)
    assert f"the scan's probability is below the scan gate, {above:g}" in closed.volume_doubts[-1].text
    assert closed.volume_doubts[-1].text in closed.warnings
    none_positive = SegmentOptions(scan_gate=above, operating_point=1.0)
    assert Segmenter(path, options=none_positive).segment(array_and_affine).warnings == plain.warnings


def test_positive_slices_in_which_nothing_could_be_outlined_are_said(
    make_weights: Callable[..., Path], array_and_affine: tuple[NDArray[np.float32], NDArray[np.float64]]
) -> None:
    options = SegmentOptions(operating_point=0.0, refine=Components(min_component_mm3=1e9))
    result = Segmenter(make_weights(), options=options).segment(array_and_affine)
    assert not result.mask.any()
    assert result.volume_ml == 0.0
    assert any("but nothing could be outlined" in warning for warning in result.warnings)
    assert result.volume_doubts[-1].text in result.warnings
    assert not result.volume_is_lower_bound


def test_windows_of_a_small_field_of_view_cover_the_head(
    make_weights: Callable[..., Path], array_and_affine: tuple[NDArray[np.float32], NDArray[np.float64]]
) -> None:
    options = SegmentOptions(refine=Threshold(), mirrored=False)
    array, affine = array_and_affine
    few = (array[4:9], affine)
    result = Segmenter(make_weights(spacing_mm=1.0), options=options).segment(few)
    seen = result.saliency > 0
    assert seen[2].sum() > 1000
    one_by_one = Segmenter(make_weights(spacing_mm=1.0), options=options, batch_size=1).segment(few)
    np.testing.assert_allclose(one_by_one.saliency, result.saliency, atol=1e-4)


def test_six_outputs_name_the_subtypes_and_two_are_a_softmax(
    make_weights: Callable[..., Path], array_and_affine: tuple[NDArray[np.float32], NDArray[np.float64]]
) -> None:
    six = Segmenter(make_weights(outputs=6)).classify(array_and_affine)
    assert list(six.subtype_probabilities) == [s for s in Subtype if s is not Subtype.ANY]
    two = Segmenter(make_weights(outputs=2)).classify(array_and_affine)
    assert two.subtype_probabilities == {}
    assert 0.0 < float(two.probability or 0.0) < 1.0


def test_an_offset_that_was_kept_is_refused_until_it_is_named(
    make_weights: Callable[..., Path], array_and_affine: tuple[NDArray[np.float32], NDArray[np.float64]]
) -> None:
    array, affine = array_and_affine
    with pytest.raises(ScanRefused, match="--hu-offset -1024"):
        Segmenter(make_weights()).classify((array + 1024, affine))
    told = Segmenter(make_weights(), options=SegmentOptions(hu_offset=-1024.0)).classify((array + 1024, affine))
    assert "-1024 HU were added to every voxel, as was asked for" in told.warnings
    plain = Segmenter(make_weights()).classify((array, affine))
    np.testing.assert_allclose(told.slice_probabilities, plain.slice_probabilities, atol=0.02)


def test_equal_settings_have_equal_hashes_and_a_changed_one_does_not(
    make_weights: Callable[..., Path], array_and_affine: tuple[NDArray[np.float32], NDArray[np.float64]]
) -> None:
    options = (SegmentOptions(refine=Components(min_share=share)) for share in (0.3, 0.3, 0.4))
    weights = make_weights()
    first, again, other = (Segmenter(weights, options=o).segment(array_and_affine) for o in options)
    assert first.settings_hash == again.settings_hash != other.settings_hash


@pytest.mark.parametrize("name", ["tpu9000", "cuda:77"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(DeviceUnavailable, match=name):
        pick_device(name)


NO_NETWORK = SegmentOptions(weak=HuThreshold(contrast_hu=16.0))


def test_a_hu_threshold_needs_no_network(
    array_and_affine: tuple[NDArray[np.float32], NDArray[np.float64]],
    phantom: Phantom,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No weights are read, nothing is called a probability, and what is denser than the brain by the contrast is
    masked: on a head with a large bleed, most of it."""

    def no_weights(*_: object) -> None:
        raise AssertionError("weights were asked for")

    monkeypatch.setattr(pipeline, "load_weights", no_weights)
    result = Segmenter(options=NO_NETWORK).segment(array_and_affine)
    assert result.probability is None and result.operating_point is None and result.weights_sha256 is None
    assert np.isnan(result.slice_probabilities).all()
    assert np.array_equal(result.slice_gated, result.slice_has_brain)
    assert (result.settings["weights_sha256"], result.settings["preprocess"]) == (None, None)
    assert any("no network was asked" in warning for warning in result.warnings)
    blood = phantom.labels.numpy() > 0
    assert result.mask[blood].mean() > 0.7
    assert not result.mask[phantom.ct.hu.numpy() > 200].any()
    assert result.volume_ml == pytest.approx(int(result.mask.sum()) * 10.0 * 2.0 * 2.0 / 1000)


def test_what_only_a_network_can_do_is_refused_without_one(
    make_weights: Callable[..., Path], array_and_affine: tuple[NDArray[np.float32], NDArray[np.float64]]
) -> None:
    with pytest.raises(WeightsError, match="expected a method with a network; got 'hu_threshold'"):
        Segmenter(options=NO_NETWORK).classify(array_and_affine)
    with pytest.raises(WeightsError, match="expected no weights with 'hu_threshold'"):
        Segmenter(make_weights(), options=NO_NETWORK)


def test_a_gate_before_hu_says_in_which_slices_they_count(
    make_weights: Callable[..., Path], array_and_affine: tuple[NDArray[np.float32], NDArray[np.float64]]
) -> None:
    """Where the network says blood the map is that of HU alone, elsewhere zero; probabilities are the network's."""
    everywhere = Segmenter(options=NO_NETWORK).segment(array_and_affine)
    seen = Segmenter(make_weights()).classify(array_and_affine).slice_probabilities
    point = float(np.median(seen[everywhere.slice_has_brain]))
    options = SegmentOptions(gate=True, operating_point=point, weak=HuThreshold(contrast_hu=16.0))
    gated = Segmenter(make_weights(), options=options).segment(array_and_affine)
    assert np.array_equal(gated.slice_probabilities, seen)
    assert np.array_equal(gated.slice_gated, everywhere.slice_has_brain & (seen >= point))
    assert 0 < gated.slice_gated.sum() < everywhere.slice_has_brain.sum()
    kept = np.moveaxis(everywhere.saliency, everywhere.slice_axis, 0) * gated.slice_gated[:, None, None]
    assert kept.any() and np.array_equal(np.moveaxis(gated.saliency, gated.slice_axis, 0), kept)
    assert gated.mask.any() and not (gated.mask & ~everywhere.mask).any()
    assert not any("no network was asked" in warning for warning in gated.warnings)
    beside = Segmenter(make_weights()).with_options(options)
    assert np.array_equal(beside.segment(array_and_affine).mask, gated.mask)


@pytest.mark.parametrize(
    ("kind", "weak"),
    [
        ("swin", GradCam()),
        ("swin", LayerCam()),
        ("swin", GradientRollout()),
        ("resnet18", GradCamPlusPlus()),
        ("resnet18", LayerCam()),
    ],
    ids=lambda value: getattr(value, "method", value),
)
def test_any_method_maps_a_scan(
    make_weights: Callable[..., Path],
    array_and_affine: tuple[NDArray[np.float32], NDArray[np.float64]],
    kind: str,
    weak: WeakLabeler,
) -> None:
    result = Segmenter(make_weights(kind=kind), options=SegmentOptions(weak=weak)).segment(array_and_affine)
    assert np.isfinite(result.saliency).all()
    assert result.saliency.min() == 0.0
    assert 0.5 < result.saliency.max() <= 1.0  # the highest is 1 on the canvas
    assert result.settings["segment"]["weak"]["method"] == weak.method


def test_a_method_that_cannot_look_into_the_network_is_refused_and_classifying_is_not(
    make_weights: Callable[..., Path], array_and_affine: tuple[NDArray[np.float32], NDArray[np.float64]]
) -> None:
    segmenter = Segmenter(make_weights(kind="resnet18"))
    with pytest.raises(WeightsError, match="the method 'self_attention': expected a Swin Transformer"):
        segmenter.segment(array_and_affine)
    assert 0.0 < float(segmenter.classify(array_and_affine).probability or 0.0) < 1.0


def test_a_dicom_series_gives_what_its_array_gives_whichever_way_it_comes(
    make_weights: Callable[..., Path], phantom: Phantom, tmp_path: Path
) -> None:
    hu = phantom.ct.hu.round()
    array, affine = hu.numpy(), phantom.ct.affine.numpy()
    corner = affine[:3, 3] * [-1, -1, 1]
    for index in np.random.default_rng(0).permutation(len(array)).tolist():
        dataset = ct_slice(
            array[index].astype(np.int16),
            ImagePositionPatient=[*corner[:2].tolist(), float(corner[2] + 10.0 * index)],
            PixelSpacing=[2.0, 2.0],
            SliceThickness=10.0,
        )
        save(dataset, tmp_path / "head" / f"{index}.dcm")
    with zipfile.ZipFile(tmp_path / "head.zip", "w") as archive:
        for path in (tmp_path / "head").iterdir():
            archive.write(path, path.name)
    segmenter = Segmenter(make_weights())
    from_array = segmenter.segment((array, affine))
    result = segmenter.segment(tmp_path / "head")
    assert torch.equal(result.mask_volume.voxels, from_array.mask_volume.voxels)
    assert torch.equal(result.saliency_house, from_array.saliency_house)
    assert result.volume_ml == pytest.approx(from_array.volume_ml)
    np.testing.assert_allclose(result.slice_positions_mm, from_array.slice_positions_mm)
    assert result.slice_axis == 2
    for scan in (str(tmp_path / "head.zip"), find_series([tmp_path / "head"]).series[0]):
        np.testing.assert_array_equal(segmenter.classify(scan).slice_probabilities, from_array.slice_probabilities)


def test_a_gap_is_refused_until_it_is_allowed_and_one_slice_of_unknown_thickness_has_no_volume(
    make_weights: Callable[..., Path], phantom: Phantom, tmp_path: Path
) -> None:
    pixels = [plane.round().numpy().astype(np.int16) for plane in phantom.ct.hu]
    kept = [index for index in range(15) if index != 7]
    write_series(
        tmp_path / "gap", [10.0 * i for i in kept], pixels=[pixels[i] for i in kept], thickness_mm=10.0,
        PixelSpacing=[2.0, 2.0],
    )  # fmt: skip
    with pytest.raises(ScanRefused, match="--allow-gaps"):
        Segmenter(make_weights()).classify(tmp_path / "gap")
    allowed = Segmenter(make_weights(), options=SegmentOptions(allow_gaps=True)).segment(tmp_path / "gap")
    assert any("lower bound" in warning for warning in allowed.warnings)
    assert allowed.volume_ml == pytest.approx(int(allowed.mask.sum()) * 0.04)
    write_series(tmp_path / "one", [0.0], pixels=[pixels[8]], thickness_mm=None, PixelSpacing=[2.0, 2.0])
    one = Segmenter(make_weights()).segment(tmp_path / "one")
    assert one.slice_has_brain.all()
    assert one.volume_ml is None
    assert "thickness is not stated" in str(one.volume_reason)


def test_a_picture_is_seen_as_the_slice_it_is_and_has_no_volume(
    make_weights: Callable[..., Path], phantom: Phantom
) -> None:
    affine = np.diag([-2.0, -2.0, 10.0, 1.0])
    plane = phantom.ct.hu[8].numpy().T
    picture, whole = nib.Nifti1Image(plane, affine), nib.Nifti1Image(plane[:, :, None], affine)
    segmenter = Segmenter(make_weights(), options=SegmentOptions(gate=False))
    seen, expected = segmenter.segment(picture), segmenter.segment(whole)
    np.testing.assert_allclose(seen.slice_probabilities, expected.slice_probabilities, atol=1e-6)
    assert seen.mask.shape == plane.shape
    assert seen.volume_ml is None
    assert "thickness is not stated" in str(seen.volume_reason)
    assert segmentation_record(seen)["slices"][0]["n_voxels"] == int(seen.mask.sum())


def test_what_one_network_saw_serves_any_method_of_the_same_eye(
    make_weights: Callable[..., Path], phantom: Phantom
) -> None:
    scan = (phantom.ct.hu.numpy(), phantom.ct.affine.numpy())
    weights = make_weights()
    first = Segmenter(weights, options=SegmentOptions(gate=False), device="cpu")
    other = SegmentOptions(operating_point=0.4, scan_gate=0.1, weak=GradCam(), refine=Threshold(), threshold=0.2)
    beside, alone = first.with_options(other), Segmenter(weights, options=other, device="cpu")
    look = first.look(scan)
    assert first.eye == beside.eye == alone.eye
    for segmenter in (first, beside):
        shared, fresh = segmenter.segment(look), segmenter.segment(scan)
        np.testing.assert_array_equal(shared.saliency, fresh.saliency)
        assert shared.settings == fresh.settings
        assert set(shared.timings_s) == set(fresh.timings_s)
    assert "map" not in look.timings.seconds
    np.testing.assert_array_equal(beside.segment(look).mask, alone.segment(scan).mask)
    assert beside.settings == alone.settings
    assert pickle.loads(pickle.dumps(beside)).settings == alone.settings  # noqa: S301
    for seen_otherwise in (SegmentOptions(mirrored=False), SegmentOptions(hu_offset=1.0)):
        assert first.with_options(seen_otherwise).eye != first.eye
    with pytest.raises(WeightsError, match="a method with a network"):
        first.with_options(SegmentOptions(gate=False, weak=HuThreshold()))


def test_another_process_gets_the_same_segmenter(make_weights: Callable[..., Path], phantom: Phantom) -> None:
    scan = (phantom.ct.hu.numpy(), phantom.ct.affine.numpy())
    options = SegmentOptions(mirrored=False, hu_offset=2.0)
    here = Segmenter(make_weights(), options=options, device="cpu", batch_size=3)
    there = pickle.loads(pickle.dumps(here))  # noqa: S301
    assert (there.settings, there.device, there.batch_size) == (here.settings, here.device, 3)
    expected, got = here.classify(scan), there.classify(scan)
    np.testing.assert_array_equal(got.slice_probabilities, expected.slice_probabilities)


def test_a_smaller_batch_gives_the_same_result_and_a_batch_of_one_is_the_least(
    make_weights: Callable[..., Path], phantom: Phantom
) -> None:
    scan = (phantom.ct.hu.numpy(), phantom.ct.affine.numpy())
    segmenter = Segmenter(make_weights(), device="cpu", batch_size=5)
    expected = segmenter.segment(scan)
    said = [segmenter.use_less_memory(allow_cpu=True) for _ in range(3)]
    assert said == ["a batch of 2", "a batch of 1", None]
    got = segmenter.segment(scan)
    np.testing.assert_allclose(got.saliency, expected.saliency, atol=1e-4)
    assert got.settings_hash == expected.settings_hash


def test_where_one_window_is_too_many_the_cpu_takes_over_if_it_may(make_weights: Callable[..., Path]) -> None:
    segmenter = Segmenter(make_weights(), device="cpu", batch_size=1)
    segmenter.device = torch.device("meta")  # stands for a GPU: only where the network is told to go matters here
    assert segmenter.use_less_memory(allow_cpu=False) is None
    assert segmenter.use_less_memory(allow_cpu=True) == "the CPU"
    assert (segmenter.device.type, segmenter.batch_size) == ("cpu", 4)
    assert segmenter.use_less_memory(allow_cpu=True) == "a batch of 2"
