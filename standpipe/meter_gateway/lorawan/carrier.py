"""LoRaWAN as a carrier: the network server's events in, commands out through its API.

An uplink is authenticated by its frame's MAC under the key of the meter whose DevEUI the network names. In one
transaction the report is taken in, the downlink under way is judged by it, and the next command, if the meter can be
sent to now, becomes a downlink. The network server is called afterwards, outside any transaction.
"""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from standpipe.engine.batcher import BusyError
from standpipe.engine.queue import backoff_s
from standpipe.meter_gateway.delivery import DeliveryDesk, Told
from standpipe.meter_gateway.lorawan import devices
from standpipe.meter_gateway.lorawan.devices import LoraIdentity
from standpipe.meter_gateway.lorawan.downlink_rules import (
    RETRY_CAP_S,
    CommandWaits,
    Dropped,
    News,
    PutOnAir,
    RadioAnswered,
    TaskDone,
    TaskFailed,
    TaskRefused,
    UplinkHeard,
)
from standpipe.meter_gateway.lorawan.downlinks import LoraLink, NetworkTask, claim_tasks, next_due_s, to_look_at
from standpipe.meter_gateway.lorawan.events import (
    Acknowledged,
    Battery,
    DownlinkLost,
    Event,
    Joined,
    Transmitted,
    Uplink,
)
from standpipe.meter_gateway.lorawan.frames import (
    KIND_AT_ZERO,
    KIND_CLOCK,
    KIND_CREDIT,
    KIND_CREDIT_MARKED,
    KIND_DIAGNOSE,
    KIND_READ_NOW,
    KIND_THRESHOLD,
    KIND_VALVE,
    PORT_COMMAND,
    PORT_HISTORY,
    PORT_STATUS,
    FrameKey,
    LoraCommand,
    LoraHistory,
    LoraStatus,
)
from standpipe.meter_gateway.lorawan.network import NetworkUnavailableError
from standpipe.meter_gateway.lorawan.orders import (
    KIND_DIAGNOSTICS,
    PORT_ANSWER,
    LoraDiagnostics,
    LoraTablesHeld,
    TablePart,
)
from standpipe.meter_gateway.lorawan.tables import DownlinkState
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meter_gateway.prepaid import StatusFrame
from standpipe.meter_gateway.prepaid_tables import id_text
from standpipe.meter_gateway.translation import status_report_of
from standpipe.meters.delivery_state import Changes, Heard
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import CommandKind
from standpipe.meters.price_tables import MeterTable
from standpipe.meters.reports import (
    Condition,
    ConditionKind,
    Diagnostics,
    HeldTables,
    MeterReport,
    RegisterReading,
)
from standpipe.platform import metrics, tracing
from standpipe.platform.clock import Clock
from standpipe.platform.database import DATABASE_DOWN, Engine, without_transactions
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.notify import COMMANDS, Listener

LOOK_EVERY_S = 60.0
LOOK_WAITING_S = 2.0
LOOK_AFTER_S = 0.2
"""Seconds between looks where nothing waits, where something does (leases may end in silence), and at the soonest."""
MAX_DEVICES = 100_000
_KINDS = {
    CommandKind.CREDIT: KIND_CREDIT,
    CommandKind.VALVE: KIND_VALVE,
    CommandKind.THRESHOLD: KIND_THRESHOLD,
    CommandKind.AT_ZERO: KIND_AT_ZERO,
    CommandKind.READ_NOW: KIND_READ_NOW,
    CommandKind.CLOCK: KIND_CLOCK,
    CommandKind.DIAGNOSTICS: KIND_DIAGNOSE,
}
CLOCK_KEEPS = timedelta(seconds=10)
"""Time that a time may wait at the network: past a Class A device's windows it would set the clock wrong."""
_CONDITIONS = {
    "empty_pipe": ConditionKind.EMPTY_PIPE,
    "leak": ConditionKind.LEAK,
    "reverse_flow": ConditionKind.REVERSE_FLOW,
    "tamper": ConditionKind.TAMPER,
}
CARRIER = "lorawan"
_log = structlog.get_logger(__name__)


class NetworkServer(Protocol):
    """Port of a network server; each call raises NetworkUnavailableError where it may not have been done."""

    async def replace_queue(self, dev_eui: str, f_port: int, frame: bytes, expires_at: datetime | None) -> str: ...
    async def flush(self, dev_eui: str) -> None: ...
    async def queue(self, dev_eui: str) -> set[str]: ...


