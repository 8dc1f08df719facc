"""The tensors of a pickle as safetensors, read in a process that does nothing else. Run by convert_hgi_checkpoint.py.

    python -I tools/unpickle_tensors.py IN.pth OUT.safetensors

The one place that opens a pickle. torch's weights_only reader builds tensors, numbers, text and containers, and calls
nothing that the file names; memory, time and output are limited as far as the system allows. Tensors are written under
the path of keys that leads to them, joined by slashes; stdout is a JSON list of what else the file holds.
"""

import argparse
import contextlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError  # the name of an error alone  # nosec B403

import torch
from safetensors.torch import save_file

MEMORY_BYTES = 16 << 30
"""Address space beyond what the file itself may need; torch alone maps some of it."""

CPU_S = 600
"""Processor time."""

LONGEST_TEXT = 300


def main() -> None:
    """Read, write, or say in one line why not; exit status 1 then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    try:
        limit(given.source.stat().st_size)
        with torch.serialization.safe_globals([argparse.Namespace]):  # plain values: the options of a timm training
            content = torch.load(given.source, map_location="cpu", weights_only=True)
        found = dict(leaves("", content))
        tensors = {name: leaf for name, leaf in found.items() if isinstance(leaf, torch.Tensor) and is_plain(leaf)}
        save_file({name: leaf.detach().clone().contiguous() for name, leaf in tensors.items()}, given.target)
    except Exception as error:  # noqa: BLE001 - whatever a hostile file provokes is a refusal
        sys.exit(reason(error))
    print(json.dumps(sorted(found.keys() - tensors.keys())))


def limit(file_bytes: int) -> None:
    """Bound this process's memory, processor time and output, where the system can."""
    with contextlib.suppress(ImportError):
        import resource

        needed = 4 * file_bytes
        for what, amount in (
            (resource.RLIMIT_AS, MEMORY_BYTES + needed),
            (resource.RLIMIT_CPU, CPU_S),
            (resource.RLIMIT_FSIZE, needed + (1 << 20)),
            (resource.RLIMIT_CORE, 0),
        ):
            hard = resource.getrlimit(what)[1]
            bound = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
            resource.setrlimit(what, (bound, bound))


def reason(error: Exception) -> str:
    """Why the file is refused, as one line; torch's own advice to read it without weights_only is left out."""
    text = "".join(c if c.isprintable() else " " for c in str(error))
    if isinstance(error, UnpicklingError):
        asked = re.search(r"GLOBAL ([\w.]+)", text)
        return f"a pickle that wants {asked[1]}" if asked else "a pickle that torch's weights_only reader refuses"
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return "tensors far larger than the file"
    return f"no file of torch.save ({type(error).__name__}: {text[:LONGEST_TEXT]})"


def leaves(path: str, content: object) -> Iterator[tuple[str, object]]:
    """Whatever lies in nested mappings, under the path of its keys; keys that are no short text are passed over."""
    if not isinstance(content, Mapping):
        yield path, content
        return
    for key, value in content.items():
        if isinstance(key, str) and key.isprintable() and len(path) + len(key) < LONGEST_TEXT:
            yield from leaves(f"{path}/{key}" if path else key, value)


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is dense and of real numbers."""
    return tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_complex() or tensor.is_meta)


if __name__ == "__main__":
    main()
