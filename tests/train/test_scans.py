"""What a batch is made of."""

import torch
from still import STILL

from hgisam.preprocess import PreprocessOptions
from hgisam.train.prepared import HU_STEP, PreparedScan
from hgisam.train.scans import BatchSource, SamplingOptions

SEEN = PreprocessOptions(fov_px=64)


def head(name: str, sides_px: list[int], *, bled: bool = True) -> PreparedScan:
    """One slice for each side: a square of 40 HU over brain, of that side; 0 for none, 2 for a trace."""
    hu = torch.zeros(len(sides_px), 64, 64)
    for row, side in enumerate(sides_px):
        hu[row, 20 : 20 + side, 20 : 20 + side] = 40.0
    region = torch.zeros(len(sides_px), 64, 64, dtype=torch.bool)
    region[:, 4:60, 4:60] = True
    relative = (hu / HU_STEP).to(torch.int16)
    blood = hu > 20
    if not bled:
        relative, blood = torch.zeros_like(relative), torch.zeros_like(blood)
    return PreparedScan(name, relative, 30.0, region, blood, list(range(len(sides_px))))


def source(scans: list[PreparedScan], before: list[PreparedScan], **changed: object) -> BatchSource:
    sampling = SamplingOptions.model_validate({"positive": 4, "negative": 2, "twins": 0, **changed})
    return BatchSource(scans, before, SEEN, sampling, STILL, 0)


def test_slices_with_a_trace_of_blood_are_never_shown() -> None:
    made = source([head("a", [0, 2, 10])], [])
    assert made.positive == [(0, 2)]
    assert made.negative == [(0, 0)]


def test_labels_say_which_images_hold_blood() -> None:
    batch = next(source([head("a", [0, 12, 20])], []))
    assert batch.images.shape == (6, 2, 64, 64)
    assert batch.labels.tolist() == [True] * 4 + [False] * 2
    assert torch.equal(batch.blood.any(dim=2).any(dim=1), batch.labels)


def test_training_begins_with_blood_that_shows_and_ends_with_all() -> None:
    made = source([head("a", [0, 4, 10, 20])], [], easy_share=0.3, easing_batches=20)
    areas = [next(made).blood[:4].sum(dim=(1, 2)) for _ in range(40)]
    assert set(torch.cat(areas[:5]).tolist()) == {400}
    assert set(torch.cat(areas[20:]).tolist()) == {16, 100, 400}


def test_a_twin_is_the_same_slice_without_its_blood() -> None:
    scans, twins = [head("a", [0, 20])], [head("a", [0, 20], bled=False)]
    batch = next(source(scans, twins, twins=3))
    assert batch.labels.tolist() == [True] * 4 + [False] * 5
    assert not batch.blood[6:].any()


def test_heads_without_a_twin_make_do_without() -> None:
    batch = next(source([head("a", [0, 20])], [head("b", [0, 20], bled=False)], twins=3))
    assert len(batch.labels) == 6
