"""The schema, put together."""

import strawberry
from graphql import GraphQLError
from strawberry.schema.config import StrawberryConfig
from strawberry.types import ExecutionContext

from standpipe.graphql.base import SCALARS
from standpipe.graphql.errors import AmountOutOfRange, InputError, Masked, RateLimited
from standpipe.graphql.guard import Guard
from standpipe.graphql.meters import Alert, Meter, TopUp
from standpipe.graphql.mutations import Mutation
from standpipe.graphql.query import Query
from standpipe.graphql.quotes import QuoteChanged
from standpipe.graphql.subscriptions import Subscription
from standpipe.graphql.top_ups import RedirectToUrl, StkPush, StripeCardSetup, StripePaymentSheet


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
    extensions=[Masked, Guard],
    config=StrawberryConfig(scalar_map=SCALARS, disable_field_suggestions=True),
)
