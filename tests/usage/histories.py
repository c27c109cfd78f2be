"""Random utilities, tariffs and lives of a meter; every choice comes from the one source of chance."""

import random
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import yaml

from tests.usage.reference import Supply, midnight, month_of

ZONES = (
    "Africa/Nairobi", "Europe/Paris", "America/Santiago", "Australia/Lord_Howe", "Pacific/Kiritimati",
    "Pacific/Pago_Pago", "Asia/Kathmandu",
)  # fmt: skip
CURRENCIES = ("KES", "UGX", "KWD")
GROUPS = ("lifeline", "social")


def amount(chance: random.Random, most: int, digits: int = 3) -> str:
    """A decimal that a price list might hold, as text."""
    number = chance.randrange(1, most * 10**digits)
    return f"{number // 10**digits}.{number % 10**digits:0{digits}}"


def blocks(chance: random.Random, count: int) -> list[dict[str, str]]:
    edges = sorted(chance.sample(range(1, 80), count - 1))
    rows = [{"up-to-kl": f"{edge / 4}", "price": amount(chance, 200)} for edge in edges]
    if chance.random() < 0.2 and rows:
        rows[0]["price"] = "0"
    return [*rows, {"price": amount(chance, 300)}]


def some_groups(chance: random.Random) -> list[str]:
    return chance.sample(GROUPS, chance.choice([0, 0, 1, 2]))


def document(chance: random.Random, code: str, currency: str, since: date) -> dict[str, Any]:
    """A tariff as a utility might write it, with any of the format's parts."""
    count = chance.randrange(1, 5)
    found: dict[str, Any] = {
        "tariff": code, "name": "T", "currency": currency, "effective-from": since.isoformat(),
        "proration": chance.choice(["days", "none"]),
    }  # fmt: skip
    if chance.random() < 0.3:
        days = chance.sample(["01-01", "03-16", "04-01", "07-10", "10-01", "11-20"], 2)
        found["seasons"] = [{"name": day, "from": day, "blocks": blocks(chance, count)} for day in days]
    else:
        found["blocks"] = blocks(chance, count)
    if chance.random() < 0.3:
        found["blocks-per-household"] = "true"
    if chance.random() < 0.4:
        found["allowance"] = {"kl": str(chance.randrange(1, 16) / 2)}
        if chance.random() < 0.5:
            found["allowance"]["per-household"] = "true"
        if groups := some_groups(chance):
            found["allowance"]["for"] = groups
    found["standing-charges"] = [
        {"code": f"rent{number}", "name": "R", "amount": amount(chance, 40), "per": chance.choice(["day", "month"])}
        | ({"for": groups} if (groups := some_groups(chance)) else {})
        | ({"per-household": "true"} if chance.random() < 0.3 else {})
        for number in range(chance.choice([0, 1, 1, 2]))
    ]
    known = ["water", *(charge["code"] for charge in found["standing-charges"])]
    if chance.random() < 0.3:
        found["discounts"] = [{"code": "help", "name": "H", "percent": amount(chance, 60), "of": ["water"]}]
        found["discounts"][0] |= {"for": groups} if (groups := some_groups(chance)) else {}
        known.append("help")
    found["levies"] = []
    for number in range(chance.choice([0, 1, 1, 2, 3])):
        levy: dict[str, Any] = {"code": f"levy{number}", "name": "L"}
        if chance.random() < 0.6:
            on = chance.sample(known, chance.randrange(1, len(known) + 1))
            # No levy is paid out: one of a discount is one of the water, too.
            levy |= {"percent": amount(chance, 30), "of": sorted({*on, "water"}) if "help" in on else on}
        else:
            levy["per-kl"] = amount(chance, 10)
        if chance.random() < 0.2:
            levy["blocks"] = [str(chance.randrange(1, count + 1))]
        if groups := some_groups(chance):
            levy["for"] = groups
        found["levies"].append(levy)
        known.append(levy["code"])
    return {name: value for name, value in found.items() if value not in ([], {})}


def as_file(written: dict[str, Any]) -> str:
    return yaml.safe_dump(written, sort_keys=False)


def plain(written: dict[str, Any]) -> dict[str, Any]:
    """The same for the reference: dates as dates, flags as flags."""

    def read(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: read(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [read(inner) for inner in value]
        return True if value == "true" else value

    return read(written) | {"effective-from": date.fromisoformat(written["effective-from"])}


def supply(chance: random.Random, day: date, tariffs: list[str], household: str) -> Supply:
    return Supply(day, chance.choice(tariffs), chance.choice([1, 1, 2, 5]), frozenset(some_groups(chance)), household)


def register(chance: random.Random, start: datetime, end: datetime) -> dict[datetime, int]:
    """What the meter truly showed, at irregular hours: long silences, dry days, midnights sharp."""
    found: dict[datetime, int] = {}
    at, shown = start, 0
    while at < end:
        at += timedelta(hours=chance.choice([1, 1, 2, 6, 11, 24, 24, 60, 200]), minutes=chance.choice([0, 0, 0, 13]))
        shown += chance.choice([0, 1, 7, 333, 25_000, 120_000, 400_000, 1_000_000, 3_000_000])
        found[at] = shown
    return found


def first_instant(chance: random.Random, zone: ZoneInfo) -> datetime:
    """Mostly a midnight, mostly before the clocks change somewhere."""
    day = date(2026, 1, 1) + timedelta(days=chance.randrange(0, 300))
    if chance.random() < 0.3:
        day = month_of(day)[0]
    return midnight(day, zone) + timedelta(hours=chance.choice([0, 0, 9, 23]))
