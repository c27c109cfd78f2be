"""Work done together: many calls, one transaction, and each caller hears of its own item.

``work`` takes the items of a batch and returns as many answers, in their order; an answer may be an exception, which
its own caller gets. It does all that it does in one transaction, so that a batch which raises has done nothing. Because
the outcome of a COMMIT whose connection broke is unknown, and a batch is then worked off again, ``work`` must be
idempotent by business keys or running totals, as all that changes value is.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

import structlog

from standpipe.platform import metrics, tracing
from standpipe.platform.errors import StandpipeError
from standpipe.platform.reconnect import is_locked_out, is_passing

T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]]
SetAside = Callable[[T, Exception], Awaitable[None]]

MOST = 200
AGAIN_AFTER_S = (0.0, 0.1, 0.5, 2.0)
"""Pauses before the tries that follow a lost connection: a database that starts again is back within some of them."""
_log = structlog.get_logger(__name__)


class BusyError(StandpipeError):
    """Somebody else holds the row; whoever asked asks again later. Nothing is wrong, and nothing was done."""


class StoppedError(StandpipeError):
    """The batcher takes no more work, because its process ends."""


async def work_off(
    work: Work[T, R],
    items: Sequence[T],
    *,
    name: str = "batch",
    set_aside: SetAside[T] | None = None,
    again_after_s: Sequence[float] = AGAIN_AFTER_S,
) -> list[R | Exception]:
    """Answers of ``work`` to all items, in order; never raises an Exception.

    A batch that fails is halved until what cannot be worked off stands alone; its answer is the error, and
    ``set_aside`` is told of it first. At most 1 + 2·poisons·⌈log2 items⌉ calls. A lost connection, a deadlock and a
    serialization failure are nobody's fault: the same batch is tried again after each pause, and at last answered with
    the error, not halved. An item alone whose row somebody else holds for too long is answered with BusyError.
    """
    if not items:
        return []
    try:
        return await _try(work, items, name, again_after_s)
    except Exception as error:
        if is_passing(error) or isinstance(error, _WrongCountError):
            _log.warning("batch given up", queue=name, count=len(items), error=type(error).__name__)
            return [error] * len(items)
        if len(items) == 1:
            return [await _poison(items[0], error, name, set_aside)]
    middle = len(items) // 2
    halves = items[:middle], items[middle:]
    return [
        answer
        for half in halves
        for answer in await work_off(work, half, name=name, set_aside=set_aside, again_after_s=again_after_s)
    ]


class Batcher(Generic[T, R]):
    """Callable with one item; answers what ``work`` answered to it, after the batch's commit.

    The first call goes at once. What arrives while ``at_once`` batches are under way waits and shares the next, up to
    ``most`` items in the order of arrival: alone nothing is delayed, under load batches grow by themselves. Batches
    that run at once may commit in any order. A caller who gives up is forgotten; its item is not begun any more, but
    one that is under way goes on to its end.

    A BusyError among the answers sends its item to the end of the line again after each of ``busy_after_s`` seconds,
    and to its caller when they are used up; nobody waits behind it.
    """

    def __init__(
        self,
        name: str,
        work: Work[T, R],
        *,
        most: int = MOST,
        at_once: int = 2,
        set_aside: SetAside[T] | None = None,
        again_after_s: Sequence[float] = AGAIN_AFTER_S,
        busy_after_s: Sequence[float] = (),
    ) -> None:
        self._name, self._work, self._most, self._free = name, work, most, at_once
        self._set_aside, self._again_after_s, self._busy_after_s = set_aside, again_after_s, busy_after_s
        self._waiting: deque[_Call[T, R]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open_calls = 0
        self._stopped = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def __call__(self, item: T) -> R:
        """Raises what ``work`` answered or raised for this item; StoppedError after ``stop``."""
        if self._stopped:
            raise StoppedError(f"{self._name} takes no more work.")
        call: _Call[T, R] = _Call(item, asyncio.get_running_loop().create_future(), tracing.current_traceparent())
        self._open_calls += 1
        self._idle.clear()
        call.future.add_done_callback(self._answered)
        self._enqueue(call)
        return await call.future

    async def stop(self) -> None:
        """Take no more, and return when all that was taken is answered."""
        self._stopped = True
        await self._idle.wait()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def _answered(self, _future: asyncio.Future[R]) -> None:
        self._open_calls -= 1
        if not self._open_calls:
            self._idle.set()

    def _enqueue(self, call: "_Call[T, R]") -> None:
        self._waiting.append(call)
        if self._free:
            self._free -= 1
            # A turn of the loop later, so that what arrives in the same one comes along; and in nobody's context, for
            # a batch is no part of the request that happened to begin it.
            task = asyncio.create_task(self._run_until_empty(), name=f"batcher {self._name}", context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run_until_empty(self) -> None:
        try:
            while batch := self._next_batch():
                await self._run(batch)
        finally:
            self._free += 1

    def _next_batch(self) -> "list[_Call[T, R]]":
        batch: list[_Call[T, R]] = []
        while self._waiting and len(batch) < self._most:
            call = self._waiting.popleft()
            if not call.future.done():
                batch.append(call)
        return batch

    async def _run(self, batch: "Sequence[_Call[T, R]]") -> None:
        # One alone belongs to its caller's trace; several have a trace of their own.
        traceparent = batch[0].traceparent if len(batch) == 1 else None
        began_s = time.perf_counter()
        try:
            with tracing.continue_from(traceparent), tracing.span("batch", batch=self._name, items=len(batch)):
                answers = await work_off(
                    self._work,
                    [call.item for call in batch],
                    name=self._name,
                    set_aside=self._set_aside,
                    again_after_s=self._again_after_s,
                )
            for call, answer in zip(batch, answers, strict=True):
                self._answer(call, answer)
        finally:
            # Where the loop ends below us, nobody is left waiting for an answer that will not come.
            for call in batch:
                if not call.future.done() and not call.is_postponed:
                    call.future.cancel()
            metrics.BATCH_ITEMS.labels(self._name).observe(len(batch))
            metrics.BATCH_S.labels(self._name).observe(time.perf_counter() - began_s)

    def _answer(self, call: "_Call[T, R]", answer: R | Exception) -> None:
        if call.future.done():
            return
        if isinstance(answer, BusyError) and call.tries < len(self._busy_after_s):
            pause_s = self._busy_after_s[call.tries]
            call.tries, call.is_postponed = call.tries + 1, True
            asyncio.get_running_loop().call_later(pause_s, self._resume, call)
        elif isinstance(answer, Exception):
            call.future.set_exception(answer)
        else:
            call.future.set_result(answer)

    def _resume(self, call: "_Call[T, R]") -> None:
        call.is_postponed = False
        self._enqueue(call)


@dataclass(slots=True, eq=False)
class _Call(Generic[T, R]):
    item: T
    future: asyncio.Future[R]
    traceparent: str | None
    tries: int = 0
    is_postponed: bool = False


class _WrongCountError(RuntimeError):
    """A mistake of ours: the batch may be committed, so it is not worked off again."""


async def _try(work: Work[T, R], items: Sequence[T], name: str, again_after_s: Sequence[float]) -> list[R | Exception]:
    for pause_s in (*again_after_s, None):
        try:
            answers = await work(items)
        except Exception as error:
            if pause_s is None or not is_passing(error):
                raise
            _log.info("batch tried again", queue=name, count=len(items), error=type(error).__name__)
            await asyncio.sleep(pause_s)
        else:
            if len(answers) != len(items):
                raise _WrongCountError(f"{name} answered {len(answers)} of {len(items)} items")
            return list(answers)
    raise AssertionError("the last try returns or raises")


async def _poison(item: T, error: Exception, name: str, set_aside: SetAside[T] | None) -> Exception:
    if isinstance(error, BusyError):
        return error
    if is_locked_out(error):
        return BusyError(f"{name}: somebody else holds the row for too long.")
    metrics.BATCH_POISONS.labels(name).inc()
    # Its caller says what it was; expected errors are the rule's own answers and no news.
    if not isinstance(error, StandpipeError):
        _log.warning("item set aside", queue=name, exc_info=error)
    if set_aside is not None:
        try:
            await set_aside(item, error)
        except Exception:
            _log.exception("setting aside failed", queue=name)
    return error
