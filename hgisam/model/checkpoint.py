"""Weights on disk: safetensors with all that is known about them in the header, and the hash of the file beside it.

Nothing here can run code: a weights file is numbers and JSON, and a pickle is refused. Published weights of other
projects are renamed by `published_state`; `tools/convert_hgi_checkpoint.py` reads those that are pickles.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as format_tensors
from torch import Tensor, nn

from hgisam.io.atomic import atomic_write
from hgisam.limits import one_line, read_whole
from hgisam.model.architecture import Architecture, build_classifier
from hgisam.model.classifier import ClassifierOptions
from hgisam.model.masked_swin import MaskedSwin
from hgisam.model.scan_head import ScanHead
from hgisam.model.slice_classifier import SliceClassifier
from hgisam.model.supervised import MaskNetwork, SegmenterArchitecture

METADATA_KEY = "hgisam"
"""Where in a safetensors header the metadata stand, as one JSON string."""

DEFAULT_WEIGHTS = "hgisam-head-ct.safetensors"
"""The package's weights that are used where no others are named."""

PHANTOM_WEIGHTS = "hgisam-phantoms.safetensors"
"""The package's weights that learned from phantoms alone."""

HASH_SUFFIX = ".sha256"
"""Added to a weights file's name: the file that holds its hash, as `sha256sum` writes and checks it."""

PICKLE_SUFFIXES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".tar"}
"""Names of files that are pickles nearly always: reading one may run what it holds."""

_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")
"""How files of torch.save begin, of any age."""

TRAINING_ONLY = ("token_heads.", "hidden_token", "pixels.")
"""How the names of parameters begin that only a token loss needs, or an encoder's training; they are not saved."""

MAX_WEIGHTS_BYTES = 2**30
"""The largest weights file that is read: 268 million float32, ten times the published network."""

_MAX_HEADER_BYTES = 4 * 2**20
_MAX_HASH_BYTES = 4096

M = TypeVar("M", "WeightsMetadata", "SegmenterMetadata", "EncoderMetadata")


class WeightsError(RuntimeError):
    """A weights file is missing, damaged, changed or of another network. Its text is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Provenance(BaseModel):
    """What must be known of any weights, and where they come from. Lives in the header of the weights file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format_version: Literal[1] = 1
    """Of these metadata; a reader refuses one that it does not know."""
    brain: dict[str, Any] = Field(default_factory=dict)
    """Settings of the intracranial region in training; the caller validates them."""
    preprocess: dict[str, Any] = Field(default_factory=dict)
    """Settings that made the images in training; the caller validates them."""
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
    finished: bool = True
    """Whether their training had come to its end; until then a classifier's are not calibrated."""
    figures: dict[str, float] = Field(default_factory=dict)
    """What was measured with these weights, by name."""


class WeightsMetadata(Provenance):
    """What must be known to use a classifier's weights."""

    kind: Literal["classifier"] = "classifier"
    """Tells a network that judges slices from one that outlines; without it, it is a classifier."""
    architecture: Architecture
    """The network. Without a `kind` it is a Swin Transformer."""
    operating_point: float = Field(ge=0, le=1)
    """Slice probability from which a slice counts as holding blood."""
    threshold: float = Field(gt=0, le=1)
    """Saliency from which a pixel counts as blood."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the log-odds before they become probabilities."""
    offset: float = Field(default=0.0, allow_inf_nan=False)
    """Taken from the log-odds before they are divided: patients bleed less often than the batches of a training."""
    scan_context: float = Field(default=0.0, ge=0)
    """How much the scan's highest slices count in the log-odds of each of its slices."""
    scan_head: ScanHead = ScanHead()
    """How the log-odds of the slices become those of the scan."""

    def calibrated(self, log_odds: Tensor) -> Tensor:
        """Log-odds of which the sigmoid is a probability, from those of the network."""
        return (log_odds - self.offset) / self.temperature


class SegmenterMetadata(Provenance):
    """What must be known to use a segmenter's weights."""

    kind: Literal["segmenter"] = "segmenter"
    """Tells a network that outlines from one that judges slices."""
    architecture: SegmenterArchitecture
    """The network."""
    stack: dict[str, Any] = Field(default_factory=dict)
    """Settings of how slices are seen together; the caller validates them."""
    threshold: float = Field(default=0.5, gt=0, le=1)
    """Probability from which a voxel counts as blood."""


