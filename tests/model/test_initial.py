"""A network begins with another's weights: what fits comes over, the resized keeps its meaning, the rest is named."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import TIMM_SWIN, golden_images, small_cnn, small_network, stored_weights, timm_network
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from hgisam.model.architecture import build_classifier
from hgisam.model.checkpoint import WeightsError, WeightsMetadata, save_weights
from hgisam.model.classifier import ClassifierOptions, HemorrhageClassifier
from hgisam.model.cnn import CnnClassifier
from hgisam.model.initial import (
    InitialReport,
    adapt_state,
    load_initial_weights,
    resize_bias_table,
    resize_patch_kernel,
    spread_channels,
    swin_shape,
)
from hgisam.model.swin import PatchEmbed


def timm_tensors() -> dict[str, Tensor]:
    """What timm saved of the network of timm_swin.npz, its head included."""
    _, golden = timm_network()
    return stored_weights(golden)


@pytest.fixture
def timm_file(tmp_path: Path) -> Path:
    path = tmp_path / "timm.safetensors"
    save_file(timm_tensors(), path, metadata={"format": "pt"})
    return path


def network(*, outputs: int = 2, token_heads: bool = False, **swin: object) -> HemorrhageClassifier:
    """The network of timm_swin.npz with some of it changed, at random."""
    torch.manual_seed(1)
    options = ClassifierOptions.model_validate({"swin": TIMM_SWIN.model_dump() | swin, "outputs": outputs})
    return HemorrhageClassifier(options, token_heads=token_heads)


def kept(model: HemorrhageClassifier) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def metadata_of(model: HemorrhageClassifier | CnnClassifier) -> WeightsMetadata:
    """What a file of ours says of a network that has learned nothing."""
    return WeightsMetadata(
        architecture=model.options, operating_point=0.5, threshold=0.5, data="none", command="none", seed=0,
        created=datetime(2026, 1, 2, tzinfo=UTC), version="0", licence="Apache-2.0",
    )  # fmt: skip


def assert_every_tensor_is_named(
    report: InitialReport, model: Mapping[str, Tensor], file: Mapping[str, Tensor]
) -> None:
    of_model = [*report.copied, *report.adapted, *report.random]
    assert sorted(of_model) == sorted(model)
    assert report.unused.keys() <= file.keys()
    assert len(report.unused) == len(file) - len(report.copied) - len(report.adapted)
    lines = report.lines()
    for name in [*report.adapted, *report.random, *report.unused]:
        assert any(f" {name}: " in line for line in lines)


def test_timms_network_says_what_timm_says(timm_file: Path) -> None:
    _, golden = timm_network()
    model = network()
    report = load_initial_weights(model, timm_file)
    assert report.random == {"head.weight": "not in the file", "head.bias": "not in the file"}
    assert report.unused == {
        "head.fc.weight": "the head of another task",
        "head.fc.bias": "the head of another task",
    }
    assert report.adapted == {}
    with torch.no_grad():
        model.head.weight.copy_(timm_tensors()["head.fc.weight"])
        model.head.bias.copy_(timm_tensors()["head.fc.bias"])
        logits = model.eval()(golden_images(golden))
    torch.testing.assert_close(logits, torch.from_numpy(golden["logits"]), atol=1e-5, rtol=0)


CHANGES: dict[str, tuple[dict[str, object], set[str], set[str]]] = {
    "nothing": ({}, set(), set()),
    "window": ({"window": 8}, {"swin.layers.0.", "swin.layers.1."}, set()),  # later grids are smaller
    "image": ({"img_size": 128}, {"swin.layers.3."}, set()),  # whose window covered a smaller grid
    "channels": ({"in_channels": 2}, {"swin.patch_embed.proj.weight"}, set()),
    "patch": ({"patch_size": 2, "img_size": 32}, {"swin.patch_embed.proj.weight"}, set()),
    "patch and channels": (
        {"patch_size": 8, "img_size": 128, "in_channels": 1},
        {"swin.patch_embed.proj.weight"},
        set(),
    ),
    "deep stem": ({"stem": "deep"}, set(), {"swin.patch_embed.at_"}),
    "more blocks": ({"depths": (2, 2, 6, 2)}, set(), {"swin.layers.2.blocks.4.", "swin.layers.2.blocks.5."}),
    "fewer blocks": ({"depths": (2, 2, 2, 2)}, set(), set()),
    "fewer stages": ({"depths": (2, 2, 4), "heads": (1, 2, 2)}, set(), {"swin.norm.", "head."}),
    "no qkv bias": ({"qkv_bias": False}, set(), set()),
    "wider MLP": ({"mlp_ratio": 6.0}, set(), {f"swin.layers.{s}.blocks.{b}.mlp." for s in range(4) for b in range(4)}),
}
"""What changes: the options, prefixes of what is adapted, prefixes of what stays random (the head always does)."""


@pytest.mark.parametrize("change", CHANGES)
def test_what_fits_comes_over_and_all_else_is_named(timm_file: Path, change: str) -> None:
    swin, adapted, random = CHANGES[change]
    model = network(**swin)
    before = kept(model)
    report = load_initial_weights(model, timm_file)
    assert_every_tensor_is_named(report, before, timm_tensors())
    assert all(any(name.startswith(prefix) for prefix in adapted) for name in report.adapted)
    assert all(any(name.startswith(prefix) for name in report.adapted) for prefix in adapted)
    assert all(any(name.startswith(prefix) for prefix in (*random, "head.")) for name in report.random)
    after = model.state_dict()
    theirs = timm_tensors()
    for name in report.copied:
        assert torch.equal(after[name], theirs[name.removeprefix("swin.")])
    for name in report.random:
        assert torch.equal(after[name], before[name])
    side = model.options.swin.img_size
    with torch.no_grad():
        logits = model.eval()(torch.rand(1, model.options.swin.in_channels, side, side))
    assert torch.isfinite(logits).all()


def test_reasons_say_what_there_is_and_what_was_wanted(timm_file: Path) -> None:
    report = load_initial_weights(network(window=8, in_channels=2, mlp_ratio=6.0, depths=(2, 2, 2, 2)), timm_file)
    table = "swin.layers.0.blocks.1.attn.relative_position_bias_table"
    assert report.adapted[table] == "relative position bias of attention window 4 resized to 8"
    assert report.adapted["swin.patch_embed.proj.weight"] == "sum over 3 channels spread over 2"
    fc1 = "layers.0.blocks.0.mlp.fc1.weight"
    assert report.random[f"swin.{fc1}"] == "expected shape [48, 8]; the file's is [32, 8]"
    assert report.unused[fc1] == "does not fit the network's shape"
    assert report.unused["layers.2.blocks.3.norm1.weight"] == "the network has no such part"
    assert report.lines()[0].startswith(f"copied {len(report.copied)} of ")


def test_our_own_weights_begin_a_network_of_another_image_head_and_channels(tmp_path: Path) -> None:
    source = small_network(stem="deep", in_channels=2)
    sha256 = save_weights(tmp_path / "own.safetensors", source, metadata_of(source))
    geometry = source.options.swin.model_dump() | {"in_channels": 3, "img_size": 128}
    options = ClassifierOptions.model_validate({"swin": geometry, "outputs": 6})
    model = HemorrhageClassifier(options, token_heads=True)
    report = load_initial_weights(model, tmp_path / "own.safetensors")
    assert_every_tensor_is_named(report, model.state_dict(), source.state_dict())
    assert report.sha256 == sha256
    assert report.unused.keys() == {"head.weight", "head.bias"}
    of_token_heads = {f"token_heads.{stage}.{kind}" for stage in range(4) for kind in ("weight", "bias")}
    assert report.random.keys() == {"head.weight", "head.bias"} | of_token_heads
    first = "swin.patch_embed.at_full.enter.conv.weight"
    assert {name for name in report.adapted if "bias_table" not in name} == {first}
    brightness = torch.rand(1, 1, 64, 64)
    before = source.swin.patch_embed.eval()(brightness.repeat(1, 2, 1, 1))
    torch.testing.assert_close(model.swin.patch_embed.eval()(brightness.repeat(1, 3, 1, 1)), before)


def test_channels_that_are_added_begin_without_a_say(tmp_path: Path) -> None:
    source = small_network(stem="deep", in_channels=2)
    tensors, geometry = source.state_dict(), source.options.swin.model_dump()
    wider = HemorrhageClassifier(ClassifierOptions.model_validate({"swin": geometry | {"in_channels": 4}}))
    adapted, report = adapt_state(tensors, wider.state_dict(), added_channels=True)
    first = "swin.patch_embed.at_full.enter.conv.weight"
    assert report.adapted == {first: "2 more channels, which begin without a say"}
    wider.load_state_dict(wider.state_dict() | adapted)
    images = torch.rand(2, 4, 64, 64)
    torch.testing.assert_close(wider.eval()(images), source.eval()(images[:, :2]))


def test_a_resnet_begins_with_a_resnets_weights_and_another_head_stays_random(tmp_path: Path) -> None:
    source = small_cnn(outputs=6)
    source.resnet.bn1.running_mean.fill_(0.25)
    save_weights(tmp_path / "cnn.safetensors", source, metadata_of(source))
    torch.manual_seed(2)
    model = build_classifier(source.options.model_copy(update={"outputs": 1}))
    before, theirs = {name: t.clone() for name, t in model.state_dict().items()}, source.state_dict()
    report = load_initial_weights(model, tmp_path / "cnn.safetensors")
    assert_every_tensor_is_named(report, before, theirs)
    assert report.random.keys() == report.unused.keys() == {"head.weight", "head.bias"}
    assert (report.adapted, report.random["head.bias"]) == ({}, "expected shape [1]; the file's is [6]")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] if name in report.random else theirs[name]), name


def test_a_resnets_added_channels_begin_without_a_say() -> None:
    source = small_cnn(in_channels=2).eval()
    wider = build_classifier(source.options.model_copy(update={"in_channels": 4})).eval()
    adapted, report = adapt_state(source.state_dict(), wider.state_dict(), added_channels=True)
    assert report.adapted == {"resnet.conv1.weight": "2 more channels, which begin without a say"}
    wider.load_state_dict(wider.state_dict() | adapted)
    images = torch.rand(2, 4, 64, 64)
    torch.testing.assert_close(wider(images), source(images[:, :2]))


def test_networks_of_another_kind_or_width_are_refused() -> None:
    cnn, swin = small_cnn(), network()
    with pytest.raises(WeightsError, match="expected the tensors of a Swin Transformer; got those of a ResNet"):
        adapt_state(cnn.state_dict(), swin.state_dict())
    for other in (swin.state_dict(), timm_tensors(), {"conv1.weight": torch.zeros(1)}, {}):
        with pytest.raises(WeightsError, match="expected the tensors of a ResNet as hgisam names them; got "):
            adapt_state(other, cnn.state_dict())
    wider = build_classifier(cnn.options.model_copy(update={"width": 2 * cnn.options.width}))
    with pytest.raises(WeightsError, match=f"expected width {2 * cnn.options.width}; got {cnn.options.width}"):
        adapt_state(cnn.state_dict(), wider.state_dict())


windows = st.integers(1, 12)
cubics = st.lists(st.floats(-1, 1), min_size=4, max_size=4)


def sampled(window: int, down: list[float], right: list[float]) -> Tensor:
    """A table of one head: a product of polynomials of the offset as a share of the window's farthest."""
    offsets = np.arange(1 - window, window) / max(1, window - 1)
    return torch.from_numpy(np.outer(np.polyval(down, offsets), np.polyval(right, offsets)).reshape(-1, 1))


