"""The schema, put together."""

import strawberry
from strawberry.extensions import MaxTokensLimiter, ParserCache, ValidationCache
from strawberry.schema.config import StrawberryConfig

from standpipe.graphql.base import SCALARS
from standpipe.graphql.errors import AmountOutOfRange, InputError, Masked, RateLimited
from standpipe.graphql.meters import Meter
from standpipe.graphql.mutations import Mutation
from standpipe.graphql.query import Query
from standpipe.graphql.subscriptions import Subscription
from standpipe.graphql.top_ups import RedirectToUrl, StripePaymentSheet, TopUp

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


schema = strawberry.Schema(
    query=Query,
    mutation=Mutation,
    subscription=Subscription,
    types=[Meter, TopUp, StripePaymentSheet, RedirectToUrl, InputError, AmountOutOfRange, RateLimited],
    extensions=[Masked, Tokens, Parsed, Validated],
    config=StrawberryConfig(scalar_map=SCALARS, disable_field_suggestions=True),
)
