"""How files can fail us: not what was typed, a scan that must not be used, or a place that cannot be written."""

from hgisam.limits import one_line


class ScanRefused(ValueError):
    """An input that cannot be trusted. Its text is one line: which file; expected; got; what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class OutputError(OSError):
    """An output that cannot be written: no permission, no space, or a place outside the output folder."""


class InputError(ValueError):
    """What was typed cannot be worked on as it stands; no scan was touched. Its text is one line. Exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))
