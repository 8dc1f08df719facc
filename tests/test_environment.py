"""What `hgisam info` tells: enough to report a problem, nothing that names the machine."""

import json
from pathlib import Path

from typer.testing import CliRunner

from hgisam import __version__
from hgisam.cli import app
from hgisam.environment import describe


def test_it_tells_which_weights_and_where_they_come_from(tiny_weights: tuple[Path, str]) -> None:
    path, sha256 = tiny_weights
    found = describe(path)
    assert found["weights"]["sha256"] == sha256
    assert found["weights"]["file"] == "tiny.safetensors"
    assert (found["weights"]["data"], found["weights"]["command"]) == ("nothing", "make it")
    assert found["weights"]["figures"] == {"auc": 0.5}
    assert found["hgisam"] == __version__
    assert "cpu" in found["devices"]
    assert str(path.parent) not in json.dumps(found)


def test_info_prints_lines_for_people_and_json_for_machines(tiny_weights: tuple[Path, str]) -> None:
    path, sha256 = tiny_weights
    lines = CliRunner().invoke(app, ["info", "--weights", str(path)]).stdout.splitlines()
    assert f"hgisam: {__version__}" in lines
    assert f"  sha256: {sha256}" in lines
    assert "    auc: 0.5" in lines
    found = json.loads(CliRunner().invoke(app, ["info", "--json", "--weights", str(path)]).stdout)
    assert found["weights"]["architecture"]["swin"]["embed_dim"] == 8


def test_missing_or_changed_weights_exit_4(tiny_weights: tuple[Path, str], tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["info", "--weights", str(tmp_path / "none.safetensors")]).exit_code == 4
    changed = tmp_path / "tiny.safetensors"
    changed.write_bytes(tiny_weights[0].read_bytes())
    changed.with_name("tiny.safetensors.sha256").write_text("0" * 64)
    done = CliRunner().invoke(app, ["info", "--weights", str(changed)])
    assert done.exit_code == 4
    assert "expected sha256" in done.stderr
