"""The context of a request: its asker, and the services that resolvers call. Loaders live as long as the request."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import httpx
from graphql import GraphQLError
from starlette.requests import HTTPConnection
from strawberry.dataloader import DataLoader
from strawberry.types import Info

from standpipe.billing.overview import MeterView, meters_by_id
from standpipe.billing.series import SeriesRequest, UsageBucket, series_of_many
from standpipe.graphql.budget import Budgets, Streams
from standpipe.graphql.documents import Documents
from standpipe.households.firebase import FirebaseTokens
from standpipe.households.forgetting import is_present
from standpipe.households.sessions import Lifetimes
from standpipe.households.sign_in import CodeLimits
from standpipe.households.tokens import TokenSigner
from standpipe.meters.keys import KeyRing
from standpipe.meters.members import MemberView, members_of_meters
from standpipe.notifications.views import (
    AlertsRequest,
    AlertView,
    DeliveryView,
    alerts_of_meters,
    deliveries_of,
    unread_counts,
)
from standpipe.payments.rails.port import Rail
from standpipe.payments.receipts import ReceiptView, receipts_of
from standpipe.payments.views import TopUpView, top_up_ids_of_meters, top_ups_by_id
from standpipe.platform.addresses import subscriber
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions, by_statement
from standpipe.platform.errors import NotAuthenticatedError, SignInUnavailableError
from standpipe.platform.language import in_language, phrase
from standpipe.platform.notify import Listener
from standpipe.readings.rhythm import rhythms
from standpipe.utilities.models import OperatorRole
from standpipe.vending.views import TokenView, tokens_by_source


@dataclass(frozen=True, slots=True)
class Services:
    """Services of the process, shared by every request. ``caller`` tells the address that a request came from."""

    sessions: Sessions
    rails: Mapping[str, Rail]
    clock: Clock
    listener: Listener
    signer: TokenSigner
    http: httpx.AsyncClient
    offline_after: timedelta
    sms_url: str | None
    sms_countries: list[str]
    public_url: str
    firebase: FirebaseTokens | None
    operator_keys: KeyRing | None
    caller: Callable[[HTTPConnection], str | None]
    code_limits: CodeLimits
    lifetimes: Lifetimes
    budgets: Budgets = field(default_factory=Budgets)
    streams: Streams = field(default_factory=Streams)
    documents: Documents = field(default_factory=Documents)
    introspection: bool = False
    min_app_versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OperatorIdentity:
    """An operator who has signed in. ``session_hash`` is their session's, by which signing out ends it."""

    name: str
    role: OperatorRole
    session_hash: str = ""


@dataclass(frozen=True, slots=True)
class TopUpsRequest:
    """A page of one meter's top-ups."""

    meter_id: str
    first: int
    after: str | None
    since: datetime | None = None


