"""A progress bar for people: the case's name and the time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def case_progress(n_cases: int, *, show: bool) -> Iterator[Callable[[str], None]]:
    """Draw a bar on stderr while the block runs; gives a function to call with each case's name as it begins.

    Args:
        n_cases: how many cases there will be.
        show: False draws nothing.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), disable=not show, speed_estimate_period=600, transient=True)
    with bar:
        task = bar.add_task("", total=n_cases)
        n_begun = 0

        def begin(name: str) -> None:
            nonlocal n_begun
            bar.update(task, description=name, completed=n_begun)
            n_begun += 1

        yield begin
