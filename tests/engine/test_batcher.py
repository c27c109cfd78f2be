"""Batches: each caller hears of its own item, poisons stand alone, and nothing is lost, whatever comes in between."""

import asyncio
import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy.exc import DBAPIError

from standpipe.engine.batcher import Batcher, BusyError, StoppedError, work_off
from standpipe.platform import metrics, tracing
from tests.support.lengths import rounds

FAST = (0.0, 0.0, 0.0)


class PoisonError(Exception):
    pass


class _DriverError(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


def database_error(sqlstate: str) -> DBAPIError:
    return DBAPIError("SELECT 1", None, _DriverError(sqlstate))


class Works:
    """Doubles numbers, as a database would: a batch with a poison changes nothing. Records what it was given."""

    def __init__(self, poisons: frozenset[int] = frozenset(), *, failures: Sequence[Exception] = ()) -> None:
        self.poisons, self.failures = poisons, list(failures)
        self.calls: list[list[int]] = []
        self.done: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, items: Sequence[int]) -> list[int | Exception]:
        self.calls.append(list(items))
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        if self.poisons & set(items):
            raise PoisonError(str(sorted(self.poisons & set(items))))
        self.done += items
        return [2 * item for item in items]


def most_calls(items: int, poisons: int) -> int:
    return 1 + 2 * poisons * max(1, math.ceil(math.log2(max(items, 2))))


