"""What `hgisam info` tells: enough to report a problem, nothing that names the machine."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hgisam import __version__
from hgisam.cli import app
from hgisam.environment import describe
from hgisam.model.checkpoint import WeightsMetadata, save_weights
from hgisam.model.classifier import ClassifierOptions, HemorrhageClassifier
from hgisam.model.swin import SwinOptions


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A weights file of a tiny network, and its sha256."""
    options = ClassifierOptions(
        swin=SwinOptions(img_size=32, window=4, embed_dim=8, depths=(2, 2, 2), heads=(1, 2, 4), in_channels=2)
    )
    metadata = WeightsMetadata(
        architecture=options, operating_point=0.25, threshold=0.5, data="two phantoms", command="make it", seed=3,
        created=datetime(2026, 1, 2, tzinfo=UTC), version=__version__, licence="Apache-2.0", figures={"auc": 0.75},
    )  # fmt: skip
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    return path, save_weights(path, HemorrhageClassifier(options), metadata)


def test_it_tells_which_weights_and_where_they_come_from(weights: tuple[Path, str]) -> None:
    path, sha256 = weights
    found = describe(path)
    assert found["weights"]["sha256"] == sha256
    assert found["weights"]["file"] == "tiny.safetensors"
    assert (found["weights"]["data"], found["weights"]["command"]) == ("two phantoms", "make it")
    assert found["weights"]["figures"] == {"auc": 0.75}
    assert found["hgisam"] == __version__
    assert "cpu" in found["devices"]
    assert str(path.parent) not in json.dumps(found)


def test_info_prints_lines_for_people_and_json_for_machines(weights: tuple[Path, str]) -> None:
    path, sha256 = weights
    lines = CliRunner().invoke(app, ["info", "--weights", str(path)]).stdout.splitlines()
    assert f"hgisam: {__version__}" in lines
    assert f"  sha256: {sha256}" in lines
    assert "    auc: 0.75" in lines
    found = json.loads(CliRunner().invoke(app, ["info", "--json", "--weights", str(path)]).stdout)
    assert found["weights"]["architecture"]["swin"]["embed_dim"] == 8


def test_missing_or_changed_weights_exit_4(weights: tuple[Path, str], tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["info", "--weights", str(tmp_path / "none.safetensors")]).exit_code == 4
    changed = tmp_path / "tiny.safetensors"
    changed.write_bytes(weights[0].read_bytes())
    changed.with_name("tiny.safetensors.sha256").write_text("0" * 64)
    done = CliRunner().invoke(app, ["info", "--weights", str(changed)])
    assert done.exit_code == 4
    assert "expected sha256" in done.stderr
