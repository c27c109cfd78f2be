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

from standpipe.meter_gateway.lorawan import devices, downlinks
from standpipe.meter_gateway.lorawan.devices import LoraIdentity
from standpipe.meter_gateway.lorawan.downlinks import NetworkTask
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
from standpipe.meter_gateway.lorawan.tables import DeviceClass, DownlinkState
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meter_gateway.prepaid import StatusFrame
from standpipe.meter_gateway.prepaid_tables import id_text
from standpipe.meter_gateway.translation import status_report_of
from standpipe.meters import commands
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import CommandKind
from standpipe.meters.price_tables import MeterTable
from standpipe.meters.reports import (
    CommandResult,
    Condition,
    ConditionKind,
    Diagnostics,
    HeldTables,
    MeterReport,
    RegisterReading,
)
from standpipe.platform import metrics, tracing
from standpipe.platform.clock import Clock
from standpipe.platform.database import DATABASE_DOWN, Sessions
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.notify import COMMANDS, Listener
from standpipe.readings.reports import take_report

LOOK_EVERY_S = 2.0
"""Retries and leases fall due in silence."""
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
"""How long a time may wait at the network: past a Class A device's windows it would set the clock wrong."""
_COMPLAINTS = {
    CommandResult.BAD_MAC,
    CommandResult.WRONG_CURRENCY,
    CommandResult.UNSUPPORTED,
    CommandResult.TOTAL_TOO_LOW,
}
_CONDITIONS = {
    "empty_pipe": ConditionKind.EMPTY_PIPE,
    "leak": ConditionKind.LEAK,
    "reverse_flow": ConditionKind.REVERSE_FLOW,
    "tamper": ConditionKind.TAMPER,
}
CARRIER = "lorawan"
_log = structlog.get_logger(__name__)


class NetworkServer(Protocol):
    """What is asked of a network server; each call raises NetworkUnavailableError where it may not have been done."""

    async def replace_queue(self, dev_eui: str, f_port: int, frame: bytes, expires_at: datetime | None) -> str: ...
    async def flush(self, dev_eui: str) -> None: ...
    async def queue(self, dev_eui: str) -> set[str]: ...


