"""tools/map_ablation.py and what it looks with: the maths that its rows stand on."""

from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from networks import small_network
from sklearn.metrics import average_precision_score

from hgisam import Segmenter, __version__
from hgisam.attention import pair_product
from hgisam.labels import Subtype
from hgisam.model.checkpoint import WeightsMetadata, save_weights
from hgisam.model.classifier import ClassifierOptions, HemorrhageClassifier
from hgisam.model.swin import SwinOptions
from hgisam.phantom import PhantomOptions, make_phantom
from hgisam.pipeline import SegmentOptions
from hgisam.preprocess import PreprocessOptions
from hgisam.segment import AggregationOptions, PoseOptions, aggregate
from hgisam.weak import SelfAttention

SMALL = PhantomOptions(
    n_slices=15, slice_mm=10.0, size_px=112, pixel_mm=2.0, kinds=(Subtype.INTRAPARENCHYMAL,), volumes_ml=(40.0,)
)


def tiny_four_stages(path: Path) -> Path:
    """Weights of a network that has learned nothing and lets every slice pass."""
    swin = SwinOptions(img_size=96, window=3, embed_dim=8, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), in_channels=2)
    options = ClassifierOptions(swin=swin)
    metadata = WeightsMetadata(
        architecture=options, preprocess=PreprocessOptions(spacing_mm=2.0, fov_px=96).model_dump(mode="json"),
        operating_point=0.0, threshold=0.5, data="none", command="none", seed=1, version=__version__,
        created=datetime(2026, 1, 2, tzinfo=UTC), licence="Apache-2.0",
    )  # fmt: skip
    torch.manual_seed(1)
    save_weights(path, HemorrhageClassifier(options), metadata)
    return path


@pytest.fixture
def tool(tools: None) -> ModuleType:
    import map_ablation

    return map_ablation


@pytest.mark.parametrize(
    ("weighting", "gradient_of"),
    [("none", None), ("scores", "scores"), ("weights", "weights"), ("attended", "positive_weights")],
)
def test_the_tools_maps_are_the_packages(tool: ModuleType, weighting: str, gradient_of: str | None) -> None:
    from map_looks import block_maps

    model, images = small_network().eval(), torch.rand(2, 3, 64, 64)
    method = SelfAttention(gradient_of=gradient_of, stages=(1, 2, 3, 4))
    expected_log_odds, expected = method.stage_maps(model, images)
    log_odds, maps = block_maps(model, images)
    torch.testing.assert_close(log_odds, expected_log_odds)
    for stage, raw in enumerate(expected, start=1):
        blocks = [found for grid, found in maps[weighting] if grid.stage == stage]
        torch.testing.assert_close(pair_product(blocks), raw, rtol=1e-4, atol=1e-6 * float(raw.max()))


def test_positive_parts_add_no_more_than_there_is(tool: ModuleType) -> None:
    """A norm is at least that of the positive part; a mean's positive part at most the mean of positive parts."""
    from map_looks import block_maps

    _, maps = block_maps(small_network().eval(), torch.rand(1, 3, 64, 64))
    for whole, part in (("scores", "positive scores"), ("weights", "positive weights"), ("raising", "net raising")):
        for (_, more), (_, less) in zip(maps[whole], maps[part], strict=True):
            assert (less <= more * (1 + 1e-5)).all()
            assert 0 < less.sum() < more.sum()