@dataclass
class Context:
    """One request, or one WebSocket connection. ``expires_at_s`` is the Unix second at which its token ends.

    ``session_id`` is the sign-in that the token came out of; None for a token of another issuer. ``check_revoked`` asks
    that issuer whether the token still holds, and raises NotAuthenticatedError or
    SignInUnavailableError. ``address`` is where the request came
    from.
    """

    services: Services
    customer_id: str | None
    expires_at_s: int | None = None
    language: str = "en"
    request: Any = None
    response: Any = None
    connection_params: Any = None
    session_id: str | None = None
    operator: OperatorIdentity | None = None
    check_revoked: Callable[[], Awaitable[None]] | None = None
    address: str | None = None
    _loaders: dict[str, DataLoader[Any, Any]] = field(default_factory=dict)

    @property
    def stranger(self) -> bool:
        """Tell whether nobody has signed in."""
        return self.customer_id is None and self.operator is None

    @property
    def payer(self) -> str:
        """The key of the budget that pays for an operation: whoever has signed in, or else the address."""
        if self.customer_id is not None:
            return self.customer_id
        return f"operator:{self.operator.name}" if self.operator is not None else f"address:{subscriber(self.address)}"

    def require_customer(self) -> str:
        """The customer's id. Raises an UNAUTHENTICATED error when signed out."""
        if self.customer_id is None:
            raise GraphQLError(
                in_language(phrase("Sign in first."), self.language), extensions={"code": "UNAUTHENTICATED"}
            )
        return self.customer_id

    async def require_trusted_customer(self) -> str:
        """``require_customer`` for what moves money or shares a household: a revoked sign-in is found out here."""
        customer_id = self.require_customer()
        if self.check_revoked is not None:
            try:
                await self.check_revoked()
            except NotAuthenticatedError as error:
                raise GraphQLError(error.text_in(self.language), extensions={"code": "UNAUTHENTICATED"}) from None
            except SignInUnavailableError as error:
                extensions = {"code": "SIGN_IN_UNAVAILABLE", "retryable": True}
                raise GraphQLError(error.text_in(self.language), extensions=extensions) from None
        # An access token outlives its account by minutes.
        async with by_statement(self.services.sessions) as conn:
            if not await is_present(conn, customer_id):
                raise GraphQLError(
                    in_language(phrase("This account was deleted."), self.language),
                    extensions={"code": "UNAUTHENTICATED"},
                )
        return customer_id

    def require_operator(self, *roles: OperatorRole) -> str:
        """The operator's name, for the audit trail. Raises UNAUTHENTICATED, or FORBIDDEN outside these roles."""
        if self.operator is None:
            raise GraphQLError(
                in_language(phrase("Sign in as an operator first."), self.language),
                extensions={"code": "UNAUTHENTICATED"},
            )
        if self.operator.role is not OperatorRole.ADMIN and self.operator.role not in roles:
            raise GraphQLError(
                in_language(phrase("Your role may not do this."), self.language), extensions={"code": "FORBIDDEN"}
            )
        return self.operator.name

    @property
    def meters(self) -> DataLoader[str, MeterView | None]:
        """Meters of this customer by id; None for all others."""
        return self._loader("meters", self._load_meters)

    @property
    def top_ups(self) -> DataLoader[str, TopUpView]:
        """Top-ups by id, not checked for whose they are: only for ids that came out of an owned meter."""
        return self._loader("top_ups", self._load_top_ups)

    @property
    def receipts(self) -> DataLoader[str, list[ReceiptView]]:
        """Receipts by top-up, not checked for whose they are: only for top-ups that came out of an owned meter."""
        return self._loader("receipts", self._load_receipts)

    @property
    def tokens(self) -> DataLoader[str, list[TokenView]]:
        """Keypad tokens by top-up, not checked for whose they are: only for top-ups out of an owned meter."""
        return self._loader("tokens", self._load_tokens)

    @property
    def top_up_pages(self) -> DataLoader[TopUpsRequest, list[str]]:
        """Pages of top-up ids."""
        return self._loader("top_up_pages", self._load_top_up_pages)

    @property
    def members(self) -> DataLoader[str, list[MemberView]]:
        """Those who share each of this customer's meters; nobody for other meters."""
        return self._loader("members", self._load_members)

    def forget_meters(self) -> None:
        """After a change of who may see what: what this request has read of meters is read anew."""
        for name in ("meters", "members"):
            self._loaders.pop(name, None)

    @property
    def usage(self) -> DataLoader[SeriesRequest, list[UsageBucket]]:
        """Usage series."""
        return self._loader("usage", self._load_usage)

    def forget_loaded(self) -> None:
        """Read anew from here on: a connection outlives what was loaded for one of its operations or events."""
        self._loaders = {}

    @property
    def alert_pages(self) -> DataLoader[AlertsRequest, list[AlertView]]:
        """Pages of alerts, as this customer reads them: only for meters that they have."""
        return self._loader("alert_pages", self._load_alert_pages)

    @property
    def unread_alerts(self) -> DataLoader[tuple[str, datetime | None], int]:
        """Unread alerts by meter and the instant at which its household moved in: only for meters that they have."""
        return self._loader("unread_alerts", self._load_unread_alerts)

    @property
    def deliveries(self) -> DataLoader[str, list[DeliveryView]]:
        """This customer's own deliveries by alert."""
        return self._loader("deliveries", self._load_deliveries)

    @property
    def rhythms(self) -> DataLoader[str, timedelta | None]:
        """Habits of meters' contacts: only for meters that the customer has."""
        return self._loader("rhythms", self._load_rhythms)

    def _loader(self, name: str, load: Any) -> DataLoader[Any, Any]:
        if name not in self._loaders:
            self._loaders[name] = DataLoader(load)
        return self._loaders[name]

    async def _load_meters(self, ids: list[str]) -> list[MeterView | None]:
        # Each loader opens a short session of its own: sibling resolvers run at once and must not share one.
        async with self.services.sessions() as conn:
            found = await meters_by_id(
                conn,
                self.require_customer(),
                ids,
                self.services.clock.now(),
                offline_after=self.services.offline_after,
            )
        return [found.get(meter_id) for meter_id in ids]

    async def _load_members(self, ids: list[str]) -> list[list[MemberView]]:
        async with self.services.sessions() as conn:
            found = await members_of_meters(conn, self.require_customer(), ids)
        return [found.get(meter_id, []) for meter_id in ids]

    async def _load_top_ups(self, ids: list[str]) -> list[TopUpView]:
        async with by_statement(self.services.sessions) as conn:
            found = await top_ups_by_id(conn, ids)
        return [found[top_up_id] for top_up_id in ids]

    async def _load_receipts(self, ids: list[str]) -> list[list[ReceiptView]]:
        async with self.services.sessions() as conn:
            found = await receipts_of(conn, ids)
        return [found[top_up_id] for top_up_id in ids]

    async def _load_tokens(self, ids: list[str]) -> list[list[TokenView]]:
        async with self.services.sessions() as conn:
            found = await tokens_by_source(conn, ids)
        return [found[top_up_id] for top_up_id in ids]

    async def _load_top_up_pages(self, requests: list[TopUpsRequest]) -> list[list[str]]:
        pages: dict[TopUpsRequest, list[str]] = {}
        async with self.services.sessions() as conn:
            for kind in {replace(request, meter_id="") for request in requests}:
                alike = [request for request in requests if replace(request, meter_id="") == kind]
                ids = await top_up_ids_of_meters(
                    conn,
                    [request.meter_id for request in alike],
                    first=kind.first,
                    after=kind.after,
                    since=kind.since,
                )
                pages |= {request: ids[request.meter_id] for request in alike}
        return [pages[request] for request in requests]

    async def _load_usage(self, requests: list[SeriesRequest]) -> list[list[UsageBucket]]:
        async with self.services.sessions() as conn:
            found = await series_of_many(conn, requests, self.services.clock.now())
        return [found[request] for request in requests]

    async def _load_alert_pages(self, requests: list[AlertsRequest]) -> list[list[AlertView]]:
        async with self.services.sessions() as conn:
            found = await alerts_of_meters(conn, self.require_customer(), requests)
        return [found[request] for request in requests]

    async def _load_unread_alerts(self, meters: list[tuple[str, datetime | None]]) -> list[int]:
        async with self.services.sessions() as conn:
            found = await unread_counts(conn, self.require_customer(), meters)
        return [found.get(meter_id, 0) for meter_id, _ in meters]

    async def _load_deliveries(self, ids: list[str]) -> list[list[DeliveryView]]:
        async with self.services.sessions() as conn:
            found = await deliveries_of(conn, self.require_customer(), ids)
        return [found[alert_id] for alert_id in ids]

    async def _load_rhythms(self, ids: list[str]) -> list[timedelta | None]:
        async with self.services.sessions() as conn:
            found = await rhythms(conn, ids, self.services.clock.now())
        return [found[meter_id] for meter_id in ids]


Ctx = Info[Context, None]