class EncoderMetadata(Provenance):
    """What must be known of an encoder that no label has taught: a classifier can begin with it, and nothing else."""

    kind: Literal["encoder"] = "encoder"
    """Tells it from a network that answers."""
    architecture: ClassifierOptions
    """The classifier that is to begin with it; it has no head of its own."""


@dataclass(frozen=True, eq=False)
class LoadedWeights:
    """A classifier, ready for use.

    Attributes:
        model: in eval mode, float32, on the CPU.
        metadata: from the file's header.
        sha256: of the whole file, in hexadecimal.
    """

    model: SliceClassifier
    metadata: WeightsMetadata
    sha256: str


@dataclass(frozen=True, eq=False)
class LoadedSegmenter:
    """A segmenter, ready for use. Attributes as in `LoadedWeights`."""

    model: MaskNetwork
    metadata: SegmenterMetadata
    sha256: str


@dataclass(frozen=True, eq=False)
class StoredTensors:
    """What a safetensors file holds, of whatever network.

    Attributes:
        tensors: by name.
        metadata: hgisam's own, as JSON; None in files of others.
        sha256: of the whole file, in hexadecimal.
    """

    tensors: dict[str, Tensor]
    metadata: str | None
    sha256: str


def default_weights_path() -> Path:
    """The weights that come with the package and are used where no others are named.

    Raises:
        WeightsError: where the installation lacks them.
    """
    return _packaged(DEFAULT_WEIGHTS)


def phantom_weights_path() -> Path:
    """The package's weights that learned from phantoms alone: a start for trainings, which no patient has taught.

    Raises:
        WeightsError: where the installation lacks them.
    """
    return _packaged(PHANTOM_WEIGHTS)


def _packaged(name: str) -> Path:
    path = Path(str(resources.files("hgisam"))) / "weights" / name
    if not path.is_file():
        raise WeightsError(f"{path}: expected the weights of the package; got none; reinstall hgisam or name a file")
    return path


def load_weights(path: Path, *, expected_sha256: str | None = None) -> LoadedWeights:
    """Read a classifier's weights file, check it and build its network.

    Args:
        path: a .safetensors file that `save_weights` wrote.
        expected_sha256: hash that the file must have; None takes the one from the .sha256 file beside it, if any.

    Raises:
        WeightsError: the file is missing, is no weights file, has another hash, does not fit its own metadata, or is a
            segmenter's.
    """
    stored = read_tensors(path, expected_sha256=expected_sha256)
    kind = _kind_of(stored.metadata)
    if kind == "segmenter":
        raise WeightsError(
            f"{path}: expected weights of a classifier; got those of a segmenter; use them with `hgisam segment "
            "--method`, or name others"
        )
    _refuse_encoder(kind, path)
    metadata = _parse_metadata(stored.metadata, path, WeightsMetadata)
    _refuse_larger_than_file(metadata.architecture, stored.tensors, path)
    model = build_classifier(metadata.architecture)
    _fill(model, stored.tensors, path)
    return LoadedWeights(model=model.eval(), metadata=metadata, sha256=stored.sha256)


def load_segmenter(path: Path, *, expected_sha256: str | None = None) -> LoadedSegmenter:
    """Read a segmenter's weights file, check it and build its network. Arguments as for `load_weights`.

    Raises:
        WeightsError: as `load_weights`, and where the file is a classifier's.
    """
    stored = read_tensors(path, expected_sha256=expected_sha256)
    kind = _kind_of(stored.metadata)
    _refuse_encoder(kind, path)
    if kind == "classifier":
        raise WeightsError(
            f"{path}: expected weights of a segmenter; got those of a classifier, which has seen no masks; name "
            "others, or another method"
        )
    metadata = _parse_metadata(stored.metadata, path, SegmenterMetadata)
    _refuse_larger_than_file(metadata.architecture, stored.tensors, path)
    model = MaskNetwork(metadata.architecture)
    _fill(model, stored.tensors, path)
    return LoadedSegmenter(model=model.eval(), metadata=metadata, sha256=stored.sha256)


