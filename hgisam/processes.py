"""Work on many items in several processes, its results in the items' order."""

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """`function` of each item, in the items' order; with one worker, here and now, as each result is asked for.

    Processes are spawned, so that they inherit no threads; a few items per worker are under way at a time, so that
    memory does not grow with their number. What `function` raises is raised where its result would have come; that, or
    leaving the loop early, gives up what has not begun. Ctrl-C is for the asking process to handle.

    Args:
        function: of a module, so that another process can import it.
        items: each goes to a process and its result comes back, so both should be small.
        workers: how many processes.

    Raises:
        ValueError: where there is no worker.
    """
    if workers < 1:
        raise ValueError(f"expected one worker or more; got {workers}")
    if workers == 1:
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    )
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
