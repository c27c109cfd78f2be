"""One decorator makes expected failures data, and lets everything else through."""

import inspect
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from standpipe.graphql.base import known_id
from standpipe.graphql.errors import InputError, UserError, UserErrorCode, expected_failures
from standpipe.platform.errors import InvalidInputError, NotAuthenticatedError, NotFoundError, StandpipeError
from standpipe.platform.ids import new_id

INFO: Any = SimpleNamespace(context=SimpleNamespace(language="en"))


@dataclass
class Payload:
    done: int = 0
    user_errors: list[UserError] = field(default_factory=list)


@expected_failures(Payload)
async def act(info: Any, amount: int, error: Exception | None = None) -> Payload | None:
    """Act."""
    if error is not None:
        raise error
    return Payload(done=amount)


async def test_what_goes_well_is_answered_as_it_is() -> None:
    assert await act(info=INFO, amount=3) == Payload(done=3)


async def test_an_expected_failure_is_the_payload_with_nothing_but_its_error() -> None:
    answer = await act(info=INFO, amount=3, error=InvalidInputError("Too much.", ("pay", "amount")))
    assert answer is not None
    assert answer.done == 0
    assert [(error.code, error.message, error.field) for error in answer.user_errors] == [
        (UserErrorCode.INVALID, "Too much.", ["pay", "amount"])
    ]


@pytest.mark.parametrize("error", [ValueError("a bug"), NotAuthenticatedError("for no customer to mend")])
async def test_what_no_customer_can_mend_goes_on_to_be_masked(error: Exception) -> None:
    with pytest.raises(type(error)):
        await act(info=INFO, amount=3, error=error)


async def test_a_mutation_may_tell_its_failures_in_its_own_way() -> None:
    def told(error: StandpipeError, language: str) -> UserError:
        return InputError(code=UserErrorCode.INVALID, message=f"{language}: {error}", field=None, retryable=True)

    @expected_failures(Payload, told=told)
    async def refuse(info: Any) -> Payload | None:
        raise NotFoundError("gone")

    answer = await refuse(info=INFO)
    assert answer is not None
    assert [error.message for error in answer.user_errors] == ["en: gone"]


def test_the_schema_reads_the_function_that_is_wrapped() -> None:
    assert list(inspect.signature(act).parameters) == ["info", "amount", "error"]
    assert (act.__name__, act.__doc__, act.__module__) == ("act", "Act.", __name__)


def test_an_id_of_another_kind_is_not_found() -> None:
    meter_id = new_id("mtr")
    with pytest.raises(NotFoundError, match="No such card"):
        known_id(meter_id, "pmt", "No such card.")
    assert known_id(meter_id, "mtr", "No such meter.") == meter_id
