"""Radios and downlinks of any number of meters: loaded and saved in one statement each, and claimed for the network.

Rows are locked after their meters. A claim takes no meter's lock, and passes over rows that are locked.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text

from standpipe.meter_gateway.delivery import Told
from standpipe.meter_gateway.lorawan.devices import LoraIdentity
from standpipe.meter_gateway.lorawan.downlink_rules import (
    Downlink,
    Dropped,
    PutOnAir,
    Radio,
    RadioAnswered,
    TaskDone,
    TaskFailed,
    TaskRefused,
    decide_radio,
)
from standpipe.meter_gateway.lorawan.tables import DeviceClass, DownlinkState
from standpipe.meters.delivery_rules import decide
from standpipe.meters.delivery_state import OPEN, Changes, Delivery, Moment
from standpipe.meters.identity import MeterIdentity
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import VOLUME_UNIT, CommandKind, CommandStatus, WalletKind
from standpipe.platform.database import Connection, Engine

LEASE_S = 30.0
_COLUMNS = "d.id, d.meter_id, d.command_id, d.state, d.queue_item_id, d.f_cnt_down, d.uplinks, d.reason, d.queued_at, \
d.tx_at, d.ended_at, d.due_at, d.attempts, d.last_error, d.dead_at"
LOAD_RADIOS = text("""
SELECT meter_id, device_class, last_deduplication_id, last_uplink_at, alarms::text FROM lora_devices
WHERE meter_id = ANY(CAST(:meter_ids AS text[]))
""")
LOAD_DOWNLINKS = text(f"""
SELECT {_COLUMNS}, c.status AS command_status
FROM lora_downlinks d JOIN meter_commands c ON c.id = d.command_id
WHERE d.meter_id = ANY(CAST(:meter_ids AS text[])) AND (d.state IN ('SENDING', 'QUEUED', 'TX', 'ACK')
    OR d.due_at IS NOT NULL OR d.queue_item_id = ANY(CAST(:item_ids AS text[]))
    OR d.id = ANY(CAST(:downlink_ids AS text[])))
ORDER BY d.id FOR NO KEY UPDATE OF d
""")  # noqa: S608 - columns by name.
SAVE_RADIOS = text("""
UPDATE lora_devices d SET last_deduplication_id = r.deduplication_id, last_uplink_at = r.uplink_at,
    alarms = CAST(r.alarms AS jsonb)
FROM unnest(CAST(:meter_ids AS text[]), CAST(:deduplication_ids AS text[]), CAST(:uplinks_at AS timestamptz[]),
    CAST(:alarms AS text[])) AS r(meter_id, deduplication_id, uplink_at, alarms)
WHERE d.meter_id = r.meter_id
""")
# A meter's old downlink ends in the statement before the one that brings its new one: one may be open at a time.
SAVE_DOWNLINKS = text("""
UPDATE lora_downlinks d SET state = r.state, queue_item_id = r.queue_item_id, f_cnt_down = r.f_cnt_down,
    uplinks = r.uplinks, reason = r.reason, queued_at = r.queued_at, tx_at = r.tx_at, ended_at = r.ended_at,
    due_at = r.due_at, attempts = r.attempts, last_error = r.last_error, dead_at = r.dead_at
FROM unnest(CAST(:ids AS text[]), CAST(:states AS text[]), CAST(:queue_item_ids AS text[]),
    CAST(:f_cnt_downs AS bigint[]), CAST(:uplinks AS bigint[]), CAST(:reasons AS text[]),
    CAST(:queued_at AS timestamptz[]), CAST(:tx_at AS timestamptz[]), CAST(:ended_at AS timestamptz[]),
    CAST(:due_at AS timestamptz[]), CAST(:attempts AS bigint[]), CAST(:last_errors AS text[]),
    CAST(:dead_at AS timestamptz[])) AS r(id, state, queue_item_id, f_cnt_down, uplinks, reason, queued_at, tx_at,
        ended_at, due_at, attempts, last_error, dead_at)
WHERE d.id = r.id
""")
ADD_DOWNLINKS = text("""
INSERT INTO lora_downlinks (id, meter_id, command_id, state, due_at)
SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:meter_ids AS text[]), CAST(:command_ids AS text[]),
    CAST(:states AS text[]), CAST(:due_at AS timestamptz[]))
""")
CLAIM = text("""
WITH due AS (
    SELECT id FROM lora_downlinks WHERE due_at <= now() ORDER BY due_at LIMIT :most FOR UPDATE SKIP LOCKED),
