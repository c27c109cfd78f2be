"""The policy of each meter for when its credit ends. Pure.

The policy is that of the meter's supply terms of today, else of its tariff's customer class, else of its utility.
Around friendly hours, and while a release holds, the meter is told NEVER instead. It is worked out anew by each rating,
and a rating falls due when the answer may change; a command that still waits then gives way to the new one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from standpipe.platform.units import local_midnight
from standpipe.supply.zero_credit_rules import CutOff, cut_off_of, friendly_of, in_friendly_hours, zero_credit_action

LOOK_AGAIN = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ZeroCreditPolicy:
    """Policy of a meter at zero. ``policy`` is what ``source`` rules; ``until``: when that may change by itself.

    ``look_at``: when to work it out anew, at the latest.
    """

    at_zero: CutOff
    policy: CutOff
    source: str
    spared: bool
    released: bool
    until: datetime | None
    look_at: datetime | None


@dataclass(frozen=True, slots=True)
class UtilityPolicy:
    """Rules of a utility about zero credit: ``utilities.models.Utility``'s columns, and its classes by code."""

    cut_off: str
    friendly: Mapping[str, Any] | None
    released_reason: str | None
    released_until: datetime | None
    classes: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class PolicyTerms:
    """Of supply terms, what bears on zero credit: ``customer_class`` is the tariff's."""

    from_day: date
    customer_class: str
    cut_off: str | None


def zero_credit_policy(
    utility: UtilityPolicy, terms: Sequence[PolicyTerms], zone: ZoneInfo, now: datetime, *, is_shut: bool
) -> ZeroCreditPolicy:
    """Return the policy of a meter at zero.

    ``terms``: in order of their days, the first held from ever; ``is_shut``: its valve stands shut for want of credit.
    Raises InvalidInputError where the stored rules are none.
    """
    today = now.astimezone(zone).date()
    begun = [one for one in terms if one.from_day <= today] or list(terms[:1])
    coming = next((one.from_day for one in terms if one.from_day > today), None)
    code = begun[-1].customer_class
    ranks = [(begun[-1].cut_off, "supply terms"), (utility.classes.get(code), f"class {code}")]
    text, source = next(((text, source) for text, source in ranks if text), (utility.cut_off, "utility"))
    policy = cut_off_of(text)
    released = utility.released_reason is not None and (utility.released_until is None or utility.released_until > now)
    friendly = friendly_of(utility.friendly)
    hours = None if friendly is None else in_friendly_hours(friendly, now, zone)
    changes = [
        None if coming is None else local_midnight(coming, zone),
        utility.released_until if released else None,
        hours.until if hours else None,
    ]
    until = min((at for at in changes if at is not None), default=None)
    # Rules of which no end is in sight are read again: a calendar goes on where we have not looked.
    look_at = now + LOOK_AGAIN if until is None and hours is not None else until
    is_spared = hours is not None and hours.now
    return ZeroCreditPolicy(
        at_zero=zero_credit_action(policy, is_spared=is_spared, is_released=released, is_shut=is_shut),
        policy=policy,
        source=source,
        spared=is_spared,
        released=released,
        until=until,
        look_at=look_at,
    )
