"""M14: one credit, whichever way it comes. Random lives of a meter whose credit is typed and sent in any order.

Frames are kept, lost, repeated and reordered; tokens are typed early, late, twice and after their credit came by radio;
credit is taken back where it may be. The meter never holds more than was granted, and in the end exactly that.
"""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text

from standpipe.meter_gateway.prepaid import StatusFrame
from standpipe.meter_gateway.translation import command_frame_of, status_report_of
from standpipe.meters.commands import lock_meter
from standpipe.meters.credit import free_to_retract_ml, grant_volume, retract_volume
from standpipe.meters.models import CreditGrant, Meter, WalletKind
from standpipe.meters.reports import MeterReport
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError
from standpipe.sts.keypad import Typed
from standpipe.tariffs.files import read_tariff
from standpipe.tariffs.publishing import publish
from standpipe.vending.issuing import issue_tokens
from standpipe.vending.models import KeypadToken
from standpipe.vending.offers import offer_due
from standpipe_demo.simulator.meter_keypad import type_token
from standpipe_demo.simulator.meter_model import MeterConfig, fresh_state, status_frame, take_command
from tests.support.delivery import mark_unknown, next_to_send
from tests.support.lengths import rounds
from tests.support.radio import config_of
from tests.support.rating import take_report
from tests.support.tokens import give_keypad, issuer, keypad_config
from tests.support.town import PREPAID_KEY, make_home, make_settings, make_utility
from tests.support.volume import PURCHASE_TARIFF

