"""Masks to learn from that nobody drew: what weak methods say of training scans, cleaned by the labels of slices.

Two methods outline each scan. A slice that is labelled free of blood is background, whatever they say. In any other
slice they must agree: where both say the same, that is learned; where one says blood and the other does not, nothing
is; and a slice is left out wholly where they agree too little, or where neither finds blood, since blood is there (or,
in a slice without a label, may be) and nobody knows where. No reference mask is read.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, UInt8
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hgisam.evaluate.overlap import overlap
from hgisam.io.errors import ScanRefused
from hgisam.io.nifti import new_grid_for, read_mask, write_labels, write_mask
from hgisam.io.tables import write_csv, write_json
from hgisam.pipeline import OUTLINE_CODE, Segmenter, SegmentOptions
from hgisam.processes import in_order, one_thread
from hgisam.refine import RandomWalk
from hgisam.train.cohort import UNKNOWN, Cohort, LabelledScan, sorted_scans
from hgisam.train.prepared import cache_folder, key_of_files
from hgisam.weak import GradientRollout
from hgisam.wording import counted

log = logging.getLogger(__name__)


class OpinionOptions(BaseModel):
    """A weak method that outlines the training scans."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    segment: SegmentOptions = SegmentOptions()
    """Its settings, as for `hgisam segment`."""
    weights: Path | None = None
    """A classifier's weights; None takes those of the package, where the method needs any. What they learned from is
    what the segmenter's masks rest on."""


