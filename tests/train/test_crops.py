"""What a segmenter learns from: blood lies where the picture shows it, however it is changed; batches follow steps."""

from pathlib import Path

import pytest
import torch
from still import STILL

from hgisam.preprocess import PreprocessOptions
from hgisam.supervised import StackOptions
from hgisam.train.augment import AugmentOptions
from hgisam.train.cohort import LabelledScan, NiftiFile
from hgisam.train.crops import CropBatches, CropSampling, MaskedSlices
from hgisam.train.prepared import HU_STEP, PreparedScan, PreparedScans, SliceIndex

SEEN = PreprocessOptions(spacing_mm=1.0, fov_px=64, mask_outside=False)
SAMPLING = CropSampling(bleeding=3, anywhere=2)


class Heads(PreparedScans):
    """Two patients with a bright square in some slices, which lie 5 mm apart; not all have masks."""

    def __init__(
        self, bled: tuple[int, ...] = (3, 4), masked: tuple[bool, bool] = (True, False), *, own: bool = False
    ) -> None:
        relative = torch.zeros(9, 64, 64)
        relative[list(bled), 20:32, 24:40] = 60.0
        region = torch.zeros(9, 64, 64, dtype=torch.bool)
        region[:, 4:60, 4:60] = True
        rows, positions, labels = list(range(9)), [5.0 * row for row in range(9)], torch.zeros(9, 6, dtype=torch.bool)
        hu = (relative / HU_STEP).to(torch.int16)
        certain = (relative == 0) if own else None  # the very square is in doubt, so that pictures show where
        self._prepared = [
            PreparedScan(name, hu, 30.0, region, relative > 0, rows, positions, has_reference=has, certain=certain)
            for name, has in zip("ab", masked, strict=True)
        ]
        self.scans = tuple(LabelledScan(name, name, NiftiFile(Path(name)), labels, labels) for name in "ab")
        area = (relative > 0).sum(dim=(1, 2)).float()
        self.slice_index = SliceIndex(
            scan=torch.arange(18) // 9,
            row=torch.arange(18) % 9,
            labels=torch.cat([labels, labels]),
            known=torch.cat([labels, labels]),
            brain_mm2=torch.full([18], 3136.0),
            blood_mm2=torch.cat([area if has else torch.full([9], torch.nan) for has in masked]),
        )

    def __getitem__(self, index: int) -> PreparedScan:  # type: ignore[override]
        return self._prepared[index]


def batches(
    stack: StackOptions | None,
    augmentation: AugmentOptions = STILL,
    heads: Heads | None = None,
    rank: int = 0,
    n_processes: int = 1,
) -> CropBatches:
    slices = MaskedSlices(heads or Heads(), {"a", "b"}, SAMPLING)
    return CropBatches(slices, SEEN, stack, SAMPLING, augmentation, 5, rank=rank, n_processes=n_processes)


def test_slices_without_a_mask_are_never_shown() -> None:
    slices = MaskedSlices(Heads(), {"a", "b"}, SAMPLING)
    assert slices.anywhere.tolist() == list(range(9))
    assert slices.bleeding.tolist() == [3, 4]
    assert len(MaskedSlices(Heads(), {"b"}, SAMPLING).anywhere) == 0


@pytest.mark.parametrize("stack", [None, StackOptions(slice_mm=5.0, window_slices=4)])
def test_blood_lies_where_the_picture_shows_it_whatever_is_changed(stack: StackOptions | None) -> None:
    moved = {"rotation_deg": 20.0, "scale": 0.1, "shift_mm": (5.0, 5.0), "flip_probability": 0.5}
    moving = STILL.model_copy(update=moved)
    for step in range(3):
        batch = batches(stack, moving)[step]
        bright = batch.images[:, 0] > 0.58  # brain is 0.33, blood 0.83, half of it 0.58
        assert batch.blood.shape == bright.shape
        assert bool(batch.blood[:3].flatten(1).any(dim=1).all())
        agreement = 2 * (bright & batch.blood).sum() / (bright.sum() + batch.blood.sum())
        assert float(agreement) > 0.9