claimed AS (
    UPDATE lora_downlinks d SET attempts = d.attempts + 1, due_at = now() + make_interval(secs => :lease_s)
    FROM due WHERE d.id = due.id
    RETURNING d.id, d.meter_id, d.command_id, d.state, d.queue_item_id, d.attempts)
SELECT claimed.*, c.kind, c.sequence, c.value, c.status AS command_status, c.tid_mark,
    c.deadline_at, c.body::text AS body, c.traceparent, m.serial, m.currency, m.wallet_kind, x.sealed_prepaid_key,
    r.dev_eui, r.device_class
FROM claimed JOIN meter_commands c ON c.id = claimed.command_id JOIN meters m ON m.id = claimed.meter_id
    JOIN meter_credentials x ON x.meter_id = m.id JOIN lora_devices r ON r.meter_id = m.id
ORDER BY claimed.id
""")
NEXT_DUE = text("SELECT extract(epoch FROM min(due_at) - now()) FROM lora_downlinks WHERE due_at IS NOT NULL")
# Meters for which something may be done now: those that always listen, and those whose item was superseded.
WAITING = text("""
SELECT r.meter_id FROM lora_devices r
WHERE (CAST(:meter_ids AS text[]) IS NULL OR r.meter_id = ANY(CAST(:meter_ids AS text[])))
    AND EXISTS (SELECT FROM meter_commands c WHERE c.meter_id = r.meter_id AND c.status = 'QUEUED')
    AND (r.device_class = 'C' OR EXISTS (SELECT FROM lora_downlinks d WHERE d.meter_id = r.meter_id
        AND d.state IN ('SENDING', 'QUEUED', 'TX', 'ACK')))
