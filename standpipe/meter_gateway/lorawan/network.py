"""ChirpStack v4's gRPC API: a device's queue, and no more. Vendor types end here."""

from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from chirpstack_api.api import device_pb2 as pb
from chirpstack_api.api.device_pb2_grpc import DeviceServiceStub

from standpipe.platform.errors import SettingsError

TIMEOUT_S = 5.0


class NetworkUnavailableError(Exception):
    """The network server did not do it, or did and its answer was lost; the message says how it failed."""


class ChirpStack:
    """A channel to one ChirpStack. ``url``: ``http://host:port``, or ``https://`` for TLS, by ``ca_file`` where given.

    Raises SettingsError for an address that is none.
    """

    def __init__(self, url: str, token: str, ca_file: Path | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise SettingsError("STANDPIPE_LORAWAN_API_URL: must be http://host:port or https://host:port.")
        if parts.scheme == "https":
            roots = ca_file.read_bytes() if ca_file is not None else None
            self._channel = grpc.aio.secure_channel(parts.netloc, grpc.ssl_channel_credentials(roots))
        else:
            self._channel = grpc.aio.insecure_channel(parts.netloc)
        self._service = DeviceServiceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def replace_queue(self, dev_eui: str, f_port: int, frame: bytes, expires_at: datetime | None) -> str:
        """Flush the device's queue and put this one confirmed downlink into it; returns the network's name for it.

        Raises NetworkUnavailableError.
        """
        await self.flush(dev_eui)
        item = pb.DeviceQueueItem(dev_eui=dev_eui, confirmed=True, f_port=f_port, data=frame)
        if expires_at is not None:
            item.expires_at.FromDatetime(expires_at)
        answer = await self._call(self._service.Enqueue, pb.EnqueueDeviceQueueItemRequest(queue_item=item))
        return str(answer.id)

    async def flush(self, dev_eui: str) -> None:
        """Empty the device's queue. Raises NetworkUnavailableError."""
        await self._call(self._service.FlushQueue, pb.FlushDeviceQueueRequest(dev_eui=dev_eui))

    async def queue(self, dev_eui: str) -> set[str]:
        """The names of what is in the device's queue. Raises NetworkUnavailableError."""
        answer = await self._call(self._service.GetQueue, pb.GetDeviceQueueItemsRequest(dev_eui=dev_eui))
        return {str(item.id) for item in answer.result}

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def _call(
        self, method: grpc.aio.UnaryUnaryMultiCallable, request: object
    ) -> pb.EnqueueDeviceQueueItemResponse:
        try:
            return await method(request, metadata=self._metadata, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise NetworkUnavailableError(f"{error.code().name}: {error.details()}") from None