async def test_the_first_goes_at_once_and_the_rest_share_the_next() -> None:
    works = Works()
    works.gate.clear()
    batcher = Batcher("t", works, most=4, at_once=1)
    first = asyncio.create_task(batcher(0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    rest = [asyncio.create_task(batcher(number)) for number in range(1, 7)]
    await asyncio.sleep(0)
    assert works.calls == [[0]]
    works.gate.set()
    assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8, 10, 12]
    assert works.calls == [[0], [1, 2, 3, 4], [5, 6]]


async def test_what_comes_in_one_turn_of_the_loop_shares_the_first_batch() -> None:
    works = Works()
    batcher = Batcher("t", works)
    assert await asyncio.gather(*(batcher(number) for number in range(5))) == [0, 2, 4, 6, 8]
    assert works.calls == [[0, 1, 2, 3, 4]]


async def test_no_more_batches_are_under_way_than_may_be() -> None:
    works = Works()
    works.gate.clear()
    batcher = Batcher("t", works, most=1, at_once=3)
    calls = [asyncio.create_task(batcher(number)) for number in range(9)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert works.calls == [[0], [1], [2]]
    works.gate.set()
    await asyncio.gather(*calls)
    assert len(works.calls) == 9


async def test_a_poison_among_two_hundred_is_set_aside_with_its_reason_and_the_rest_go_through() -> None:
    works, aside = Works(frozenset({77})), []

    async def set_aside(item: int, error: Exception) -> None:
        aside.append((item, str(error)))

    batcher = Batcher("t", works, set_aside=set_aside)
    answers = await asyncio.gather(*(batcher(number) for number in range(200)), return_exceptions=True)
    assert [number for number, answer in enumerate(answers) if answer != 2 * number] == [77]
    assert isinstance(answers[77], PoisonError)
    assert aside == [(77, "[77]")]
    assert len(works.calls) <= most_calls(200, 1)
    assert works.done == [number for number in range(200) if number != 77]  # In their order, halved or not.


async def test_a_set_aside_that_fails_keeps_the_poisons_own_error() -> None:
    async def set_aside(item: int, error: Exception) -> None:
        raise RuntimeError("the shelf is full")

    (answer,) = await work_off(Works(frozenset({1})), [1], set_aside=set_aside)
    assert isinstance(answer, PoisonError)


@pytest.mark.parametrize(
    "passing",
    [database_error("57P01"), database_error("40P01"), database_error("40001"), ConnectionResetError(), OSError()],
)
async def test_a_lost_connection_poisons_nobody(passing: Exception) -> None:
    works = Works(failures=[passing] * 3)
    assert await work_off(works, list(range(8)), again_after_s=FAST) == [2 * number for number in range(8)]
    assert works.calls == [list(range(8))] * 4  # Never halved.


async def test_a_database_that_stays_away_is_given_up_and_told_to_all() -> None:
    works = Works(failures=[ConnectionResetError()] * 99)
    answers = await work_off(works, [1, 2, 3], again_after_s=FAST)
    assert [type(answer) for answer in answers] == [ConnectionResetError] * 3
    assert len(works.calls) == 1 + len(FAST)


async def test_a_lock_that_is_held_too_long_makes_its_item_busy_and_no_other() -> None:
    async def work(items: Sequence[int]) -> list[int]:
        if 5 in items:
            raise database_error("55P03")
        return list(items)

    answers = await work_off(work, list(range(8)))
    assert isinstance(answers[5], BusyError)
    assert [answer for answer in answers if not isinstance(answer, Exception)] == [0, 1, 2, 3, 4, 6, 7]


async def test_a_busy_item_goes_to_the_end_of_the_line_and_holds_nobody_up() -> None:
    tries: list[int] = []

    async def work(items: Sequence[int]) -> list[int | Exception]:
        tries.extend(item for item in items if item == 0)
        return [BusyError("held") if item == 0 and len(tries) < 3 else item for item in items]

    batcher = Batcher("t", work, busy_after_s=(0.0, 0.0), at_once=1)
    order: list[int] = []

    async def call(item: int) -> None:
        order.append(await batcher(item))

    await asyncio.gather(*(call(item) for item in range(5)))
    assert order == [1, 2, 3, 4, 0]
    assert len(tries) == 3


async def test_what_stays_busy_is_told_so() -> None:
    async def work(items: Sequence[int]) -> list[int | Exception]:
        return [BusyError("held")] * len(items)

    with pytest.raises(BusyError):
        await Batcher("t", work, busy_after_s=(0.0,))(1)


async def test_a_caller_who_gives_up_is_not_worked_for() -> None:
    works = Works()
    works.gate.clear()
    batcher = Batcher("t", works, at_once=1)
    first, second, third = (asyncio.create_task(batcher(number)) for number in range(3))
    for _ in range(3):
        await asyncio.sleep(0)
    fourth, fifth = asyncio.create_task(batcher(3)), asyncio.create_task(batcher(4))
    await asyncio.sleep(0)
    second.cancel()  # Under way: goes on, and nobody hears of it.
    fourth.cancel()  # Not begun: is not begun.
    await asyncio.sleep(0)
    works.gate.set()
    assert await asyncio.gather(first, third, fifth) == [0, 4, 8]
    assert works.calls == [[0, 1, 2], [4]]
    await batcher.stop()


async def test_stop_answers_all_that_was_taken_and_takes_no_more() -> None:
    works = Works()
    works.gate.clear()
    batcher = Batcher("t", works, most=2, at_once=1)
    calls = [asyncio.create_task(batcher(number)) for number in range(5)]
    await asyncio.sleep(0)
    stopping = asyncio.create_task(batcher.stop())
    await asyncio.sleep(0)
    with pytest.raises(StoppedError):
        await batcher(9)
    assert not stopping.done()
    works.gate.set()
    await stopping
    assert [call.result() for call in calls] == [0, 2, 4, 6, 8]


async def test_work_that_answers_too_few_is_an_error_for_all_and_not_done_twice() -> None:
    calls: list[int] = []

    async def work(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        return [1]

    answers = await work_off(work, [1, 2, 3])
    assert [type(answer).__name__ for answer in answers] == ["_WrongCountError"] * 3
    assert calls == [3]


async def test_a_batch_that_is_cancelled_leaves_nobody_waiting_and_frees_its_place() -> None:
    works = Works()
    works.gate.clear()
    batcher = Batcher("t", works, at_once=1)
    call = asyncio.create_task(batcher(1))
    for _ in range(3):
        await asyncio.sleep(0)
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "batcher t")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    works.gate.set()
    assert await batcher(2) == 4


async def test_one_alone_is_in_its_callers_trace_and_several_have_their_own() -> None:
    spans = InMemorySpanExporter()
    tracing.start(spans, "t", at_once=True)
    try:
        batcher = Batcher("t", Works())
        with tracing.span("caller"):
            await batcher(1)
        with tracing.span("callers"):
            await asyncio.gather(batcher(2), batcher(3))
        await batcher.stop()
    finally:
        tracing.stop()
    alone, caller, together, callers = (span.context.trace_id for span in spans.get_finished_spans() if span.context)
    assert alone == caller
    assert len({caller, callers, together}) == 3
    assert [dict(span.attributes or {}).get("items") for span in spans.get_finished_spans()] == [1, None, 2, None]


async def test_sizes_times_and_poisons_are_measured() -> None:
    def read(name: str, **more: str) -> float:
        return metrics.REGISTRY.get_sample_value(f"standpipe_batch_{name}", {"batch": "measured", **more}) or 0.0

    batcher = Batcher("measured", Works(frozenset({3})))
    await asyncio.gather(*(batcher(number) for number in range(5)), return_exceptions=True)
    assert (read("items_count"), read("items_sum"), read("seconds_count"), read("poisons_total")) == (1, 5, 1, 1)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(0, 40)),
        st.tuples(st.just("turn"), st.integers(1, 4)),
        st.tuples(st.just("cancel"), st.integers(0, 40)),
        st.tuples(st.just("lose"), st.integers(1, 3)),
    ),
    max_size=60,
)