class LoraCarrier:
    """Takes events in, and keeps the network server supplied."""

    def __init__(self, *, sessions: Sessions, keys: KeyRing, clock: Clock, network: NetworkServer) -> None:
        self._sessions, self._keys, self._clock, self._network = sessions, keys, clock, network
        self._work = asyncio.Event()

    async def take(self, event: Event) -> None:
        """Take one event in. What is refused is logged and gone: the network server would only post it again.

        Raises NotFoundError for a device that is not ours, DATABASE_DOWN's errors where it should be posted again.
        """
        async with self._sessions() as session:
            device = await devices.by_dev_eui(session, self._keys, event.origin.dev_eui, event.origin.application_id)
        outcome = "failed"
        try:
            with tracing.span("contact", carrier=CARRIER):
                await self._taken(device, event)
            outcome = "done"
        except (ParsingError, InvalidInputError) as error:
            outcome = "refused"
            _log.warning("uplink refused", meter_id=device.meter.meter_id, reason=str(error))
        finally:
            if isinstance(event, Uplink):
                metrics.RADIO_CONTACTS.labels(CARRIER, outcome).inc()

    async def _taken(self, device: LoraIdentity, event: Event) -> None:
        meter_id = device.meter.meter_id
        if isinstance(event, Uplink):
            await self._uplink(device, event)
            return
        async with self._sessions.begin() as session:
            match event:
                case Joined():
                    await downlinks.lost(session, meter_id, None, "the radio joined anew")
                case Acknowledged(queue_item_id=item_id, by_radio=by_radio):
                    await downlinks.acknowledged(session, meter_id, item_id, by_radio=by_radio)
                case Transmitted(queue_item_id=item_id, at=at, f_cnt_down=f_cnt):
                    await downlinks.transmitted(session, meter_id, item_id, at or datetime.now(UTC), f_cnt)
                case DownlinkLost(queue_item_id=item_id, reason=reason):
                    await downlinks.lost(session, meter_id, item_id, reason)
                case Battery(percent=percent):
                    now = self._clock.now()
                    await take_report(session, MeterReport(meter_id, now, battery_percent=percent), now)

    async def _uplink(self, device: LoraIdentity, uplink: Uplink) -> None:
        now = self._clock.now()
        report, status = self._read(device, uplink, now)
        meter_id, heard_at = device.meter.meter_id, uplink.heard_at or datetime.now(UTC)
        async with self._sessions.begin() as session:
            await commands.lock_meter(session, meter_id)
            if await devices.is_repeated(session, meter_id, uplink.deduplication_id, heard_at):
                return
            await take_report(session, report, now)
            if status is not None:
                await devices.note_alarms(session, meter_id, status.alarms.names)
            complains = report.statement is not None and report.statement.result in _COMPLAINTS
            await downlinks.after_uplink(session, meter_id, heard_at, stated=status is not None, complains=complains)
            # Read back first, then send: hours alone say nothing of what the meter has taken.
            await downlinks.prepare(session, meter_id, now, listens=status is not None)
        self._work.set()

    @staticmethod
    def _read(device: LoraIdentity, uplink: Uplink, now: datetime) -> tuple[MeterReport, LoraStatus | None]:
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
            credit_accepted_minor=status.credit_accepted_minor,
            credit_remaining_minor=status.credit_remaining_minor,
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
        return report, status

    async def command_waits(self, meter_id: str) -> None:
        """A command was queued: at once to a meter that always listens, or in place of what it supersedes."""
        now = self._clock.now()
        try:
            async with self._sessions.begin() as session:
                device = await devices.by_meter_id(session, self._keys, meter_id)
                listens = device.device_class == DeviceClass.C
                if await downlinks.prepare(session, meter_id, now, listens=listens):
                    self._work.set()
        except NotFoundError:
            return

    async def hear_commands(self, listener: Listener) -> None:
        """Look after each command that is queued, until cancelled. ``listener`` must listen to COMMANDS."""
        await self._look_after(set())
        async for meter_ids in listener.payloads(COMMANDS):
            await self._look_after(meter_ids)

    async def _look_after(self, meter_ids: set[str]) -> None:
        try:
            if not meter_ids:
                async with self._sessions() as session:
                    meter_ids = set(await downlinks.to_look_at(session))
            for meter_id in meter_ids:
                await self.command_waits(meter_id)
        except DATABASE_DOWN as error:
            _log.warning("command not looked at; it waits for the meter's next uplink", error=str(error))

    async def supply(self) -> None:
        """Do what is due at the network server, until cancelled."""
        while True:
            self._work.clear()
            try:
                done = await self.work_due()
            except Exception:
                # The database may be away: this loop outlives that.
                _log.exception("downlinks failed")
                done = 0
            if not done:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self._work.wait()

    async def work_due(self) -> int:
        """Do what is due at the network server now; returns how much that was."""
        async with self._sessions.begin() as session:
            tasks = await downlinks.claim_tasks(session)
        # Side by side: one slow answer must not cost other meters their receive window.
        await asyncio.gather(*(self._do(task) for task in tasks))
        return len(tasks)

    async def _do(self, task: NetworkTask) -> None:
        with (
            tracing.continue_from(task.traceparent),
            tracing.span("radio command", carrier=CARRIER, command=task.kind, step=task.state),
        ):
            await self._done(task)

    async def _done(self, task: NetworkTask) -> None:
        try:
            item_id = await self._ask(task)
        except NetworkUnavailableError as error:
            reason = str(error)
            _log.warning("network server not reached", meter_id=task.meter_id, reason=reason)
            async with self._sessions.begin() as session:
                await downlinks.task_failed(session, task, reason)
            return
        except (KeyError, ValueError, InvalidInputError) as error:
            async with self._sessions.begin() as session:
                await downlinks.task_refused(session, task, f"{type(error).__name__}: {error}")
            return
        async with self._sessions.begin() as session:
            await downlinks.task_done(session, task, item_id, self._clock.now())

    async def _ask(self, task: NetworkTask) -> str | None:
        async with self._sessions() as session:
            device = await devices.by_meter_id(session, self._keys, task.meter_id)
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
    """What this meter's frames are tied to."""
    return FrameKey(device.meter.prepaid_key, bytes.fromhex(device.dev_eui), device.meter.serial)