@given(st.integers(3, 12), windows, cubics, cubics)
def test_a_table_keeps_cubics_of_the_offset(window: int, new: int, down: list[float], right: list[float]) -> None:
    resized = resize_bias_table(sampled(window, down, right), new)
    torch.testing.assert_close(resized, sampled(new, down, right), atol=1e-9, rtol=0)


@given(st.integers(2, 12), windows, st.floats(-1, 1), st.floats(-1, 1))
def test_a_table_that_is_linear_in_the_offsets_stays_so(window: int, new: int, slope: float, start: float) -> None:
    down, right = [slope, start], [1.0]
    resized = resize_bias_table(sampled(window, down, right), new)
    torch.testing.assert_close(resized, sampled(new, down, right), atol=1e-9, rtol=0)


@given(windows, st.integers(1, 4))
def test_a_table_of_an_equal_window_is_the_same_and_its_heads_do_not_mix(window: int, heads: int) -> None:
    table = torch.rand((2 * window - 1) ** 2, heads, generator=torch.Generator().manual_seed(window))
    torch.testing.assert_close(resize_bias_table(table, window), table)
    alone = torch.cat([resize_bias_table(table[:, [head]], window + 1) for head in range(heads)], dim=1)
    torch.testing.assert_close(resize_bias_table(table, window + 1), alone)


