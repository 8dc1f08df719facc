"""Weights come back as they were saved, and whatever is wrong with a file is said."""

import hashlib
import json
import os
import re
import struct
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import small_cnn, small_network, timm_network
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from hgisam.io.errors import OutputError
from hgisam.model import checkpoint
from hgisam.model.checkpoint import (
    METADATA_KEY,
    WeightsError,
    WeightsMetadata,
    default_weights_path,
    load_weights,
    phantom_weights_path,
    published_state,
    save_weights,
)
from hgisam.model.classifier import ClassifierOptions, HemorrhageClassifier
from hgisam.model.slice_classifier import SliceClassifier


def metadata_of(model: SliceClassifier, **changes: object) -> WeightsMetadata:
    fields = {
        "architecture": model.options,
        "brain": {"erode_mm": 4.0},
        "preprocess": {"channels": "relative", "spacing_mm": 1.0},
        "operating_point": 0.25,
        "threshold": 0.1,
        "temperature": 1.5,
        "data": "40 phantoms",
        "command": "hgisam train",
        "seed": 3,
        "created": datetime(2026, 1, 2, tzinfo=UTC),
        "version": "0.1.0",
        "licence": "Apache-2.0",
        "figures": {"slice_auc": 0.98},
    }
    return WeightsMetadata.model_validate(fields | changes)


@pytest.fixture
def model() -> HemorrhageClassifier:
    return small_network(stem="deep")


@pytest.fixture
def saved(model: HemorrhageClassifier, tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_weights(path, model, metadata_of(model))
    return path


def test_a_saved_network_comes_back(model: HemorrhageClassifier, saved: Path) -> None:
    loaded = load_weights(saved)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.model(images), model.eval()(images))
    assert loaded.metadata == metadata_of(model)
    assert loaded.sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert not any(module.training for module in loaded.model.modules())


def test_a_cnn_comes_back_as_a_cnn(tmp_path: Path) -> None:
    model = small_cnn(outputs=2)
    save_weights(tmp_path / "cnn.safetensors", model, metadata_of(model))
    loaded = load_weights(tmp_path / "cnn.safetensors")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.model(images), model.eval()(images))
    assert loaded.metadata.architecture == model.options


def test_metadata_from_before_there_were_kinds_are_a_swin_transformers(saved: Path, model: SliceClassifier) -> None:
    without_kind = model.options.model_dump(mode="json", exclude={"kind"})
    resave(saved, architecture=without_kind)
    assert load_weights(saved).metadata.architecture == model.options


def test_the_shipped_weights_load() -> None:
    assert isinstance(load_weights(default_weights_path()).model, HemorrhageClassifier)


def test_the_hash_beside_the_file_is_sha256sums(saved: Path) -> None:
    beside = saved.with_name("weights.safetensors.sha256")
    assert beside.read_text() == f"{hashlib.sha256(saved.read_bytes()).hexdigest()}  weights.safetensors\n"


def test_half_precision_halves_the_file_and_loads_as_float32(model: HemorrhageClassifier, saved: Path) -> None:
    path = saved.with_name("half.safetensors")
    save_weights(path, model, metadata_of(model), half=True)
    assert path.stat().st_size < 0.7 * saved.stat().st_size
    loaded = load_weights(path).model
    for name, expected in model.state_dict().items():
        got = loaded.state_dict()[name]
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)


def test_token_heads_are_not_saved(tmp_path: Path) -> None:
    model = HemorrhageClassifier(small_network().options, token_heads=True)
    save_weights(tmp_path / "w.safetensors", model, metadata_of(model))
    assert load_weights(tmp_path / "w.safetensors").model.token_heads is None


def test_a_failed_write_leaves_the_old_file(
    model: HemorrhageClassifier, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OutputError, match=r"\.safetensors: expected to write the file; got no space left"):
        save_weights(saved, model, metadata_of(model, seed=4))
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir() if path.name.startswith(".")] == []


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone\.safetensors: expected a weights file; got No such file"):
        load_weights(tmp_path / "gone.safetensors")


