"""Whether a disk has room for what is about to be written, asked before hours of work rather than found out after."""

import logging
import shutil
from pathlib import Path

from hgisam.io.errors import OutputError
from hgisam.wording import sized

log = logging.getLogger(__name__)


def ensure_free_space(folder: Path, at_least: int, usual: int = 0) -> None:
    """Stop where a run cannot fit, before it writes anything; where it may not fit, say so and go on.

    Where the system does not tell what is free, nothing is said.

    Args:
        folder: where to; it need not be there yet.
        at_least: bytes that will surely be written: a run that would have fitted must not be stopped.
        usual: bytes that such a run takes as a rule; 0 where that is no more than `at_least`.

    Raises:
        OutputError: where less is free than `at_least`.
    """
    room = _free_bytes(folder)
    expected = max(at_least, usual)
    if room is None or room[0] >= expected:
        return
    free, free_to_root = room
    text = f"{folder}: expected some {sized(expected)} free; got {sized(free)}; free some, or name another folder"
    if free_to_root < at_least:
        raise OutputError(text)
    log.warning("%s if it does not suffice", text)


def _free_bytes(folder: Path) -> tuple[int, int] | None:
    """What is free where a folder lies, or will lie, and with what is kept back for root, who may be who asks; None
    where the system does not tell."""
    for path in (folder, *folder.parents):
        try:
            usage = shutil.disk_usage(path)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return (usage.free, usage.total - usage.used) if usage.total else None  # some network drives say 0 of all
    return None
