"""What is asked of a network, and what is known of a scan beside its answers."""

import torch
from analytic_head import draw_head

from hgisam.brain import BrainOptions
from hgisam.labels import ANY_COLUMN, Subtype
from hgisam.model.classifier import ClassifierOptions, HemorrhageClassifier
from hgisam.model.swin import SwinOptions
from hgisam.preprocess import PreprocessOptions
from hgisam.train.calibration import Calibration, pick_operating_point
from hgisam.train.prepared import prepare_scan
from hgisam.train.scoring import Judge, score_judges, scored_slices

CANVAS = PreprocessOptions(spacing_mm=2.0, fov_px=96)
SWIN = SwinOptions(img_size=96, window=6, embed_dim=8, depths=(2, 2, 2), heads=(1, 2, 4), in_channels=2)


def test_a_positive_slice_without_brain_is_missed_and_counted_with_those_that_choose_the_operating_point() -> None:
    """Three slices bleed, one of which shows no brain: 0.6 of three are both of the others."""
    ct = draw_head((10.0, 2.0, 2.0)).ct
    scan = prepare_scan("a", ct, None, BrainOptions(), CANVAS)
    without_brain = min({*range(len(ct.hu))} - {*scan.slices})
    labels = torch.zeros(len(ct.hu), len(Subtype), dtype=torch.bool)
    labels[[*scan.slices[2:4], without_brain], ANY_COLUMN] = True
    judge = Judge("p", scan, labels, torch.ones_like(labels))
    torch.manual_seed(0)
    model = HemorrhageClassifier(ClassifierOptions(swin=SWIN)).eval()
    (found,) = score_judges(model, [judge], CANVAS, bfloat16=False)
    assert (found.patient, found.n_unseen, found.bled) == ("p", 1, True)
    assert found.labels.nonzero().flatten().tolist() == [2, 3]
    point = pick_operating_point(found.log_odds.sigmoid(), found.labels, 0.6, n_unseen=found.n_unseen)
    table = scored_slices([judge], [found], Calibration(operating_point=point))
    assert int(table.positive.sum()) == 3
    assert float((table.probabilities[table.positive] >= point).double().mean()) >= 0.6
