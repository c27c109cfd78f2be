"""Cards that customers keep at a provider: begun, finished when the provider says so, forgotten."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.households.forgetting import is_present
from standpipe.payments.rails.port import (
    CardVault,
    NoticeSubject,
    Rail,
    RailRefusedError,
    RailUnavailableError,
    SavedCard,
)
from standpipe.payments.rails.registry import rail_of
from standpipe.payments.request_keys import once
from standpipe.payments.vend_models import AutoTopUp, CardSetup, PaymentCustomer, SavedMethod
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions, by_statement
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.ids import new_id
from standpipe.platform.language import phrase


def vault_of(rails: Mapping[str, Rail]) -> tuple[str, CardVault]:
    """The provider that keeps cards. Raises InvalidInputError where none does."""
    for rail in rails.values():
        if rail.vault is not None:
            return rail.name, rail.vault
    raise InvalidInputError(phrase("Cards cannot be kept on this server."))


async def begin(
    sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, *, customer_id: str, key: str
) -> tuple[dict[str, Any], bool]:
    """Begin to keep a card; answers the next action for the app, and whether this key had begun it before.

    The same key asks the provider for the same setup again, which gives the same secrets. Raises InvalidInputError,
    IdempotencyMismatchError.
    """
    name, vault = vault_of(rails)

    async def act(session: AsyncSession) -> dict[str, Any]:
        setup_id = new_id("cds")
        session.add(CardSetup(id=setup_id, customer_id=customer_id, rail=name, created_at=clock.now()))
        return {"setup_id": setup_id}

    made, replayed = await once(
        sessions, customer_id=customer_id, key=key, mutation="cardSaveStart", order={"rail": name}, act=act
    )
    setup_id = str(made["setup_id"])
    try:
        customer_ref = await ensure_customer(sessions, name, vault, customer_id)
        action = await vault.begin_save(key=setup_id, customer_ref=customer_ref, owner=customer_id)
    except (RailUnavailableError, RailRefusedError) as error:
        raise InvalidInputError(phrase("The card cannot be saved right now. Please try again shortly.")) from error
    async with sessions.begin() as session:
        await session.execute(update(CardSetup).where(CardSetup.id == setup_id).values(setup_ref=action["setup_ref"]))
    return action, replayed


async def ensure_customer(sessions: Sessions, rail: str, vault: CardVault, customer_id: str) -> str:
    """Return the customer's id at a provider, made at the first need. Raises as ``CardVault.ensure_customer`` does."""
    async with by_statement(sessions) as session:
        known: str | None = await session.scalar(
            select(PaymentCustomer.rail_ref).where(
                PaymentCustomer.customer_id == customer_id, PaymentCustomer.rail == rail
            )
        )
    if known is not None:
        return known
    customer_ref = await vault.ensure_customer(customer_id)
    async with sessions.begin() as session:
        await keep_customer(session, customer_id=customer_id, rail=rail, rail_ref=customer_ref)
    return customer_ref


async def keep_customer(session: AsyncSession, *, customer_id: str, rail: str, rail_ref: str) -> None:
    """Note who a customer is at a provider; a later one, after a deletion there, takes its place."""
    # Two requests at once bring the same pair. An insert that settles conflicts on one key only may still break the
    # other one, so a conflict on either is passed over, and the row is then brought up to date.
    await session.execute(
        insert(PaymentCustomer).values(customer_id=customer_id, rail=rail, rail_ref=rail_ref).on_conflict_do_nothing()
    )
    await session.execute(
        update(PaymentCustomer)
        .where(
            PaymentCustomer.customer_id == customer_id,
            PaymentCustomer.rail == rail,
            PaymentCustomer.rail_ref != rail_ref,
        )
        .values(rail_ref=rail_ref)
    )


async def keep_card(session: AsyncSession, *, customer_id: str, rail: str, card: SavedCard, now: datetime) -> None:
    """Keep, or bring up to date, a card; a card stays with the customer who saved it first.

    A customer who was forgotten meanwhile keeps none.
    """
    if not await is_present(session, customer_id):
        return
    values = {"brand": card.brand, "last4": card.last4, "expires": card.expires, "usable": card.usable}
    await session.execute(
        insert(SavedMethod)
        .values(
            id=new_id("pmt"),
            customer_id=customer_id,
            rail=rail,
            rail_ref=card.rail_ref,
            created_at=now,
            **values,
        )
        .on_conflict_do_update(index_elements=["rail", "rail_ref"], set_=values)
    )


