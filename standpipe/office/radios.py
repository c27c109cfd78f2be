"""LoRaWAN radios of meters, and what the network server holds for them."""

from typing import Annotated

import typer

from standpipe.meter_gateway.lorawan.tables import DeviceClass
from standpipe.office.desk import AsJson, group, perform, show
from standpipe.operations import radios

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
    perform(radios.bind_lorawan, serial, dev_eui, device_class=device_class, region=region, application_id=application)


@lorawan.command("list")
def lorawan_list(as_json: AsJson = False) -> None:
    """Radios, when each was last heard, what its meter complains of, and how its last downlink stands."""
    columns = ["serial", "dev_eui", "class", "region", "last uplink", "alarms", "downlink", "error"]
    show("LoRaWAN devices", columns, perform(radios.lorawan_overview), as_json=as_json)
