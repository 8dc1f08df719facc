"""A coarse head to draw in, made once."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hgisam.phantom.anatomy import Brain, FineGrid, Habitus, Head, Pose, draw_brain, draw_head
from hgisam.phantom.atlas import Atlas, load_atlas
from hgisam.phantom.shapes import Plan

GRID = FineGrid(shape=(72, 76, 64), first_mm=(79.0, 95.0, -76.0), step_mm=(2.5, 2.5, 2.5))


@pytest.fixture(scope="session")
def atlas() -> Atlas:
    return load_atlas()


@pytest.fixture(scope="session")
def head(atlas: Atlas) -> Head:
    """A head of average build, looking straight ahead."""
    rng = np.random.default_rng(5)
    pose = Pose(matrix=torch.eye(3) / 0.9, shift_mm=torch.zeros(3))
    return draw_head(rng, atlas, pose, Habitus.draw(rng), GRID)


@pytest.fixture(scope="session")
def brain(head: Head) -> Brain:
    """That head's brain where nothing pushes it."""
    return draw_brain(head, None)


@pytest.fixture
def hurt(head: Head) -> Callable[[Plan], tuple[Brain, torch.Tensor]]:
    """Carries a plan out: the pushed brain, and the blood's fraction of each voxel."""

    def carry_out(plan: Plan) -> tuple[Brain, torch.Tensor]:
        pushed = draw_brain(head, plan.displacement_mm)
        return pushed, plan.fraction(head, pushed)

    return carry_out