""")


@dataclass(frozen=True, slots=True)
class NetworkTask:
    """Something to be asked of the network server; ``state`` says what.

    SENDING: flush the device's queue and enqueue this command. QUEUED: is the item still there? Else: flush alone.
    """

    downlink_id: str
    device: LoraIdentity
    state: DownlinkState
    queue_item_id: str | None
    attempts: int
    kind: CommandKind
    sequence: int
    value: int
    currency: str
    tid_mark: int | None
    expires_at: datetime | None
    body: dict[str, Any] | None = None
    traceparent: str | None = None


class LoraLink:
    """LoRaWAN's own state beside a meter's delivery; see ``delivery.Link``."""

    async def load(self, conn: Connection, told: Sequence[Told]) -> dict[str, Radio]:
        """The radios of these meters, with the downlinks that matter now."""
        meter_ids = sorted({one.heard.meter_id for one in told})
        news = [one.link for one in told]
        item_ids = [one.item_id for one in news if isinstance(one, (PutOnAir, RadioAnswered, Dropped)) and one.item_id]
        ids = [one.downlink_id for one in news if isinstance(one, (TaskDone, TaskFailed, TaskRefused))]
        devices = await conn.execute(LOAD_RADIOS, {"meter_ids": meter_ids})
        named = {"meter_ids": meter_ids, "item_ids": item_ids, "downlink_ids": ids}
        downlinks: dict[str, list[Downlink]] = defaultdict(list)
        for row in await conn.execute(LOAD_DOWNLINKS, named):
            downlinks[row.meter_id].append(_downlink_of(row))
        return {
            meter_id: Radio(
                meter_id=meter_id,
                device_class=DeviceClass(device_class),
                last_deduplication_id=deduplication_id,
                last_uplink_at=uplink_at,
                alarms=tuple(json.loads(alarms)),
                downlinks=tuple(downlinks[meter_id]),
            )
            for meter_id, device_class, deduplication_id, uplink_at, alarms in devices
        }

    def decide(
        self, delivery: Delivery, state: Radio | None, told: Told, moment: Moment
    ) -> tuple[Changes, Radio | None]:
        """The rules of LoRaWAN; where the meter has no such radio, those that hold for all carriers."""
        if state is None:
            return decide(delivery, told.heard, moment), None
        return decide_radio(delivery, state, told.heard, told.link, moment)

    async def save(self, conn: Connection, states: Sequence[tuple[Radio | None, Radio]]) -> None:
        """Write radios and their downlinks as they stand now."""
        known = {row.id: row for before, _ in states if before is not None for row in before.downlinks}
        rows = [row for _, after in states for row in after.downlinks if known.get(row.id) != row]
        radios = [after for before, after in states if before is None or _said(before) != _said(after)]
        if radios:
            columns = {
                "meter_ids": [radio.meter_id for radio in radios],
                "deduplication_ids": [radio.last_deduplication_id for radio in radios],
                "uplinks_at": [radio.last_uplink_at for radio in radios],
                "alarms": [json.dumps(radio.alarms) for radio in radios],
            }
            await conn.execute(SAVE_RADIOS, columns)
        await _save_downlinks(conn, [row for row in rows if row.id in known])
        await _add_downlinks(conn, [row for row in rows if row.id not in known])


async def claim_tasks(statements: Engine, ring: KeyRing, *, most: int = 20) -> list[NetworkTask]:
    """Lease what is due at the network server, in one statement. ``statements``: each is a transaction of its own."""
    async with statements.connect() as conn:
        rows = (await conn.execute(CLAIM, {"most": most, "lease_s": LEASE_S})).all()
    return [_task_of(row, ring) for row in rows]


async def next_due_s(statements: Engine) -> float | None:
    """In how many seconds the next task falls due; None where none waits."""
    async with statements.connect() as conn:
        found = await conn.scalar(NEXT_DUE)
    return None if found is None else max(float(found), 0.0)


async def to_look_at(statements: Engine, meter_ids: set[str]) -> set[str]:
    """Of these meters (none: of all), those for which something may be done now."""
    async with statements.connect() as conn:
        return set((await conn.execute(WAITING, {"meter_ids": sorted(meter_ids) or None})).scalars())


def _said(radio: Radio) -> tuple[Any, ...]:
    return (radio.last_deduplication_id, radio.last_uplink_at, radio.alarms)


async def _save_downlinks(conn: Connection, rows: Sequence[Downlink]) -> None:
    if not rows:
        return
    columns: dict[str, list[Any]] = {
        "ids": [row.id for row in rows],
        "states": [row.state for row in rows],
        "queue_item_ids": [row.queue_item_id for row in rows],
        "f_cnt_downs": [row.f_cnt_down for row in rows],
        "reasons": [row.reason for row in rows],
        "last_errors": [None if row.last_error is None else _storable(row.last_error) for row in rows],
    }
    same = ("uplinks", "queued_at", "tx_at", "ended_at", "due_at", "attempts", "dead_at")
    await conn.execute(SAVE_DOWNLINKS, columns | {name: [getattr(row, name) for row in rows] for name in same})


async def _add_downlinks(conn: Connection, rows: Sequence[Downlink]) -> None:
    if not rows:
        return
    columns: dict[str, list[Any]] = {
        "ids": [row.id for row in rows],
        "meter_ids": [row.meter_id for row in rows],
        "command_ids": [row.command_id for row in rows],
        "states": [row.state for row in rows],
        "due_at": [row.due_at for row in rows],
    }
    await conn.execute(ADD_DOWNLINKS, columns)


def _storable(error: str) -> str:
    # What others told us may hold anything; a text column holds no NUL.
    return error[:500].replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def _downlink_of(row: Any) -> Downlink:
    id_, meter_id, command_id, state, *rest, command_status = row
    return Downlink(id_, meter_id, command_id, CommandStatus(command_status), DownlinkState(state), *rest)


def _task_of(row: Any, ring: KeyRing) -> NetworkTask:
    wallet_kind, key = WalletKind(row.wallet_kind), ring.open(row.sealed_prepaid_key)
    meter = MeterIdentity(row.meter_id, row.serial, row.currency, key, wallet_kind)
    state = DownlinkState(row.state)
    if state is DownlinkState.SENDING and row.command_status not in OPEN:
        # Settled meanwhile. An earlier try whose answer was lost may have left it at the network.
        state = DownlinkState.OVER
    return NetworkTask(
        downlink_id=row.id,
        device=LoraIdentity(meter, row.dev_eui, DeviceClass(row.device_class)),
        state=state,
        queue_item_id=row.queue_item_id,
        attempts=row.attempts,
        kind=CommandKind(row.kind),
        sequence=row.sequence,
        value=row.value,
        currency=VOLUME_UNIT if wallet_kind is WalletKind.VOLUME else row.currency,
        tid_mark=row.tid_mark,
        expires_at=row.deadline_at,
        body=None if row.body is None else json.loads(row.body),
        traceparent=row.traceparent,
    )
