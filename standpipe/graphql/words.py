"""Descriptions of what the code beside a type leaves undescribed, by the name in the schema.

Names: ``Type``, ``Type.field`` (an input's too), ``Type.field(argument)``, ``Enum=VALUE``. A description in code wins.
A field without words of its own has those of the interface that it implements, else those of ``SHARED``.
"""

from collections.abc import Iterator

from graphql import (
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLEnumValue,
    GraphQLField,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    is_introspection_type,
    is_specified_scalar_type,
)

Place = GraphQLNamedType | GraphQLField | GraphQLInputField | GraphQLArgument | GraphQLEnumValue

SHARED = {
    "*.after": "A cursor of the page before; the page begins behind it. Without it, at the beginning.",
    "*.cursor": "Names this item; give it to `after` for what follows it.",
    "*.edges": "The items of this page, each with its cursor.",
    "*.first": "How many at most, 1 to 100.",
    "*.idempotencyKey": "A UUID made when the screen opens; the same again for every retry of it.",
    "*.input": "Everything that this mutation is told, in one object.",
    "*.meterId": "Which of the viewer's meters (mtr_…).",
    "*.node": "The item itself.",
    "*.nodes": "The items of this page alone, without cursors.",
    "*.pageInfo": "Whether more follows, and by which cursor.",
    "*.replayed": "This key was used before with the same input: nothing was done again.",
    "*.userErrors": "Expected failures, to show; empty where it went well.",
}
"""What is the same everywhere, for fields and arguments of any type."""

