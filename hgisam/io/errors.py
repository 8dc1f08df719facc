"""How files can fail us: not what was typed, a scan that must not be used, or a place that cannot be written."""


class ScanRefused(ValueError):
    """An input that cannot be trusted. Its text is one line: which file; expected; got; what to do."""


class OutputError(OSError):
    """An output that cannot be written: no permission, no space, or a place outside the output folder."""


class InputError(ValueError):
    """What was typed cannot be worked on as it stands; no scan was touched. Exit code 2."""
