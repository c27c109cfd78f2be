"""The guard between a document and its execution, alike over HTTP, SSE and WebSocket.

In this order: tokens are counted, the text is parsed, its size is measured (``limits``), what somebody who has not
signed in may not ask is taken out or refused without a look at the schema, the rest is validated, and its price
(``prices``) is taken from the asker's budget. All but the last is remembered by the document's text.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    GraphQLSyntaxError,
    NoSchemaIntrospectionCustomRule,
    OperationType,
    parse,
    specified_rules,
)
from strawberry.extensions import SchemaExtension
from strawberry.schema.schema import validate_document

from standpipe.graphql.context import Context
from standpipe.graphql.limits import MAX_TOKENS, too_large
from standpipe.graphql.prices import MAX_COST, Priced, plans_of
from standpipe.graphql.public import for_strangers, not_valid
from standpipe.platform.language import Phrase, in_language, phrase

CACHED_DOCUMENTS = 512
MAX_STREAMS = 40
"""Live subscriptions of one customer in one process, over all their connections."""
_NOTHING = parse("{ __typename }")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document with what is known of it. ``nulls``: the keys that are answered with null (see ``public``)."""

    document: DocumentNode
    errors: tuple[GraphQLError, ...]
    plans: dict[str | None, Priced]
    nulls: Mapping[str | None, frozenset[str]] = field(default_factory=dict)


@dataclass
class Price:
    """Of one operation: its points, what one item more of its late list adds, and what is left of the budget."""

    points: int
    each: int
    left: int = 0


_priced: ContextVar[Price] = ContextVar("priced")
"""That of the operation under way: a WebSocket runs several."""


@lru_cache(maxsize=CACHED_DOCUMENTS)
def prepare(schema: GraphQLSchema, text: str, *, stranger: bool, introspection: bool) -> Prepared:
    """Parse, measure, prune and validate a text. Never raises: what is wrong with it is in ``errors``."""
    nulls: dict[str | None, frozenset[str]] = {}
    try:
        document = parse(text, max_tokens=MAX_TOKENS)
    except GraphQLSyntaxError as error:
        return Prepared(_NOTHING, (error,), {})
    except RecursionError:
        return Prepared(_NOTHING, (GraphQLError("This request is nested too deeply."),), {})
    if (refusal := too_large(document)) is not None:
        return Prepared(_NOTHING, (refusal,), {})
    if stranger:
        pruned = for_strangers(document)
        if isinstance(pruned, GraphQLError):
            return Prepared(_NOTHING, (pruned,), {})
        document, nulls = pruned
    rules = specified_rules if introspection else (*specified_rules, NoSchemaIntrospectionCustomRule)
    errors = validate_document(schema, document, rules)
    if errors and stranger:
        # Each of validation's own words would tell what there is in the schema.
        errors = [not_valid()]
    return Prepared(document, tuple(errors), {} if errors else plans_of(schema, document), nulls)