WORDS = {
    "AmountOutOfRange.maximum": "The most that the method takes in one payment.",
    "AmountOutOfRange.minimum": "The least that the method takes in one payment.",
    "AutoTopUp.amount": "FIXED: what each charge is. UP_TO: the balance to reach.",
    "AutoTopUp.dailyCap": "The most that it charges in one day of the meter's time zone.",
    "AutoTopUp.enabled": "Whether it charges at all; pausedReason says why not.",
    "AutoTopUp.mode": "How a charge is reckoned from `amount`.",
    "AutoTopUpMode=FIXED": "Always the amount; nothing where less than it is left of the daily cap.",
    "AutoTopUpMode=UP_TO": "What brings the balance up to the amount, within the daily cap; not for VOLUME meters.",
    "AutoTopUpPayload.autoTopUp": "The standing order as it is now; null where userErrors says why.",
    "AutoTopUpSetInput.amount": "In the meter's currency, within what the card may be charged. What it means: `mode`.",
    "AutoTopUpSetInput.cardId": "One of viewer.savedCards; it pays until the order is changed.",
    "AutoTopUpSetInput.dailyCap": "In the meter's currency, at least `amount`: the most in a day of its time zone.",
    "AutoTopUpSetInput.mode": "A meter that holds volume takes FIXED only.",
    "AutoTopUpSetInput.thresholdDays": "1 to 30: charge when the credit is forecast to last no longer.",
    "CardForgetInput.cardId": "One of viewer.savedCards. Standing orders that use it are turned off.",
    "CardSavePayload.nextAction": "How the customer enters the card; null where userErrors says why.",
    "CardsPayload.cards": "What the viewer has now; empty too where it failed.",
    "Charge.amount": "Below zero where it lowers the sum.",
    "Charge.code": (
        "Stable, for programs. Of payments: FEE, EMERGENCY, STANDING, DEBT, CREDIT, TAX, DISCOUNT, OVERDRAWN, RESIDUE, "
        "REFUND, DISPUTED, OTHER. Of bills: WATER, ALLOWANCE, or the tariff's own code of a charge, levy or discount."
    ),
    "Charge.label": "For people, in the language that the request asks for; the tariff's names as they are.",
    "ChargePeriod=DAY": "For each day of the supply.",
    "ChargePeriod=MONTH": "For each calendar month.",
    "CompactSeries.cost": "What each bucket cost, in the currency's major unit.",
    "CompactSeries.litres": "What each bucket used, in litres.",
    "CompactSeries.start": "When the first bucket begins; null where there are none.",
    "Comparison.lastPeriod": "Use in the first `days` days of the last billing period, since the household moved in.",
    "Comparison.ownMonth": "This meter's use in `month`, since the household moved in.",
    "Comparison.similarHouseholds": (
        "Meters in the group: same utility, tariff and number of households behind the meter. 0 where there are fewer "
        "than 11; then `similar` is null."
    ),
    "Comparison.thisPeriod": "Use of this billing period until yesterday, since the household moved in.",
    "Connectivity.batteryPercent": "0 to 100, as last reported; null where the meter has not told it.",
    "Connectivity.lastSeenAt": "When the meter was last heard; null until it has spoken.",
    "Connectivity.online": "Heard within the last 26 hours (a server may be set to others): a meter sleeps a lot.",
    "EmergencyCreditPayload.given": "What was added to the credit; null where userErrors says why.",
    "FixedCharge.amount": "For one day or month, as published, without levies.",
    "FixedCharge.code": "The tariff's own code, stable.",
    "FixedCharge.label": "As the tariff names it; not translated.",
    "FixedCharge.per": "What `amount` is for.",
    "Forecast.daysHigh": "Days until empty if little water is used; at most 366.",
    "Forecast.daysLikely": "Days until empty at the average of the last 28 whole days (of 7 at least); at most 366.",
    "Forecast.daysLow": "Days until empty if much water is used; at most 366.",
    "Forecast.emptyOn": "The day on which daysLikely ends, in the meter's time zone.",
    "Forecast.litresLeft": (
        "Water that the credit buys from here on at this period's prices. Of a meter that holds volume: what it holds, "
        "and what is on its way."
    ),
    "HouseholdRole=OWNER": "May do all that a payer may, and rename meters, invite and remove members, move out.",
    "HouseholdRole=PAYER": "May look and pay: top-ups, vouchers, emergency credit, standing orders.",
    "HouseholdRole=VIEWER": "May look.",
    "KeypadToken.issuedAt": "When the digits were made.",
    "KeypadToken.volume": "The water that it puts onto the meter.",
    "Meter.balance": "Credit by our books, on the meter and on its way, and what is owed.",
    "Meter.connectivity": "When the meter was last heard, and its battery.",
    "Meter.label": "What the household calls it; its serial until somebody names it.",
    "Meter.quote(by)": "The money to pay, or the water to get.",
    "Meter.quote(methodId)": "One of topUpMethods: its fee and limits count. Without it, no fee is reckoned.",
    "Meter.serial": "The number on the meter.",
    "Meter.statement(month)": "Any day of the month, from the household's first month to the present one.",
    "Meter.tariff": "Today's prices, and where this meter stands in them.",
    "Meter.topUpMethods": "Ways to pay that this server offers in the meter's currency.",
    "Meter.usage(from)": "The first day, in the meter's time zone.",
    "Meter.usage(interval)": "How long each bucket is.",
    "Meter.usage(to)": "The day after the last one, in the meter's time zone.",
    "Meter.valve": "Where the valve stands by the meter's last word.",
    "MeterEdge.role": "What the viewer may do with this meter.",
    "Money.currency": "The currency of `amount`.",
    "MoneyInput.amount": 'In the major unit, such as "12.50", with no more digits than the currency has.',
    "MoneyInput.currency": "The meter's own; nothing is converted.",
    "Mutation": "Where changing starts. Payloads carry expected failures as userErrors.",
    "PageInfo.endCursor": "Of the last item; null on an empty page. Give it to `after` for the next page.",
    "PageInfo.hasNextPage": "Whether more follows behind endCursor.",
    "PageInfo.hasPreviousPage": "Whether this page was asked for with `after`.",
    "PageInfo.startCursor": "Of the first item; null on an empty page.",
    "Query": "Where reading starts.",
    "Query.guestMeter(number)": "As it is printed on the meter; case, spaces and leading zeros do not matter.",
    "Query.guestTopUp(guestKey)": "As guestTopUpStart gave it.",
    "Query.guestTopUp(id)": "As guestTopUpStart gave it (top_…).",
    "Query.node(id)": "Of a meter, a top-up, a member or invitation, an alert or a device.",
    "Quote.credit": "What would be added to the meter's credit: `pay` less the deductions.",
    "Quote.pay": "What the customer would pay in all.",
    "Quote.validUntil": "15 minutes from now; a change of prices, use or dues may end it sooner.",
    "Quote.volume": "The water that it buys, at this period's use so far.",
    "QuoteBy.money": "What to pay, in the meter's currency; the fee is within it.",
    "QuoteChanged.quote": "What the same payment gives now, to order by; null where none can be given.",
    "QuotePayload.quote": "Null where userErrors says why.",
    "ReadingQuality=ESTIMATED": "A share of what was measured over a gap in the readings.",
    "ReadingQuality=MEASURED": "Told by readings.",
    "ReadingQuality=MISSING": "No reading tells of it (yet): show a gap, not zero.",
    "ReadingQuality=PARTIAL": "Only some days of the month are told, or asked for; this month so far, too.",
    "Receipt.issuedAt": "When the money was booked.",
    "Receipt.lines": "What the money became; they sum to `pay`.",
    "Receipt.number": "The utility's own, without gaps.",
    "Receipt.pay": "What was paid; below zero where money was given back.",
    "Receipt.smsText": "The receipt in at most 160 characters, in the language that the request asks for.",
    "RedirectToUrl.url": "A page of the payment provider, for any browser; it sends the payer on to returnUrl.",
    "SavedCard.brand": 'As the payment provider names it, such as "visa".',
    "SavedCard.last4": "The last four digits of its number.",
    "Statement.accounts": "Credit and each kind of dues over the month.",
    "Statement.adjustments": "Earlier months whose cost changed, booked in this one.",
    "Statement.chargesTotal": "The sum of `charges`.",
    "Statement.closing": "Credit at the end of the month; of an open month, now.",
    "Statement.month": "The first day of the month.",
    "Statement.movements": "Top-ups, refunds and the like, oldest first.",
    "Statement.opening": "Credit at the beginning of the month, or of the day on which the household moved in.",
    "Statement.standingCharges": "What fell due for the supply itself, with its levies.",
    "Statement.volume": "Water used in the month.",
    "StatementAccount.closing": "At the end; below zero is owed.",
    "StatementAccount.code": (
        "WALLET (credit), STANDING_DUE (standing charges due), RECEIVABLE (arrears) or EMERGENCY (emergency credit)."
    ),
    "StatementAccount.opening": "At the beginning; below zero is owed.",
    "StatementAdjustment.difference": "What this month bears of it; above zero, that month came to cost more.",
    "StatementAdjustment.month": "The first day of the earlier month.",
    "StatementAdjustment.now": "What that month costs now.",
    "StatementAdjustment.was": "What that month cost before.",
    "StatementMovement.at": "When it was booked.",
    "StatementMovement.code": (
        "What it was: TOP_UP, TAKEN_BACK, REFUND_HELD, REFUND_RELEASED, EMERGENCY, ARREARS; treat others by the label."
    ),
    "StatementMovement.label": "For people, in the language that the request asks for.",
    "StatementPayload.statement": "Null where userErrors says why.",
    "StkPush.phoneMasked": "The number that rings, with most digits hidden.",
    "StripeCardSetup.clientSecret": "Of the SetupIntent. For this customer only: do not log it.",
    "StripeCardSetup.customerId": "Stripe's id of the customer who keeps the card.",
    "StripeCardSetup.customerSessionClientSecret": "Lets the sheet show saved cards; null where there is none.",
    "StripeCardSetup.publishableKey": "For the Stripe SDK.",
    "StripePaymentSheet.clientSecret": "Of the PaymentIntent. For this payer only: do not log it.",
    "StripePaymentSheet.customerId": "Stripe's id of the payer; null where they have none, as guests.",
    "StripePaymentSheet.customerSessionClientSecret": "Lets the sheet show saved cards; null where there is none.",
    "StripePaymentSheet.publishableKey": "For the Stripe SDK.",
    "Subscription": "Where listening starts. The first event is how things stand, so reconnecting loses nothing.",
    "Subscription.meterUpdated(meterId)": "One of the viewer's meters; NOT_FOUND for any other.",
    "Subscription.topUpUpdated(topUpId)": "A top-up of one of the viewer's meters; NOT_FOUND for any other.",
    "Tariff.currentTier": "The `index` of the tier that the next litre falls into.",
    "Tariff.effectiveFrom": "The first day of these prices, in the meter's time zone.",
    "Tariff.fixedCharges": "Standing charges as published; some may hold for certain groups of customers only.",
    "Tariff.name": "As the utility names it; not translated.",
    "Tariff.usedThisPeriod": "Water used in this billing period, since the household moved in.",
    "Tier.from": "Volume of the period at which it begins.",
    "Tier.index": "Its place in `tiers`, from 0.",
    "Tier.to": "Volume of the period at which the next tier begins; null of the last.",
    "TierLine.cost": "What this part costs, levies and taxes within.",
    "TierLine.tier": "The place of the tier in the tariff of that time, from 0, as Tier.index.",
    "TierLine.volume": "The part of the volume that falls into this tier.",
    "TopUp.createdAt": "When it was begun.",
    "TopUp.failure": "Why it failed; null unless the status is FAILED.",
    "TopUp.meter": "The meter that gets the credit.",
    "TopUp.nextAction": "How to pay, or to try again after FAILED; null where there is nothing to do here.",
    "TopUp.status": "Payment and delivery in one.",
    "TopUp.updatedAt": "When payment or delivery last went a step on.",
    "TopUpAction.expiresAt": "Until when it can be done; null where that is not known.",
    "TopUpAction.instructions": "What to do, in a sentence to show, in the language that the request asks for.",
    "TopUpCancelInput.topUpId": "The top-up to stop (top_…): one's own, or any of a household of which one is owner.",
    "TopUpEvent.at": "When it was reached.",
    "TopUpEvent.status": "The step: any status but REFUNDED.",
    "TopUpFailure.code": 'The payment provider\'s own code; "unknown" where it gave none.',
    "TopUpFailure.message": "For people.",
    "TopUpFailure.retryable": "Whether another try makes sense.",
    "TopUpMethod.id": "For `methodId`.",
    "TopUpMethod.kind": "What the customer pays with, for an icon.",
    "TopUpMethod.label": "Its name, to show; not translated.",
    "TopUpMethod.maximum": "The most in one payment, in the meter's currency.",
    "TopUpMethod.minimum": "The least in one payment, in the meter's currency.",
    "TopUpMethod.phoneRequired": "It rings a phone; topUpStart without `phone` takes the customer's own.",
    "TopUpMethodKind=BANK_REDIRECT": "A page of the provider's, for a bank transfer or what else it offers.",
    "TopUpMethodKind=CARD": "A bank card.",
    "TopUpMethodKind=MOBILE_MONEY": "Money kept with a mobile operator, such as M-Pesa or MTN MoMo.",
    "TopUpMethodKind=VOUCHER": "A voucher's code; see voucherRedeem.",
    "TopUpMethodKind=WALLET_PAY": "A phone's own wallet, such as Apple Pay or Google Pay.",
    "TopUpPayload.topUp": "The top-up as it stands now; null where userErrors says why.",
    "TopUpStartInput.methodId": "One of the meter's topUpMethods.",
    "TopUpStartInput.pay": "In the meter's currency, within the method's limits; the fee is within it.",
    "TopUpStartInput.returnUrl": "Where a payment page sends the payer back to: an http(s) or app address.",
    "TopUpStatus=AWAITING_CUSTOMER": "The customer has to pay: follow nextAction.",
    "TopUpStatus=CANCELLED": "Stopped before it was paid.",
    "TopUpStatus=CREATED": "Being opened at the payment provider.",
    "TopUpStatus=EXPIRED": "The time to pay has run out.",
    "TopUpStatus=FAILED": "The payment did not go through. If it still arrives, it counts.",
    "TopUpStatus=ON_METER": "The meter has confirmed the credit.",
    "TopUpStatus=PAID": "Paid; the meter gets the credit when it next wakes. Terminal where nothing goes there.",
    "TopUpStatus=REFUNDED": "All that was paid has been given back.",
    "TopUpStatus=SENDING_TO_METER": "Sent to the meter, which has not confirmed it yet.",
    "TopUpStatus=TOKEN_ISSUED": "The meter could not be reached in time: type the digits of keypadToken.",
    "UsageBucket.cost": "Through the tiers, levies within; zero where water is paid for when it is bought.",
    "UsageBucket.end": "Not included.",
    "UsageBucket.quality": "How far volume and cost can be relied on.",
    "UsageBucket.start": "Included. Days and months begin at midnight in the meter's time zone.",
    "UsageBucket.tiers": "The cost by tier; empty where water is paid for when it is bought.",
    "UsageBucket.volume": "Water used; zero says nothing where the quality is MISSING.",
    "UsageInterval=DAY": "A calendar day in the meter's time zone.",
    "UsageInterval=HOUR": "An hour of elapsed time: a day has 23 or 25 of them where the clocks change.",
    "UsageInterval=MONTH": "A calendar month in the meter's time zone; the first and last only as far as asked for.",
    "UsageSeries.buckets": "Oldest first; none in the future.",
    "UsageSeries.compact": "The same in columns, some times smaller.",
    "UsageSeries.interval": "As asked for.",
    "UsageSeries.total": "The sum of the buckets; those MISSING add nothing.",
    "UsageSeries.totalCost": "The sum of the buckets' costs.",
    "UserError.code": "For programs; switch on this.",
    "UserError.field": 'Path to what is at fault, such as ["pay", "amount"]; null where it is no one field.',
    "UserError.message": "For people, in the language that the request asks for; English where it is not there yet.",
    "UserError.retryable": "Whether to ask again can help: later, or after QUOTE_CHANGED by the new quote.",
    "UserErrorCode=AMOUNT_OUT_OF_RANGE": "The method does not take this amount; AmountOutOfRange has the limits.",
    "UserErrorCode=FORBIDDEN": "The viewer may see this, but not do it; the message says who may.",
    "UserErrorCode=IDEMPOTENCY_MISMATCH": "This key was used before with other input: make a new one.",
    "UserErrorCode=INVALID": "The input breaks a rule; the message says which.",
    "UserErrorCode=METER_BLOCKED": "The meter does not take this at the moment; the message says why.",
    "UserErrorCode=NOT_FOUND": "There is no such thing among what the viewer may see.",
    "UserErrorCode=PROVIDER_DOWN": "Kept for a payment provider that does not answer; not sent today.",
    "UserErrorCode=QUOTE_CHANGED": "The quote does not hold any more; QuoteChanged has the new one.",
    "UserErrorCode=RATE_LIMITED": "Too many tries; RateLimited says when to come back.",
    "Valve.changedAt": "When a report first told of this state; null until the meter has spoken.",
    "Valve.reason": "Why it stands there, as far as the meter tells.",
    "Valve.state": "Where it stands, by the meter's last word.",
    "ValveReason=CUSTOMER": "The household wanted it.",
    "ValveReason=LEAK": "The meter notices a leak.",
    "ValveReason=MAINTENANCE": "Work on the meter or the supply.",
    "ValveReason=NORMAL": "Nothing is amiss.",
    "ValveReason=NO_CREDIT": "The credit is used up.",
    "ValveReason=TAMPER": "Somebody laid hand on the meter.",
    "ValveReason=UNKNOWN": "The meter has not told.",
    "ValveState=CLOSED": "No water.",
    "ValveState=OPEN": "Water runs.",
    "ValveState=RESTRICTED": "A trickle.",
    "ValveState=UNKNOWN": "The meter has not told.",
    "Viewer.language": "What alerts and texts speak; notificationPreferencesUpdate sets it.",
    "Viewer.meter(id)": "As in Meter.id (mtr_…).",
    "Viewer.meters": "The meters of all of the viewer's households.",
    "Viewer.phone": "The number that the viewer signs in by.",
    "Volume.litres": "Exact, to the millilitre.",
    "VoucherRedeemInput.code": "As printed; case, spaces and dashes do not matter, and O is read as 0, I and L as 1.",
    "WalletKind=MONEY": "Credit is money, and is taken as water runs.",
    "WalletKind=VOLUME": "Water is paid for when it is bought; the meter holds its volume.",
}