def test_a_changed_file_is_refused(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    with pytest.raises(WeightsError, match=r"expected sha256 .* the file was changed"):
        load_weights(saved)


def test_an_expected_hash_overrules_the_one_beside(saved: Path) -> None:
    assert load_weights(saved, expected_sha256=load_weights(saved).sha256.upper())
    with pytest.raises(WeightsError, match="expected sha256 00"):
        load_weights(saved, expected_sha256="0" * 64)


def test_a_hash_file_without_a_hash_is_refused(saved: Path) -> None:
    saved.with_name(f"{saved.name}.sha256").write_text("lost\n")
    with pytest.raises(WeightsError, match="expected a sha256 and a file name"):
        load_weights(saved)


@pytest.mark.parametrize("content", [b"", b"no weights", b"\xff" * 64])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="expected a safetensors file"):
        load_weights(path)


def test_a_truncated_file_is_refused(saved: Path) -> None:
    saved.with_name(f"{saved.name}.sha256").unlink()
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="expected a safetensors file"):
        load_weights(saved)


def test_safetensors_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"w": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="expected hgisam's metadata"):
        load_weights(path)


def resave(path: Path, *, drop: str = "", add: str = "", nan: str = "", **changes: object) -> None:
    """Write a weights file again with something wrong, and no hash beside it."""
    header_length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + header_length])
    metadata = json.loads(header["__metadata__"][METADATA_KEY]) | changes
    tensors = load_file(path)
    if drop:
        del tensors[drop]
    if add:
        tensors[add] = torch.zeros(1)
    if nan:
        tensors[nan] = torch.full_like(tensors[nan], float("nan"))
    save_file(tensors, path, metadata={METADATA_KEY: json.dumps(metadata)})
    path.with_name(f"{path.name}.sha256").unlink()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"drop": "swin.norm.weight"}, r"got no swin\.norm\.weight"),
        ({"add": "swin.extra"}, r"got an unknown swin\.extra"),
        ({"nan": "head.weight"}, r"head\.weight: expected finite values"),
        ({"format_version": 2}, "metadata format_version: Input should be 1"),
        ({"operating_point": 1.5}, "metadata operating_point"),
        ({"surprise": 1}, "metadata surprise: Extra inputs"),
        ({"architecture": {"kind": "vgg"}}, "metadata architecture: Input tag 'vgg'"),
    ],
)
def test_a_file_that_does_not_fit_its_metadata_is_refused(saved: Path, wrong: dict[str, object], message: str) -> None:
    resave(saved, **wrong)
    with pytest.raises(WeightsError, match=message):
        load_weights(saved)


def test_a_tensor_of_another_shape_is_named(model: HemorrhageClassifier, saved: Path) -> None:
    wider = model.options.model_copy(update={"outputs": 6})
    resave(saved, architecture=wider.model_dump(mode="json"))
    with pytest.raises(WeightsError, match=r"head\.\w+: expected shape \[6.*; got \[1"):
        load_weights(saved)


def test_metadata_of_another_network_are_refused_on_saving(model: HemorrhageClassifier, tmp_path: Path) -> None:
    other = metadata_of(model, architecture=ClassifierOptions())
    with pytest.raises(ValueError, match="expected metadata of this network"):
        save_weights(tmp_path / "w.safetensors", model, other)


def test_weights_that_are_not_finite_are_not_saved(model: HemorrhageClassifier, tmp_path: Path) -> None:
    with torch.no_grad():
        model.head.weight[0, 0] = 1e6  # beyond float16
    with pytest.raises(WeightsError, match=r"head\.weight: expected finite values"):
        save_weights(tmp_path / "w.safetensors", model, metadata_of(model), half=True)
    assert list(tmp_path.iterdir()) == []


def test_metadata_need_a_time_zone() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        metadata_of(small_network(), created=datetime(2026, 1, 2))