def test_raising_the_attention_to_a_token_raises_the_logit_as_told(tool: ModuleType) -> None:
    """The gradients of the tool, by finite differences along the scores of one block."""
    from map_looks import KeptAttention

    model, images, step = small_network().double().eval(), torch.rand(1, 3, 64, 64, dtype=torch.float64), 1e-4
    kept = KeptAttention()
    logit = model(images, attend=kept).sum()
    (gradient,) = torch.autograd.grad(logit, kept.scores[2])
    direction = gradient / gradient.norm()

    class Moved(KeptAttention):
        def __init__(self, change: float) -> None:
            super().__init__()
            self.change = change

        def __call__(
            self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, grid: object
        ) -> torch.Tensor:
            scores = query / query.shape[-1] ** 0.5 @ key.transpose(-2, -1) + bias
            scores = scores + self.change * direction if len(self.grids) == 2 else scores
            self.grids.append(grid)
            return scores.softmax(dim=-1) @ value

    with torch.no_grad():
        slope = (model(images, attend=Moved(step)) - model(images, attend=Moved(-step))) / (2 * step)
    assert float(slope) == pytest.approx(float(gradient.norm()), rel=1e-3)


@pytest.mark.parametrize("pose", ["mirrored", "half a patch", "half a window"])
def test_a_map_comes_back_from_its_pose_to_where_the_image_was(tool: ModuleType, pose: str) -> None:
    from map_looks import posed, shift_px, unposed

    shift = shift_px(pose, small_network().options.swin)
    assert shift == {"mirrored": 0, "half a patch": 2, "half a window": 8}[pose]
    image = torch.rand(3, 1, 64, 64)
    moved = posed(image, pose, shift)
    assert not torch.equal(moved, image)
    assert torch.equal(unposed(moved[:, 0], pose, shift), image[:, 0])


def test_a_patch_moved_by_half_lands_below_and_to_the_left(tool: ModuleType) -> None:
    from map_looks import posed

    image = torch.zeros(1, 1, 64, 64)
    image[0, 0, 20, 30] = 1
    assert posed(image, "half a patch", 2)[0, 0, 22, 28] == 1
    assert posed(image, "mirrored", 0)[0, 0, 20, 33] == 1


def test_learned_weights_are_those_that_made_the_labels(tool: ModuleType) -> None:
    """Blood by a logistic rule on stages 1 and 3 as 2 to 1; stage 2 speaks against it, and must not count."""
    chance = np.random.default_rng(1)
    logs = np.log(chance.uniform(0.01, 1, size=(20_000, 3)))
    margin = 2 * logs[:, 0] - 0.5 * logs[:, 1] + logs[:, 2] + 1.5
    blood = chance.random(len(logs)) < 1 / (1 + np.exp(-margin))
    found = tool.fitted([(logs[:9000], blood[:9000]), (logs[9000:], blood[9000:])])
    assert found == pytest.approx((1 / 3, 0, 1 / 6), abs=0.02)
    assert found == tool.fitted([(logs[:9000], blood[:9000]), (logs[9000:], blood[9000:])])


def test_the_packages_product_is_a_learned_one_with_equal_weights(tool: ModuleType) -> None:
    stages, region = torch.rand(4, 3, 8, 8), torch.ones(4, 8, 8, dtype=torch.bool)
    relative = stages / stages.amax(dim=(0, 2, 3), keepdim=True)
    found = tool.geometric(relative, (1 / 6, 1 / 6, 1 / 6))
    torch.testing.assert_close(found / found.amax(), aggregate(stages, region, AggregationOptions()))
    assert torch.equal(tool.geometric(relative, (0, 1, 0)), relative[:, 1])


def test_average_precision_is_scikit_learns_with_ties(tool: ModuleType) -> None:
    chance = np.random.default_rng(2)
    scores, blood = chance.integers(0, 9, 500) / 8, chance.random(500) < 0.2
    assert tool.average_precision(scores, blood) == pytest.approx(average_precision_score(blood, scores))


def test_compared_rows_come_along_in_order(tool: ModuleType) -> None:
    assert tool.with_compared(["it erased twice"], tool.ROWS) == [
        "norm of scores",
        "positive part x attention",
        "it erased once",
        "it erased twice",
    ]
    assert all(row.against is None or row.against in tool.ROWS for row in tool.ROWS.values())


