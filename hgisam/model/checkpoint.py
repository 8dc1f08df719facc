"""Weights on disk: safetensors with all that is known about them in the header, and the hash of the file beside it.

Nothing here can run code: a weights file is numbers and JSON. Published weights of other projects are renamed by
`published_state` after their own tools have read them.
"""

import hashlib
import json
import os
import re
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as format_tensors
from torch import Tensor

from hgisam.model.classifier import ClassifierOptions, HemorrhageClassifier

METADATA_KEY = "hgisam"
"""Where in a safetensors header the metadata stand, as one JSON string."""

HASH_SUFFIX = ".sha256"
"""Added to a weights file's name: the file that holds its hash, as `sha256sum` writes and checks it."""

TRAINING_ONLY = "token_heads."
"""Prefix of the parameters that only a token loss needs; they are not saved."""


class WeightsError(RuntimeError):
    """A weights file is missing, damaged, changed or of another network."""


class WeightsMetadata(BaseModel):
    """What must be known to use weights, and where they come from. Lives in the header of the weights file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format_version: Literal[1] = 1
    """Of these metadata; a reader refuses one that it does not know."""
    architecture: ClassifierOptions
    """The network."""
    brain: dict[str, Any] = Field(default_factory=dict)
    """Settings of the intracranial region in training; the caller validates them."""
    preprocess: dict[str, Any] = Field(default_factory=dict)
    """Settings that made the images in training; the caller validates them."""
    operating_point: float = Field(ge=0, le=1)
    """Slice probability from which a slice counts as holding blood."""
    threshold: float = Field(gt=0, le=1)
    """Saliency from which a pixel counts as blood."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the log-odds before they become probabilities."""
    scan_context: float = Field(default=0.0, ge=0)
    """How much the scan's highest slices count in the log-odds of each of its slices."""
    data: str
    """What the network was trained on, in words."""
    command: str
    """The command that made the weights."""
    seed: int
    """Of the training run."""
    created: AwareDatetime
    """When."""
    version: str
    """Of hgisam."""
    licence: str
    """Of the weights, as an SPDX identifier."""
    figures: dict[str, float] = Field(default_factory=dict)
    """What was measured with these weights, by name."""


@dataclass(frozen=True, eq=False)
class LoadedWeights:
    """A network, ready for use.

    Attributes:
        model: in eval mode, float32, on the CPU.
        metadata: from the file's header.
        sha256: of the whole file, in hexadecimal.
    """

    model: HemorrhageClassifier
    metadata: WeightsMetadata
    sha256: str


def default_weights_path() -> Path:
    """The weights that come with the package.

    Raises:
        WeightsError: where the installation holds none, or several.
    """
    folder = Path(str(resources.files("hgisam"))) / "weights"
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise WeightsError(f"{folder}: expected one .safetensors file; got {names}; reinstall hgisam or name a file")
    return found[0]


