"""Weights of others as pickles become safetensors that say the same, and a pickle that would do more does nothing."""

import argparse
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from einops import rearrange
from networks import golden_images, reference_network, small_network, stored_weights, timm_network
from safetensors.torch import load_file
from torch import Tensor

from hgisam import Segmenter
from hgisam.config import load_settings
from hgisam.exits import ExitCode
from hgisam.model.checkpoint import WeightsError, load_weights
from hgisam.model.classifier import HemorrhageClassifier
from hgisam.model.initial import load_initial_weights
from hgisam.weak.self_attention import HGI_SAM

Convert = Callable[..., int]


@pytest.fixture(scope="module")
def tool(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("convert", repository / "tools" / "convert_hgi_checkpoint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def convert(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Convert:
    """Save an object as torch does, convert the file to out.safetensors."""

    def run(content: object, *arguments: str) -> int:
        torch.save(content, tmp_path / "in.pth")
        command = ["convert", str(tmp_path / "in.pth"), "-o", str(tmp_path / "out.safetensors"), *arguments]
        monkeypatch.setattr(sys, "argv", command)
        return int(tool.main())

    return run


def as_the_authors_saved(state: dict[str, Tensor], side: int, window: int) -> dict[str, Tensor]:
    """A state under the names of timm before 0.8: merging at the end of a stage, index and mask among the tensors.

    The mask is written token by token: two tokens of a window meet unless the roll brought one of them there.
    """
    saved = {
        re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name): tensor
        for name, tensor in state.items()
    }
    shift = window // 2
    part = torch.tensor([0] * (side - window) + [1] * (window - shift) + [2] * shift)
    parts = rearrange(3 * part[:, None] + part, "(r i) (c j) -> (r c) (i j)", i=window, j=window)
    saved["swin.layers.0.blocks.1.attn_mask"] = torch.where(parts[:, :, None] == parts[:, None, :], 0.0, -100.0)
    n = window**2
    saved["swin.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(n, n, dtype=torch.int64)
    return saved


def saliency(model: HemorrhageClassifier, images: Tensor) -> Tensor:
    region = torch.ones(len(images), *images.shape[2:], dtype=torch.bool)
    return HGI_SAM(model, images, region).maps


def test_the_authors_checkpoint_says_what_timm_and_their_map_said(convert: Convert, tmp_path: Path) -> None:
    """The network of timm_swin.npz, wrapped as a training on several devices saves it."""
    model, golden = timm_network()
    state = as_the_authors_saved(model.state_dict(), side=16, window=4)
    wrapped = {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3}
    assert convert(wrapped) == ExitCode.OK
    loaded = load_weights(tmp_path / "out.safetensors")
    assert loaded.metadata.architecture == model.options
    images = golden_images(golden)
    with torch.no_grad():
        logits = loaded.model(images)
    torch.testing.assert_close(logits, torch.from_numpy(golden["logits"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(saliency(loaded.model, images), saliency(model, images), atol=1e-5, rtol=0)


def test_the_published_implementations_network_is_carried_over(convert: Convert, tmp_path: Path) -> None:
    _, golden = reference_network()
    assert convert(stored_weights(golden), "--image-size", "384") == ExitCode.OK
    loaded = load_weights(tmp_path / "out.safetensors")
    assert loaded.metadata.preprocess["spacing_mm"] == pytest.approx(250 / 422, abs=1e-4)
    images, brains = golden_images(golden), torch.from_numpy(golden["brains"])
    with torch.no_grad():
        logits = loaded.model(images)
    torch.testing.assert_close(logits, torch.from_numpy(golden["logits"]), atol=1e-4, rtol=0)
    maps = HGI_SAM(loaded.model, images[:1], brains[:1]).maps
    direct, _ = reference_network()
    torch.testing.assert_close(maps, HGI_SAM(direct.eval(), images[:1], brains[:1]).maps, atol=1e-5, rtol=0)


@pytest.mark.parametrize("outputs", [1, 6])
def test_networks_of_one_and_six_outputs_are_carried_over(
    convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str], outputs: int
) -> None:
    model = small_network(outputs=outputs).eval()
    extra = {"refinement_unet.conv.weight": torch.zeros(2)}
    assert convert(as_the_authors_saved(model.state_dict(), side=16, window=4) | extra) == ExitCode.OK
    printed = capsys.readouterr().out
    assert "left out: refinement_unet.conv.weight: the network has no such part" in printed
    assert "attn_mask" not in printed
    loaded = load_weights(tmp_path / "out.safetensors")
    assert loaded.metadata.architecture == model.options
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.model(images), model(images))


def test_what_comes_out_segments_a_scan_and_says_what_differs(
    convert: Convert, tmp_path: Path, repository: Path, sample_volumes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = as_the_authors_saved(small_network(outputs=2).state_dict(), side=16, window=4)
    assert convert(state, "--field-of-view-mm", "220", "--licence", "MIT") == ExitCode.OK
    printed = capsys.readouterr().out
    segmenter = Segmenter(
        tmp_path / "out.safetensors",
        options=load_settings(repository / "configs" / "hgi_sam_published.yaml").segment,
        device="cpu",
    )
    metadata = segmenter.weights.metadata
    differences = re.findall(r"differs: (.*)", printed)
    assert len(differences) >= 5
    assert all(difference in metadata.data for difference in differences)
    assert (metadata.licence, metadata.threshold, metadata.operating_point) == ("MIT", 0.05, 0.5)
    assert metadata.preprocess["channels"] == "windows_observed"
    assert metadata.preprocess["spacing_mm"] == pytest.approx(220 / 70, abs=1e-4)
    result = segmenter.segment(sample_volumes / "epidural.nii.gz")
    assert result.slice_gated.any()


def timm_tensors() -> dict[str, Tensor]:
    return stored_weights(timm_network()[1])


def test_timms_pickle_becomes_the_same_tensors_and_begins_a_network(convert: Convert, tmp_path: Path) -> None:
    assert convert(timm_tensors(), "--timm") == ExitCode.OK
    written = load_file(tmp_path / "out.safetensors")
    assert written.keys() == timm_tensors().keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in timm_tensors().items())
    report = load_initial_weights(timm_network()[0], tmp_path / "out.safetensors")
    assert report.random.keys() == {"head.weight", "head.bias"}


def a_training() -> dict[str, Any]:
    """A training's checkpoint as timm saves one, with weights of ones and their averages of twos."""
    raw = {name: torch.ones_like(tensor) for name, tensor in timm_tensors().items()}
    averaged = {f"module.{name}": 2 * tensor for name, tensor in raw.items()} | {"n_averaged": torch.tensor(5)}
    return {
        "epoch": 7,
        "args": argparse.Namespace(lr=1e-4),
        "state_dict": raw,
        "state_dict_ema": averaged,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]},
    }


@pytest.mark.parametrize(
    ("arguments", "taken", "value"), [([], "state_dict_ema", 2.0), (["--key", "state_dict"], "state_dict", 1.0)]
)
def test_of_a_trainings_checkpoint_the_average_is_taken_or_what_is_named(
    convert: Convert,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    taken: str,
    value: float,
) -> None:
    assert convert(a_training(), "--timm", *arguments) == ExitCode.OK
    written = load_file(tmp_path / "out.safetensors")
    assert written.keys() == timm_tensors().keys()
    assert all((tensor == value).all() for tensor in written.values())
    lines = capsys.readouterr().out.splitlines()
    assert f"took entry {taken}" in lines
    other = {"state_dict", "state_dict_ema"} - {taken}
    for name in ("args", "epoch", "optimizer/param_groups", f"{other.pop()} (tensors)"):
        assert f"also in the file, not taken: {name}" in lines


class Malicious:
    """Unpickled the ordinary way, it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(
    tool: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    legacy: bool,
) -> None:
    touched, out = tmp_path / "touched", tmp_path / "out.safetensors"
    content = timm_tensors() | {"surprise": Malicious(touched)}
    torch.save(content, tmp_path / "in.pth", _use_new_zipfile_serialization=not legacy)
    monkeypatch.setattr(sys, "argv", ["convert", str(tmp_path / "in.pth"), "-o", str(out), "--timm"])
    assert tool.main() == ExitCode.WEIGHTS
    refusal = capsys.readouterr().err.strip()
    assert "expected tensors only" in refusal
    assert re.search(r"; got a pickle that wants \w+\.mkdir; save them", refusal)
    assert "\n" not in refusal
    assert not touched.exists()
    assert not out.exists()
    torch.load(tmp_path / "in.pth", weights_only=False)  # the ordinary way: this file would have
    assert touched.exists()


def test_a_tensor_that_claims_more_than_its_file_holds_is_refused(
    convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One number, repeated by strides of 0 to 256 GiB."""
    assert convert(timm_tensors() | {"huge": torch.zeros(1).expand(1 << 36)}, "--timm") == ExitCode.WEIGHTS
    assert "got tensors far larger than the file" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "attn_mask"}, "expected the image's size from an attn_mask; got none; give --image-size"),
        ({"drop": "head.weight"}, "expected 'head.weight' as HGI-SAM's classifier has it; got none"),
        ({"drop": "norm2.bias"}, "norm2.bias and 3 more do not fit it"),
        ({"add": {"swin.surprise": torch.zeros(1)}}, "swin.surprise and 0 more do not fit it"),
        ({"add": {"head.weight": torch.zeros(3, 64)}}, "outputs: Input should be 1, 2 or 6; got 3"),
        ({"add": {"swin.patch_embed.proj.weight": torch.zeros(8, 2, 4, 4)}}, "expected 3 windows as channels; got 2"),
        ({"add": {"head.bias": torch.full((1,), torch.nan)}}, "head.bias: expected finite values"),
    ],
)
def test_what_is_not_the_authors_classifier_is_refused_in_one_line(
    tool: ModuleType, change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """With the reading of the pickle, which other tests go through, left out."""
    model = small_network(depths=(2, 2, 2), heads=(1, 2, 2), embed_dim=16)
    state = as_the_authors_saved(model.state_dict(), side=16, window=4)
    gone = {name for name in state if "drop" in change and name.endswith(change["drop"])}
    state = {name: tensor for name, tensor in state.items() if name not in list(gone)[:4]} | change.get("add", {})
    monkeypatch.setattr(tool, "unpickled", lambda path: (state, []))
    monkeypatch.setattr(sys, "argv", ["convert", "in.pth", "-o", str(tmp_path / "out.safetensors")])
    assert tool.main() == ExitCode.WEIGHTS
    refusal = capsys.readouterr().err.strip()
    assert refusal.startswith("in.pth: ")
    assert message in refusal
    assert "\n" not in refusal
    assert not (tmp_path / "out.safetensors").exists()


def test_which_entry_is_meant_must_be_plain(tool: ModuleType) -> None:
    raw = timm_tensors()
    two = {f"{entry}/{name}": tensor for entry in ("student", "teacher") for name, tensor in raw.items()}
    with pytest.raises(WeightsError, match=r"expected one Swin Transformer in the file; got student, teacher; .*--key"):
        tool.state_dict_in(two, None)
    assert tool.state_dict_in(two, "teacher")[0] == "teacher"
    with pytest.raises(WeightsError, match="expected a Swin Transformer in entry 'model'"):
        tool.state_dict_in(two, "model")
    with pytest.raises(WeightsError, match=r"got tensors such as conv1\.weight"):
        tool.state_dict_in({"conv1.weight": torch.zeros(1)}, None)


def test_what_torch_did_not_save_is_said(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "in.pth").write_bytes(b"junk")
    with pytest.raises(WeightsError, match=r"expected tensors only.*; got no file of torch\.save \(\w+: .*\); save"):
        tool.unpickled(tmp_path / "in.pth")


def test_a_missing_file_is_said(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="got no such file"):
        tool.unpickled(tmp_path / "gone.pth")


def test_the_reader_is_the_only_file_that_opens_a_pickle(repository: Path) -> None:
    openers = [
        path.name
        for folder in ("hgisam", "tools")
        for path in (repository / folder).rglob("*.py")
        if re.search(r"\btorch\.load\(|pickle\.load|weights_only=False", path.read_text(encoding="utf-8"))
    ]
    assert openers == ["unpickle_tensors.py"]
