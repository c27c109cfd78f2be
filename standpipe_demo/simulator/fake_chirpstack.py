"""ChirpStack's stand-in: its real gRPC types on a real port, a queue for each device, and events posted to the product.

Behaves as ChirpStack v4 does (downlink/data.rs, integration/http.rs of its source, read for its behaviour): a Class A
item goes out after an uplink, a confirmed one stays pending until the next uplink acknowledges it or does not, a join
flushes the queue, and an event is posted once, whatever comes of it.
"""

import asyncio
import random
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
import httpx
import structlog
from chirpstack_api.api import device_pb2 as api
from chirpstack_api.api import device_pb2_grpc
from chirpstack_api.integration import integration_pb2 as events
from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import MessageToJson

APPLICATION_ID = "6d1b5b62-6b0e-4c0c-9d5e-1f2a3b4c5d6e"
DR0_BYTES = 51
EVENT_TIMEOUT_S = 5.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Downlink:
    """A downlink that a meter's radio hears in its receive window."""

    f_port: int
    data: bytes
    confirmed: bool


@dataclass
class Item:
    """One entry of a device's queue."""

    id: str
    f_port: int
    data: bytes
    confirmed: bool
    expires_at: datetime | None
    is_pending: bool = False
    f_cnt_down: int = 0


@dataclass
class Device:
    """A radio as the network knows it. ``deliver`` is called for what a Class C radio hears at any time."""

    dev_eui: str
    device_class: str
    deliver: Callable[[Downlink], None]
    queue: list[Item] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    f_cnt_up: int = 0
    f_cnt_down: int = 0


