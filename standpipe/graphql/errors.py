"""Errors at this door, in one place: expected ones become data, unexpected ones are masked and logged with an id."""

import functools
import secrets
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import strawberry
import structlog
from graphql import GraphQLError
from strawberry.exceptions import MissingQueryError
from strawberry.extensions import MaskErrors
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError

from standpipe.graphql.base import Money, described_enum, money
from standpipe.graphql.context import Ctx
from standpipe.platform import metrics
from standpipe.platform.errors import (
    AmountOutOfRangeError,
    ForbiddenError,
    IdempotencyMismatchError,
    InvalidInputError,
    MeterBlockedError,
    NotFoundError,
    RateLimitedError,
    StandpipeError,
)
from standpipe.platform.language import NOT_AVAILABLE, in_language, phrase
from standpipe.platform.reconnect import is_lost

INTERNAL = "INTERNAL"
UNAVAILABLE = "UNAVAILABLE"
CODES = frozenset(
    {INTERNAL, UNAVAILABLE, "INVALID", "UNAUTHENTICATED", "FORBIDDEN", "NOT_FOUND", "RATE_LIMITED", "COST_LIMIT"}
)
"""The codes of errors that metrics tell apart."""
USER_ERRORS = "Expected failures, to show; empty where it went well."
"""The description of a payload's ``userErrors``."""
_log = structlog.get_logger(__name__)
P = ParamSpec("P")
Payload = TypeVar("Payload")
Made = TypeVar("Made", covariant=True)


class UserErrorCode(StrEnum):
    """Stable codes of expected failures."""

    INVALID = "INVALID"
    NOT_FOUND = "NOT_FOUND"
    FORBIDDEN = "FORBIDDEN"
    AMOUNT_OUT_OF_RANGE = "AMOUNT_OUT_OF_RANGE"
    QUOTE_CHANGED = "QUOTE_CHANGED"
    METER_BLOCKED = "METER_BLOCKED"
    PROVIDER_DOWN = "PROVIDER_DOWN"
    RATE_LIMITED = "RATE_LIMITED"
    IDEMPOTENCY_MISMATCH = "IDEMPOTENCY_MISMATCH"


described_enum(
    UserErrorCode,
    {
        UserErrorCode.INVALID: "The input breaks a rule; the message says which.",
        UserErrorCode.NOT_FOUND: "There is no such thing among what the viewer may see.",
        UserErrorCode.FORBIDDEN: "The viewer may see this, but not do it; the message says who may.",
        UserErrorCode.AMOUNT_OUT_OF_RANGE: "The method does not take this amount; AmountOutOfRange has the limits.",
        UserErrorCode.QUOTE_CHANGED: "The quote does not hold any more; QuoteChanged has the new one.",
        UserErrorCode.METER_BLOCKED: "The meter does not take this at the moment; the message says why.",
        UserErrorCode.PROVIDER_DOWN: "Kept for a payment provider that does not answer; not sent today.",
        UserErrorCode.RATE_LIMITED: "Too many tries; RateLimited says when to come back.",
        UserErrorCode.IDEMPOTENCY_MISMATCH: "This key was used before with other input: make a new one.",
    },
    name="UserErrorCode",
    description="Stable codes; the message beside one is for people.",
)


@strawberry.interface(description="Every expected failure. code is stable; message is for people.")
class UserError:
    """Data, not an exception."""

    code: UserErrorCode = strawberry.field(description="For programs; switch on this.")
    message: str = strawberry.field(
        description="For people, in the language that the request asks for; English where it is not there yet."
    )
    field: list[str] | None = strawberry.field(
        description='Path to what is at fault, such as ["pay", "amount"]; null where it is no one field.'
    )
    retryable: bool = strawberry.field(
        description="Whether to ask again can help: later, or after QUOTE_CHANGED by the new quote."
    )


@strawberry.type(description="The input breaks a rule, or names what is not there.")
class InputError(UserError):
    """The usual case."""


@strawberry.type(description="The amount lies outside what the payment method takes.")
class AmountOutOfRange(UserError):
    """With both limits."""

    minimum: Money = strawberry.field(description="The least that the method takes in one payment.")
    maximum: Money = strawberry.field(description="The most that the method takes in one payment.")


@strawberry.type(description="Too many tries.")
class RateLimited(UserError):
    """With the time to wait."""

    retry_after_s: int = strawberry.field(description="Seconds to wait: good on a phone whose clock is wrong.")
    retry_at: datetime = strawberry.field(description="The same as an instant.")


_CODES: dict[type[StandpipeError], UserErrorCode] = {
    NotFoundError: UserErrorCode.NOT_FOUND,
    ForbiddenError: UserErrorCode.FORBIDDEN,
    MeterBlockedError: UserErrorCode.METER_BLOCKED,
}


def user_error(error: StandpipeError, language: str) -> UserError:
    """An expected failure as data. Re-raises one that no customer can do anything about."""
    told = _user_error(error, language)
    metrics.GRAPHQL_ERRORS.labels("user", told.code).inc()
    return told