class OwnMaskOptions(BaseModel):
    """Where the masks come from that a segmenter learns from, where no reference may teach it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    first: OpinionOptions = OpinionOptions()
    """The method that outlines."""
    second: OpinionOptions | None = OpinionOptions(segment=SegmentOptions(weak=GradientRollout(), refine=RandomWalk()))
    """Another one, best with another map and another way to outline; None believes the first."""
    min_dice: float = Field(default=0.5, ge=0, le=1)
    """A slice in which the Dice of the two is below this is left out wholly."""


@dataclass(frozen=True)
class OwnMaskRow:
    """What became of one scan: slices and voxels of the scan's own grid.

    Attributes:
        patient: whose it is.
        scan: its name.
        n_slices: all of them.
        n_free: slices labelled free of blood: background.
        n_outlined: other slices, in which the methods agree on some blood.
        n_left_out: the rest, of which nothing is learned.
        n_unlabelled: slices without a label, among the last two.
        n_blood: voxels that are learned as blood.
        n_unsure: voxels of outlined slices of which nothing is learned.
        n_wiped: voxels that the first method took for blood in slices labelled free of it.
        dice: of the two methods outside of those slices; None where neither finds blood there.
    """

    patient: str
    scan: str
    n_slices: int
    n_free: int
    n_outlined: int
    n_left_out: int
    n_unlabelled: int
    n_blood: int
    n_unsure: int
    n_wiped: int
    dice: float | None


@dataclass(frozen=True, eq=False)
class OwnMasks:
    """The training scans with masks of our own.

    Attributes:
        cohort: the scans that could be outlined, without any reference.
        rows: what became of each, in their order.
        facts: the methods with all their settings, for the record.
    """

    cohort: Cohort
    rows: tuple[OwnMaskRow, ...]
    facts: dict[str, Any]

    @property
    def sums(self) -> dict[str, int]:
        """Each count of the rows, over all scans."""
        return {name: sum(getattr(row, name) for row in self.rows) for name in _COUNTS}

    @property
    def figures(self) -> dict[str, object]:
        """Over all scans, for the record."""
        told = [row.dice for row in self.rows if row.dice is not None]
        mean = sum(told) / len(told) if told else None
        return {"n_scans": len(self.rows), **self.sums, "mean_dice_of_the_two": mean, **self.facts}

    def summary(self) -> str:
        """What is learned from, in one line."""
        sums = self.sums
        return (
            f"own masks of {counted(len(self.rows), 'scan')}: {counted(sums['n_free'], 'slice')} free of blood, "
            f"{sums['n_outlined']:,} outlined, {sums['n_left_out']:,} left out; "
            f"{counted(sums['n_blood'], 'voxel')} of blood, {sums['n_unsure']:,} "
            f"beside them left out, {sums['n_wiped']:,} wiped by labels"
        )

    def write(self, path: Path) -> None:
        """Write a row for each scan.

        Raises:
            OutputError: where it cannot be written.
        """
        columns = tuple(OwnMaskRow.__dataclass_fields__)
        write_csv(path, [asdict(row) for row in self.rows], columns)


_COUNTS = tuple(name for name in OwnMaskRow.__dataclass_fields__ if name.startswith("n_"))


def joined_masks(
    first: Bool[Tensor, "slices height width"],
    second: Bool[Tensor, "slices height width"],
    free: Bool[Tensor, " slices"],
    min_dice: float,
) -> UInt8[Tensor, "slices height width"]:
    """One mask from two opinions and the labels: 0 no blood, 1 blood, UNKNOWN what is not to be learned.

    Args:
        first: what a method takes for blood.
        second: what another does.
        free: slices labelled free of blood: 0 everywhere.
        min_dice: an other slice is UNKNOWN everywhere where their Dice is below this, or they share no voxel.
    """
    n_both, n_any = ((found.flatten(1).sum(dim=1)) for found in (first & second, first | second))
    dice = 2 * n_both / (n_any + n_both).clamp_min(1)
    joined = torch.where(first ^ second, UNKNOWN, (first & second).to(torch.uint8))
    joined[(n_both == 0) | (dice < min_dice)] = UNKNOWN
    joined[free] = 0
    return joined


def outline_by_ourselves(
    cohort: Cohort, options: OwnMaskOptions, cache: Path, workers: int, device: torch.device
) -> OwnMasks:
    """Outline every scan of a cohort, once: masks are kept in a cache folder, so that a stop loses one scan's work.

    A scan that a method refuses is left out, with its reason in the log.

    Args:
        cohort: the scans to learn from.
        options: the methods, and how far they must agree.
        cache: where masks are kept, as NIfTI files on the scans' grids.
        workers: processes that outline on a CPU.
        device: where the methods' network runs.

    Raises:
        OutputError: where the cache cannot be written.
        WeightsError: where a method's weights cannot be used.
    """
    blind = cohort.without_references()
    opinions = [options.first, *([] if options.second is None else [options.second])]
    folders, settings = [], []
    for opinion in opinions:
        outliner = _outliner(opinion, str(device))
        outliner.ensure_able("segment")
        settings.append(outliner.settings)
        folders.append(cache_folder(cache, OUTLINE_CODE, [outliner.settings]))
    own = cache_folder(
        cache, ("train/own_masks.py",), [{"folders": [f.name for f in folders], "dice": options.min_dice}]
    )
    jobs = [scan for scan in blind.scans if not _record_of(own, scan).is_file()]
    several = workers if device.type == "cpu" and len(jobs) > 1 else 1
    outline = partial(_outline_into, own, folders, opinions, str(device), options.min_dice)
    for done, _ in enumerate(in_order(outline, jobs, max(several, 1)), start=1):
        if done % 20 == 0:
            log.info("outlined %d of %d scans", done, len(jobs))
    _outliner.cache_clear()
    outlined, rows = [], []
    for scan in blind.scans:
        record = _record_of(own, scan)
        found = json.loads(record.read_text(encoding="utf-8"))
        if "refused" in found:
            log.warning("%s is left out: %s", scan.name, found["refused"])
            continue
        outlined.append(replace(scan, own_mask=_mask_beside(record)))
        rows.append(OwnMaskRow(**found))
    facts = {"first": settings[0], "second": settings[1] if options.second else None, "min_dice": options.min_dice}
    return OwnMasks(Cohort(cohort.layout, sorted_scans(outlined), cohort.findings), tuple(rows), facts)


def _outline_into(
    own: Path,
    folders: Sequence[Path],
    opinions: Sequence[OpinionOptions],
    device: str,
    min_dice: float,
    scan: LabelledScan,
) -> None:
    """Outline a scan by every method that has not done so, and join what they say."""
    record = _record_of(own, scan)
    try:
        with one_thread():
            masks = [
                _outlined(folder, opinion, device, scan) for folder, opinion in zip(folders, opinions, strict=True)
            ]
    except ScanRefused as error:
        write_json(record, {"refused": " ".join(str(error).split())})
        return
    first, second, free = masks[0], masks[-1], scan.negative
    joined = joined_masks(first, second, free, min_dice)
    outlined = (joined == 1).flatten(1).any(dim=1)
    row = OwnMaskRow(
        patient=scan.patient,
        scan=scan.name,
        n_slices=len(joined),
        n_free=int(free.sum()),
        n_outlined=int(outlined.sum()),
        n_left_out=int((~free & ~outlined).sum()),
        n_unlabelled=int((~free & ~scan.positive).sum()),
        n_blood=int((joined == 1).sum()),
        n_unsure=int((joined[outlined] == UNKNOWN).sum()),
        n_wiped=int(first[free].sum()),
        dice=overlap(second[~free], first[~free], 1.0).dice,
    )
    write_labels(_mask_beside(record), joined, new_grid_for(scan.load()))
    write_json(record, asdict(row))


def _outlined(
    folder: Path, opinion: OpinionOptions, device: str, scan: LabelledScan
) -> Bool[Tensor, "slices height width"]:
    """What a method takes for blood in a scan, newly found where no file says so."""
    path = folder / f"{key_of_files(scan)}.nii.gz"
    if path.is_file():
        return read_mask(path)[0].voxels
    ct = scan.load()
    voxels = _outliner(opinion, device).segment(ct).mask_volume.voxels
    write_mask(path, voxels, new_grid_for(ct))
    return voxels


@lru_cache(maxsize=2)
def _outliner(opinion: OpinionOptions, device: str) -> Segmenter:
    """A method with its network, loaded once in each process."""
    return Segmenter(opinion.weights, options=opinion.segment, device=device)


def _record_of(own: Path, scan: LabelledScan) -> Path:
    """Names what is kept of a scan after its files and its slices' labels, which have a say in it."""
    labels = torch.stack([scan.positive, scan.negative]).numpy().tobytes()
    return own / f"{key_of_files(scan)}-{hashlib.sha256(labels).hexdigest()[:16]}.json"


def _mask_beside(record: Path) -> Path:
    return record.with_name(f"{record.stem}.nii.gz")
