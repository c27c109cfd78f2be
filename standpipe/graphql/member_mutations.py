"""Mutations around who shares a household: invitations, roles, leaving."""

from typing import TYPE_CHECKING, Any

import strawberry
import structlog

from standpipe.customers.models import HouseholdRole
from standpipe.customers.people import language_of_phone
from standpipe.customers.sign_in import normalise_phone
from standpipe.graphql.base import PhoneNumber
from standpipe.graphql.context import Ctx, Tools
from standpipe.graphql.errors import UserError, user_error
from standpipe.graphql.members import HouseholdMember, load_member, member_of
from standpipe.graphql.meters import Meter, meter_of
from standpipe.meters import sharing
from standpipe.notifications.sms import SmsNotSentError, send_sms
from standpipe.notifications.texts import invitation_text
from standpipe.payments import request_keys
from standpipe.platform.errors import NotFoundError, StandpipeError
from standpipe.platform.ids import is_id

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

KEY = "idempotencyKey: a UUID made when the screen opens; same key and input replays the first answer."
_log = structlog.get_logger(__name__)


@strawberry.input(description=f"Invite somebody to the household of a meter, by phone number. For owners. {KEY}")
class MemberInviteInput:
    """They find it in viewer.invitations once signed in with that number; inviting again renews it."""

    idempotency_key: strawberry.ID = strawberry.field(description="A UUID made when the screen opens.")
    meter_id: strawberry.ID = strawberry.field(description="A meter of the household.")
    phone: PhoneNumber = strawberry.field(description="Whom to invite; they are told by text where texts are set up.")
    role: HouseholdRole = strawberry.field(description="What they may do.")


@strawberry.input(description="Remove a member or withdraw an invitation (owners), or leave (oneself).")
class MemberRemoveInput:
    """A household keeps an owner."""

    member_id: strawberry.ID = strawberry.field(description="mem_… or inv_….")


@strawberry.input(description="Change what a member, or somebody invited, may do. For owners.")
class MemberRoleSetInput:
    """A household keeps an owner."""

    member_id: strawberry.ID = strawberry.field(description="mem_… or inv_….")
    role: HouseholdRole = strawberry.field(description="What they may do from now on.")


@strawberry.type(description="A member (of memberRemove: as they were), or why there is none.")
class MemberPayload:
    """Errors as data."""

    member: HouseholdMember | None = strawberry.field(
        description="Null where it failed, and where the viewer may see them no more."
    )
    replayed: bool = strawberry.field(description="This key had done it before.")
    user_errors: list[UserError] = strawberry.field(description="Empty where it went well.")


@strawberry.input(description="Accept or decline an invitation; again, it changes nothing.")
class InvitationAnswerInput:
    """One of viewer.invitations."""

    invitation_id: strawberry.ID = strawberry.field(description="inv_….")
    accept: bool = strawberry.field(description="False: decline.")


@strawberry.type(description="The meters that are open to the viewer now, or why there are none.")
class InvitationPayload:
    """Errors as data."""

    meters: list[Meter] = strawberry.field(description="The household's meters; none where it was declined.")
    user_errors: list[UserError] = strawberry.field(description="Empty where it went well.")


@strawberry.type
class MemberMutation:
    """Part of Mutation."""

    @strawberry.mutation(description="Invites somebody by phone number.")
    async def member_invite(self, info: Ctx, input: MemberInviteInput) -> MemberPayload | None:
        context = info.context
        tools, customer_id = context.tools, await context.require_trusted_customer()

        async def act(session: "AsyncSession") -> dict[str, Any]:
            invite_id = await sharing.invite(
                session,
                customer_id=customer_id,
                meter_id=meter_id,
                phone=phone,
                role=input.role,
                secret=tools.signer.secret,
            )
            return {"invite_id": invite_id}

        try:
            meter_id = _known_id(input.meter_id, "mtr")
            phone = normalise_phone(input.phone, tools.sms_countries)
            result, replayed = await request_keys.once(
                tools.sessions,
                customer_id=customer_id,
                key=str(input.idempotency_key),
                mutation="memberInvite",
                order={"meter_id": meter_id, "phone": phone, "role": input.role},
                act=act,
            )
        except StandpipeError as error:
            return _failed(error, context.language)
        if not replayed:
            await _text(tools, phone)
        member = await load_member(context, result["invite_id"], also_ended=True)
        return MemberPayload(member=member, replayed=replayed, user_errors=[])

    @strawberry.mutation(description="Removes a member, withdraws an invitation, or leaves.")
    async def member_remove(self, info: Ctx, input: MemberRemoveInput) -> MemberPayload | None:
        context = info.context
        customer_id = await context.require_trusted_customer()
        try:
            async with context.tools.sessions.begin() as session:
                gone = await sharing.remove(session, customer_id=customer_id, member_id=str(input.member_id))
        except StandpipeError as error:
            return _failed(error, context.language)
        context.forget_meters()
        return MemberPayload(member=member_of(gone), replayed=False, user_errors=[])

    @strawberry.mutation(description="Changes what somebody may do.")
    async def member_role_set(self, info: Ctx, input: MemberRoleSetInput) -> MemberPayload | None:
        context = info.context
        customer_id, member_id = await context.require_trusted_customer(), str(input.member_id)
        try:
            async with context.tools.sessions.begin() as session:
                await sharing.set_role(session, customer_id=customer_id, member_id=member_id, role=input.role)
        except StandpipeError as error:
            return _failed(error, context.language)
        context.forget_meters()
        return MemberPayload(member=await load_member(context, member_id), replayed=False, user_errors=[])

    @strawberry.mutation(description="Accepts or declines an invitation to the viewer's number.")
    async def invitation_answer(self, info: Ctx, input: InvitationAnswerInput) -> InvitationPayload | None:
        context = info.context
        customer_id = await context.require_trusted_customer()
        try:
            async with context.tools.sessions.begin() as session:
                meter_ids = await sharing.answer(
                    session,
                    customer_id=customer_id,
                    invitation_id=_known_id(input.invitation_id, "inv"),
                    accept=input.accept,
                )
        except StandpipeError as error:
            return InvitationPayload(meters=[], user_errors=[user_error(error, context.language)])
        context.forget_meters()
        views = await context.meters.load_many(meter_ids)
        return InvitationPayload(meters=[meter_of(view) for view in views if view is not None], user_errors=[])


async def _text(tools: Tools, phone: str) -> None:
    """Tell who is invited. The invitation stands without it: they find it when they sign in."""
    if tools.sms_url is None:
        return
    async with tools.sessions() as session:
        language = await language_of_phone(session, phone)
    try:
        await send_sms(tools.http, tools.sms_url, phone=phone, text=invitation_text(language))
    except SmsNotSentError as error:
        _log.warning("invitation not texted", reason=error.reason)


def _failed(error: StandpipeError, language: str) -> MemberPayload:
    return MemberPayload(member=None, replayed=False, user_errors=[user_error(error, language)])


def _known_id(id: strawberry.ID, prefix: str) -> str:
    if not is_id(str(id), prefix):
        raise NotFoundError("No such thing.")
    return str(id)
