"""The two ways in which files can fail us: a scan that must not be used, and a place that cannot be written."""


class ScanRefused(ValueError):
    """An input that cannot be trusted. Its text is one line: which file; expected; got; what to do."""


class OutputError(OSError):
    """An output that cannot be written: no permission, no space, or a place outside the output folder."""