def _refuse_encoder(kind: str | None, path: Path) -> None:
    if kind == "encoder":
        raise WeightsError(
            f"{path}: expected weights that tell blood; got those of an encoder, which no label has taught; train a "
            "classifier with them as its train.initial_weights"
        )


def _refuse_larger_than_file(
    architecture: Architecture | SegmenterArchitecture, tensors: Mapping[str, Tensor], path: Path
) -> None:
    """Stop before memory is taken for a network that the file does not hold."""
    n_parameters = sum(tensor.numel() for tensor in tensors.values())
    if n_parameters < architecture.least_parameters:
        raise WeightsError(
            f"{path}: expected the network of its metadata, of {architecture.least_parameters:,} parameters or more;"
            f" got {n_parameters:,}"
        )


def load_network(path: Path) -> LoadedWeights | LoadedSegmenter:
    """Whatever network a weights file holds.

    Raises:
        WeightsError: as `load_weights`, but for the kind.
    """
    segmenter = _kind_of(read_tensors(path).metadata) == "segmenter"
    return load_segmenter(path) if segmenter else load_weights(path)


def read_tensors(path: Path, *, expected_sha256: str | None = None) -> StoredTensors:
    """Read a safetensors file of any network and check its hash.

    Args:
        path: a .safetensors file.
        expected_sha256: hash that the file must have; None takes the one from the .sha256 file beside it, if any.

    Raises:
        WeightsError: the file is missing, a pickle, damaged, or has another hash.
    """
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise _pickle_refused(path)
    try:
        content = read_whole(path, MAX_WEIGHTS_BYTES)
    except OSError as error:
        raise WeightsError(f"{path}: expected a weights file; got {error.strerror}; check the path") from error
    sha256 = hashlib.sha256(content).hexdigest()
    expected = expected_sha256 or _recorded_hash(path)
    if expected is not None and sha256 != expected.lower():
        raise WeightsError(f"{path}: expected sha256 {expected}; got {sha256}; the file was changed, fetch it again")
    if content.startswith(_PICKLE_STARTS) and int.from_bytes(content[:8], "little") > _MAX_HEADER_BYTES:
        raise _pickle_refused(path)
    return StoredTensors(*_parsed(content, path), sha256)


def _parsed(content: bytes, path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The tensors of a file, and hgisam's metadata where it has any."""
    n_bytes = int.from_bytes(content[:8], "little")
    if n_bytes > _MAX_HEADER_BYTES:
        raise WeightsError(f"{path}: expected a safetensors file; got a header of {n_bytes:,} bytes; fetch it again")
    try:
        tensors: dict[str, Tensor] = parse_tensors(content)
        metadata = json.loads(content[8 : 8 + n_bytes]).get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
        raise WeightsError(f"{path}: expected a safetensors file; got '{error}'; fetch it again") from error
    return tensors, metadata.get(METADATA_KEY)


def save_weights(
    path: Path,
    model: SliceClassifier | MaskNetwork | MaskedSwin,
    metadata: WeightsMetadata | SegmenterMetadata | EncoderMetadata,
    *,
    half: bool = False,
) -> str:
    """Write a network and its metadata, and the file's hash beside it. A reader never sees half a file.

    Args:
        path: ends in .safetensors; its folder exists.
        model: parameters and running statistics are saved; what only training needs is not.
        metadata: its architecture must be the model's.
        half: store float16 instead of float32: half the size, 3 significant digits.

    Returns:
        The file's sha256 in hexadecimal.

    Raises:
        ValueError: where the metadata describe another network.
        WeightsError: where a value is not finite, in float16 if that is what is stored.
        OutputError: where the file cannot be written.
    """
    if metadata.architecture != model.options:
        raise ValueError(f"expected metadata of this network {model.options}; got {metadata.architecture}")
    tensors = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith(TRAINING_ONLY)
    }
    check_finite(tensors, path)
    content = format_tensors(tensors, metadata={METADATA_KEY: metadata.model_dump_json()})
    sha256 = hashlib.sha256(content).hexdigest()
    _hash_path(path).unlink(missing_ok=True)  # the old hash must not meet the new file
    for written, what in ((path, content), (_hash_path(path), f"{sha256}  {path.name}\n".encode())):
        with atomic_write(written) as file:
            file.write(what)
    return sha256


