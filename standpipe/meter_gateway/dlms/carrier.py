"""One DLMS meter within reach: its objects read into a report, our commands carried to them, by its profile."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import ClassVar, TypeVar

import structlog

from standpipe.meter_gateway import prepaid
from standpipe.meter_gateway.delivery import CommandRefusedError, Spoken
from standpipe.meter_gateway.dlms import meters, orders, totals, values
from standpipe.meter_gateway.dlms.apdu import Attribute, by_range
from standpipe.meter_gateway.dlms.axdr import Data, Tag, octets
from standpipe.meter_gateway.dlms.client import AccessRefusedError, DlmsClient
from standpipe.meter_gateway.dlms.cosem_time import CosemTime
from standpipe.meter_gateway.dlms.meters import HEARD, DlmsIdentity, Heard, Kept
from standpipe.meter_gateway.dlms.profiles.profile import Alarm, CreditMethod, MeterProfile
from standpipe.meter_gateway.dlms.totals import MoneyRegisters, MoneyScale, Seen
from standpipe.meter_gateway.dlms.values import VolumeScale
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meter_gateway.translation import command_frame_of, status_report_of
from standpipe.meters.delivery_state import BY_EFFECT, OutgoingCommand
from standpipe.meters.identity import MeterIdentity
from standpipe.meters.models import CommandKind
from standpipe.meters.reports import (
    CommandResult,
    Diagnostics,
    HeldTables,
    MeterReport,
    RegisterReading,
    StatusReport,
    ValveReason,
    ValveState,
)
from standpipe.platform.clock import Clock
from standpipe.platform.database import Engine

STEADY_TRIES = 5
SETTLE_TRIES = 4
_DISCONNECT, _RECONNECT = 1, 2
_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


@dataclass
class Scales:
    """Scales that the meter was asked for once in this association, and does not change."""

    volume: VolumeScale | None = None
    money: MoneyScale | None = None


@dataclass
class DlmsCarrier:
    """A contact's view of the meter; see ``delivery.Carrier``. ``frames``: who it is to the token gateway's frames."""

    name: ClassVar[str] = "dlms"

    statements: Engine
    clock: Clock
    client: DlmsClient
    profile: MeterProfile
    identity: DlmsIdentity
    frames: MeterIdentity | None
    heard_counter: Callable[[], int]
    scales: Scales = field(default_factory=Scales)
    _answered: set[int] = field(default_factory=set)
    _diagnostics: Diagnostics | None = None
    _first: bool = True
    _base_units: int | None = None

    def anew(self) -> "DlmsCarrier":
        """Make this meter's carrier for another contact."""
        return replace(self, _answered=set(), _diagnostics=None, _first=True, _base_units=None)

    async def listen(self) -> Spoken:
        """The meter's clock put right, its load profile since the last contact, and its status report."""
        kept = await meters.begin_reading(self.statements, self.identity.meter_id)
        readings: tuple[RegisterReading, ...] = ()
        if self._first:
            await self._optional(self._set_clock, "clock")
            readings = await self._optional(lambda: self._load_profile(kept), "load profile") or ()
            self._first = False
        alarms = await self._optional(self._alarms, "alarms") or frozenset()
        battery_percent = await self._optional(self._battery, "battery")
        found = await self._optional(lambda: self._status(kept), "status report")
        status, registers = found or (None, None)
        tables = await self._optional(lambda: self._tables(kept), "price tables")
        diagnostics, self._diagnostics = self._diagnostics, None
        now = self.clock.now()
        report = MeterReport(
            self.identity.meter_id,
            now,
            readings,
            status,
            battery_percent,
            empty_pipe=Alarm.EMPTY_PIPE in alarms,
            diagnostics=diagnostics,
            tables=tables,
        )
        # Never into the future: a clock that ran ahead must not keep us from asking again.
        read_to = min(max(reading.read_at for reading in readings), now) if readings else None
        base_units, paid_units = registers or (None, None)
        heard = Heard(self.identity.meter_id, self.heard_counter(), base_units, paid_units, read_to)
        return Spoken(report, may_send=status is not None, rows=((HEARD, heard),))

    async def send(self, command: OutgoingCommand) -> None:
        """Carry a command to the object that it is for. Raises CommandRefusedError."""
        try:
            await self._send(command)
        except AccessRefusedError as error:
            raise CommandRefusedError(str(error), is_final=not error.in_doubt) from error
        except ParsingError as error:
            raise CommandRefusedError(str(error), is_final=False) from error
        self._answered.add(command.sequence)

    async def told_by_push(self, body: Data) -> MeterReport:
        """A push as a report. Raises ParsingError, NoAnswerError."""
        if self.profile.push is None:
            raise ParsingError("this profile knows no push")
        now = self.clock.now()
        told = values.told_by(
            body.items,
            self.profile.push.columns,
            scale=await self._volume_scale(),
            alarms=self.profile.alarms,
            assumed_deviation_min=self.profile.clock.assumed_deviation_min,
            arrived_at=now,
        )
        self._warn_of(told.alarms or frozenset())
        return MeterReport(self.identity.meter_id, now, (told.reading,) if told.reading is not None else ())

    async def _send(self, command: OutgoingCommand) -> None:
        if command.kind in BY_EFFECT:
            await self._order(command)
        elif self.profile.credit.method is CreditMethod.TOKEN:
            await self._enter(command)
        elif command.kind is CommandKind.CREDIT:
            await self._set_amount(command)
        elif command.kind is CommandKind.VALVE:
            await self._move_valve(command)
        elif command.kind is CommandKind.THRESHOLD and self.profile.credit.account is not None:
            units = (await self._money_scale()).to_units(command.value)
            if units is None:
                raise CommandRefusedError("the meter's money unit is coarser than this threshold")
            await self.client.set(Attribute(111, self.profile.credit.account, 16), Data(Tag.DOUBLE_LONG, units))
        else:
            raise CommandRefusedError(f"{self.profile.name} has no object for {command.kind}", is_lacking=True)

    async def _order(self, command: OutgoingCommand) -> None:
        """Send a command whose effect shows in the meter's next words, by whichever method it takes its credit."""
        match command.kind:
            case CommandKind.CLOCK:
                await self.client.set(self.profile.clock.time, octets(CosemTime.of(self.clock.now()).to_bytes()))
            case CommandKind.DIAGNOSTICS:
                battery_percent = await self._optional(self._battery, "battery")
                self._diagnostics = await orders.diagnose(self.client, self.profile, command.sequence, battery_percent)
            case CommandKind.TARIFF:
                await orders.send_table(self.client, self.profile, self.identity.currency, command.body)
            case _:
                # READ_NOW: the registers are read next, as after every command.
                return

    async def _tables(self, kept: Kept) -> HeldTables | None:
        """Read whether the meter holds the price table that went out last; None where none did."""
        waits = [command for command in kept.on_the_air if command.kind is CommandKind.TARIFF]
        if not waits:
            return None
        return await orders.tables_held(self.client, self.profile, self.identity.currency, waits[-1].body)

    async def _enter(self, command: OutgoingCommand) -> None:
        """Class 115: the token is our own numbered frame; what the meter made of it stands in its statement."""
        if self.frames is None:
            raise CommandRefusedError("this meter has no key for frames")
        frame = command_frame_of(command).to_bytes(self.frames.prepaid_key, self.frames.serial)
        await self.client.act(Attribute(115, self.profile.credit.obis, 1), octets(frame))

    async def _set_amount(self, command: OutgoingCommand) -> None:
        """Class 112: read, compare, set. Water that runs between reading and setting is put right at once."""
        for attempt in range(SETTLE_TRIES):
            registers, base_units = await self._steady_registers(), self._base()
            scale = await self._money_scale()
            accepted = totals.accepted_minor(registers, base_units, scale)
            if accepted == command.value:
                return
            if accepted > command.value and not attempt:
                raise CommandRefusedError(f"TOTAL_TOO_LOW: the meter has accepted {accepted} already")
            amount = totals.amount_for(command.value, registers, base_units, scale)
            if amount is None:
                raise CommandRefusedError("an amount that this meter's credit object cannot hold")
            await self.client.act(Attribute(112, self.profile.credit.obis, 2), Data(Tag.DOUBLE_LONG, amount))

    async def _move_valve(self, command: OutgoingCommand) -> None:
        if self.profile.valve is None or command.value not in (0, 1):
            raise CommandRefusedError(f"{self.profile.name} has no valve that can be {command.value}")
        method = _RECONNECT if command.value == 0 else _DISCONNECT
        await self.client.act(Attribute(70, self.profile.valve.obis, method), Data(Tag.INTEGER, 0))

    async def _status(self, kept: Kept) -> tuple[StatusReport, tuple[int, int] | None]:
        """The status report, and what the registers held (base and paid units), where it was made of those."""
        if self.profile.credit.statement is not None and self.frames is not None:
            frame = (await self.client.get(Attribute(1, self.profile.credit.statement, 2))).octets
            stated = prepaid.StatusFrame.from_bytes(frame, self.frames.prepaid_key, self.frames.serial)
            return status_report_of(stated, self.frames.wallet_kind), None
        registers, scale = await self._steady_registers(), await self._money_scale()
        if totals.went_back(registers, kept.paid_units):
            _log.error("meter's registers went back; a person must look", meter_id=self.identity.meter_id)
            raise ParsingError("the meter has deducted less than it said before")
        base_units = kept.base_units
        if base_units is None:
            base_units = totals.base_for(registers, kept.credit_accepted, scale)
        self._base_units = base_units
        seen = await self._seen(totals.accepted_minor(registers, base_units, scale), kept)
        if seen.accepted_minor < kept.credit_accepted:
            _log.error("meter has accepted less than it said before", meter_id=self.identity.meter_id)
            raise ParsingError("the meter has accepted less than it said before")
        status = StatusReport(
            report_counter=kept.report_number,
            last_sequence=totals.concluded(kept.last_sequence, kept.on_the_air, seen),
            result=CommandResult.DONE,
            credit_accepted=seen.accepted_minor,
            credit_remaining=scale.to_minor(registers.credit_units),
            register_ml=registers.register_ml,
            valve=seen.valve,
            valve_reason=_reason(seen.valve, registers),
            stated_at=await self._time(),
        )
        return status, (base_units, registers.paid_units)

    async def _seen(self, accepted_minor: int, kept: Kept) -> Seen:
        valve, ready = ValveState.UNKNOWN, False
        if self.profile.valve is not None:
            state = await self.client.get(Attribute(70, self.profile.valve.obis, 3))
            valve, ready = values.valve_of(state.integer)
        threshold = None
        waits = any(command.kind is CommandKind.THRESHOLD for command in kept.on_the_air)
        if waits and self.profile.credit.account is not None:
            units = (await self.client.get(Attribute(111, self.profile.credit.account, 16))).integer
            threshold = (await self._money_scale()).to_minor(units)
        return Seen(accepted_minor, valve, ready, threshold, frozenset(self._answered))

    def _base(self) -> int:
        if self._base_units is None:
            raise ParsingError("no statement has been read in this contact")
        return self._base_units

    async def _steady_registers(self) -> MoneyRegisters:
        """Credit and paid of one instant: paid is read before and after, until nothing was deducted between.

        A meter that answers lists is asked for all in one request, and mostly gives them of one instant at once.
        """
        credit = self.profile.credit
        paid = Attribute(113, credit.charge or "", 2)
        wanted = (paid, Attribute(112, credit.obis, 2), self.profile.volume.attribute(2), paid)
        for _ in range(STEADY_TRIES):
            if self.profile.association.lists:
                before, amount, volume, after = await self.client.get_list(wanted)
            else:
                before, amount, volume, after = [await self.client.get(one) for one in wanted]
            if before.integer == after.integer:
                scale = await self._volume_scale()
                return MoneyRegisters(amount.integer, after.integer, scale.to_ml(volume))
        raise ParsingError("water runs faster than the registers can be read")

    async def _money_scale(self) -> MoneyScale:
        if self.scales.money is None:
            account = self.profile.credit.account or ""
            name, scale, _unit = (await self.client.get(Attribute(111, account, 15))).items
            if str(name.value) != self.identity.currency:
                raise ParsingError(f"the meter counts in {name.value!s:.8}, not in {self.identity.currency}")
            self.scales.money = MoneyScale.of(self.identity.currency, scale.integer)
        return self.scales.money

    async def _volume_scale(self) -> VolumeScale:
        if self.scales.volume is None:
            volume = self.profile.volume
            if volume.scaler is not None and volume.unit is not None:
                self.scales.volume = VolumeScale.of(volume.scaler, volume.unit)
            else:
                self.scales.volume = VolumeScale.of_data(await self.client.get(volume.attribute(3)))
        return self.scales.volume

    async def _time(self) -> datetime:
        data = await self.client.get(self.profile.clock.time)
        return values.instant_of(data, self.profile.clock.assumed_deviation_min)

    async def _set_clock(self) -> None:
        """Class 8: put the meter's clock right where it is off by more than its profile allows."""
        now = self.clock.now()
        try:
            off_s = abs((await self._time() - now).total_seconds())
        except ParsingError:
            off_s = float("inf")
        if off_s > self.profile.clock.tolerance_s * self.clock.factor:
            _log.warning("meter's clock set", meter_id=self.identity.meter_id, off_s=off_s)
            await self.client.set(self.profile.clock.time, octets(CosemTime.of(self.clock.now()).to_bytes()))

    async def _load_profile(self, kept: Kept) -> tuple[RegisterReading, ...]:
        """Class 7, by range: what was captured since the last that we took in."""
        profile = self.profile.load_profile
        if profile is None:
            return ()
        now = self.clock.now()
        start = max(kept.profile_read_to + timedelta(seconds=1), now - timedelta(days=profile.max_days))
        selection = by_range(8, self.profile.clock.obis, CosemTime.of(start), CosemTime.of(now))
        scale = await self._volume_scale()
        readings = []
        for row in (await self.client.get(profile.buffer, selection)).items:
            told = values.told_by(
                row.items,
                profile.columns,
                scale=scale,
                alarms=self.profile.alarms,
                assumed_deviation_min=self.profile.clock.assumed_deviation_min,
                arrived_at=now,
            )
            if told.reading is not None:
                readings.append(told.reading)
        return tuple(readings)

    async def _alarms(self) -> frozenset[Alarm]:
        if self.profile.alarms is None:
            return frozenset()
        value = await self.client.get(Attribute(1, self.profile.alarms.obis, 2))
        raised = self.profile.alarms.names(value.integer)
        self._warn_of(raised)
        return raised

    def _warn_of(self, raised: frozenset[Alarm]) -> None:
        if raised:
            _log.warning("meter raises alarms", meter_id=self.identity.meter_id, alarms=sorted(raised))

    async def _battery(self) -> int | None:
        if self.profile.battery is None:
            return None
        return values.percent_of(await self.client.get(Attribute(1, self.profile.battery.obis, 2)))

    async def _optional(self, read: Callable[[], Awaitable[_T]], what: str) -> _T | None:
        """Read what can be had; a meter that refuses or garbles one thing still tells the others."""
        try:
            return await read()
        except (AccessRefusedError, ParsingError) as error:
            _log.warning("not readable", what=what, meter_id=self.identity.meter_id, reason=str(error))
            return None


def _reason(valve: ValveState, registers: MoneyRegisters) -> ValveReason:
    """Class 70 does not say why; an empty account is reason enough."""
    if valve is ValveState.OPEN:
        return ValveReason.NORMAL
    return ValveReason.NO_CREDIT if registers.credit_units <= 0 else ValveReason.UNKNOWN