class Guard(SchemaExtension):
    """One for each operation."""

    def __init__(self) -> None:
        self.prepared: Prepared | None = None
        self.told: dict[str, Any] = {}

    @property
    def context(self) -> Context:
        """The asker's context."""
        found: Context = self.execution_context.context
        return found

    def on_operation(self) -> Iterator[None]:
        """Begin with nothing loaded, and give a subscription's place back when it ends."""
        self.context.forget_loaded()
        try:
            yield
        finally:
            if self.told.pop("stream", False):
                self.context.services.streams.leave(self.context.payer)

    def on_parse(self) -> Iterator[None]:
        """Find the document, prepared; its errors wait for ``on_validate``, where every transport looks for them."""
        run, context = self.execution_context, self.context
        introspection = context.services.introspection and not context.stranger
        core = run.schema._schema  # noqa: SLF001 - Strawberry offers no other way to graphql-core's.
        self.prepared = prepare(core, run.query or "", stranger=context.stranger, introspection=introspection)
        run.graphql_document = self.prepared.document
        if self.prepared.document is _NOTHING:
            # The operation that was named is not in what stands for a refused document; its errors are the answer.
            run._provided_operation_name = None  # noqa: SLF001 - the name was given to Strawberry before it was read.
        yield

    def on_validate(self) -> Iterator[None]:
        """Refuse what is wrong, and take the price of what is right."""
        assert self.prepared is not None  # noqa: S101 - parsing comes first.
        run = self.execution_context
        refusal = None if self.prepared.errors else self._unnamed() or self._charge(self.prepared)
        run.pre_execution_errors = (
            [self._said(error) for error in self.prepared.errors] if refusal is None else [refusal]
        )
        yield

    def on_execute(self) -> Iterator[None]:
        """Put null where a stranger asked for what is theirs only after signing in."""
        yield
        run, result = self.execution_context, cast("Any", self.execution_context.result)
        if self.prepared is None or not self.context.stranger or result is None:
            return
        nulls = self.prepared.nulls.get(run.operation_name, frozenset())
        if getattr(result, "data", None):
            for key in nulls & result.data.keys():
                result.data[key] = None
        elif getattr(result, "errors", None) and all(error.path is None for error in result.errors):
            # Variables that do not fit: the words about them would name fields and values.
            result.errors = [self._said(not_valid())]

    def get_results(self) -> dict[str, Any]:
        """Return what the operation cost, and what is left."""
        price: Price | None = self.told.get("cost")
        return {} if price is None else {"cost": {"points": price.points, "left": price.left}}

    def _said(self, error: GraphQLError) -> GraphQLError:
        """A refusal in the reader's language; what a prepared document holds is everybody's."""
        if not isinstance(error.message, Phrase):
            return error
        return GraphQLError(in_language(error.message, self.context.language), extensions=error.extensions)

    def _unnamed(self) -> GraphQLError | None:
        # Strawberry runs the first of several operations where no name is given; the specification runs none.
        several = self.prepared is not None and len(self.prepared.plans) > 1
        if several and self.execution_context._provided_operation_name is None:  # noqa: SLF001 - told nowhere else.
            return GraphQLError("Say which of the operations is meant: operationName.")
        return None

    def _charge(self, prepared: Prepared) -> GraphQLError | None:
        run, context = self.execution_context, self.context
        priced = prepared.plans.get(run.operation_name)
        if priced is None:
            return None
        points, each = priced.cost(run.variables or {})
        price = Price(points, each)
        if points > MAX_COST:
            return too_dear(context, points)
        left = context.services.budgets.take(context.payer, points)
        if left < 0:
            return out_of_budget(context, -left)
        price.left = left
        self.told["cost"] = price
        _priced.set(price)
        if run.operation_type.value == OperationType.SUBSCRIPTION.value:
            if not context.services.streams.enter(context.payer, MAX_STREAMS):
                message = phrase("There are {most} live subscriptions of yours already.", most=MAX_STREAMS)
                return GraphQLError(in_language(message, context.language), extensions={"code": "RATE_LIMITED"})
            self.told["stream"] = True
        return None


def pay_for_more(context: Context, items: int) -> None:
    """Take the price of so many items more of the operation's late list (``prices.LATE``). Raises GraphQLError."""
    price = _priced.get()
    more = max(items, 0) * price.each
    if price.points + more > MAX_COST:
        raise too_dear(context, price.points + more)
    left = context.services.budgets.take(context.payer, more)
    if left < 0:
        raise out_of_budget(context, -left)
    price.points, price.left = price.points + more, left


async def pay_for_event(context: Context) -> None:
    """Take the price of a subscription's next event, and wait until there is enough for it: the state is read after."""
    points, budgets = _priced.get().points, context.services.budgets
    while (left := budgets.take(context.payer, points)) < 0:  # noqa: ASYNC110 - it is time that is waited for.
        await asyncio.sleep(budgets.wait_s(-left))


def too_dear(context: Context, points: int) -> GraphQLError:
    """An operation that costs more than one may."""
    message = phrase(
        "This request costs {points} points or more, and one may cost {most}: ask for less at a time.",
        points=points,
        most=MAX_COST,
    )
    return GraphQLError(in_language(message, context.language), extensions={"code": "TOO_LARGE"})


def out_of_budget(context: Context, missing: int) -> GraphQLError:
    """A budget that is used up, with the time to wait."""
    wait_s = context.services.budgets.wait_s(missing)
    message = phrase("You have asked for much in a short time. Please wait {seconds} seconds.", seconds=wait_s)
    extensions = {"code": "RATE_LIMITED", "retryAfterS": wait_s}
    return GraphQLError(in_language(message, context.language), extensions=extensions)
