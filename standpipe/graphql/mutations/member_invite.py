"""memberInvite: invite somebody to a household by phone number."""

from typing import Any

import strawberry
import structlog

from standpipe.graphql.base import PhoneNumber, known_id
from standpipe.graphql.context import Ctx, Services
from standpipe.graphql.errors import expected_failures
from standpipe.graphql.members import load_member
from standpipe.graphql.mutations.common import KEY, Input
from standpipe.graphql.mutations.member_payload import MemberPayload
from standpipe.households.models import HouseholdRole
from standpipe.households.people import language_of_phone
from standpipe.households.sign_in import normalise_phone
from standpipe.meters import sharing
from standpipe.notifications.sms import SmsNotSentError, send_sms
from standpipe.notifications.texts import invitation_text
from standpipe.payments import request_keys
from standpipe.platform.database import Conn

_log = structlog.get_logger(__name__)


@strawberry.input(description=f"Invite somebody to the household of a meter, by phone number. For owners. {KEY}")
class MemberInviteInput:
    """They find it in viewer.invitations once signed in with that number; inviting again renews it."""

    idempotency_key: strawberry.ID = strawberry.field(description="A UUID made when the screen opens.")
    meter_id: strawberry.ID = strawberry.field(description="A meter of the household.")
    phone: PhoneNumber = strawberry.field(description="Whom to invite; they are told by text where texts are set up.")
    role: HouseholdRole = strawberry.field(description="What they may do.")


@strawberry.mutation(description="Invites somebody by phone number.")
@expected_failures(MemberPayload)
async def member_invite(info: Ctx, input: Input[MemberInviteInput]) -> MemberPayload | None:
    context, services = info.context, info.context.services
    customer_id = await context.require_trusted_customer()
    meter_id = known_id(input.meter_id, "mtr", "No such thing.")
    phone = normalise_phone(input.phone, services.sms_countries)

    async def act(conn: Conn) -> dict[str, Any]:
        invite_id = await sharing.invite(
            conn,
            customer_id=customer_id,
            meter_id=meter_id,
            phone=phone,
            role=input.role,
            secret=services.signer.secret,
        )
        return {"invite_id": invite_id}

    result, replayed = await request_keys.once(
        services.sessions,
        customer_id=customer_id,
        key=str(input.idempotency_key),
        mutation="memberInvite",
        order={"meter_id": meter_id, "phone": phone, "role": input.role},
        act=act,
    )
    if not replayed:
        await _text(services, phone)
    member = await load_member(context, result["invite_id"], also_ended=True)
    return MemberPayload(member=member, replayed=replayed)


async def _text(services: Services, phone: str) -> None:
    """Tell who is invited. The invitation stands without it: they find it when they sign in."""
    if services.sms_url is None:
        return
    async with services.sessions() as conn:
        language = await language_of_phone(conn, phone)
    try:
        await send_sms(services.http, services.sms_url, phone=phone, text=invitation_text(language))
    except SmsNotSentError as error:
        _log.warning("invitation not texted", reason=error.reason)
