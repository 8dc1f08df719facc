"""Networks that learn from masks: an answer for every pixel, weights that come back, no mistaking them for others."""

import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from networks import small_network

from hgisam.environment import describe
from hgisam.model.checkpoint import (
    SegmenterMetadata,
    WeightsError,
    WeightsMetadata,
    load_network,
    load_segmenter,
    load_weights,
    save_weights,
)
from hgisam.model.supervised import MaskNetwork, SegmenterArchitecture, SwinUnetrOptions, UNetOptions

NETWORKS: dict[str, tuple[SegmenterArchitecture, tuple[int, ...]]] = {
    "unet2d": (UNetOptions(channels=(4, 8, 16)), (12, 16)),
    "unet3d": (UNetOptions(spatial_dims=3, channels=(4, 8, 16, 16), slice_halvings=1), (6, 8, 16)),
    "swin_unetr2d": (SwinUnetrOptions(feature_size=12), (64, 32)),
    "swin_unetr3d": (SwinUnetrOptions(feature_size=12, spatial_dims=3), (32, 32, 64)),
}


def metadata_of(options: SegmenterArchitecture) -> SegmenterMetadata:
    return SegmenterMetadata(
        architecture=options, data="none", command="none", seed=0, created=datetime(2026, 1, 2, tzinfo=UTC),
        version="0", licence="Apache-2.0",
    )  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_every_pixel_gets_an_answer_and_none_depends_on_batch_mates(name: str) -> None:
    options, sides = NETWORKS[name]
    torch.manual_seed(0)
    network = MaskNetwork(options).eval()
    images = torch.rand(2, 2, *sides)
    with torch.inference_mode():
        together, alone = network(images), network(images[1:])
    assert together.shape == (2, *sides)
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_images_that_it_cannot_halve_are_refused(name: str) -> None:
    options, sides = NETWORKS[name]
    network = MaskNetwork(options)
    assert all(side % step == 0 for side, step in zip(sides, options.steps, strict=True))
    for shape in ((1, 2, *sides[:-1], sides[-1] + 1), (1, 3, *sides), (1, 2, *sides, 32), (1, 2, *options.steps)):
        with pytest.raises(ValueError, match="multiples of"):
            network(torch.rand(shape))


def test_only_the_last_halvings_halve_the_slices() -> None:
    options = UNetOptions(spatial_dims=3, channels=(4, 8, 16, 32), slice_halvings=1)
    assert options.strides == ((1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert options.steps == (2, 8, 8)
    with pytest.raises(ValueError, match="at most 3 slice_halvings"):
        UNetOptions(spatial_dims=3, channels=(4, 8, 16, 32), slice_halvings=4)


def test_weights_come_back(tmp_path: Path) -> None:
    options, sides = NETWORKS["unet2d"]
    network = MaskNetwork(options).eval()
    sha256 = save_weights(tmp_path / "a.safetensors", network, metadata_of(options))
    loaded = load_segmenter(tmp_path / "a.safetensors")
    images = torch.rand(1, 2, *sides)
    with torch.inference_mode():
        assert torch.equal(loaded.model(images), network(images))
    assert (loaded.sha256, loaded.metadata) == (sha256, metadata_of(options))
    assert describe(tmp_path / "a.safetensors")["weights"]["kind"] == "segmenter"


def test_a_segmenter_is_not_taken_for_a_classifier_nor_the_reverse(tmp_path: Path) -> None:
    options, _ = NETWORKS["unet2d"]
    classifier = small_network()
    common = metadata_of(options).model_dump(exclude={"kind", "architecture", "stack"})
    save_weights(tmp_path / "mask.safetensors", MaskNetwork(options), metadata_of(options))
    save_weights(
        tmp_path / "slice.safetensors", classifier,
        WeightsMetadata.model_validate(common | {"architecture": classifier.options, "operating_point": 0.5}),
    )  # fmt: skip
    with pytest.raises(WeightsError, match="expected weights of a classifier; got those of a segmenter") as first:
        load_weights(tmp_path / "mask.safetensors")
    with pytest.raises(WeightsError, match="expected weights of a segmenter; got those of a classifier") as second:
        load_segmenter(tmp_path / "slice.safetensors")
    assert "\n" not in f"{first.value}{second.value}"
    kinds = [load_network(tmp_path / f"{name}.safetensors").metadata.kind for name in ("mask", "slice")]
    assert kinds == ["segmenter", "classifier"]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_the_least_parameters_that_it_says(name: str) -> None:
    options, _ = NETWORKS[name]
    n_parameters = sum(parameter.numel() for parameter in MaskNetwork(options).parameters())
    assert 0.02 * n_parameters < options.least_parameters <= n_parameters


@pytest.mark.parametrize(
    "larger",
    [
        UNetOptions(channels=(4, 2**20, 2**20)),
        UNetOptions(in_channels=10**12),
        SwinUnetrOptions(depths=(2, 2, 2, 10**9)),
        SwinUnetrOptions(window=10**6),
    ],
)
def test_a_network_larger_than_its_file_is_refused_before_it_is_built(
    larger: SegmenterArchitecture, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    network = MaskNetwork(NETWORKS["unet2d"][0])
    network.options = larger
    save_weights(path, network, metadata_of(larger))
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match="expected the network of its metadata"):
            load_segmenter(path)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