def test_rows_work_on_what_was_kept_and_the_default_is_the_packages(tool: ModuleType, tmp_path: Path) -> None:
    """A network that has learned nothing, its gate open, on a small phantom with one large bleed."""
    from ablation_heads import Head
    from map_looks import POSES, kept

    phantom = make_phantom(3, SMALL)
    segmenter = Segmenter(tiny_four_stages(tmp_path / "tiny.safetensors"))
    head = Head("phantom", "3", None, lambda: (phantom.ct, phantom.labels > 0))
    first, again = (kept(tmp_path, segmenter, head) for _ in range(2))
    assert sorted(path.parent.name for path in tmp_path.glob("*/*.npz")) == [segmenter.weights.sha256[:16]]
    assert {pose for pose, _, _ in again.poses} == set(POSES)
    result = segmenter.segment((phantom.ct.hu.numpy(), phantom.ct.affine.numpy()))
    learned = dict.fromkeys(("scores", "attended"), (0.2, 0.0, 0.2, 0.1))
    found = {name: tool.saliency_of(again, row, learned) for name, row in tool.ROWS.items()}
    poses = SegmentOptions(
        poses=PoseOptions(mirrored=True, shifts_px=(2, 6)), aggregation=AggregationOptions(neighbours_mm=0)
    )
    posed = Segmenter(tmp_path / "tiny.safetensors", options=poses).segment((result.ct.hu.numpy(), result.affine))
    expected = posed.saliency_house / posed.saliency_house.max()
    torch.testing.assert_close(found["all its poses"], expected * again.gated[:, None, None], rtol=1e-3, atol=1e-4)
    expected = result.saliency_house / result.saliency_house.max()
    torch.testing.assert_close(found[tool.DEFAULT], expected * again.gated[:, None, None], rtol=1e-3, atol=1e-5)
    assert torch.equal(tool.outline(again, found[tool.DEFAULT]), result.mask_volume.voxels)
    assert torch.equal(tool.saliency_of(first, tool.ROWS["all its poses"], learned), found["all its poses"])
    for name, saliency in found.items():
        assert 0 <= saliency.min() <= saliency.max() <= 1 + 1e-5, name
        assert not saliency[~again.region].any(), name
        is_new = name == tool.DEFAULT or not torch.equal(saliency, found[tool.DEFAULT])
        assert is_new or tool.ROWS[name].rounds, name
    brain, whole = found[tool.ATTENDED], found["it over the window's mean"]
    assert not torch.equal(brain, whole)
    of_slice = (whole / brain)[brain > 1e-3]  # a slice's scale alone differs: the most by how little brain it shows
    for index in torch.nonzero((brain > 1e-3).flatten(1).any(dim=1)).flatten().tolist():
        ratio = (whole[index] / brain[index])[brain[index] > 1e-3]
        torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-3, atol=1e-4)
    assert float(of_slice.max() / of_slice.min()) > 1.02, "of a network that has learned nothing; slices differ"
    both = found["it over both means"]
    torch.testing.assert_close(both / both.max(), (brain * whole).sqrt() / (brain * whole).sqrt().max())
    saliency = torch.where(again.reference & again.region, 0.9, 0.3) * again.region
    at = int(np.searchsorted(tool.CUTS, 0.5))
    kept_blood, blood = int((again.reference & again.region).sum()), int(again.reference.sum())
    assert tool.cut_dice(again, saliency)[at] == pytest.approx(2 * kept_blood / (kept_blood + blood))
    assert tool.voxel_precision(again, saliency) == 1.0


def test_what_was_found_is_erased_and_a_little_around(tool: ModuleType) -> None:
    from map_looks import around

    mask = torch.zeros(3, 9, 9, dtype=torch.bool)
    mask[1, 4, 4] = True
    grown = around(mask, (1.0, 2.0))
    assert grown.nonzero().tolist() == [[1, 2, 4], [1, 3, 4], [1, 4, 3], [1, 4, 4], [1, 4, 5], [1, 5, 4], [1, 6, 4]]
