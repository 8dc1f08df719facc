"""Learning without labels: what is hidden is hidden, what was there is asked for, and each slice has its turn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from still import STILL
from torch import Tensor

from hgisam.model.classifier import ClassifierOptions
from hgisam.model.masked_swin import MaskedSwin
from hgisam.model.swin import SwinOptions
from hgisam.preprocess import PreprocessOptions
from hgisam.train.cohort import LabelledScan, NiftiFile
from hgisam.train.hiding import HiddenBatch, HiddenBatches, HiddenObjective, HidingOptions, hidden_squares
from hgisam.train.loop import LoopOptions, Trainer
from hgisam.train.prepared import HU_STEP, PreparedScan, PreparedScans, SliceIndex

N_SLICES = 9
SEEN = PreprocessOptions(spacing_mm=1.0, fov_px=64)
HIDING = HidingOptions(slices=3, hidden_px=16, hidden_share=0.5)
SMALL = ClassifierOptions(
    swin=SwinOptions(img_size=64, window=4, embed_dim=8, depths=(2, 2, 2), heads=(1, 2, 4), in_channels=2)
)


class Heads(PreparedScans):
    """Two patients of whose slices nothing is known; slice k is k HU over the brain median, and `more_hu` over that."""

    def __init__(self, more_hu: Tensor | None = None) -> None:
        hu = torch.arange(N_SLICES).float()[:, None, None].expand(-1, 64, 64)
        hu = hu if more_hu is None else hu + more_hu
        region = torch.zeros(N_SLICES, 64, 64, dtype=torch.bool)
        region[:, 4:60, 4:60] = True
        region[0, 20:, :] = False  # 896 square mm of brain
        rows, positions = list(range(N_SLICES)), [5.0 * row for row in range(N_SLICES)]
        relative, blood = (hu / HU_STEP).to(torch.int16), torch.zeros_like(region)
        self._prepared = [PreparedScan(name, relative, 30.0, region, blood, rows, positions) for name in "ab"]
        nothing = torch.zeros(2 * N_SLICES, 6, dtype=torch.bool)
        half = nothing[:N_SLICES]
        self.scans = tuple(LabelledScan(name, name, NiftiFile(Path(name)), half, half) for name in "ab")
        self.slice_index = SliceIndex(
            scan=torch.arange(2 * N_SLICES) // N_SLICES,
            row=torch.arange(2 * N_SLICES) % N_SLICES,
            labels=nothing,
            known=nothing,
            brain_mm2=region.sum(dim=(1, 2)).float().repeat(2),
            blood_mm2=torch.zeros(2 * N_SLICES),
        )

    def __getitem__(self, index: int) -> PreparedScan:  # type: ignore[override]
        return self._prepared[index]


def batches(
    heads: Heads | None = None,
    patients: str = "ab",
    seen: PreprocessOptions = SEEN,
    hiding: HidingOptions = HIDING,
    rank: int = 0,
    n_processes: int = 1,
) -> HiddenBatches:
    return HiddenBatches(heads or Heads(), set(patients), seen, hiding, STILL, 5, rank=rank, n_processes=n_processes)


def test_so_many_whole_squares_are_hidden_each_time_others() -> None:
    options = HidingOptions(hidden_px=16, hidden_share=0.6)
    found = [hidden_squares(64, options, np.random.default_rng(seed)) for seed in range(3)]
    for hidden in found:
        squares = hidden.unfold(0, 16, 16).unfold(1, 16, 16).flatten(2).sum(dim=2)
        assert set(squares.flatten().tolist()) == {0, 256}
        assert int(hidden.sum()) == 10 * 256  # 0.6 of 16 squares
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("neighbours", [0, 1])
def test_nothing_that_is_shown_depends_on_what_is_hidden(neighbours: int) -> None:
    """Neither the slice, nor its mirror difference, nor its neighbours give it away; but it is what is asked for."""
    seen = SEEN.model_copy(update={"neighbours": neighbours})
    one = HIDING.model_copy(update={"slices": 1})
    plain = batches(seen=seen, hiding=one)[0]
    other = batches(Heads(40.0 * plain.hidden[0]), seen=seen, hiding=one)[0]
    assert torch.equal(plain.images, other.images)
    assert torch.equal(plain.hidden, other.hidden)
    differs = (plain.wanted[0] != other.wanted[0]).flatten(1).any(dim=1)
    assert differs.all()  # of every channel
    within = torch.zeros(64, 64, dtype=torch.bool)
    within[4:60, 4:60] = True
    assert not (plain.asked[0] & ~(plain.hidden[0] & within)).any()
    assert plain.asked[0].any()


def test_of_hidden_pixels_the_brain_median_is_shown() -> None:
    batch = batches()[0]
    low, high = SEEN.relative_range_hu
    assert torch.allclose(batch.images[:, 0][batch.asked], torch.tensor(-low / (high - low)), atol=1e-6)


def test_every_fit_slice_is_shown_once_before_any_is_shown_twice_whatever_is_known_of_it() -> None:
    """Nothing is known of any: 9 slices of each of two patients, of which one is too small."""
    hiding = HidingOptions(slices=4, hidden_px=16, min_region_mm2=1000.0)
    made = batches(hiding=hiding)
    low, high = SEEN.relative_range_hu
    shown = torch.cat([made[step].wanted[:, 0, 30, 30] for step in range(4)])
    rows = (shown * (high - low) + low).round().int()
    assert sorted(rows.tolist()) == sorted([*range(1, N_SLICES)] * 2)
    assert (made.n_slices, made.n_patients) == (16, 2)
    assert batches(patients="b", hiding=hiding).n_patients == 1


def test_processes_share_a_step_and_a_step_follows_from_its_number_alone() -> None:
    alone, again = batches()[7], batches()[7]
    parts = [batches(rank=rank, n_processes=2)[7] for rank in range(2)]
    assert torch.equal(alone.images, again.images)
    assert torch.equal(alone.images[[0, 2, 1]], torch.cat([part.images for part in parts]))
    assert torch.equal(alone.hidden[[0, 2, 1]], torch.cat([part.hidden for part in parts]))


def test_the_cost_is_the_mean_error_of_what_is_asked_for_in_parts_or_as_a_whole() -> None:
    """By hand: off by 0.5 in one channel and by 0.25 in the other, wherever it counts: 0.375."""
    wanted = torch.zeros(3, 2, 8, 8)
    asked = torch.zeros(3, 8, 8, dtype=torch.bool)
    asked[0, :2], asked[2, 4] = True, True
    batch = HiddenBatch(torch.zeros_like(wanted), asked, wanted, asked)
    said = torch.tensor([0.5, -0.25])[None, :, None, None].expand(3, -1, 8, 8) + 9.0 * ~asked[:, None]
    costs = HiddenObjective().costs_of(batch, MaskedSwin(SMALL))
    answers = iter([said, said[:2], said[2:]])
    whole, *parts = (costs(lambda *_: next(answers), part)["pixel_loss"] for part in (batch, *batch.split(2)))
    assert float(whole) == pytest.approx(0.375)
    assert float(sum(parts)) == pytest.approx(0.375)


def test_an_encoder_sees_no_pixel_of_a_hidden_patch_and_answers_in_place() -> None:
    torch.manual_seed(0)
    model = MaskedSwin(SMALL).eval()
    images, hidden = torch.rand(1, 2, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool)
    hidden[0, 16:32, 32:48] = True
    changed = torch.where(hidden[:, None], 1.0 - images, images)
    elsewhere = torch.where(hidden.roll(16, 1)[:, None], 1.0 - images, images)
    with torch.inference_mode():
        said = model(images, hidden)
        assert said.shape == images.shape
        assert torch.equal(said, model(changed, hidden))
        assert not torch.allclose(said, model(elsewhere, hidden))
        assert not torch.allclose(said, model(images, torch.zeros_like(hidden)))
        model.pixels.bias[:256] = 7.0  # all pixels of the first channel under a token of 16 x 16 pixels
        model.pixels.bias[256] = -7.0  # the first of the second channel
        moved = model(images, hidden) - said
    assert torch.allclose(moved[0, 0], torch.tensor(7.0), atol=0.3)
    corner = torch.zeros(64, 64, dtype=torch.bool)
    corner[::16, ::16] = True
    assert torch.equal(moved[0, 1] < -6.0, corner)


def test_it_learns_what_was_hidden_in_slices_that_it_has_not_seen() -> None:
    """The left half of every head is darker than the right one: whoever answers alike everywhere is off by far more."""
    half = torch.zeros(64, 64)
    half[:, 32:] = 30.0
    made = batches(Heads(half), "a", hiding=HidingOptions(slices=6, hidden_px=16, hidden_share=0.4))
    others = batches(Heads(half), "b")[0]
    torch.manual_seed(0)
    options = LoopOptions(steps=100, learning_rate=2e-3, average_decay=0.9, bfloat16=False)
    coarse = SMALL.model_copy(update={"swin": SMALL.swin.model_copy(update={"patch_size": 8})})
    trainer = Trainer(MaskedSwin(coarse), options, HiddenObjective(), torch.device("cpu"))
    for step in range(options.steps):
        trainer.learn(made[step])
    with torch.inference_mode():
        said = trainer.averaged(others.images, others.hidden)
    asked = others.wanted.transpose(0, 1)[:, others.asked]
    alike = (asked - asked.median(dim=1, keepdim=True).values).abs().mean()
    off = (said.transpose(0, 1)[:, others.asked] - asked).abs().mean()
    assert float(off) < 0.3 * float(alike)
