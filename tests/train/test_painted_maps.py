"""Maps are judged on painted bleeds, the same for every network, and a map that is right scores as such."""

import pytest
import torch
from analytic_head import draw_head

from hgisam.brain import BrainOptions
from hgisam.labels import Subtype
from hgisam.model.classifier import ClassifierOptions, HemorrhageClassifier
from hgisam.model.cnn import CnnClassifier, CnnOptions
from hgisam.model.swin import SwinOptions
from hgisam.preprocess import PreprocessOptions
from hgisam.train import painted_maps
from hgisam.train.painted_maps import MapQuality, judge_maps
from hgisam.train.painting import PaintedSlice, PaintingOptions, paint_slice
from hgisam.train.prepared import prepare_scan
from hgisam.train.scoring import Judge

CANVAS = PreprocessOptions(spacing_mm=2.0, fov_px=96)
SWIN = SwinOptions(img_size=96, window=6, embed_dim=8, depths=(2, 2, 2), heads=(1, 2, 4), in_channels=2)


@pytest.fixture(scope="module")
def judges() -> list[Judge]:
    ct = draw_head((10.0, 2.0, 2.0)).ct
    scan = prepare_scan("a", ct, None, BrainOptions(), CANVAS)
    labels = torch.zeros(len(ct.hu), len(Subtype), dtype=torch.bool)
    labels[6, [1, 5]] = True
    return [Judge("a", scan, labels, torch.ones_like(labels))]


def network() -> HemorrhageClassifier:
    torch.manual_seed(0)
    return HemorrhageClassifier(ClassifierOptions(swin=SWIN)).eval()


def judged(judges: list[Judge]) -> MapQuality:
    found = judge_maps(network(), judges, CANVAS, PaintingOptions(), n=6)
    assert found is not None
    return found


def test_the_same_slices_are_painted_every_time(judges: list[Judge]) -> None:
    assert judged(judges) == judged(judges)
    assert judged(judges).n == 6


def test_a_map_of_the_blood_itself_is_whole_and_one_of_nothing_is_not(
    judges: list[Judge], monkeypatch: pytest.MonkeyPatch
) -> None:
    painted: list[PaintedSlice] = []

    def remembered(*given: object) -> PaintedSlice | None:
        found = paint_slice(*given)
        painted.extend([found] if found else [])
        return found

    monkeypatch.setattr(painted_maps, "paint_slice", remembered)
    monkeypatch.setattr(
        painted_maps, "_stage_maps", lambda *_: painted[-1].blood.float()[None, None].expand(1, 3, -1, -1)
    )
    found = judged(judges)
    assert found.dice == found.published_dice == 1.0
    monkeypatch.setattr(painted_maps, "_stage_maps", lambda _how, _m, images: torch.zeros(1, 3, *images.shape[2:]))
    assert judged(judges).published_dice == 0.0


def test_a_network_without_attention_is_judged_by_its_class_activation(judges: list[Judge]) -> None:
    torch.manual_seed(0)
    cnn = CnnClassifier(CnnOptions(in_channels=2, width=4)).eval()
    found = judge_maps(cnn, judges, CANVAS, PaintingOptions(), n=6)
    assert found is not None
    assert (found.n, 0 < found.dice < 1) == (6, True)


def test_a_network_that_sees_neighbours_is_asked_about_the_same_bleeds(
    judges: list[Judge], monkeypatch: pytest.MonkeyPatch
) -> None:
    painted: list[torch.Tensor] = []

    def remembered(*given: object) -> PaintedSlice | None:
        found = paint_slice(*given)
        painted.extend([found.blood] if found else [])
        return found

    monkeypatch.setattr(painted_maps, "paint_slice", remembered)
    judged(judges)
    alone, painted = painted, []
    sees_neighbours = CANVAS.model_copy(update={"neighbours": 1})
    swin = SWIN.model_copy(update={"in_channels": 4})
    network = HemorrhageClassifier(ClassifierOptions(swin=swin)).eval()
    assert judge_maps(network, judges, sees_neighbours, PaintingOptions(), n=6) is not None
    assert len(painted) == len(alone) == 6
    assert all(torch.equal(*both) for both in zip(alone, painted, strict=True))


def test_slices_that_bled_are_not_painted_into(judges: list[Judge]) -> None:
    everywhere = [Judge("a", judges[0].scan, torch.ones_like(judges[0].labels), judges[0].known)]
    assert judge_maps(network(), everywhere, CANVAS, PaintingOptions(), n=6) is None
