"""A customer's sign-ins as the app sees them: tokens in an app's keeping, or a browser's cookies."""

from datetime import datetime
from enum import Enum

import strawberry

from standpipe.graphql.context import Context, Ctx
from standpipe.households.sessions import SessionView, sessions_of
from standpipe.households.sign_in import Asker, normalise_phone


@strawberry.enum(name="SessionKind", description="Who keeps a session's tokens.")
class Keeper(Enum):
    """Keepers of tokens, like ``SessionKind``, with words for the schema."""

    APP = strawberry.enum_value("APP", description="An app: tokens in its own keeping.")
    WEB = strawberry.enum_value("WEB", description="A browser: cookies that scripts cannot read.")


@strawberry.type(description="A sign-in that lives.")
class Session:
    """A sign-in, for its customer."""

    id: strawberry.ID = strawberry.field(description="For signOut.")
    kind: Keeper = strawberry.field(description="An app's or a browser's.")
    label: str = strawberry.field(description="As given at sign-in; may be empty.")
    created_at: datetime = strawberry.field(description="When it began.")
    last_used_at: datetime = strawberry.field(description="When it was last carried on, to some minutes.")
    current: bool = strawberry.field(description="Whether it is the session that asks.")


async def load_sessions(info: Ctx) -> list[Session]:
    """The viewer's sessions."""
    context = info.context
    async with context.services.sessions() as conn:
        views = await sessions_of(conn, context.require_customer())
    return [_session(view, context.session_id) for view in views]


def asker_of(context: Context, phone: str) -> Asker:
    """Return who asks for a code or brings one: a number and an address. Raises InvalidInputError."""
    services = context.services
    return Asker(normalise_phone(phone, services.sms_countries), services.caller(context.request))


def _session(view: SessionView, current_id: str | None) -> Session:
    return Session(
        id=strawberry.ID(view.id),
        kind=Keeper[view.kind.name],
        label=view.label,
        created_at=view.created_at,
        last_used_at=view.last_used_at,
        current=view.id == current_id,
    )
