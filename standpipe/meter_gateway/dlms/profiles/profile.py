"""A meter profile, read from its file and checked line by line."""

import re
import tomllib
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from standpipe.meter_gateway.dlms.acse import Mechanism
from standpipe.meter_gateway.dlms.apdu import Attribute, obis_bytes
from standpipe.meter_gateway.dlms.client import AssociationAs
from standpipe.platform.errors import SettingsError

FOLDER = Path(__file__).parent
_STRICT = ConfigDict(extra="forbid")


def _is_obis(text: str) -> str:
    if not re.fullmatch(r"\d{1,3}(\.\d{1,3}){5}", text):
        raise ValueError("an OBIS code is six numbers with dots between, e.g. 8.0.1.0.0.255")
    obis_bytes(text)
    return text


Obis = Annotated[str, AfterValidator(_is_obis)]


class CreditMethod(StrEnum):
    """Ways in which credit reaches the meter; decision 15 says what each is worth when an answer is lost."""

    SET_AMOUNT = "SET_AMOUNT"
    TOKEN = "TOKEN"  # noqa: S105 - a way of delivery.


class Column(StrEnum):
    """Contents of a column of a load profile, or of a field of a push."""

    NAME = "name"
    CLOCK = "clock"
    VOLUME = "volume"
    ALARMS = "alarms"
    IGNORED = "ignored"


class Alarm(StrEnum):
    """Alarms that we know; a profile says which bit each is."""

    BATTERY_LOW = "battery_low"
    LEAK = "leak"
    TAMPER = "tamper"
    EMPTY_PIPE = "empty_pipe"
    BACK_FLOW = "back_flow"
    BURST = "burst"


@dataclass(frozen=True, config=_STRICT)
class Association:
    """Wrapper ports of ours and the meter's, and how the two authenticate.

    ``lists``: whether the meter answers several attributes in one request (get-request-with-list).
    """

    client: Annotated[int, Field(ge=1, le=0xFFFF)]
    server: Annotated[int, Field(ge=1, le=0xFFFF)]
    public_client: Annotated[int, Field(ge=1, le=0xFFFF)]
    mechanism: Mechanism
    ciphered: bool
    max_pdu_bytes: Annotated[int, Field(ge=128, le=4096)]
    lists: bool = False

    @property
    def private(self) -> AssociationAs:
        """The association in which everything happens."""
        return AssociationAs(self.client, self.server, self.mechanism, self.ciphered, self.max_pdu_bytes)

    @property
    def public(self) -> AssociationAs:
        """The one in which anybody may ask for the meter's name."""
        return AssociationAs(self.public_client, self.server, Mechanism.NONE, ciphered=False, max_pdu_bytes=512)


@dataclass(frozen=True, config=_STRICT)
class ClockObject:
    """Class 8. ``assumed_deviation_min``: added to times that name no time zone, to reach UTC."""

    obis: Obis
    tolerance_s: Annotated[int, Field(ge=5, le=3600)]
    assumed_deviation_min: Annotated[int, Field(ge=-840, le=840)]

    @property
    def time(self) -> Attribute:
        """Attribute 2."""
        return Attribute(8, self.obis, 2)


@dataclass(frozen=True, config=_STRICT)
class VolumeObject:
    """The cumulated volume, class 3 or 4. Where scaler and unit are not given, the meter is asked for them."""

    class_id: Annotated[int, Field(ge=3, le=4)]
    obis: Obis
    scaler: Annotated[int, Field(ge=-9, le=9)] | None = None
    unit: Annotated[int, Field(ge=0, le=255)] | None = None

    def attribute(self, index: int) -> Attribute:
        """Attribute 2: value; 3: scaler and unit."""
        return Attribute(self.class_id, self.obis, index)


@dataclass(frozen=True, config=_STRICT)
class LoadProfile:
    """Class 7, with its capture objects in order."""

    obis: Obis
    columns: Annotated[tuple[Column, ...], Field(min_length=2, max_length=32)]
    max_days: Annotated[int, Field(ge=1, le=366)]

    @property
    def buffer(self) -> Attribute:
        """Attribute 2."""
        return Attribute(7, self.obis, 2)


@dataclass(frozen=True, config=_STRICT)
class Credit:
    """Objects that take credit: a credit object (112), its account (111) and charge (113), or a token gateway (115)."""

    method: CreditMethod
    obis: Obis
    account: Obis | None = None
    charge: Obis | None = None
    statement: Obis | None = None


@dataclass(frozen=True, config=_STRICT)
class ValveObject:
    """Class 70."""

    obis: Obis


@dataclass(frozen=True, config=_STRICT)
class AlarmObject:
    """Class 1, a number whose bits are alarms."""

    obis: Obis
    bits: dict[Alarm, Annotated[int, Field(ge=0, le=63)]]

    def names(self, value: int) -> frozenset[Alarm]:
        """The alarms that are raised."""
        return frozenset(alarm for alarm, bit in self.bits.items() if value >> bit & 1)