HISTORIES, STEPS = rounds(6, 20, "CHAOS_TOKENS"), 50
UNIT_ML = 100_000
START = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass
class Life:
    """One meter: the product's books, and the meter's inside."""

    sessions: Sessions
    meter_id: str
    config: MeterConfig
    chance: random.Random
    now: datetime = START
    frames: list[bytes] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    grants: int = 0

    def __post_init__(self) -> None:
        self.state = fresh_state(self.config)

    @property
    def clock(self) -> Clock:
        return Clock(1.0, datetime.now(UTC).timestamp(), self.now)

    async def grant(self) -> None:
        self.grants += 1
        units = self.chance.choice([1, 2, 3, 20, 16_383])
        async with self.sessions.begin() as session:
            meter = await lock_meter(session, self.meter_id)
            key = f"{self.meter_id}:g{self.grants}"
            await grant_volume(
                session, meter, credit_key=key, source_id=key, volume_ml=units * UNIT_ML, now=self.now
            )  # fmt: skip

    async def retract(self) -> None:
        """What can be had of a step is taken back, or part of it."""
        source_id = f"{self.meter_id}:g{self.chance.randint(1, max(self.grants, 1))}"
        async with self.sessions.begin() as session:
            meter = await lock_meter(session, self.meter_id)
            free_ml = await free_to_retract_ml(session, meter, source_id)
            with pytest.raises(InvalidInputError):
                async with session.begin_nested():
                    await retract_volume(session, meter, source_id=source_id, volume_ml=free_ml + UNIT_ML)
            if free_ml:
                part_ml = self.chance.randint(1, free_ml // UNIT_ML) * UNIT_ML
                await retract_volume(session, meter, source_id=source_id, volume_ml=part_ml)

    async def offer(self) -> None:
        await offer_due(self.sessions, self.clock, timedelta(minutes=self.chance.choice([0, 0, 30])))
        await issue_tokens(self.sessions, issuer(), self.clock)

    async def type_one(self) -> None:
        async with self.sessions() as session:
            digits = [row.digits[0] for row in await session.scalars(select(KeypadToken)) if row.digits]
        if digits:
            shown = type_token(self.config, self.state, self.chance.choice(digits))
            self.told.append(f"  shows {shown}")
            assert shown in {Typed.ACCEPTED, Typed.USED}

    async def send(self) -> None:
        """A command goes on the air; whether it arrives is another matter."""
        async with self.sessions.begin() as session:
            command = await next_to_send(session, self.meter_id, self.now)
            if command is None:
                return
            await mark_unknown(session, command.id, "no answer")
        self.frames.append(command_frame_of(command).to_bytes(PREPAID_KEY, self.config.serial))

    async def arrive(self) -> None:
        """Any frame that was ever on the air, again or for the first time."""
        if self.frames:
            frame = self.frames[-1] if self.chance.random() < 0.6 else self.chance.choice(self.frames)
            take_command(self.config, self.state, frame)

    async def state_it(self) -> None:
        """The meter is heard."""
        frame = status_frame(self.config, self.state)
        status = StatusFrame.from_bytes(frame, PREPAID_KEY, self.config.serial)
        async with self.sessions.begin() as session:
            statement = status_report_of(status, WalletKind.VOLUME)
            await take_report(session, MeterReport(self.meter_id, self.now, (), statement), self.now)

    async def wait(self) -> None:
        self.now += timedelta(minutes=self.chance.choice([0, 1, 45, 3000]))
        self.state.at = self.now.isoformat()

    async def check(self) -> None:
        async with self.sessions() as session:
            meter = await session.get_one(Meter, self.meter_id)
            assert self.state.credit_accepted <= meter.credit_granted, "more water than was granted"
            grants = (await session.scalars(select(CreditGrant).order_by(CreditGrant.total_after))).all()
        assert sum(grant.amount - grant.revoked for grant in grants) == meter.credit_granted
        by_radio_ml = self.state.credit_accepted - self.state.typed_ml
        for grant in grants:
            if grant.confirmed_at is not None:
                assert grant.total_after <= by_radio_ml or grant.tid in self.state.tids, "confirmed, and not there"

    async def end(self) -> None:
        """The radio is well again: what is left comes through."""
        for _ in range(8):
            await self.state_it()
            await self.send()
            if self.frames:
                take_command(self.config, self.state, self.frames[-1])
        await self.state_it()
        async with self.sessions() as session:
            meter = await session.get_one(Meter, self.meter_id)
            waiting = await session.scalars(
                select(CreditGrant.credit_key).where(
                    CreditGrant.confirmed_at.is_(None), CreditGrant.amount > CreditGrant.revoked
                )
            )
            assert waiting.all() == []
        assert self.state.credit_accepted == meter.credit_granted


async def test_m14_typed_and_sent_in_any_order_is_one_credit(database_url: str, sessions: Sessions) -> None:
    utility_id, _ = await make_utility(sessions)
    async with sessions.begin() as session:
        tariff_id = (
            await publish(
                session, utility_id=utility_id, utility_currency="KES", file=read_tariff(PURCHASE_TARIFF),
                today=START.date(),
            )
        ).tariff_id  # fmt: skip
    for seed in range(HISTORIES):
        chance = random.Random(seed)
        home = await make_home(
            *(sessions, make_settings(), utility_id, tariff_id),
            installed_at=START - timedelta(days=1), zone="Africa/Nairobi", wallet_kind="VOLUME",
        )  # fmt: skip
        await give_keypad(sessions, home.serial)
        config = config_of(home, currency="VOL", blocks=(), started_at=START.isoformat(), keypad=keypad_config())
        life = Life(sessions, home.meter_id, config, chance)
        acts = (
            *(life.grant, life.grant, life.offer, life.offer, life.type_one, life.type_one, life.type_one),
            *(life.send, life.send, life.arrive, life.arrive, life.state_it, life.state_it, life.wait, life.retract),
        )
        try:
            for _ in range(STEPS):
                act = chance.choice(acts)
                life.told.append(act.__name__)
                await act()
                await life.check()
            await life.end()
        except AssertionError as error:
            pytest.fail(f"seed {seed}: {error}\n" + "\n".join(life.told), pytrace=False)
        await forget(sessions)


async def forget(sessions: Sessions) -> None:
    """The next life has the database to itself, and the same PAN."""
    async with sessions.begin() as session:
        for table in ("keypad_tokens", "meter_keypads", "meter_commands", "credit_grants"):
            await session.execute(text(f"DELETE FROM {table}"))  # noqa: S608 - names of our own.
