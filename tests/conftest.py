"""What every test shares: shapes and types checked as it runs, one thread per worker, the way to the real scans."""

import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("hgisam", "runtime_types.checked")  # before anything imports hgisam

import torch  # noqa: E402

from hgisam.cases import Case, find_cases  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent


settings.register_profile("hgisam", deadline=None, print_blob=True)
settings.load_profile("hgisam")  # no test is timed: a busy machine must not fail one


def pytest_configure() -> None:
    """One thread per xdist worker: two workers with two threads each are slower on two cores, and round otherwise."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture
def tools(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The modules of tools/ can be imported; those that were are forgotten afterwards."""
    folder = repository / "tools"
    monkeypatch.syspath_prepend(folder)
    yield
    for path in folder.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of a training stay empty files: to draw them takes longer than the steps of a tiny one.

    What a module's own fixtures train is drawn all the same: they come before this one.
    """
    monkeypatch.setattr("hgisam.evaluate.figures.save", lambda _, path: path.touch())


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of figures by patient are wide of the mark, and there in no time."""
    monkeypatch.setattr("hgisam.evaluate.statistics.N_FIGURE_RESAMPLES", 40)


@pytest.fixture(scope="session")
def sample_volumes() -> Path:
    """The folder of five synthetic heads that ships with the project."""
    return REPOSITORY / "sample_volumes"


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A weights file of a tiny network that has learned nothing, and its sha256."""
    from hgisam import __version__
    from hgisam.model.checkpoint import WeightsMetadata, save_weights
    from hgisam.model.classifier import ClassifierOptions, HemorrhageClassifier
    from hgisam.model.swin import SwinOptions

    options = ClassifierOptions(
        swin=SwinOptions(img_size=192, window=6, embed_dim=8, depths=(2, 2, 2), heads=(1, 2, 4), in_channels=2)
    )
    metadata = WeightsMetadata(
        architecture=options, operating_point=0.25, threshold=0.5, data="nothing", command="make it", seed=3,
        created=datetime(2026, 1, 2, tzinfo=UTC), version=__version__, licence="Apache-2.0", figures={"auc": 0.5},
    )  # fmt: skip
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    return path, save_weights(path, HemorrhageClassifier(options), metadata)


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real head CT; skips where neither HGISAM_REALDATA nor ../shared/realdata leads to one."""
    folder = Path(os.environ.get("HGISAM_REALDATA", REPOSITORY.parent / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip("real scans are not part of the project: set HGISAM_REALDATA to a folder that holds them")
    return folder


@pytest.fixture
def scans(tmp_path: Path) -> Callable[..., tuple[Case, ...]]:
    """Make input files with the given texts: `scans(a="", b="refuse")`."""

    def make(**texts: str) -> tuple[Case, ...]:
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        for name, text in texts.items():
            (folder / f"{name}.nii.gz").write_text(text)
        return find_cases([folder / f"{name}.nii.gz" for name in texts])

    return make
