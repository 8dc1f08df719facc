"""What every test shares: shapes and types checked as it runs, one thread per worker, the way to the real scans."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("hgisam", "runtime_types.checked")  # before anything imports hgisam

import torch  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """One thread per xdist worker: two workers with two threads each are slower on two cores, and round otherwise."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def sample_volumes() -> Path:
    """The folder of five synthetic heads that ships with the project."""
    return REPOSITORY / "sample_volumes"


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real head CT; skips where neither HGISAM_REALDATA nor ../shared/realdata leads to one."""
    folder = Path(os.environ.get("HGISAM_REALDATA", REPOSITORY.parent / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip("real scans are not part of the project: set HGISAM_REALDATA to a folder that holds them")
    return folder
