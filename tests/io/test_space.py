"""A run that cannot fit is stopped, one that may not is warned of, and a system that does not tell stops nobody."""

import errno
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from hgisam.io.errors import OutputError
from hgisam.io.space import ensure_free_space

Fake = Callable[[int], list[Path]]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Make every disk have so many bytes free; which folders were asked for stands in the list."""

    def fake(n_bytes: int) -> list[Path]:
        asked: list[Path] = []

        def usage(path: Path) -> SimpleNamespace:
            asked.append(path)
            if not path.exists():
                raise FileNotFoundError(errno.ENOENT, "no such folder", str(path))
            return SimpleNamespace(total=10**12, used=10**12 - n_bytes, free=n_bytes)

        monkeypatch.setattr("shutil.disk_usage", usage)
        return asked

    return fake


def test_what_surely_does_not_fit_is_refused_with_need_and_room(tmp_path: Path, free: Fake) -> None:
    free(3 * 10**9)
    folder = tmp_path / "cache" / "a"
    with pytest.raises(OutputError) as refused:
        ensure_free_space(folder, 50 * 10**9, 152 * 10**9)
    text = f"{folder}: expected some 152 GB free; got 3.0 GB; free some, or name another folder"
    assert str(refused.value) == text
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_folder_that_is_there_is_asked(tmp_path: Path, free: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = free(0)
    ensure_free_space(Path("a/b"), 0)
    assert asked == [Path("a/b"), Path("a"), Path()]


def test_what_may_not_fit_is_warned_of(tmp_path: Path, free: Fake, caplog: pytest.LogCaptureFixture) -> None:
    free(100)
    with caplog.at_level(logging.WARNING):
        ensure_free_space(tmp_path, 100, 101)
    assert len(caplog.records) == 1 and "if it does not suffice" in caplog.text


def test_of_what_fits_nothing_is_said(tmp_path: Path, free: Fake, caplog: pytest.LogCaptureFixture) -> None:
    free(101)
    ensure_free_space(tmp_path, 100, 101)
    ensure_free_space(tmp_path, 101)
    assert caplog.records == []


def test_a_system_that_does_not_tell_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: Path) -> SimpleNamespace:
        raise PermissionError(errno.EACCES, "not for you")

    monkeypatch.setattr("shutil.disk_usage", unknown)
    ensure_free_space(tmp_path, 10**18)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=0, free=0))
    ensure_free_space(tmp_path, 10**18)


def test_a_real_disk_has_room_for_a_byte_and_not_for_everything(tmp_path: Path) -> None:
    ensure_free_space(tmp_path / "none" / "yet", 1)
    with pytest.raises(OutputError, match="expected some 1,000,000 TB free"):
        ensure_free_space(tmp_path / "none" / "yet", 10**18)