@given(steps, st.frozensets(st.integers(0, 40), max_size=4), st.integers(1, 9), st.integers(1, 3))
@settings(max_examples=rounds(60, 200), deadline=None)
async def test_each_caller_gets_exactly_its_own_answer(
    history: list[tuple[str, int]], poisons: frozenset[int], most: int, at_once: int
) -> None:
    works = Works(poisons)
    batcher = Batcher("t", works, most=most, at_once=at_once, again_after_s=[0.0] * 200)
    calls: list[tuple[int, asyncio.Task[int]]] = []
    cancelled: set[int] = set()
    lost = 0
    for kind, number in history:
        if kind == "call":
            calls.append((number, asyncio.create_task(batcher(number))))
        elif kind == "cancel" and calls:
            position = number % len(calls)
            if calls[position][1].cancel():
                cancelled.add(position)
        elif kind == "lose":
            works.failures = [ConnectionResetError()] * number
            lost += number
        else:
            for _ in range(number):
                await asyncio.sleep(0)
    answers = await asyncio.gather(*(task for _, task in calls), return_exceptions=True)
    await batcher.stop()
    for position, ((item, _), answer) in enumerate(zip(calls, answers, strict=True)):
        if isinstance(answer, asyncio.CancelledError):
            assert position in cancelled
        elif item in poisons:
            assert isinstance(answer, PoisonError)
            assert str(answer) == f"[{item}]"  # It stood alone.
        else:
            assert answer == 2 * item
    poisoned = sum(item in poisons for item, _ in calls)
    assert all(len(batch) <= most for batch in works.calls)
    assert len(works.calls) <= len(calls) + 2 * poisoned * math.ceil(math.log2(max(most, 2))) + lost


@given(st.integers(1, 200), st.data())
@settings(max_examples=rounds(30, 100), deadline=None)
async def test_poisons_cost_their_logarithm(items: int, data: st.DataObject) -> None:
    poisons = data.draw(st.frozensets(st.integers(0, items - 1), max_size=5))
    works = Works(poisons)
    answers = await work_off(works, list(range(items)))
    assert {number for number, answer in enumerate(answers) if isinstance(answer, PoisonError)} == poisons
    assert works.done == [number for number in range(items) if number not in poisons]
    assert len(works.calls) <= most_calls(items, len(poisons))