@pytest.mark.parametrize("stack", [None, StackOptions(slice_mm=5.0, window_slices=4)])
def test_doubt_lies_where_the_picture_shows_it_whatever_is_changed(stack: StackOptions | None) -> None:
    moved = {"rotation_deg": 20.0, "scale": 0.1, "shift_mm": (5.0, 5.0), "flip_probability": 0.5}
    for step in range(3):
        batch = batches(stack, STILL.model_copy(update=moved), Heads(own=True))[step]
        bright, known = batch.images[:, 0] > 0.58, batch.certain
        assert known is not None and known.shape == bright.shape
        assert float((bright & ~known).sum() / bright.sum()) > 0.95
        a_little = batch.images[:, 0] > 0.34  # of a slice of a stack, what a slice in doubt has a small part in
        assert float((a_little & ~known).sum() / (~known).sum()) > 0.9
        parts = batch.split(2)
        assert [None if part.certain is None else len(part.certain) for part in parts] == [3, 2]
    assert batches(stack)[0].certain is None


def test_a_slice_of_a_stack_is_certain_only_where_all_slices_that_make_it_are() -> None:
    """Slices 5 mm apart as a stack of 2.5 mm: halfway between a slice in doubt and a sure one there is doubt too."""
    batch = batches(StackOptions(slice_mm=2.5, window_slices=20), heads=Heads(own=True))[0]
    known = batch.certain
    assert known is not None
    doubtful = (~known).flatten(2).any(dim=2)
    for image, found in zip(batch.images, doubtful, strict=True):
        assert torch.equal(image[:, 0], image[:, 1])  # 17 slices in a window of 20: the ends are repeated
        assert found.nonzero().flatten().tolist() == [6, 7, 8, 9, 10]  # slices 3 and 4 are the stack's 1 + 6 and 1 + 8


def test_a_2d_network_sees_single_slices_and_a_3d_network_stacks() -> None:
    assert batches(None)[0].images.shape == (5, 2, 64, 64)
    assert batches(StackOptions(window_slices=4))[0].images.shape == (5, 2, 4, 64, 64)


def test_in_a_stack_shorter_than_the_window_the_ends_are_repeated() -> None:
    """9 slices of 5 mm in a window of 12: the first once more, the last twice more, each slice in its place."""
    batch = batches(StackOptions(slice_mm=5.0, window_slices=12))[0]
    for image, blood in zip(batch.images, batch.blood, strict=True):
        assert torch.equal(image[:, 0], image[:, 1])
        assert torch.equal(image[:, 9:11], image[:, 10:12])
        assert blood.flatten(1).any(dim=1).nonzero().flatten().tolist() == [4, 5]


def test_a_stack_about_a_bleeding_slice_shows_it_at_the_ends_of_a_scan_too() -> None:
    heads = Heads(bled=(0, 8), masked=(True, True))
    for step in range(4):
        batch = batches(StackOptions(slice_mm=5.0, window_slices=4), heads=heads)[step]
        assert bool(batch.blood[:3].flatten(1).any(dim=1).all())


def test_a_batch_follows_from_its_step_and_processes_share_it() -> None:
    moving = AugmentOptions()
    whole = batches(None, moving)[7]
    assert torch.equal(whole.images, batches(None, moving)[7].images)
    parts = [batches(None, moving, rank=rank, n_processes=2)[7] for rank in range(2)]
    for rank, part in enumerate(parts):
        assert torch.equal(part.images, whole.images[rank::2])
    split = whole.split(2)
    assert [len(part.images) for part in split] == [3, 2]
    assert torch.equal(torch.cat([part.blood for part in split]), whole.blood)


def test_as_many_processes_as_slices_have_one_each() -> None:
    assert len(batches(None, rank=4, n_processes=5)[0].images) == 1
