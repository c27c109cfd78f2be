"""An independent DLMS client, run by test_dlms_peer.py in a process and a virtual environment of its own.

gurux-dlms is GPL-2: nothing of the product imports it, and nothing here imports the product. It waits for a meter to
dial in, associates with HLS-GMAC, reads, and prints what it read as JSON.
"""

import json
import socket
import sys

from gurux_dlms import GXByteBuffer, GXReplyData
from gurux_dlms.enums import Authentication, InterfaceType, ObjectType, Security
from gurux_dlms.objects import GXDLMSData, GXDLMSRegister
from gurux_dlms.secure import GXDLMSSecureClient


def main() -> None:
    order = json.loads(sys.argv[1])
    client = GXDLMSSecureClient(True, 1, 1, Authentication.HIGH_GMAC, None, InterfaceType.WRAPPER)
    client.ciphering.security = Security.AUTHENTICATION_ENCRYPTION
    client.ciphering.systemTitle = bytes.fromhex(order["client_title"])
    client.ciphering.blockCipherKey = bytes.fromhex(order["encryption_key"])
    client.ciphering.authenticationKey = bytes.fromhex(order["authentication_key"])
    client.ciphering.invocationCounter = 1_000
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    listener.settimeout(30)
    meter, _ = listener.accept()
    meter.settimeout(10)

    def ask(frame: bytes) -> GXReplyData:
        reply = GXReplyData()
        meter.sendall(bytes(frame))
        client.getData(_frame(meter), reply, None)
        while reply.isMoreData():
            meter.sendall(bytes(client.receiverReady(reply)))
            client.getData(_frame(meter), reply, None)
        if reply.error:
            raise SystemExit(f"error {reply.error}")
        return reply

    def read(item: object, index: int) -> object:
        reply = None
        for frame in client.read(item, index):
            reply = ask(frame)
        return client.updateValue(item, index, reply.value)

    for frame in client.aarqRequest():
        client.parseAareResponse(ask(frame).data)
    for frame in client.getApplicationAssociationRequest():
        client.parseApplicationAssociationResponse(ask(frame).data)
    volume = GXDLMSRegister("8.0.1.0.0.255")
    read(volume, 3)
    read(volume, 2)
    name = GXDLMSData("0.0.42.0.0.255")
    read(name, 2)

    def raw(class_id: int, obis: str, index: int) -> object:
        item = client.createObject(ObjectType(class_id))
        item.logicalName = obis
        reply = None
        for frame in client.read(item, index):
            reply = ask(frame)
        return reply.value

    told = {
        "volume": float(volume.value),
        "unit": int(volume.unit),
        "name": bytes(name.value).decode(),
        "available_credit": raw(111, "0.0.19.0.0.255", 5),
        "currency": str(raw(111, "0.0.19.0.0.255", 15)[0]),
        "credit": raw(112, "0.0.19.10.0.255", 2),
        "paid": raw(113, "0.0.19.20.0.255", 2),
        "profile_rows": len(raw(7, "8.0.99.1.0.255", 2)),
    }
    sys.stdout.write(json.dumps(told) + "\n")


def _frame(meter: socket.socket) -> GXByteBuffer:
    """The next frame that is no push."""
    while True:
        header = _exactly(meter, 8)
        body = _exactly(meter, int.from_bytes(header[6:8], "big"))
        if body[0] not in {0x0F, 0xDB}:
            return GXByteBuffer(header + body)


def _exactly(meter: socket.socket, size: int) -> bytes:
    taken = b""
    while len(taken) < size:
        part = meter.recv(size - len(taken))
        if not part:
            raise SystemExit("the meter hung up")
        taken += part
    return taken


if __name__ == "__main__":
    main()
