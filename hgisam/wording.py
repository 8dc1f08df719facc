"""How a count is said."""


def counted(n: int, one: str, many: str | None = None) -> str:
    """A count with what is counted: "1 slice", "2,084 slices".

    Args:
        n: the count.
        one: what stands after 1; it may go on with the verb, such as "slice is empty".
        many: what stands after any other count; None puts an s behind `one`.
    """
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"
