"""A household that asks for quotes and orders by them, in worlds where this and that is owed."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import update

from standpipe.ledger.dues import Dues, dues_of
from standpipe.meters.reports import MeterReport, RegisterReading
from standpipe.payments.arrears import add_arrears
from standpipe.payments.models import Payment
from standpipe.platform.ids import new_id
from standpipe.tariffs.files import read_tariff
from standpipe.tariffs.models import SupplyTerms
from standpipe.tariffs.publishing import publish
from standpipe.utilities.models import Utility
from tests.support.rating import take_report
from tests.support.town import Town

NAIROBI = ZoneInfo("Africa/Nairobi")
FEES = {"stripe": {"basis_points": 150, "fixed_minor": 25}, "mpesa": {"basis_points": 50}}
QUOTE = (
    "query($i: ID!, $by: QuoteBy!, $w: ID) { node(id: $i) { ... on Meter { quote(by: $by, methodId: $w) { quote { id "
    "pay { amount } deductions { code label amount { amount } } credit { amount } overdrawn { amount } "
    "volume { litres } lines { tier volume { litres } cost { amount } } taxes { code label amount { amount } } "
    "rounding { amount } validUntil } userErrors { code field message } } } } }"
)
START = (
    "mutation($k: ID!, $m: ID!, $a: Decimal!, $w: ID!, $q: ID) { topUpStart(input: {idempotencyKey: $k, meterId: $m, "
    'pay: {amount: $a, currency: "KES"}, methodId: $w, quoteId: $q}) { replayed topUp { id status } userErrors { '
    "__typename code field retryable ... on QuoteChanged { quote { id pay { amount } credit { amount } } } } } }"
)
RECEIPT = (
    "query($i: ID!) { node(id: $i) { ... on TopUp { credit { amount } receipt { pay { amount } volume { litres } "
    "lines { code amount { amount } } } } } }"
)
RICH = """
tariff: rich
name: Rich
currency: KES
effective-from: 2020-01-01
proration: none
blocks:
  - {up-to-kl: 6, price: 53.455}
  - {up-to-kl: 20, price: 95.10}
  - {price: 130.00}
allowance: {kl: 1, for: [lifeline]}
standing-charges:
  - {code: meter-rent, name: Meter rent, amount: 150.00, per: month}
levies:
  - {code: regulatory, name: Regulatory levy, percent: 4, of: [water]}
  - {code: vat, name: VAT, percent: 16, of: [meter-rent]}
"""


def minor(amount: dict[str, str]) -> int:
    return int(Decimal(amount["amount"]) * 100)


@dataclass
class Till:
    """A household that asks and orders."""

    town: Town
    method: str | None = None

    async def ask(self, *, token: str | None = None, meter_id: str | None = None, **by: str) -> dict[str, Any]:
        """A quote's payload. By ``money`` (KES) or by ``litres``."""
        wanted = {"money": {"amount": by["money"], "currency": "KES"}} if "money" in by else by
        home = self.town.home
        answer = await self.town.gql(QUOTE, token, i=meter_id or home.meter_id, by=wanted, w=self.method)
        assert "errors" not in answer, answer
        payload: dict[str, Any] = answer["data"]["node"]["quote"]
        return payload

    async def quote(self, **by: str) -> dict[str, Any]:
        payload = await self.ask(**by)
        assert payload["userErrors"] == [], payload
        quote: dict[str, Any] = payload["quote"]
        adds_up(quote)
        return quote

    async def order(self, amount: str, quote_id: str | None, key: str | None = None, **more: str) -> dict[str, Any]:
        answer = await self.town.gql(
            START,
            more.get("token"),
            k=key or new_id("key"),
            m=more.get("meter_id", self.town.home.meter_id),
            a=amount,
            w=more.get("method", self.method or "stripe"),
            q=quote_id,
        )
        assert "errors" not in answer, answer
        payload: dict[str, Any] = answer["data"]["topUpStart"]
        return payload

    async def pay(self, top_up_id: str) -> dict[str, Any]:
        """Pay at Stripe, settle, and read what became of it."""
        async with self.town.sessions() as session:
            intent_id = (await session.get_one(Payment, top_up_id)).rail_ref
        assert intent_id is not None
        await self.town.control(intent_id, "succeed")
        await self.town.poll()
        await self.town.drain()
        node: dict[str, Any] = (await self.town.gql(RECEIPT, i=top_up_id))["data"]["node"]
        return node


