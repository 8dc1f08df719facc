"""Weights of the HGI-SAM authors, or of timm, from a pickle to safetensors that hgisam reads.

    python tools/convert_hgi_checkpoint.py Swin-HGI-SAM.pth -o weights/hgi_sam.safetensors
    python tools/convert_hgi_checkpoint.py --timm swin_tiny.pth -o weights/swin_tiny.safetensors

Without --timm: the authors' classifier (`swin.*`, `head.*`; 1, 2 or 6 outputs). OUT is a weights file of hgisam, with a
.sha256 beside it: `hgisam segment SCANS -o RESULTS --weights OUT --config configs/hgi_sam_published.yaml`. Geometry is
read from the tensors. What hgisam cannot do as the authors did is printed and stands in the file's own description.

With --timm: a Swin Transformer under timm's names. OUT holds the same tensors under the same names, to begin a training
with (`initial_weights`).

A pickle may run code when it is read, so unpickle_tensors.py reads it in a process of its own, and only its tensors
come back. State dicts inside other dicts are found; where there are several, the averaged one (EMA) is taken unless
--key names another.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections import defaultdict
from datetime import UTC, datetime
from math import isqrt
from pathlib import Path

from pydantic import ValidationError
from safetensors.torch import save as format_tensors
from torch import Tensor

from hgisam import __version__
from hgisam.exits import ExitCode
from hgisam.io.atomic import atomic_write
from hgisam.io.errors import OutputError
from hgisam.model.checkpoint import (
    WeightsError,
    WeightsMetadata,
    check_finite,
    follows_from_geometry,
    published_state,
    read_tensors,
    save_weights,
)
from hgisam.model.classifier import ClassifierOptions, HemorrhageClassifier
from hgisam.model.initial import adapt_state, swin_shape
from hgisam.preprocess import PreprocessOptions

READER = Path(__file__).resolve().parent / "unpickle_tensors.py"
READER_S = 900
"""Seconds that reading a pickle may take."""

WRAPPERS = ("module.", "model.", "net.", "network.", "backbone.")
"""Prefixes that training code puts before every name; `module.` is DataParallel's."""

AVERAGE_COUNT = "n_averaged"
"""What torch's AveragedModel keeps beside the weights."""

FIELD_OF_VIEW_MM = 250.0
"""Side of the usual picture of a head, 512 pixels of 0.488 mm. The authors resized pictures whatever their mm."""

ENLARGED = 1.1
"""The authors enlarge a picture's shorter side to this many times the network's and cut out the centre."""

PUBLISHED_THRESHOLD = 0.05

NOT_CARRIED = (
    "Their first window was the DICOM header's own; hgisam shows 40 +- 40 HU.",
    "They resized every picture to {px} px whatever its mm; hgisam resamples to {spacing_mm} mm, as if it were "
    "{fov_mm:g} mm wide.",
    "They stretched each window over the whole picture before the centre was cut out; hgisam stretches what its canvas "
    "shows, and covers larger heads with several windows.",
    "Their brain mask came from another tool; hgisam finds the intracranial region itself.",
    "Nothing was calibrated: operating point 0.5 is their argmax, threshold 0.05 their paper's.",
    "Seed, date and licence of the training are not in the file: 0, the conversion's, and {licence}.",
)
"""What the file's description says, and the command prints."""


