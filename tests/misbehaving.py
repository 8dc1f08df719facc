"""What hangs, dies or fails in another process: in a module of its own, which that process imports in a moment."""

import logging
import os
import signal
from pathlib import Path


def act(scan: Path) -> None:
    """Waits for ever, in C, for a scan that says so; is killed for memory by another."""
    text = scan.read_text()
    if text == "hang":
        os.read(os.pipe()[0], 1)
    elif text == "die":
        os.kill(os.getpid(), 9)


def behave(how: str) -> tuple[int, str]:
    """Gives the process's number with the text, unless the text asks for worse."""
    if how.startswith("log"):
        logging.getLogger("hgisam.test").warning("%s is %d", "seven", 7)
    if how.endswith("hang"):
        os.read(os.pipe()[0], 1)
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "fail":
        raise FileNotFoundError("as asked")
    if how == "signals":
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    return os.getpid(), how


def leave(path: Path) -> None:
    """Leaves the process's number in the file, unless its name asks for worse."""
    path.write_text(str(behave(path.name)[0]))