def _user_error(error: StandpipeError, language: str) -> UserError:
    message = error.text_in(language)
    match error:
        case AmountOutOfRangeError():
            return AmountOutOfRange(
                code=UserErrorCode.AMOUNT_OUT_OF_RANGE,
                message=message,
                field=list(error.field),
                retryable=False,
                minimum=money(error.minimum_minor, error.currency, language),
                maximum=money(error.maximum_minor, error.currency, language),
            )
        case InvalidInputError():
            return _input_error(UserErrorCode.INVALID, message, *error.field)
        case IdempotencyMismatchError():
            return _input_error(UserErrorCode.IDEMPOTENCY_MISMATCH, message, "idempotencyKey")
        case NotFoundError() | ForbiddenError() | MeterBlockedError():
            return _input_error(
                _CODES[type(error)],
                in_language(phrase("Not found."), language) if isinstance(error, NotFoundError) else message,
            )
        case RateLimitedError():
            return RateLimited(
                code=UserErrorCode.RATE_LIMITED,
                message=message,
                field=None,
                retryable=True,
                retry_after_s=error.retry_after_s,
                retry_at=datetime.now(UTC) + timedelta(seconds=error.retry_after_s),
            )
        case _:
            raise error


class Refusal(Protocol[Made]):
    """A payload whose other fields have defaults that say that nothing was done."""

    def __call__(self, *, user_errors: list[UserError]) -> Made:
        """The payload with nothing but its errors."""


def expected_failures(
    payload: Refusal[Payload], *, told: Callable[[StandpipeError, str], UserError] = user_error
) -> Callable[
    [Callable[Concatenate[Ctx, P], Awaitable[Payload | None]]], Callable[Concatenate[Ctx, P], Awaitable[Payload | None]]
]:
    """Answer with the payload where a resolver raises an expected failure; unexpected ones go on, to be masked."""

    def decorate(
        resolve: Callable[Concatenate[Ctx, P], Awaitable[Payload | None]],
    ) -> Callable[Concatenate[Ctx, P], Awaitable[Payload | None]]:
        # Strawberry reads arguments and types from the function that is wrapped, and hands ``info`` over by its name.
        @functools.wraps(resolve)
        async def resolved(info: Ctx, *args: P.args, **kwargs: P.kwargs) -> Payload | None:
            try:
                return await resolve(info, *args, **kwargs)
            except StandpipeError as error:
                return payload(user_errors=[told(error, info.context.language)])

        return resolved  # type: ignore[return-value]  # Concatenate knows positional-only arguments alone.

    return decorate


def invalid(message: str, language: str, *field: str, retryable: bool = False) -> InputError:
    """An expected failure that has no exception of its own: INVALID, with a message for people."""
    said = in_language(message, language)
    return InputError(code=UserErrorCode.INVALID, message=said, field=list(field) or None, retryable=retryable)


def _input_error(code: UserErrorCode, message: str, *field: str) -> InputError:
    return InputError(code=code, message=message, field=list(field) or None, retryable=False)


class Masked(MaskErrors):
    """Shows a client its own mistakes and our coded refusals; everything else is an id and a log line."""

    def __init__(self) -> None:
        super().__init__(should_mask_error=_unexpected)

    def on_operation(self) -> Iterator[None]:
        """Mask what came of an execution, and count it; what was never executed needs no mask."""
        yield from super().on_operation()
        if self.execution_context.result is None:
            _count(self.execution_context.pre_execution_errors or [])

    def _process_errors(self, errors: list[GraphQLError]) -> list[GraphQLError]:
        shown = super()._process_errors(errors)
        _count(shown)
        return shown

    def anonymise_error(self, error: GraphQLError) -> GraphQLError:
        """Log the error once with an id, and give out nothing but the id.

        Where the database was away, asking again is safe: what was begun is undone or idempotent by its key.
        """
        error_id, cause = secrets.token_hex(8), error.original_error
        message = phrase("Something went wrong on our side.")
        extensions: dict[str, object] = {"code": INTERNAL, "errorId": error_id}
        if cause is not None and is_lost(cause):
            message = NOT_AVAILABLE
            extensions = {"code": UNAVAILABLE, "errorId": error_id, "retryable": True}
            _log.error("database away", error_id=error_id, path=error.path, error=type(cause).__name__)
        else:
            _log.error("resolver failed", error_id=error_id, path=error.path, exc_info=cause or error)
        return GraphQLError(
            in_language(message, self.execution_context.context.language),
            nodes=error.nodes,
            source=error.source,
            positions=error.positions,
            path=error.path,
            extensions=extensions,
        )


def _count(errors: list[GraphQLError]) -> None:
    for error in errors:
        code = str((error.extensions or {}).get("code", "INVALID"))
        # A code of ours, or one name for all that a library may call its errors.
        metrics.GRAPHQL_ERRORS.labels(
            "internal" if code in (INTERNAL, UNAVAILABLE) else "query", code if code in CODES else "OTHER"
        ).inc()


def _unexpected(error: GraphQLError) -> bool:
    cause = error.original_error
    # No cause: graphql-core's own words about the query. A scalar's ValueError arrives as GraphQLError where it was a
    # variable, and as it is, without a path, where it was written into the query.
    written = isinstance(cause, ValueError) and error.path is None
    theirs = isinstance(cause, CannotGetOperationTypeError | InvalidOperationTypeError | MissingQueryError)
    return cause is not None and not isinstance(cause, GraphQLError) and not written and not theirs