def adds_up(quote: dict[str, Any]) -> None:
    """What holds for every quote there is."""
    kept_back = sum(minor(item["amount"]) for item in quote["deductions"])
    assert kept_back + minor(quote["credit"]) == minor(quote["pay"])
    assert all(minor(item["amount"]) > 0 and item["label"] for item in quote["deductions"])
    bought = sum(minor(line["cost"]) for line in quote["lines"])
    assert minor(quote["overdrawn"]) + bought + minor(quote["rounding"]) == minor(quote["credit"])
    assert min(minor(quote["overdrawn"]), minor(quote["rounding"])) >= 0
    assert sum(Decimal(line["volume"]["litres"]) for line in quote["lines"]) == Decimal(quote["volume"]["litres"])


def codes(quote: dict[str, Any]) -> dict[str, int]:
    return {item["code"]: minor(item["amount"]) for item in quote["deductions"]}


def refusal(payload: dict[str, Any]) -> str:
    assert payload["topUp"] is None
    [error] = payload["userErrors"]
    return str(error["code"])


# --- What a meter can owe ---


async def rules(town: Town, **values: Any) -> None:
    async with town.sessions.begin() as session:
        await session.execute(update(Utility).where(Utility.id == town.utility_id).values(**values))


async def owe(town: Town, amount_minor: int, reference: str = "BILL-1") -> None:
    async with town.sessions.begin() as session:
        await add_arrears(
            session,
            operator="amina",
            meter_id=town.home.meter_id,
            amount_minor=amount_minor,
            reference=reference,
            now=town.now(),
        )


async def use(town: Town, register_ml: int) -> None:
    """Water has run, up to now."""
    now = town.now()
    async with town.sessions.begin() as session:
        await take_report(session, MeterReport(town.home.meter_id, now, (RegisterReading(now, register_ml),)), now)


async def rich(town: Town, *groups: str, since: datetime | None = None) -> None:
    """The meter goes by a tariff with standing charges, taxes and an allowance, whose standing charge is booked."""
    day = town.today() if since is None else since.astimezone(NAIROBI).date()
    async with town.sessions.begin() as session:
        file = read_tariff(RICH)
        found = await publish(
            session, utility_id=town.utility_id, utility_currency="KES", file=file, today=town.today()
        )
        terms = SupplyTerms(meter_id=town.home.meter_id, from_day=day, tariff_id=found.tariff_id, groups=list(groups))
        session.add(terms)


async def emergency(town: Town) -> None:
    await rules(town, emergency_credit_minor=20_000, emergency_threshold_minor=5_000)
    mutation = (
        "mutation($k: ID!, $m: ID!) { emergencyCreditActivate(input: {idempotencyKey: $k, meterId: $m}) "
        "{ given { amount } userErrors { code } } }"
    )
    answer = await town.gql(mutation, k=new_id("key"), m=town.home.meter_id)
    assert answer["data"]["emergencyCreditActivate"]["userErrors"] == [], answer


async def dues(town: Town) -> Dues:
    async with town.sessions() as session:
        return await dues_of(session, town.home.meter_id, town.now())


WORLDS = {
    "nothing owed": {},
    "a share of arrears": {"owe": 400_000},
    "a weekly cap": {"owe": 400_000, "cap": 700},
    "standing charges, taxes, an allowance": {"rich": ("lifeline",)},
    "water before all else": {"owe": 400_000, "rich": (), "guaranteed": 2_000_000},
    "emergency credit": {"owe": 400_000, "emergency": True},
    "an overdrawn wallet": {"use": 7_654_321},
    "all of it": {"owe": 90_000, "cap": 700, "rich": ("lifeline",), "emergency": True, "use": 9_999_500},
}


async def in_world(town: Town, name: str, method: str | None) -> Till:
    """A household in one of the worlds; quotes store nothing, so many examples may ask in it."""
    chosen: dict[str, Any] = WORLDS[name]
    await rules(town, debt_weekly_cap_minor=chosen.get("cap"), guaranteed_ml=chosen.get("guaranteed", 0))
    if "rich" in chosen:
        await rich(town, *chosen["rich"])
    if chosen.get("emergency"):
        await emergency(town)
    await use(town, chosen.get("use", 1_000))
    if "owe" in chosen:
        await owe(town, chosen["owe"])
    return Till(town, method)