async def cards_of(session: AsyncSession, customer_id: str) -> Sequence[SavedMethod]:
    """A customer's usable cards, oldest first."""
    rows = await session.scalars(
        select(SavedMethod)
        .where(SavedMethod.customer_id == customer_id, SavedMethod.usable)
        .order_by(SavedMethod.created_at, SavedMethod.id)
    )
    return rows.all()


async def require_card(session: AsyncSession, *, customer_id: str, saved_method_id: str) -> SavedMethod:
    """A usable card of this customer. Raises NotFoundError for any other, and for none."""
    card = await session.get(SavedMethod, saved_method_id)
    if card is None or card.customer_id != customer_id or not card.usable:
        raise NotFoundError("No such card.")
    return card


async def refresh_setups(sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, *, customer_id: str) -> None:
    """The customer is back from saving: ask for what has not been heard of. Raises nothing that a retry would mend."""
    async with sessions() as session:
        refs = await session.scalars(
            select(CardSetup.setup_ref)
            .where(
                CardSetup.customer_id == customer_id,
                CardSetup.setup_ref.is_not(None),
                CardSetup.done_at.is_(None),
            )
            .order_by(CardSetup.id.desc())
            .limit(1)
        )
        newest = refs.first()
    if newest is None:
        return
    name, _ = vault_of(rails)
    try:
        await heard(sessions, rails, clock, rail=name, subject=NoticeSubject.SAVED_METHOD, ref=newest)
    except (RailUnavailableError, RailRefusedError, NotFoundError):
        return


async def forget(sessions: Sessions, rails: Mapping[str, Rail], *, customer_id: str, saved_method_id: str) -> None:
    """Forget a card here and at the provider. Raises NotFoundError, InvalidInputError (the provider is away)."""
    async with sessions() as session:
        card = await require_card(session, customer_id=customer_id, saved_method_id=saved_method_id)
    vault = rail_of(rails, card.rail).vault
    try:
        if vault is not None:
            await vault.forget_card(card.rail_ref)
    except RailUnavailableError as error:
        raise InvalidInputError(phrase("The card cannot be removed right now. Please try again shortly.")) from error
    async with sessions.begin() as session:
        await session.execute(update(SavedMethod).where(SavedMethod.id == saved_method_id).values(usable=False))
        await session.execute(
            update(AutoTopUp)
            .where(AutoTopUp.saved_method_id == saved_method_id)
            .values(enabled=False, paused_reason="card")
        )


async def heard(
    sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, *, rail: str, subject: str, ref: str
) -> None:
    """A notice about a setup, a card or a customer: ask how it stands.

    Raises NotFoundError for a setup that is not ours (yet), RailUnavailableError.
    """
    if subject == NoticeSubject.CUSTOMER:
        await _customer_gone(sessions, rail, ref)
        return
    vault = rail_of(rails, rail).vault
    if vault is None:
        return
    async with sessions() as session:
        setup = await session.scalar(select(CardSetup).where(CardSetup.rail == rail, CardSetup.setup_ref == ref))
        card = await session.scalar(select(SavedMethod).where(SavedMethod.rail == rail, SavedMethod.rail_ref == ref))
    if setup is not None:
        found, customer_id = await vault.fetch_setup(ref), setup.customer_id
    elif card is not None:
        found, customer_id = await vault.fetch_card(ref), card.customer_id
    else:
        # A card of somebody who keeps none here: nothing of ours changes.
        return
    if found is not None:
        async with sessions.begin() as session:
            await keep_card(session, customer_id=customer_id, rail=rail, card=found, now=clock.now())
            if setup is not None:
                done = update(CardSetup).where(CardSetup.id == setup.id).values(done_at=clock.now())
                await session.execute(done)


async def _customer_gone(sessions: Sessions, rail: str, customer_ref: str) -> None:
    async with sessions.begin() as session:
        owner = await session.scalar(
            select(PaymentCustomer.customer_id).where(
                PaymentCustomer.rail == rail, PaymentCustomer.rail_ref == customer_ref
            )
        )
        if owner is None:
            return
        await session.execute(
            update(SavedMethod).where(SavedMethod.customer_id == owner, SavedMethod.rail == rail).values(usable=False)
        )
        await session.execute(
            delete(PaymentCustomer).where(PaymentCustomer.customer_id == owner, PaymentCustomer.rail == rail)
        )
