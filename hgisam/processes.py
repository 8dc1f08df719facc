"""Work in other processes, on many items or on one at a time, which may hang or kill it; work in one thread."""

import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from threading import Thread
from typing import Any, Generic, TypeVar

log = logging.getLogger("hgisam")

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


def side_by_side(function: Callable[[Item], object], items: Iterable[Item], workers: int) -> None:
    """`function` of each item in a process of its own, so many at a time: long work that leaves its results on disk.

    What it logs is logged here. An item that fails, or kills its process, is logged as an error, and the others go on.
    Ctrl-C and SIGTERM are for the asking process; when that is interrupted, the processes are killed.

    Args:
        function: of a module, so that another process can import it.
        items: each goes to its process.
        workers: how many processes at a time, one or more.
    """
    context = get_context("spawn")
    waiting = deque(items)
    running: dict[Connection[Any, Any], SpawnProcess] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                here, there = context.Pipe()
                process = context.Process(target=_work, args=(there, function, waiting.popleft(), log.level))
                process.start()
                there.close()
                running[here] = process
            ready = wait(list(running))
            for connection in [each for each in running if each in ready]:
                try:
                    said = connection.recv()
                except EOFError:
                    process = running.pop(connection)
                    process.join()
                    if process.exitcode:
                        log.error("expected a process to finish its work; it ended with %s", _how(process.exitcode))
                else:
                    logging.getLogger(said.name).handle(said)
    finally:
        for process in running.values():
            process.kill()
            process.join()


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch sums in another order on other thread counts; with one, the same numbers come out everywhere."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class TookTooLong(RuntimeError):
    """An item on which the other process worked longer than allowed."""


class ProcessGone(RuntimeError):
    """The other process ended in the midst of an item: it crashed, or the system killed it for its memory."""


class LoneWorker(Generic[Item, Result]):
    """One other process that works on an item at a time. Where it hangs or dies, a new one takes the next item.

    It is started for its first item, ends with the process that asked, however that ends, and leaves Ctrl-C and SIGTERM
    to it. What it logs is logged here.
    """

    def __init__(self, function: Callable[[Item], Result]) -> None:
        """Nothing is started yet.

        Args:
            function: goes to the other process whole, once for each process.
        """
        self._function = function
        self._process: SpawnProcess | None = None
        self._connection: Connection[Any, Any] | None = None

    def __enter__(self) -> "LoneWorker[Item, Result]":
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()

    def result(self, item: Item, timeout_s: float) -> Result:
        """`function` of the item; what it raises is raised here. The process is killed where anything else goes wrong.

        Args:
            item: goes to the process and its result comes back, so both should be small.
            timeout_s: the longest that the item may take, the start of the process not counted.

        Raises:
            TookTooLong: the time is over.
            ProcessGone: the process ended without an answer.
        """
        try:
            if self._connection is None:
                self._connection = self._start()
                self._answer(self._connection, None)
            self._connection.send(item)
            result, error = self._answer(self._connection, time.monotonic() + timeout_s)
        except (EOFError, ConnectionError) as gone:
            raise ProcessGone(self._how_it_ended()) from gone
        except TimeoutError as late:
            self._kill()
            raise TookTooLong(f"expected a result within {timeout_s:g} s; got none; allow more time") from late
        except BaseException:
            self._kill()
            raise
        if error is not None:
            raise error
        found: Result = result
        return found

    def _start(self) -> "Connection[Any, Any]":
        context = get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, self._function, log.level), daemon=True)
        process.start()
        self._process = process
        there.close()
        return here

    def _answer(self, connection: "Connection[Any, Any]", until: float | None) -> Any:
        """What the process says next, besides what it logs."""
        while connection.poll(None if until is None else max(0.0, until - time.monotonic())):
            said = connection.recv()
            if not isinstance(said, logging.LogRecord):
                return said
            logging.getLogger(said.name).handle(said)
        raise TimeoutError

    def _how_it_ended(self) -> str:
        code = 0
        if self._process is not None:
            self._process.join()
            code = self._process.exitcode or 0
        self._kill()
        return f"expected a result from the process; it ended with {_how(code)}; see how much memory there is"

    def _kill(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._connection = self._process = None


def _serve(connection: "Connection[Any, Any]", function: Callable[[Any], Any], level: int) -> None:
    """The other process: says that it is there, then answers until the connection is closed."""
    _belong(connection, level)
    connection.send(None)
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        try:
            answer = (function(item), None)
        except Exception as error:  # noqa: BLE001 - it is raised where the result was asked for
            connection.send((None, error))
        else:
            connection.send(answer)


def _work(connection: "Connection[Any, Any]", function: Callable[[Any], object], item: Any, level: int) -> None:
    """The other process: works on one item, and ends."""
    _belong(connection, level)
    try:
        function(item)
    except Exception as error:  # noqa: BLE001 - the asking process goes on with the others
        log.error("%s: %s", type(error).__name__, error)


def _belong(connection: "Connection[Any, Any]", level: int) -> None:
    """Another process ends with the one that asked, leaves signals to it, and logs there."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    log.handlers[:] = [_Forward(connection)]
    log.setLevel(level)


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Forward(logging.Handler):
    """Sends what is logged through a connection, as text: a traceback cannot leave its process."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args, record.exc_info = self.format(record), None, None
        self._connection.send(record)
