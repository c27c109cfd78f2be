"""Those who share a meter, and invitations, as the app sees them."""

from datetime import datetime

import strawberry

from standpipe.graphql.base import Node, PhoneNumber, described_enum
from standpipe.graphql.context import Context, Ctx
from standpipe.households.models import HouseholdRole
from standpipe.meters.members import InvitationView, MemberView, invitations_for, member_by_id

described_enum(
    HouseholdRole,
    {
        HouseholdRole.OWNER: "May do all that a payer may, and rename meters, invite and remove members, move out.",
        HouseholdRole.PAYER: "May look and pay: top-ups, vouchers, emergency credit, standing orders.",
        HouseholdRole.VIEWER: "May look.",
    },
    name="HouseholdRole",
    description="What a member may do.",
)


@strawberry.type(description="Somebody who shares the household's meters, or who is invited to (accepted: false).")
class HouseholdMember(Node):
    """A member, mem_…, or an invitation, inv_…."""

    name: str = strawberry.field(description="Their name; without one the phone number, masked but for owners.")
    phone: PhoneNumber | None = strawberry.field(
        description="The full number, for owners of the household and for oneself; null for all others."
    )
    role: HouseholdRole = strawberry.field(description="VIEWER looks, PAYER also pays, OWNER also shares.")
    accepted: bool = strawberry.field(description="False while an invitation waits for its answer.")
    is_viewer: bool = strawberry.field(description="Whether this is who is asking.")
    expires_at: datetime | None = strawberry.field(description="When an invitation runs out; null of a member.")


@strawberry.type(description="An invitation to the viewer's phone number; answer it with invitationAnswer.")
class Invitation:
    """An invitation, for the invited: what is known of a household before joining it."""

    id: strawberry.ID = strawberry.field(description="inv_….")
    role: HouseholdRole = strawberry.field(description="What the viewer may do after accepting.")
    labels: list[str] = strawberry.field(description="What the household calls its meters.")
    invited_by: str = strawberry.field(description="The inviter's name, or masked number; empty where they are gone.")
    expires_at: datetime = strawberry.field(description="When it runs out.")


def member_of(view: MemberView) -> HouseholdMember:
    """A member for its reader."""
    return HouseholdMember(
        id=strawberry.ID(view.id),
        name=view.name,
        phone=None if view.phone is None else PhoneNumber(view.phone),
        role=view.role,
        accepted=view.accepted,
        is_viewer=view.mine,
        expires_at=view.expires_at,
    )


async def load_members(context: Context, meter_id: str) -> list[HouseholdMember]:
    """Those who share a meter that came out of the customer's own."""
    return [member_of(view) for view in await context.members.load(meter_id)]


async def load_member(context: Context, member_id: str, *, also_ended: bool = False) -> HouseholdMember | None:
    """Somebody who shares a meter with the customer; None for every other id."""
    async with context.services.sessions() as conn:
        view = await member_by_id(conn, context.require_customer(), member_id, also_ended=also_ended)
    return None if view is None else member_of(view)


async def load_invitations(info: Ctx, customer_id: str) -> list[Invitation]:
    """The open invitations to a customer's number."""
    async with info.context.services.sessions() as conn:
        return [_invitation(view) for view in await invitations_for(conn, customer_id)]


def _invitation(view: InvitationView) -> Invitation:
    return Invitation(
        id=strawberry.ID(view.id),
        role=view.role,
        labels=list(view.labels),
        invited_by=view.invited_by,
        expires_at=view.expires_at,
    )