@dataclass
class Faults:
    """Faults and their chances from 0 to 1; ``next`` counts those that certainly come next, by the same names."""

    loss_up: float = 0.0
    loss_down: float = 0.0
    loss_event: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    next: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class FakeChirpStack(device_pb2_grpc.DeviceServiceServicer):  # type: ignore[misc]  # grpc's stubs are untyped.
    """One network server with one application. ``window_s``: how long a downlink may come after its uplink."""

    def __init__(
        self, *, events_url: str, event_secret: str, token: str, as_json: bool = True, window_s: float = 0.3
    ) -> None:
        self.faults, self.down, self.lose_answers = Faults(), False, 0
        self.slow_answers: asyncio.Event | None = None
        """Until it is set, an Enqueue is carried out and its answer stays away."""
        self.devices: dict[str, Device] = {}
        self.asked: list[tuple[str, str]] = []
        """Calls of the API: (method, DevEUI)."""
        self.mute: set[str] = set()
        """Events that are never posted."""
        self.posted: list[tuple[str, int]] = []
        """Events that were posted: (event, HTTP status, 0 where nobody answered)."""
        self._url, self._secret, self._token = events_url, event_secret, token
        self._as_json, self.window_s = as_json, window_s
        self._chance = random.Random(token)
        self._held: list[tuple[str, bytes]] = []
        self._http = httpx.AsyncClient(timeout=EVENT_TIMEOUT_S)
        self._server: Any = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0, credentials: Any = None) -> int:
        """Serve the API on the loopback; returns the port."""
        self._server = grpc.aio.server()
        device_pb2_grpc.add_DeviceServiceServicer_to_server(self, self._server)
        address = f"127.0.0.1:{port}"
        if credentials is None:
            bound = self._server.add_insecure_port(address)
        else:
            bound = self._server.add_secure_port(address, credentials)
        await self._server.start()
        return int(bound)

    async def stop(self) -> None:
        """End the API and what is on the air."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.stop(0.2)
        await self._http.aclose()

    def add(self, dev_eui: str, device_class: str, deliver: Callable[[Downlink], None]) -> None:
        """Provision a device."""
        self.devices[dev_eui] = Device(dev_eui, device_class, deliver)

    async def join(self, dev_eui: str) -> None:
        """The radio joins: a new session, and an empty queue."""
        device = self.devices[dev_eui]
        device.queue.clear()
        device.f_cnt_up = device.f_cnt_down = 0
        await self._post("join", events.JoinEvent(time=_now(), device_info=_info(device)))

    async def uplink(self, dev_eui: str, f_port: int, data: bytes, *, ack: bool) -> Downlink | None:
        """Carry one uplink, and what its windows bring. ``ack``: it acknowledges the last confirmed downlink."""
        device = self.devices[dev_eui]
        device.f_cnt_up += 1
        if self._goes_wrong("loss_up"):
            return None
        pending = next((item for item in device.queue if item.is_pending), None)
        event = events.UplinkEvent(
            deduplication_id=str(uuid.uuid4()),
            time=_now(),
            device_info=_info(device),
            f_cnt=device.f_cnt_up,
            f_port=f_port,
            data=data,
        )
        device.came.clear()
        await self._post("up", event)
        if ack and pending is not None and pending in device.queue:
            device.queue.remove(pending)
            await self._acked(device, pending, acknowledged=True)
        if not device.queue or device.queue[0].is_pending:
            await _wait(device.came, self.window_s)
        return await self._send_next(device)

    async def Enqueue(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name.
        """Enqueue a downlink, like the API."""
        device = await self._asked("Enqueue", request.queue_item.dev_eui, context)
        if not 1 <= request.queue_item.f_port <= 255:  # noqa: PLR2004 - FPort.
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "FPort must be between 1 - 255")
        expires = request.queue_item.expires_at.ToDatetime(UTC) if request.queue_item.HasField("expires_at") else None
        item = Item(
            id=str(uuid.uuid4()),
            f_port=request.queue_item.f_port,
            data=request.queue_item.data,
            confirmed=request.queue_item.confirmed,
            expires_at=expires,
        )
        device.queue.append(item)
        device.came.set()
        if device.device_class == "C":
            self._begin(self._deliver(device))
        if self.slow_answers is not None:
            await self.slow_answers.wait()
        if self.lose_answers:
            self.lose_answers -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")
        return api.EnqueueDeviceQueueItemResponse(id=item.id)

    async def FlushQueue(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name.
        """Flush a queue, like the API."""
        (await self._asked("FlushQueue", request.dev_eui, context)).queue.clear()
        return Empty()

    async def GetQueue(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name.
        """List a queue, like the API."""
        device = await self._asked("GetQueue", request.dev_eui, context)
        items = [
            api.DeviceQueueItem(
                id=item.id,
                dev_eui=device.dev_eui,
                confirmed=item.confirmed,
                f_port=item.f_port,
                data=item.data,
                is_pending=item.is_pending,
                f_cnt_down=item.f_cnt_down,
            )
            for item in device.queue
        ]
        return api.GetDeviceQueueItemsResponse(total_count=len(items), result=items)

    async def _asked(self, method: str, dev_eui: str, context: Any) -> Device:
        self.asked.append((method, dev_eui))
        if self.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down for maintenance")
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {self._token}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "invalid token")
        device = self.devices.get(dev_eui)
        if device is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "Object does not exist")
            raise AssertionError
        return device

    async def _deliver(self, device: Device) -> None:
        """Class C: at once."""
        heard = await self._send_next(device)
        if heard is not None:
            device.deliver(heard)

    async def _send_next(self, device: Device) -> Downlink | None:
        """Put the next fitting item on the air; returns what the meter hears of it."""
        while device.queue:
            item = device.queue[0]
            if item.is_pending:
                device.queue.remove(item)
                await self._acked(device, item, acknowledged=False)
            elif item.expires_at is not None and item.expires_at < datetime.now(UTC):
                await self._dropped(device, item, events.LogCode.EXPIRED)
            elif len(item.data) > DR0_BYTES:
                await self._dropped(device, item, events.LogCode.DOWNLINK_PAYLOAD_SIZE)
            else:
                return await self._transmit(device, item)
        return None

    async def _transmit(self, device: Device, item: Item) -> Downlink | None:
        device.f_cnt_down += 1
        item.f_cnt_down, item.is_pending = device.f_cnt_down, item.confirmed
        if not item.confirmed:
            device.queue.remove(item)
        event = events.TxAckEvent(
            downlink_id=self._chance.getrandbits(32),
            time=_now(),
            device_info=_info(device),
            queue_item_id=item.id,
            f_cnt_down=item.f_cnt_down,
        )
        await self._post("txack", event)
        return None if self._goes_wrong("loss_down") else Downlink(item.f_port, item.data, item.confirmed)

    async def _acked(self, device: Device, item: Item, *, acknowledged: bool) -> None:
        event = events.AckEvent(
            deduplication_id=str(uuid.uuid4()),
            time=_now(),
            device_info=_info(device),
            queue_item_id=item.id,
            acknowledged=acknowledged,
            f_cnt_down=item.f_cnt_down,
        )
        await self._post("ack", event)

    async def _dropped(self, device: Device, item: Item, code: Any) -> None:
        device.queue.remove(item)
        event = events.LogEvent(
            time=_now(),
            device_info=_info(device),
            level=events.LogLevel.ERROR,
            code=code,
            description="Device queue-item discarded",
            context={"queue_item_id": item.id},
        )
        await self._post("log", event)

    async def _post(self, name: str, event: Any) -> None:
        body = MessageToJson(event).encode() if self._as_json else event.SerializeToString()
        if name in self.mute or self._goes_wrong("loss_event"):
            return
        if self._goes_wrong("reorder"):
            self._held.append((name, body))
            return
        due = [(name, body)] * (2 if self._goes_wrong("duplicate") else 1) + self._held
        self._held = []
        for one in due:
            await self.post_raw(*one)

    async def post_raw(self, name: str, body: bytes) -> None:
        """Post an event's bytes, as it may have been posted before."""
        kind = "application/json" if self._as_json else "application/octet-stream"
        headers = {"authorization": f"Bearer {self._secret}", "content-type": kind}
        try:
            answer = await self._http.post(self._url, params={"event": name}, content=body, headers=headers)
        except httpx.HTTPError as error:
            _log.info("event not taken", event_name=name, error=type(error).__name__)
            self.posted.append((name, 0))
            return
        self.posted.append((name, answer.status_code))

    def _goes_wrong(self, fault: str) -> bool:
        if self.faults.next[fault] > 0:
            self.faults.next[fault] -= 1
            return True
        return bool(self._chance.random() < getattr(self.faults, fault))

    def _begin(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _wait(flag: asyncio.Event, timeout_s: float) -> None:
    try:
        await asyncio.wait_for(flag.wait(), timeout_s)
    except TimeoutError:
        return


def _now() -> datetime:
    return datetime.now(UTC)


def _info(device: Device) -> Any:
    return events.DeviceInfo(
        tenant_id="52f14cd4-c6f1-4fbd-8f87-4025e1d49242",
        application_id=APPLICATION_ID,
        application_name="water",
        device_name=device.dev_eui,
        dev_eui=device.dev_eui,
    )