def test_a_table_of_a_single_token_is_the_same_everywhere() -> None:
    assert torch.equal(resize_bias_table(torch.tensor([[2.0, 3.0]]), 2), torch.tensor([[2.0, 3.0]]).expand(9, 2))


def test_only_tables_of_square_windows_can_be_resized() -> None:
    with pytest.raises(ValueError, match="not square"):
        resize_bias_table(torch.zeros(3 * 5, 1), 2)
    state = timm_tensors()
    name = "layers.0.blocks.1.attn.relative_position_bias_table"
    for table in (torch.zeros(3 * 5, 1), torch.tensor(1.0)):
        state[name] = table
        _, report = adapt_state(state, network().state_dict())
        assert report.random[f"swin.{name}"] == f"expected shape [49, 1]; the file's is {[*table.shape]}"
        assert name in report.unused


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_channels_that_show_the_same_get_the_same_answer(channels: int) -> None:
    before, after = network().swin.patch_embed, network(in_channels=channels).swin.patch_embed
    assert isinstance(before, PatchEmbed)
    assert isinstance(after, PatchEmbed)
    with torch.no_grad():
        after.load_state_dict(before.state_dict() | {"proj.weight": spread_channels(before.proj.weight, channels)})
        image = torch.rand(1, 1, 16, 16)
        torch.testing.assert_close(after(image.repeat(1, channels, 1, 1)), before(image.repeat(1, 3, 1, 1)))


