"""ChirpStack v4's events in our own words. Pure: a body, JSON or protobuf, becomes a frozen dataclass.

Events are proto3: a field that is absent has its default, so that an ``ack`` without ``acknowledged`` is a no.
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from chirpstack_api.integration import integration_pb2 as pb
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError, Message

from standpipe.meter_gateway.parsing import ParsingError

MAX_EVENT_BYTES = 64 * 1024
_DEV_EUI = re.compile(r"[0-9a-f]{16}")
_IDENTIFIER = re.compile(r"[0-9A-Za-z-]{0,64}")
_MAX_REASON = 200
# What we read of each. The rest (radio details, decoded objects) differs between versions and is none of our business.
_FIELDS = {
    "up": (pb.UplinkEvent, {"deduplicationId", "time", "deviceInfo", "fCnt", "fPort", "data"}),
    "join": (pb.JoinEvent, {"deviceInfo"}),
    "ack": (pb.AckEvent, {"deviceInfo", "queueItemId", "acknowledged"}),
    "txack": (pb.TxAckEvent, {"time", "deviceInfo", "queueItemId", "fCntDown"}),
    "log": (pb.LogEvent, {"deviceInfo", "code", "description", "context"}),
    "status": (pb.StatusEvent, {"deviceInfo", "externalPowerSource", "batteryLevelUnavailable", "batteryLevel"}),
}
_DEVICE_FIELDS = {"devEui", "applicationId"}
_LOST = {
    pb.LogCode.DOWNLINK_PAYLOAD_SIZE,
    pb.LogCode.DOWNLINK_CODEC,
    pb.LogCode.DOWNLINK_GATEWAY,
    pb.LogCode.F_CNT_DOWN,
    pb.LogCode.EXPIRED,
}
"""Log codes that mean: the network will not send this downlink."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The radio that an event is about, by the network server's word."""

    dev_eui: str
    application_id: str


@dataclass(frozen=True, slots=True)
class Uplink:
    """A frame from a meter. ``heard_at`` is None where the network did not say."""

    origin: Origin
    deduplication_id: str
    heard_at: datetime | None
    f_cnt: int
    f_port: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Joined:
    """The radio has a new session: the network has flushed its queue."""

    origin: Origin


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A confirmed downlink's fate by the radio's word (``by_radio``), or by the network's having waited in vain."""

    origin: Origin
    queue_item_id: str
    by_radio: bool


@dataclass(frozen=True, slots=True)
class Transmitted:
    """A gateway has taken a downlink for transmission."""

    origin: Origin
    queue_item_id: str
    at: datetime | None
    f_cnt_down: int


@dataclass(frozen=True, slots=True)
class DownlinkLost:
    """The network says that it will not send a downlink; ``queue_item_id`` is None where it does not say which."""

    origin: Origin
    queue_item_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Battery:
    """The radio's answer to the network's DevStatusReq."""

    origin: Origin
    percent: int


Event = Uplink | Joined | Acknowledged | Transmitted | DownlinkLost | Battery


def read_event(name: str, body: bytes, *, is_json: bool) -> Event | None:
    """The event, or None for one that is nothing to us. Raises ParsingError for what is no event at all."""
    if name not in _FIELDS:
        return None
    kind, fields = _FIELDS[name]
    try:
        message = _of_json(kind(), fields, body) if is_json else kind.FromString(body)
        return _translated(message)
    except (ParseError, DecodeError, ValueError, OverflowError, RecursionError, AttributeError, TypeError) as error:
        raise ParsingError(f"no {name} event: {type(error).__name__}") from None


def _of_json(message: Message, fields: set[str], body: bytes) -> Message:
    raw = json.loads(body)
    kept: dict[str, Any] = {key: value for key, value in raw.items() if key in fields}
    device = kept.get("deviceInfo") or {}
    kept["deviceInfo"] = {key: value for key, value in device.items() if key in _DEVICE_FIELDS}
    parsed: Message = ParseDict(kept, message, ignore_unknown_fields=True)
    return parsed


def _translated(message: Any) -> Event | None:  # noqa: PLR0911 - one for each event.
    origin = Origin(_dev_eui(message.device_info.dev_eui), _identifier(message.device_info.application_id))
    match message:
        case pb.UplinkEvent():
            return Uplink(
                origin=origin,
                deduplication_id=_identifier(message.deduplication_id),
                heard_at=_instant(message),
                f_cnt=message.f_cnt,
                f_port=message.f_port,
                payload=message.data,
            )
        case pb.JoinEvent():
            return Joined(origin)
        case pb.AckEvent():
            return Acknowledged(origin, _identifier(message.queue_item_id), message.acknowledged)
        case pb.TxAckEvent():
            return Transmitted(origin, _identifier(message.queue_item_id), _instant(message), message.f_cnt_down)
        case pb.LogEvent() if message.code in _LOST:
            reason = f"{pb.LogCode.Name(message.code)}: {message.description}".replace("\0", " ")[:_MAX_REASON]
            return DownlinkLost(origin, _identifier(message.context.get("queue_item_id", "")) or None, reason)
        case pb.StatusEvent() if not (message.battery_level_unavailable or message.external_power_source):
            # A NaN is no number of per cent: round() refuses it.
            return Battery(origin, min(max(round(message.battery_level), 0), 100))
        case _:
            return None


def _dev_eui(text: str) -> str:
    if _DEV_EUI.fullmatch(text.lower()) is None:
        raise ParsingError("no DevEUI")
    return text.lower()


def _identifier(text: str) -> str:
    if _IDENTIFIER.fullmatch(text) is None:
        raise ParsingError("no identifier")
    return text


def _instant(message: Any) -> datetime | None:
    found: datetime | None = message.time.ToDatetime(UTC) if message.HasField("time") else None
    return found