class LoraCarrier:
    """Takes events in, and keeps the network server supplied."""

    def __init__(self, *, engine: Engine, keys: KeyRing, clock: Clock, network: NetworkServer) -> None:
        self._statements = without_transactions(engine)
        self._keys, self._clock, self._network = keys, clock, network
        self._desk = DeliveryDesk(engine, clock, LoraLink())
        self._work = asyncio.Event()
        self._devices: dict[tuple[str, str], LoraIdentity] = {}

    async def stop(self) -> None:
        """Take no more, and return when all that was taken is answered."""
        await self._desk.stop()

    async def take(self, event: Event) -> None:
        """Take one event in. What is refused is logged and gone: the network server would only post it again.

        Raises NotFoundError for a device that is not ours, BusyError and DATABASE_DOWN's errors where it should be
        posted again.
        """
        device = await self._device(event)
        outcome = "failed"
        try:
            with tracing.span("contact", carrier=CARRIER):
                outcome = await self._taken(device, event)
        except (ParsingError, InvalidInputError) as error:
            outcome = "refused"
            _log.warning("uplink refused", meter_id=device.meter.meter_id, reason=str(error))
        finally:
            if isinstance(event, Uplink):
                metrics.RADIO_CONTACTS.labels(CARRIER, outcome).inc()

    async def _device(self, event: Event) -> LoraIdentity:
        """Find the meter of a radio, kept until something is told of the meter. Raises NotFoundError."""
        key = (event.origin.dev_eui, event.origin.application_id)
        found = self._devices.get(key)
        if found is None:
            async with self._statements.connect() as conn:
                found = await devices.by_dev_eui(conn, self._keys, *key)
            if len(self._devices) >= MAX_DEVICES:
                self._devices.clear()
            self._devices[key] = found
        return found

    def _drop(self, meter_ids: set[str]) -> None:
        """Something about these meters has changed; an empty set: something may have, about any."""
        for key, device in list(self._devices.items()):
            if not meter_ids or device.meter.meter_id in meter_ids:
                del self._devices[key]

    async def _taken(self, device: LoraIdentity, event: Event) -> str:
        """Returns how it ended, as metrics say it."""
        meter_id, now, news = device.meter.meter_id, self._clock.now(), _news_of(event)
        report = None
        if isinstance(event, Uplink):
            report, alarms = self._read(device, event, now)
            news = UplinkHeard(event.deduplication_id, event.heard_at or datetime.now(UTC), alarms)
        elif isinstance(event, Battery):
            report = MeterReport(meter_id, now, battery_percent=event.percent)
        changes = await self._told(Told(Heard(meter_id, report), link=news))
        return "done" if changes.refused is None else "refused"

    async def _told(self, told: Told) -> Changes:
        changes = await self._desk(told)
        if changes.delivery.commands:
            # Something waits, or has just ended: the network server may have to be told.
            self._work.set()
        return changes

    @staticmethod
    def _read(device: LoraIdentity, uplink: Uplink, now: datetime) -> tuple[MeterReport, tuple[str, ...] | None]:
        """An uplink as a report, and the alarms that its status report names. Raises ParsingError."""
        key, meter_id = frame_key(device), device.meter.meter_id
        if uplink.f_port == PORT_HISTORY:
            hours = LoraHistory.from_bytes(uplink.payload, key).readings
            readings = tuple(RegisterReading(datetime.fromtimestamp(at_s, UTC), ml) for at_s, ml in hours)
            return MeterReport(meter_id, now, readings), None
        if uplink.f_port == PORT_ANSWER:
            return _answer(uplink.payload, key, meter_id, now), None
        if uplink.f_port != PORT_STATUS:
            raise ParsingError(f"no frame of ours on port {uplink.f_port}")
        status = LoraStatus.from_bytes(uplink.payload, key)
        frame = StatusFrame(
            report_counter=status.report_counter,
            last_sequence=status.last_sequence,
            result=status.result,
            valve=status.valve,
            valve_reason=status.valve_reason,
            credit_accepted=status.credit_accepted,
            credit_remaining=status.credit_remaining,
            register_ml=status.register_ml,
            meter_time_s=status.meter_time_s,
            typed_ml=status.typed_ml,
        )
        statement = status_report_of(frame, device.meter.wallet_kind)
        report = MeterReport(
            meter_id,
            now,
            (),
            statement,
            status.battery_percent,
            status.alarms.empty_pipe,
            # It says how all of them stand, so that one that is not raised has ended.
            conditions=tuple(
                Condition(kind, statement.stated_at, getattr(status.alarms, name)) for name, kind in _CONDITIONS.items()
            ),
        )
        return report, tuple(status.alarms.names)

    async def hear_commands(self, listener: Listener) -> None:
        """Look after each command that is queued, until cancelled. ``listener`` must listen to COMMANDS."""
        await self._look_after(set())
        async for meter_ids in listener.payloads(COMMANDS):
            self._drop(meter_ids)
            await self._look_after(meter_ids)

    async def _look_after(self, meter_ids: set[str]) -> None:
        """A command was queued: at once to a meter that always listens, or in place of what it supersedes."""
        try:
            # Most meters have other radios, and most of ours sleep: one read tells whom to look after.
            for meter_id in await to_look_at(self._statements, meter_ids):
                with suppress(BusyError):
                    await self._told(Told(Heard(meter_id), link=CommandWaits()))
        except DATABASE_DOWN as error:
            _log.warning("command not looked at; it waits for the meter's next uplink", error=str(error))

    async def supply(self) -> None:
        """Do what is due at the network server, until cancelled. Asks for more only where something waits."""
        while True:
            self._work.clear()
            try:
                while await self.work_due():
                    pass
                wait_s = await next_due_s(self._statements)
            except Exception:
                # The database may be away: this loop outlives that.
                _log.exception("downlinks failed")
                wait_s = 0.0
            # What another process left behind is found too, if late.
            wait_s = LOOK_EVERY_S if wait_s is None else min(max(wait_s, LOOK_AFTER_S), LOOK_WAITING_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._work.wait()

    async def work_due(self) -> int:
        """Do what is due at the network server now; returns how much that was."""
        tasks = await claim_tasks(self._statements, self._keys)
        # Side by side: one slow answer must not cost other meters their receive window.
        await asyncio.gather(*(self._do(task) for task in tasks))
        return len(tasks)

    async def _do(self, task: NetworkTask) -> None:
        with (
            tracing.continue_from(task.traceparent),
            tracing.span("radio command", carrier=CARRIER, command=task.kind, step=task.state),
        ):
            news = await self._done(task)
            try:
                await self._told(Told(Heard(task.device.meter.meter_id), link=news))
            except BusyError:
                # Its lease ends, and it is asked again.
                _log.warning("downlink not written down", meter_id=task.device.meter.meter_id)

    async def _done(self, task: NetworkTask) -> News:
        meter_id = task.device.meter.meter_id
        try:
            item_id = await self._ask(task)
        except NetworkUnavailableError as error:
            _log.warning("network server not reached", meter_id=meter_id, reason=str(error))
            pause_s = backoff_s(task.attempts, base_s=1.0, cap_s=RETRY_CAP_S)
            return TaskFailed(task.downlink_id, str(error), timedelta(seconds=pause_s))
        except (KeyError, ValueError, InvalidInputError) as error:
            reason = f"{type(error).__name__}: {error}"
            _log.error("command has no LoRaWAN frame", meter_id=meter_id, reason=reason)
            return TaskRefused(task.downlink_id, reason)
        return TaskDone(task.downlink_id, task.state, item_id)

    async def _ask(self, task: NetworkTask) -> str | None:
        device = task.device
        if task.state == DownlinkState.SENDING:
            frame, expires_at = self._frame(task, frame_key(device))
            return await self._network.replace_queue(device.dev_eui, PORT_COMMAND, frame, expires_at)
        if task.state == DownlinkState.QUEUED:
            return task.queue_item_id if task.queue_item_id in await self._network.queue(device.dev_eui) else None
        await self._network.flush(device.dev_eui)
        return None

    def _frame(self, task: NetworkTask, key: FrameKey) -> tuple[bytes, datetime | None]:
        """A command's frame, and until when it may wait. Raises KeyError or ValueError where there is none."""
        if task.kind is CommandKind.TARIFF:
            table = MeterTable.from_body(task.body)
            held = int((task.body or {}).get("parts", 0))
            part = TablePart.next_of(table.to_bytes(), task.sequence, task.currency, held)
            return part.to_bytes(key), task.expires_at
        value, expires_at = task.value, task.expires_at
        if task.kind is CommandKind.CLOCK:
            # The time of this very handing-over, of which there may have been several.
            value, expires_at = int(self._clock.now().timestamp()), datetime.now(UTC) + CLOCK_KEEPS
        kind = _KINDS[task.kind] if task.tid_mark is None else KIND_CREDIT_MARKED
        return LoraCommand(kind, task.sequence, value, task.currency, task.tid_mark).to_bytes(key), expires_at


def _news_of(event: Event) -> News | None:
    match event:
        case Joined():
            return Dropped(None, "the radio joined anew")
        case Acknowledged(queue_item_id=item_id, by_radio=by_radio):
            return RadioAnswered(item_id, by_radio)
        case Transmitted(queue_item_id=item_id, at=at, f_cnt_down=f_cnt):
            return PutOnAir(item_id, at or datetime.now(UTC), f_cnt)
        case DownlinkLost(queue_item_id=item_id, reason=reason):
            return Dropped(item_id, reason)
        case _:
            return None


def _answer(payload: bytes, key: FrameKey, meter_id: str, now: datetime) -> MeterReport:
    """A frame that answers a command, as a report. Raises ParsingError."""
    if payload[:1] and payload[0] & 15 == KIND_DIAGNOSTICS:
        told = LoraDiagnostics.from_bytes(payload, key)
        diagnostics = Diagnostics(
            answers=told.sequence,
            battery_percent=told.battery_percent,
            signal_dbm=told.signal_dbm,
            uptime_s=told.uptime_s,
            resets=told.resets,
            error_bits=told.error_bits,
            firmware=told.firmware or None,
        )
        return MeterReport(meter_id, now, battery_percent=told.battery_percent, diagnostics=diagnostics)
    held = LoraTablesHeld.from_bytes(payload, key)
    tables = HeldTables(id_text(held.in_force), id_text(held.waiting), held.report_counter, held.sequence, held.parts)
    return MeterReport(meter_id, now, tables=tables)


def frame_key(device: LoraIdentity) -> FrameKey:
    """Return what this meter's frames are tied to."""
    return FrameKey(device.meter.prepaid_key, bytes.fromhex(device.dev_eui), device.meter.serial)