def main() -> int:
    """Convert, or say in one line why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, metavar="IN", help="a pickle of torch.save")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="ends in .safetensors")
    parser.add_argument("--timm", action="store_true", help="a Swin of timm: keep names, add nothing")
    parser.add_argument("--key", help="the entry of the file that holds the weights, such as state_dict")
    parser.add_argument("--image-size", type=int, metavar="PX", help="where the file does not tell it")
    parser.add_argument("--field-of-view-mm", type=float, default=FIELD_OF_VIEW_MM, metavar="MM",
                        help="width of the pictures in training (default: %(default)g)")  # fmt: skip
    parser.add_argument("--licence", default="NOASSERTION", help="SPDX identifier (default: %(default)s)")
    given = parser.parse_args()
    if given.output.suffix != ".safetensors":
        parser.error(f"expected an OUT that ends in .safetensors; got {given.output.name}")
    try:
        tensors, others = unpickled(given.checkpoint)
        entry, state = state_dict_in(tensors, given.key)
        check_finite(state, given.checkpoint)
        if given.timm:
            convert_timm(state, given.output)
        else:
            convert_hgi_sam(state, given)
    except WeightsError as error:
        print(f"{given.checkpoint}: {error}" if str(given.checkpoint) not in str(error) else error, file=sys.stderr)
        return ExitCode.WEIGHTS
    except (OutputError, OSError) as error:
        print(f"{given.output}: {error}", file=sys.stderr)
        return ExitCode.OUTPUT
    elsewhere = {entry_of(path) for path in tensors} - {entry}
    for name in [*others, *(f"{other or 'top level'} (tensors)" for other in sorted(elsewhere))]:
        print(f"also in the file, not taken: {name}")
    print(f"wrote {given.output}")
    return ExitCode.OK


def unpickled(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a pickle under the paths of their keys, and the names of what else it holds.

    Raises:
        WeightsError: where the reader refuses the file, takes too long or is killed.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: expected a checkpoint; got no such file; check the path")
    with tempfile.TemporaryDirectory(prefix="hgisam-") as folder:
        target = Path(folder) / "tensors.safetensors"
        command = [sys.executable, "-I", str(READER), str(path.resolve()), str(target)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=READER_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise WeightsError(
                f"expected a checkpoint; got one that takes over {READER_S} s to read; fetch it again"
            ) from error
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"a reader that ended with {done.returncode}"])[-1]
            raise WeightsError(
                f"expected tensors only, as torch.save(model.state_dict(), ...) writes them; got {reason}; "
                "save them so where the model can be loaded, or take another file"
            )
        return read_tensors(target).tensors, json.loads(done.stdout)


def entry_of(path: str) -> str:
    """The path without the tensor's own name; empty at the top."""
    return path.rpartition("/")[0]