def published_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of published Swin weights under the names of `HemorrhageClassifier`, for its `load_state_dict`.

    Args:
        state: names and tensors, as the other project's state_dict has them; see `published_names`.
    """
    return {own: state[name] for name, own in published_names(state).items()}


def published_names(names: Iterable[str]) -> dict[str, str]:
    """For each tensor of published Swin weights that a `HemorrhageClassifier` has too, its name there.

    Takes timm's Swin (with any head) and HGI-SAM's classifier, of any age: until timm 0.8 the merging of patches stood
    at the end of a stage, since then at the start of the next. What follows from the geometry (relative_position_index,
    attn_mask) is left out, and so is a head that comes without the `swin.` prefix, since it is ImageNet's.

    Args:
        names: as the other project's state_dict has them.
    """
    names = list(names)
    has_prefix = any(name.startswith("swin.") for name in names)
    merging_at_end = any(re.match(r"(swin\.)?layers\.0\.downsample\.", name) for name in names)
    renamed: dict[str, str] = {}
    for name in names:
        if follows_from_geometry(name) or (not has_prefix and name.startswith("head.")):
            continue
        own = name if has_prefix else f"swin.{name}"
        if merging_at_end:
            own = re.sub(r"layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample.", own)
        renamed[name] = own
    return renamed


def follows_from_geometry(name: str) -> bool:
    """Whether a tensor of published Swin weights is computed, not learned."""
    return name.endswith(("relative_position_index", "attn_mask"))


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that are no numbers.

    Raises:
        WeightsError: where a tensor holds NaN or infinity.
    """
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(
                f"{path}: {name}: expected finite values; got NaN or infinity; train again or take another"
            )


def _kind_of(text: str | None) -> str | None:
    """What a file's metadata say that its network does; None where there are none, or they are no JSON of ours."""
    try:
        found = json.loads(text or "null")
    except ValueError:
        return None
    return str(found.get("kind", "classifier")) if isinstance(found, dict) else None


def _parse_metadata(text: str | None, path: Path, expected: type[M]) -> M:
    if text is None:
        raise WeightsError(f"{path}: expected hgisam's metadata in the header; got none; not weights of hgisam")
    try:
        return expected.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WeightsError(f"{path}: metadata {where}: {first['msg']}; use the hgisam that wrote it") from error


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give a network its parameters, once they are known to fit."""
    _check_fit(model.state_dict(), tensors, path)
    model.load_state_dict(tensors)  # copy_ casts to float32


def _pickle_refused(path: Path) -> WeightsError:
    return WeightsError(
        f"{path}: expected a safetensors file; got a pickle, which may run code when it is read; convert it with "
        "tools/convert_hgi_checkpoint.py"
    )


def _check_fit(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], path: Path) -> None:
    for kind, names in (("no", expected.keys() - got.keys()), ("an unknown", got.keys() - expected.keys())):
        if names:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise WeightsError(f"{path}: expected the network of its metadata; got {kind} {min(names)}{others}")
    for name, tensor in got.items():
        if tensor.shape != expected[name].shape:
            raise WeightsError(f"{path}: {name}: expected shape {[*expected[name].shape]}; got {[*tensor.shape]}")
    check_finite(got, path)


def _hash_path(path: Path) -> Path:
    return path.with_name(path.name + HASH_SUFFIX)


def _recorded_hash(path: Path) -> str | None:
    beside = _hash_path(path)
    if not beside.is_file():
        return None
    try:
        words = read_whole(beside, _MAX_HASH_BYTES).decode("ascii", "replace").split()
    except OSError as error:
        raise WeightsError(f"{beside}: expected a sha256 and a file name; got {error.strerror}; check it") from error
    if not words or not re.fullmatch(r"[0-9a-fA-F]{64}", words[0]):
        raise WeightsError(f"{beside}: expected a sha256 and a file name; got something else; fetch both files again")
    return words[0]
