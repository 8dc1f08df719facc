"""How a count or a size is said."""


def counted(n: int, one: str, many: str | None = None) -> str:
    """A count with what is counted: "1 slice", "2,084 slices".

    Args:
        n: the count.
        one: what stands after 1; it may go on with the verb, such as "slice is empty".
        many: what stands after any other count; None puts an s behind `one`.
    """
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"


def sized(n_bytes: int) -> str:
    """A number of bytes for people, in powers of 1000: "12 kB", "3.1 GB", "152 GB"."""
    value, unit = n_bytes / 1e3, "kB"
    for larger in ("MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:,.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
