"""Radios of meters: LoRaWAN devices, and meters that dial in over DLMS."""

from collections.abc import Sequence

from standpipe.meter_gateway.dlms import meters as dlms
from standpipe.meter_gateway.dlms.meters import DlmsKeys
from standpipe.meter_gateway.lorawan import devices as lora_devices
from standpipe.meter_gateway.lorawan.tables import DeviceClass
from standpipe.operations.find import meter_of
from standpipe.operations.operation import Desk, operation
from standpipe.utilities.operators import ANYBODY, FIELD_WORK


@operation("lorawan.bind", may=FIELD_WORK)
async def bind_lorawan(
    desk: Desk,
    serial: str,
    dev_eui: str,
    *,
    device_class: DeviceClass,
    region: str,
    application_id: str | None,
) -> None:
    """Say which radio is a meter's; its DevEUI is the meter's identity from then on.

    Raises NotFoundError, InvalidInputError.
    """
    await lora_devices.bind(
        desk.session,
        operator=desk.by,
        serial=serial,
        dev_eui=dev_eui,
        device_class=device_class,
        region=region,
        application_id=application_id,
    )


@operation("lorawan.overview", may=ANYBODY, reads=True)
async def lorawan_overview(desk: Desk) -> Sequence[Sequence[str]]:
    """Read when each LoRaWAN radio was last heard, its alarms, and its last downlink."""
    return await lora_devices.overview(desk.session)


@operation("dlms.enrol", may=FIELD_WORK)
async def enrol_dlms(
    desk: Desk,
    serial: str,
    *,
    profile: str,
    system_title: bytes,
    device_name: str,
    keys: DlmsKeys,
    takes_frames: bool,
) -> None:
    """Let a meter dial in, or give it new keys. Raises NotFoundError, InvalidInputError."""
    meter_id = (await meter_of(desk.session, serial)).id
    await dlms.enrol(
        desk.session,
        desk.key_ring,
        meter_id=meter_id,
        profile=profile,
        system_title=system_title,
        device_name=device_name,
        keys=keys,
        takes_frames=takes_frames,
    )
    await desk.record("dlms.enrol", meter_id, profile=profile, system_title=system_title.hex())


@operation("dlms.start_anew", may=FIELD_WORK)
async def start_anew(desk: Desk, serial: str, note: str) -> None:
    """Take a DLMS meter's registers as they are, after a person has looked why they went back. Raises NotFoundError."""
    meter_id = (await meter_of(desk.session, serial)).id
    await dlms.start_anew(desk.session, meter_id)
    await desk.record("dlms.start-anew", meter_id, note=note)
