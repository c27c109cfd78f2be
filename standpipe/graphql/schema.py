"""The schema, put together."""

import strawberry
from graphql import GraphQLError
from strawberry.extensions import MaxTokensLimiter, ParserCache, ValidationCache
from strawberry.schema.config import StrawberryConfig
from strawberry.types import ExecutionContext

from standpipe.graphql.alerts import Alert
from standpipe.graphql.base import SCALARS
from standpipe.graphql.errors import AmountOutOfRange, InputError, Masked, RateLimited
from standpipe.graphql.meters import Meter
from standpipe.graphql.mutations import Mutation
from standpipe.graphql.query import Query
from standpipe.graphql.quotes import QuoteChanged
from standpipe.graphql.subscriptions import Subscription
from standpipe.graphql.top_ups import RedirectToUrl, StkPush, StripeCardSetup, StripePaymentSheet, TopUp

MAX_TOKENS = 1_000
CACHED_DOCUMENTS = 256


class Tokens(MaxTokensLimiter):
    """Bounds what may be parsed: fields, aliases and directives are all tokens, and counting them is linear."""

    def __init__(self) -> None:
        super().__init__(max_token_count=MAX_TOKENS)


class Parsed(ParserCache):
    """An app sends the same documents again and again."""

    def __init__(self) -> None:
        super().__init__(maxsize=CACHED_DOCUMENTS)


class Validated(ValidationCache):
    """Validation costs more than most executions do."""

    def __init__(self) -> None:
        super().__init__(maxsize=CACHED_DOCUMENTS)


class Schema(strawberry.Schema):
    """A schema that leaves the logging of failures to ``Masked``: once, and with an id."""

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        """Nothing; Strawberry's own would log each client's typing mistake with a traceback."""


schema = Schema(
    query=Query,
    mutation=Mutation,
    subscription=Subscription,
    types=[
        Meter,
        TopUp,
        Alert,
        StripePaymentSheet,
        StripeCardSetup,
        StkPush,
        RedirectToUrl,
        InputError,
        AmountOutOfRange,
        QuoteChanged,
        RateLimited,
    ],
    extensions=[Masked, Tokens, Parsed, Validated],
    config=StrawberryConfig(scalar_map=SCALARS, disable_field_suggestions=True),
)
