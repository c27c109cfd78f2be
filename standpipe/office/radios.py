"""LoRaWAN radios of meters, and what the network server holds for them."""

from datetime import datetime
from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.operators import FIELD_WORK
from standpipe.meters import lora_devices
from standpipe.meters.lora_models import DeviceClass
from standpipe.office.desk import AsJson, by_operator, group, read, show
from standpipe.payments.rails.registry import Rails

lorawan = group("LoRaWAN radios.")


@lorawan.command("device")
def lorawan_device(
    serial: str,
    dev_eui: str,
    device_class: Annotated[DeviceClass, typer.Option("--class", help="When the device listens.")] = DeviceClass.A,
    region: Annotated[str, typer.Option(help="The regional parameters that it runs by.")] = "EU868",
    application: Annotated[str | None, typer.Option(help="Its ChirpStack application (id). Unset: any.")] = None,
) -> None:
    """Say which radio is a meter's: the DevEUI is the meter's identity from then on."""

    async def work(session: AsyncSession, by: str, _rails: Rails, _now: datetime) -> None:
        await lora_devices.bind(
            session,
            operator=by,
            serial=serial,
            dev_eui=dev_eui,
            device_class=device_class,
            region=region,
            application_id=application,
        )

    by_operator(work, may=FIELD_WORK)


@lorawan.command("list")
def lorawan_list(as_json: AsJson = False) -> None:
    """Radios, when each was last heard, what its meter complains of, and how its last downlink stands."""
    columns = ["serial", "dev_eui", "class", "region", "last uplink", "alarms", "downlink", "error"]
    show("LoRaWAN devices", columns, read(lora_devices.overview), as_json=as_json)