def places(schema: GraphQLSchema) -> Iterator[tuple[str, Place]]:
    """All that can have a description, by its name; what is GraphQL's own is left out."""
    for one in schema.type_map.values():
        if is_introspection_type(one) or is_specified_scalar_type(one):
            continue
        yield one.name, one
        if isinstance(one, GraphQLEnumType):
            yield from ((f"{one.name}={name}", value) for name, value in one.values.items())
        elif isinstance(one, GraphQLInputObjectType):
            yield from ((f"{one.name}.{name}", given) for name, given in one.fields.items())
        elif isinstance(one, GraphQLObjectType | GraphQLInterfaceType):
            for name, field in one.fields.items():
                yield f"{one.name}.{name}", field
                yield from ((f"{one.name}.{name}({key})", argument) for key, argument in field.args.items())


def source(schema: GraphQLSchema, name: str) -> str | None:
    """Which entry of WORDS or SHARED describes this name; None where there is none."""
    if name in WORDS:
        return name
    owner, _, member = name.partition(".")
    above = schema.type_map.get(owner)
    interfaces = above.interfaces if isinstance(above, GraphQLObjectType | GraphQLInterfaceType) else ()
    inherited = next((key for one in interfaces if (key := f"{one.name}.{member}") in WORDS), None)
    shared = f"*.{member.partition('(')[2].rstrip(')') or member}"
    return inherited or (shared if shared in SHARED else None)


def describe(schema: GraphQLSchema) -> GraphQLSchema:
    """Give a description to whatever has none; returns the same schema."""
    for name, place in places(schema):
        if not place.description and (key := source(schema, name)) is not None:
            place.description = WORDS.get(key) or SHARED[key]
    return schema