@dataclass(frozen=True, config=_STRICT)
class BatteryObject:
    """Class 1, the charge in percent."""

    obis: Obis


@dataclass(frozen=True, config=_STRICT)
class DiagnosticObjects:
    """Objects that tell of the meter itself: class 1, attribute 2, but ``signal``: class 47, attribute 6 (cell_info).

    ``errors``: a number whose bits are the maker's; ``resets``: power failures; ``uptime_s``: seconds since the last.
    """

    firmware: Obis | None = None
    errors: Obis | None = None
    resets: Obis | None = None
    uptime_s: Obis | None = None
    signal: Obis | None = None


@dataclass(frozen=True, config=_STRICT)
class Push:
    """The fields of a DataNotification's structure."""

    columns: Annotated[tuple[Column, ...], Field(min_length=1, max_length=32)]


@dataclass(frozen=True, config=_STRICT)
class MeterProfile:
    """Everything that the gateway must know of a model of meter."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{3,64}$")]
    title: Annotated[str, Field(min_length=3, max_length=120)]
    association: Association
    clock: ClockObject
    volume: VolumeObject
    credit: Credit
    load_profile: LoadProfile | None = None
    valve: ValveObject | None = None
    alarms: AlarmObject | None = None
    battery: BatteryObject | None = None
    diagnostics: DiagnosticObjects | None = None
    push: Push | None = None


_ADAPTER = TypeAdapter(MeterProfile)


@cache
def load_profiles() -> dict[str, MeterProfile]:
    """Every profile of the folder by name. Raises SettingsError naming file and line of what is wrong."""
    profiles = [read_profile(path.read_text(), path.name) for path in sorted(FOLDER.glob("*.toml"))]
    return {profile.name: profile for profile in profiles}


def read_profile(text: str, file_name: str) -> MeterProfile:
    """One profile. Raises SettingsError with a line for each mistake, e.g. ``x.toml:12: credit.obis: …``."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file_name}: {error}") from None
    try:
        profile = _ADAPTER.validate_python(raw)
    except ValidationError as error:
        raise SettingsError(*(_line(text, file_name, item) for item in error.errors(include_url=False))) from None
    wrong = _contradictions(profile)
    if profile.name != file_name.removesuffix(".toml"):
        wrong.append((("name",), "the file must be called by it"))
    if wrong:
        raise SettingsError(*(_line(text, file_name, {"loc": where, "msg": why}) for where, why in wrong))
    return profile


def _contradictions(profile: MeterProfile) -> list[tuple[tuple[str, ...], str]]:
    """List what is right by itself and wrong together; money is at stake in most of these."""
    credit, association = profile.credit, profile.association
    wrong: list[tuple[tuple[str, ...], str]] = []
    if association.mechanism is Mechanism.NONE:
        wrong.append((("association", "mechanism"), "anybody could be this meter: take HLS_GMAC or LLS"))
    if association.ciphered and association.mechanism is not Mechanism.HLS_GMAC:
        wrong.append((("association", "ciphered"), "ciphering goes with HLS_GMAC"))
    if credit.method is CreditMethod.SET_AMOUNT:
        if not (association.ciphered and association.mechanism is Mechanism.HLS_GMAC):
            wrong.append((("credit", "method"), "an amount is safe only under HLS_GMAC with ciphering (decision 15)"))
        if credit.account is None or credit.charge is None:
            wrong.append((("credit", "method"), "an amount needs account and charge, from which its total is known"))
    elif credit.statement is None:
        wrong.append((("credit", "method"), "a token needs the statement that tells what became of it"))
    if profile.load_profile is not None:
        columns = profile.load_profile.columns
        if columns.count(Column.CLOCK) != 1 or columns.count(Column.VOLUME) != 1:
            wrong.append((("load_profile", "columns"), "it needs one clock and one volume"))
    if (profile.volume.scaler is None) != (profile.volume.unit is None):
        wrong.append((("volume", "scaler"), "scaler and unit are given both or not at all"))
    return wrong


def _line(text: str, file_name: str, item: Any) -> str:
    where = [str(part) for part in item["loc"] if not isinstance(part, int)]
    number = _line_number(text, where)
    return f"{file_name}:{number}: {'.'.join(where) or 'file'}: {item['msg'].removeprefix('Value error, ')}"


def _line_number(text: str, where: list[str]) -> int:
    """The line of a key, or of its table where the key is missing, or 1."""
    lines = text.splitlines()
    start = 0
    for number, line in enumerate(lines):
        if len(where) > 1 and line.strip() == f"[{where[0]}]":
            start = number
    key = where[1] if len(where) > 1 else (where or [""])[0]
    for number in range(start, len(lines)):
        line = lines[number].strip()
        if re.match(rf"\[?{re.escape(key)}\]?\s*(=|$)", line):
            return number + 1
        if number > start and line.startswith("[") and len(where) > 1:
            break
    return start + 1