def test_one_channel_gets_the_sum_of_the_files() -> None:
    """timm's own rule (adapt_input_conv), on numbers."""
    kernel = torch.tensor([[[[1.0]], [[2.0]], [[4.0]]]])
    assert torch.equal(spread_channels(kernel, 1), torch.tensor([[[[7.0]]]]))
    assert torch.equal(spread_channels(kernel, 2), torch.tensor([[[[3.5]], [[3.5]]]]))


@pytest.mark.parametrize("patch_px", [4, 5, 8, 16])
def test_a_grown_patch_gets_the_answer_of_the_small_one(patch_px: int) -> None:
    torch.manual_seed(0)
    kernel, patch = torch.randn(5, 3, 4, 4), torch.randn(2, 3, 4, 4)
    grown = functional.interpolate(patch, size=(patch_px, patch_px), mode="bilinear")
    answer = functional.conv2d(grown, resize_patch_kernel(kernel, patch_px))
    torch.testing.assert_close(answer, functional.conv2d(patch, kernel), atol=1e-5, rtol=1e-5)


def test_a_shrunk_patch_keeps_the_answer_to_what_is_flat() -> None:
    """By hand: four pixels become their mean's pixel, so its weight is the mean of theirs, times four."""
    kernel = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    torch.testing.assert_close(resize_patch_kernel(kernel, 1), torch.tensor([[[[12.0]]]]))


@pytest.mark.parametrize(
    ("swin", "message"),
    [
        ({"embed_dim": 16, "heads": (1, 2, 2, 4)}, r"timm\.safetensors: expected embed_dim 16; got 8"),
        ({"heads": (2, 2, 2, 4)}, r"expected heads \(2, 2, 2, 4\); got \(1, 2, 2, 4\)"),
        ({"depths": (2, 2, 4, 2, 2), "heads": (1, 2, 2, 4, 4), "img_size": 128}, "expected 5 stages; got 4"),
    ],
)
def test_another_network_is_refused_and_nothing_changes(timm_file: Path, swin: dict[str, object], message: str) -> None:
    model = network(**swin)
    before = kept(model)
    with pytest.raises(WeightsError, match=message) as refused:
        load_initial_weights(model, timm_file)
    assert "\n" not in str(refused.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_is_no_swin_is_refused() -> None:
    own = network().state_dict()
    with pytest.raises(WeightsError, match=r"Swin Transformer \(version 1\); got swin\.conv1\.weight"):
        adapt_state({"conv1.weight": torch.zeros(1)}, own)
    for name in ("norm1.weight", "attn.relative_position_bias_table"):
        with pytest.raises(WeightsError, match=r"version 1"):
            adapt_state(timm_tensors() | {f"layers.0.blocks.0.{name}": torch.tensor(1.0)}, own)
    with pytest.raises(WeightsError, match="got none and others"):
        adapt_state({}, own)
    version_2 = {name: tensor for name, tensor in timm_tensors().items() if "bias_table" not in name}
    with pytest.raises(WeightsError, match=r"version 1"):
        adapt_state(version_2, own)


def test_the_shape_of_a_swin_is_that_of_its_tensors() -> None:
    shape = swin_shape(network().state_dict())
    assert (shape.embed_dim, shape.depths, shape.heads) == (8, (2, 2, 4, 2), (1, 2, 2, 4))


@pytest.mark.parametrize("name", ["w.pth", "w.PT", "w.ckpt", "pytorch_model.bin"])
def test_pickles_are_refused_unread_and_the_way_out_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=r"got a pickle, .* tools/convert_hgi_checkpoint\.py"):
        load_initial_weights(network(), tmp_path / name)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_under_another_name_is_refused(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "renamed.safetensors"
    torch.save(timm_tensors(), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match="got a pickle"):
        load_initial_weights(network(), path)


def test_files_that_are_missing_changed_or_not_finite_are_refused(timm_file: Path, tmp_path: Path) -> None:
    model = network()
    before = kept(model)
    with pytest.raises(WeightsError, match="No such file"):
        load_initial_weights(model, tmp_path / "gone.safetensors")
    for name in ("norm.bias", "layers.0.blocks.0.attn.relative_position_bias_table"):
        tensors = timm_tensors()
        tensors[name].flatten()[0] = float("nan")
        save_file(tensors, tmp_path / "nan.safetensors")
        with pytest.raises(WeightsError, match=rf"{name}: expected finite values"):
            load_initial_weights(network(window=8), tmp_path / "nan.safetensors")
    timm_file.with_name(f"{timm_file.name}.sha256").write_text(f"{'0' * 64}  {timm_file.name}\n")
    with pytest.raises(WeightsError, match="expected sha256 00"):
        load_initial_weights(model, timm_file)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