def load_weights(path: Path, *, expected_sha256: str | None = None) -> LoadedWeights:
    """Read a weights file, check it and build its network.

    Args:
        path: a .safetensors file that `save_weights` wrote.
        expected_sha256: hash that the file must have; None takes the one from the .sha256 file beside it, if any.

    Raises:
        WeightsError: the file is missing, is no weights file, has another hash, or does not fit its own metadata.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: expected a weights file; got {error.strerror}; check the path") from error
    sha256 = hashlib.sha256(content).hexdigest()
    expected = expected_sha256 or _recorded_hash(path)
    if expected is not None and sha256 != expected.lower():
        raise WeightsError(f"{path}: expected sha256 {expected}; got {sha256}; the file was changed, fetch it again")
    metadata, tensors = _parse(content, path)
    model = HemorrhageClassifier(metadata.architecture)
    _check_fit(model.state_dict(), tensors, path)
    model.load_state_dict(tensors)  # copy_ casts to float32
    return LoadedWeights(model=model.eval(), metadata=metadata, sha256=sha256)


def save_weights(path: Path, model: HemorrhageClassifier, metadata: WeightsMetadata, *, half: bool = False) -> str:
    """Write a network and its metadata, and the file's hash beside it. A reader never sees half a file.

    Args:
        path: ends in .safetensors; its folder exists.
        model: parameters and running statistics are saved; token heads are not.
        metadata: its architecture must be the model's.
        half: store float16 instead of float32: half the size, 3 significant digits.

    Returns:
        The file's sha256 in hexadecimal.

    Raises:
        ValueError: where the metadata describe another network.
        WeightsError: where a value is not finite, in float16 if that is what is stored.
        OSError: where the file cannot be written.
    """
    if metadata.architecture != model.options:
        raise ValueError(f"expected metadata of this network {model.options}; got {metadata.architecture}")
    tensors = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith(TRAINING_ONLY)
    }
    _check_finite(tensors, path)
    content = format_tensors(tensors, metadata={METADATA_KEY: metadata.model_dump_json()})
    sha256 = hashlib.sha256(content).hexdigest()
    _hash_path(path).unlink(missing_ok=True)  # the old hash must not meet the new file
    _replace(path, content)
    _replace(_hash_path(path), f"{sha256}  {path.name}\n".encode())
    return sha256


def published_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of published Swin weights to those of `HemorrhageClassifier`, for its `load_state_dict`.

    Takes timm's Swin (with any head) and HGI-SAM's classifier, of any age: until timm 0.8 the merging of patches stood
    at the end of a stage, since then at the start of the next. What follows from the geometry (relative_position_index,
    attn_mask) is left out, and so is a head that comes without the `swin.` prefix, since it is ImageNet's.

    Args:
        state: names and tensors, as the other project's state_dict has them.
    """
    has_prefix = any(name.startswith("swin.") for name in state)
    merging_at_end = any(re.match(r"(swin\.)?layers\.0\.downsample\.", name) for name in state)
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(("relative_position_index", "attn_mask")) or (not has_prefix and name.startswith("head.")):
            continue
        own = name if has_prefix else f"swin.{name}"
        if merging_at_end:
            own = re.sub(r"layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample.", own)
        renamed[own] = tensor
    return renamed


def _parse(content: bytes, path: Path) -> tuple[WeightsMetadata, dict[str, Tensor]]:
    try:
        tensors: dict[str, Tensor] = parse_tensors(content)
    except SafetensorError as error:
        raise WeightsError(f"{path}: expected a safetensors file; got {error}; fetch it again") from error
    (header_length,) = struct.unpack("<Q", content[:8])
    text = json.loads(content[8 : 8 + header_length]).get("__metadata__", {}).get(METADATA_KEY)
    if text is None:
        raise WeightsError(f"{path}: expected hgisam's metadata in the header; got none; not weights of hgisam")
    try:
        metadata = WeightsMetadata.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WeightsError(f"{path}: metadata {where}: {first['msg']}; use the hgisam that wrote it") from error
    return metadata, tensors


def _check_fit(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], path: Path) -> None:
    for kind, names in (("no", expected.keys() - got.keys()), ("an unknown", got.keys() - expected.keys())):
        if names:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise WeightsError(f"{path}: expected the network of its metadata; got {kind} {min(names)}{others}")
    for name, tensor in got.items():
        if tensor.shape != expected[name].shape:
            raise WeightsError(f"{path}: {name}: expected shape {[*expected[name].shape]}; got {[*tensor.shape]}")
    _check_finite(got, path)


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{path}: {name}: expected finite values; got NaN or infinity; train again")


def _hash_path(path: Path) -> Path:
    return path.with_name(path.name + HASH_SUFFIX)


def _recorded_hash(path: Path) -> str | None:
    beside = _hash_path(path)
    if not beside.is_file():
        return None
    words = beside.read_text(encoding="utf-8").split()
    if not words or not re.fullmatch(r"[0-9a-fA-F]{64}", words[0]):
        raise WeightsError(f"{beside}: expected a sha256 and a file name; got something else; fetch both files again")
    return words[0]


def _replace(path: Path, content: bytes) -> None:
    """Write a file beside its place, force it to disk, then rename: never half there."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
