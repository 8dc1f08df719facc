"""What a training needs to go on after any kind of stop: numbers and JSON in files that are whole or not there."""

import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as format_tensors
from torch import Tensor

from hgisam.io.atomic import atomic_write, make_output_folder, remove_unfinished

KEPT = 2
"""So many of the latest checkpoints are kept."""

_KEY = "hgisam_training"
_NAME = re.compile(r"step_(\d{8})\.safetensors")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a training stood.

    Attributes:
        step: how many steps had been made.
        facts: what belongs to it besides, as JSON has it.
        tensors: parameters, their average, the optimizer's state.
    """

    step: int
    facts: dict[str, Any]
    tensors: dict[str, Tensor]


def save_checkpoint(folder: Path, step: int, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint, then remove all but the KEPT latest; and before, what a process left that was killed writing.

    Nobody else may be writing there.

    Raises:
        OutputError: where it cannot be written.
    """
    remove_unfinished(make_output_folder(folder))
    content = format_tensors(dict(tensors), metadata={_KEY: json.dumps({"step": step, "facts": dict(facts)})})
    with atomic_write(folder / f"step_{step:08d}.safetensors") as file:
        file.write(content)
    for old in list(_latest_first(folder))[KEPT:]:
        old.unlink(missing_ok=True)


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The latest checkpoint that can be read; None where there is none. A damaged one is passed over."""
    for path in _latest_first(folder):
        content = path.read_bytes()
        try:
            tensors = parse_tensors(content)
        except SafetensorError:
            continue
        (header_length,) = struct.unpack("<Q", content[:8])
        found = json.loads(json.loads(content[8 : 8 + header_length])["__metadata__"][_KEY])
        return Checkpoint(found["step"], found["facts"], tensors)
    return None


def _latest_first(folder: Path) -> Iterator[Path]:
    found = [path for path in folder.glob("*.safetensors") if _NAME.fullmatch(path.name)]
    yield from sorted(found, key=lambda path: path.name, reverse=True)