def state_dict_in(tensors: dict[str, Tensor], key: str | None) -> tuple[str, dict[str, Tensor]]:
    """The one state dict of a Swin Transformer among nested ones, without the prefixes of wrappers, and its path.

    Raises:
        WeightsError: where there is none, or several of one rank.
    """
    entries: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for path, tensor in tensors.items():
        entries[entry_of(path)][path.rpartition("/")[2]] = tensor
    first = re.compile(r"(^|.*\.)layers\.0\.blocks\.0\.norm1\.weight")
    swins = [entry for entry, names in entries.items() if any(first.fullmatch(name) for name in names)]
    if key is not None:
        swins = [entry for entry in swins if entry == key]
    elif len(swins) > 1:
        swins = [entry for entry in swins if "ema" in entry] or swins
    if len(swins) != 1:
        wanted = f"a Swin Transformer in entry {key!r}" if key is not None else "one Swin Transformer in the file"
        found = ", ".join(sorted(swins)) or f"tensors such as {', '.join(sorted(tensors)[:3]) or 'none'}"
        raise WeightsError(f"expected {wanted}; got {found}; name its entry with --key or take another file")
    (entry,) = swins
    if entry:
        print(f"took entry {entry}")
    state = entries[entry]
    if state.pop(AVERAGE_COUNT, None) is not None:
        print(f"left out: {AVERAGE_COUNT}")
    while prefix := next((w for w in WRAPPERS if all(name.startswith(w) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return entry, state


def convert_timm(state: dict[str, Tensor], output: Path) -> None:
    """Write a Swin's tensors as they are."""
    shape = swin_shape(published_state(state))
    with atomic_write(output) as file:
        file.write(format_tensors(state, metadata={"format": "pt"}))
    print(
        f"embedding {shape.embed_dim}, depths {shape.depths}, heads {shape.heads}; {len(state)} tensors, none left out"
    )


def convert_hgi_sam(state: dict[str, Tensor], given: argparse.Namespace) -> None:
    """Write the authors' classifier as weights of hgisam, and print what could not be carried over."""
    options = classifier_options(state, given.image_size)
    if options.swin.in_channels != 3:
        raise WeightsError(f"expected 3 windows as channels; got {options.swin.in_channels}; hgisam cannot show these")
    model = HemorrhageClassifier(options)
    taken, report = adapt_state(state, model.state_dict())
    left_out = [name for name in report.unused if not follows_from_geometry(name)]
    foreign = [*report.adapted, *report.random, *(n for n in left_out if n.startswith(("swin.", "head.")))]
    if foreign:
        raise WeightsError(
            f"expected HGI-SAM's classifier; {foreign[0]} and {len(foreign) - 1} more do not fit it; "
            "convert a Swin of timm with --timm"
        )
    model.load_state_dict(taken)
    px = options.swin.img_size
    resized_px = int(ENLARGED * px)
    spacing_mm = round(given.field_of_view_mm / resized_px, 4)
    licence = given.licence
    caveats = [c.format(px=resized_px, spacing_mm=spacing_mm, fov_mm=given.field_of_view_mm, licence=licence)
               for c in NOT_CARRIED]  # fmt: skip
    metadata = WeightsMetadata(
        architecture=options,
        preprocess=PreprocessOptions(
            spacing_mm=spacing_mm, fov_px=px, align=False, channels="windows_observed", mask_outside=False
        ).model_dump(mode="json"),
        operating_point=0.5,
        threshold=PUBLISHED_THRESHOLD,
        data=f"converted from {given.checkpoint.name} of HGI-SAM (arXiv 2304.04902; RSNA-2019, slice labels). "
        + " ".join(caveats),
        command="python "
        + shlex.join(["tools/convert_hgi_checkpoint.py", given.checkpoint.name, "-o", given.output.name]),
        seed=0,
        created=datetime.now(UTC).replace(microsecond=0),
        version=__version__,
        licence=licence,
    )
    sha256 = save_weights(given.output, model, metadata)
    swin = options.swin
    print(
        f"{options.outputs} outputs, {px} px, patch {swin.patch_size}, attention window {swin.window}, embedding "
        f"{swin.embed_dim}, depths {swin.depths}, heads {swin.heads}; {len(taken)} tensors; sha256 {sha256}"
    )
    for name in left_out:
        print(f"left out: {name}: {report.unused[name]}")
    for caveat in caveats:
        print(f"differs: {caveat}")


def classifier_options(state: dict[str, Tensor], image_size: int | None) -> ClassifierOptions:
    """The network that the authors' tensors are of.

    Raises:
        WeightsError: where a tensor that tells is missing, or they make no network that hgisam has.
    """
    try:
        shape = swin_shape(published_state(state))
        kernel = state["swin.patch_embed.proj.weight"]
        window = (isqrt(len(state["swin.layers.0.blocks.0.attn.relative_position_bias_table"])) + 1) // 2
        swin = {
            "img_size": image_size or image_size_in(state),
            "patch_size": kernel.shape[-1],
            "window": window,
            "embed_dim": shape.embed_dim,
            "depths": shape.depths,
            "heads": shape.heads,
            "mlp_ratio": len(state["swin.layers.0.blocks.0.mlp.fc1.weight"]) / shape.embed_dim,
            "qkv_bias": "swin.layers.0.blocks.0.attn.qkv.bias" in state,
            "in_channels": kernel.shape[1],
        }
        return ClassifierOptions.model_validate({"swin": swin, "outputs": len(state["head.weight"])})
    except KeyError as error:
        raise WeightsError(
            f"expected {error} as HGI-SAM's classifier has it; got none; a timm file needs --timm"
        ) from error
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(str(part) for part in found["loc"])
        raise WeightsError(f"{where}: {found['msg']}; got {found['input']!r}; hgisam has no such network") from error


def image_size_in(state: dict[str, Tensor]) -> int:
    """Side of the network's image in px, from a shifted block's mask: one row of it for each attention window.

    Raises:
        WeightsError: where the file holds no mask, as timm's files since 0.9.
    """
    for name, mask in state.items():
        if (match := re.fullmatch(r"swin\.layers\.(\d+)\.blocks\.\d+\.attn_mask", name)) and mask.dim() == 3:
            tokens = isqrt(mask.shape[0]) * isqrt(mask.shape[1]) << int(match[1])
            return tokens * state["swin.patch_embed.proj.weight"].shape[-1]
    raise WeightsError("expected the image's size from an attn_mask; got none; give --image-size (HGI-SAM: 384)")


if __name__ == "__main__":
    sys.exit(main())