def test_an_installation_without_weights_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.resources, "files", lambda _: tmp_path)
    for path_of in (default_weights_path, phantom_weights_path):
        with pytest.raises(WeightsError, match="expected the weights of the package; got none"):
            path_of()


def test_weights_to_begin_with_know_no_patient() -> None:
    assert "no patient" in load_weights(phantom_weights_path()).metadata.data


def test_published_names_of_any_age_are_ours() -> None:
    """Older files have the merging at the end of a stage, and tensors that follow from the geometry."""
    model, _ = timm_network()
    ours = model.state_dict()

    def older(name: str) -> str:
        return re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name)

    derived = {
        "swin.layers.0.blocks.1.attn_mask": torch.zeros(1),
        "swin.layers.0.blocks.1.attn.relative_position_index": torch.zeros(1),
    }
    hgi_sam = {older(name): tensor for name, tensor in ours.items()} | derived
    for got in (published_state(hgi_sam), published_state(dict(ours) | derived)):
        assert got.keys() == ours.keys()
        assert all(got[name] is ours[name] for name in ours)

    without_prefix = {name.removeprefix("swin."): tensor for name, tensor in hgi_sam.items()}
    imagenet = published_state(without_prefix | {"head.fc.weight": torch.zeros(1000, 64)})
    assert imagenet.keys() == {name for name in ours if name.startswith("swin.")}


def with_header(path: Path, change: Callable[[dict[str, Any]], None], stated: int | None = None) -> Path:
    """A weights file whose own header was changed."""
    whole = path.read_bytes()
    n_bytes = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + n_bytes])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if stated is None else stated) + text + whole[8 + n_bytes :])
    path.with_name(f"{path.name}.sha256").unlink()
    return path


@pytest.mark.parametrize("stated", [2**23, 2**40, 2**64 - 1])
def test_a_header_that_states_more_than_any_has_is_refused(saved: Path, stated: int) -> None:
    with_header(saved, lambda _: None, stated)
    with pytest.raises(WeightsError, match="a header of"):
        load_weights(saved)


def test_metadata_of_null_are_none(saved: Path) -> None:
    with_header(saved, lambda header: header.update(__metadata__=None))
    with pytest.raises(WeightsError, match=r"expected (hgisam's metadata|a safetensors file)"):
        load_weights(saved)


@pytest.mark.parametrize("shape", [[2**62, 0], [0], [-1], [1] * 100, "x"])
def test_a_shape_that_is_none_is_refused(saved: Path, shape: object) -> None:
    with_header(saved, lambda header: header["head.bias"].update(shape=shape))
    with pytest.raises(WeightsError, match="expected"):
        load_weights(saved)


@pytest.mark.parametrize(
    ("swin", "message"),
    [
        ({"embed_dim": 768, "depths": [2, 2, 64], "heads": [1, 1, 1]}, "expected the network of its metadata"),
        ({"embed_dim": 2**40}, "embed_dim"),
        ({"depths": [10**9] * 3, "heads": [1, 1, 1]}, "at most 64 blocks"),
        ({"depths": [1] * 100_000, "heads": [1] * 100_000}, "depths"),
        ({"img_size": 2048, "patch_size": 1, "stem": "none", "window": 64}, "attention scores"),
        ({"in_channels": 10**12}, "in_channels"),
    ],
)
def test_a_network_larger_than_its_file_is_refused_before_memory_is_taken(
    model: HemorrhageClassifier, saved: Path, swin: dict[str, object], message: str
) -> None:
    described = model.options.model_dump(mode="json")
    described["swin"] |= swin
    resave(saved, architecture=described)
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=message) as error:
            load_weights(saved)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    assert str(error.value).isprintable()


def test_a_file_larger_than_any_network_is_refused_unread(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hgisam.model.checkpoint.MAX_WEIGHTS_BYTES", 1000)
    with pytest.raises(WeightsError, match="more than 1,000 bytes"):
        load_weights(saved)


def test_a_pipe_in_place_of_weights_is_refused_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="a pipe or a device"):
        load_weights(tmp_path / "w.safetensors")
