"""Safaricom M-Pesa (Daraja): push to the phone (STK), paybill (C2B), transaction status, reversal, pull.

A push is not idempotent at Safaricom: an unanswered one is UNKNOWN and never sent again. Its query tells whether it
was paid, not how much: a push moves exactly what was asked for. Paybill money is asked for by transaction number;
that answer comes as a callback to an address that holds our question's id. Amounts on the wire are whole shillings
or shillings with two decimals.
"""

import base64
import json
import re
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import httpx

from standpipe.payments.rails import mpesa_callbacks
from standpipe.payments.rails.base import BaseRail
from standpipe.payments.rails.mpesa_wire import (
    CURRENCY,
    EAST_AFRICA,
    STK_MESSAGE,
    STK_STATUS,
    amount_minor,
    code_of,
    instant_of,
    is_checkout,
    is_transaction,
    items_of,
    masked,
    read_object,
    text_of,
)
from standpipe.payments.rails.port import (
    MOBILE_POLLS_S,
    AsyncResults,
    Capabilities,
    MethodKind,
    PaymentMethod,
    PaymentRequest,
    PaymentStatus,
    PaymentTruth,
    RailNotice,
    RailRefusedError,
    RailUnavailableError,
    RefundRequest,
    RefundStatus,
    RefundTruth,
    SettlementKind,
    SettlementLine,
    WebhookCall,
)
from standpipe.platform.language import to_translate

NAME = "mpesa"
MINOR = 100
MINIMUM_MINOR, MAXIMUM_MINOR = 100, 25_000_000
"""KES 1 to KES 250,000: M-Pesa's own limits of one transaction."""
PULL_PAGE = 1000
MAX_PAGES = 500
PROMPT_S = 60
_KEY = re.compile(r"[A-Za-z0-9_]{1,64}")
_NOT_THERE = {"2032", "2033", "R000002"}
"""Result codes of a status query that say: no such transaction."""


class MpesaRail(BaseRail):
    """One paybill. ``callback_secrets``: newest first; the address given out holds the newest."""

    name = NAME
    webhook_answer = {"ResultCode": 0, "ResultDesc": "Accepted"}  # noqa: RUF012 - never changed.
    capabilities = Capabilities(MOBILE_POLLS_S, refunds=True, unsolicited=True, settlements=True, create_again_s=0)

    def __init__(
        self,
        *,
        base_url: str,
        consumer_key: str,
        consumer_secret: str,
        shortcode: str,
        passkey: str,
        callback_base_url: str,
        callback_secrets: list[str],
        allowed_networks: list[str],
        initiator_name: str,
        security_credential: str,
        answers: AsyncResults,
        timeout_s: float,
    ) -> None:
        self._credentials = httpx.BasicAuth(consumer_key, consumer_secret)
        self._shortcode, self._passkey = shortcode, passkey
        self._callbacks = f"{callback_base_url.rstrip('/')}/{callback_secrets[0]}"
        self._secrets, self._networks = callback_secrets, allowed_networks or list(mpesa_callbacks.SAFARICOM_NETWORKS)
        self._initiator, self._security_credential = initiator_name, security_credential
        self._answers = answers
        self._http = httpx.AsyncClient(base_url=base_url, timeout=timeout_s)
        self._token, self._token_until_s = "", 0.0

    def methods(self, currency: str) -> tuple[PaymentMethod, ...]:
        """M-Pesa, in shillings."""
        if currency != CURRENCY:
            return ()
        return (
            PaymentMethod(
                "mpesa",
                MethodKind.MOBILE_MONEY,
                "M-Pesa",
                MINIMUM_MINOR,
                MAXIMUM_MINOR,
                phone_required=True,
                step_minor=MINOR,
            ),
        )

    async def create(self, request: PaymentRequest) -> PaymentTruth:
        """Ring the phone. Never asked twice for one reference (``create_again_s`` is 0).

        Raises RailRefusedError, RailUnavailableError.
        """
        phone = (request.phone or "").lstrip("+")
        if not phone.startswith("254") or not phone.isdigit():
            raise RailRefusedError(
                NAME, "phone", to_translate("M-Pesa needs a Kenyan phone number, like +254712345678.")
            )
        stamp, password = self._password()
        answer = await self._post(
            "/mpesa/stkpush/v1/processrequest",
            {
                "BusinessShortCode": self._shortcode,
                "Password": password,
                "Timestamp": stamp,
                "TransactionType": "CustomerPayBillOnline",
                "Amount": str(request.amount_minor // MINOR),
                "PartyA": phone,
                "PartyB": self._shortcode,
                "PhoneNumber": phone,
                "CallBackURL": f"{self._callbacks}/stk",
                "AccountReference": request.account_reference,
                "TransactionDesc": "Water top-up",
            },
        )
        checkout = text_of(answer.get("CheckoutRequestID"))
        if code_of(answer.get("ResponseCode")) != "0":
            raise RailRefusedError(
                NAME, code_of(answer.get("ResponseCode")), to_translate("M-Pesa did not take the request.")
            )
        if not is_checkout(checkout):
            raise RailUnavailableError(NAME, "a push without its id")
        action = {"type": "stk_push", "phone_masked": masked(phone), "expires_s": PROMPT_S}
        return _push_truth(checkout, request.reference, PaymentStatus.PENDING, next_action=action)

    async def fetch(self, rail_ref: str) -> PaymentTruth:
        """A push (``ws_CO_…``) or paybill money (a transaction number) now. Raises RailRefusedError."""
        if is_checkout(rail_ref):
            return await self._fetch_push(rail_ref)
        if is_transaction(rail_ref):
            return await self._fetch_transaction(rail_ref)
        raise RailRefusedError(NAME, "bad_id", to_translate("This is not an M-Pesa payment's id."))

    async def find(self, request: PaymentRequest) -> PaymentTruth | None:  # noqa: ARG002 - Daraja cannot look one up.
        """None: a push cannot be looked up by our reference; its callback, or the money's confirmation, names it."""
        return None

    async def refund(self, request: RefundRequest) -> RefundTruth:
        """Reverse a transaction, once per key however often asked. Raises RailRefusedError."""
        transaction = request.receipt_ref or request.rail_ref
        if not is_transaction(transaction) or not _KEY.fullmatch(request.key):
            raise RailRefusedError(
                NAME, "no_receipt", to_translate("The M-Pesa transaction number of this payment is not known.")
            )
        pending = RefundTruth(request.key, request.amount_minor, CURRENCY, RefundStatus.PENDING)
        if not await self._answers.expect(NAME, conversation_id=request.key, topic=f"reversal:{request.key}"):
            return pending
        await self._ask(
            "/mpesa/reversal/v1/request",
            request.key,
            {
                "CommandID": "TransactionReversal",
                "TransactionID": transaction,
                "Amount": str(request.amount_minor // MINOR),
                "ReceiverParty": self._shortcode,
                "RecieverIdentifierType": "11",
                "Remarks": "Refund",
            },
        )
        return pending

    async def fetch_refund(self, refund_ref: str, *, rail_ref: str) -> RefundTruth:  # noqa: ARG002
        """Fetch a reversal's state; PENDING while M-Pesa has not said."""
        body = await self._answers.recall(NAME, f"reversal:{refund_ref}")
        result = _result_of(body)
        if result is None:
            return RefundTruth(refund_ref, 0, CURRENCY, RefundStatus.PENDING)
        code = code_of(result.get("ResultCode"))
        status = RefundStatus.SUCCEEDED if code == "0" else RefundStatus.FAILED
        items = _parameters(result)
        amount = amount_minor(items.get("Amount")) or 0
        return RefundTruth(refund_ref, amount, CURRENCY, status, None if code == "0" else code)

    def authenticate(self, call: WebhookCall) -> None:
        """The secret in the address, and where it comes from."""
        mpesa_callbacks.authenticate(call, self._secrets, self._networks)

    def parse(self, call: WebhookCall) -> RailNotice:
        """Tell what a callback is about."""
        return mpesa_callbacks.parse(call)

    async def unsolicited(self, since: datetime, until: datetime) -> Sequence[PaymentTruth]:
        """List what came in on the paybill in these days (Pull Transactions), pushes to phones included."""
        rows = await self._pull(since, until)
        return [truth for row in rows if (truth := _pulled(row)) is not None]

    async def settlements(self, since: datetime, until: datetime) -> Sequence[SettlementLine]:
        """List them as a statement: M-Pesa's charges are on the organisation's statement file only."""
        return [
            SettlementLine(
                external_id=truth.rail_ref,
                kind=SettlementKind.PAYMENT,
                payment_ref=truth.rail_ref,
                currency=CURRENCY,
                gross_minor=truth.captured_minor,
                fee_minor=0,
                occurred_at=truth.paid_at or until,
                description=truth.account_reference or "",
            )
            for truth in await self.unsolicited(since, until)
        ]

    async def register_urls(self) -> None:
        """Tell M-Pesa where to ask before it takes paybill money, and where to confirm it. Once per shortcode."""
        await self._post(
            "/mpesa/c2b/v2/registerurl",
            {
                "ShortCode": self._shortcode,
                "ResponseType": "Completed",
                "ConfirmationURL": f"{self._callbacks}/c2b/confirmation",
                "ValidationURL": f"{self._callbacks}/c2b/validation",
            },
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _fetch_push(self, checkout: str) -> PaymentTruth:
        stamp, password = self._password()
        body = {"BusinessShortCode": self._shortcode, "Password": password, "Timestamp": stamp}
        try:
            answer = await self._post("/mpesa/stkpushquery/v1/query", body | {"CheckoutRequestID": checkout})
        except RailUnavailableError as error:
            if error.reason == "500.001.1001":
                return _push_truth(checkout, None, PaymentStatus.PENDING)
            raise
        code = code_of(answer.get("ResultCode"))
        status = STK_STATUS.get(code, PaymentStatus.PENDING)
        failed = status not in {PaymentStatus.SUCCEEDED, PaymentStatus.PENDING}
        return _push_truth(checkout, None, status, failure=code if failed else None)

    async def _fetch_transaction(self, transaction: str) -> PaymentTruth:
        topic = f"status:{transaction}"
        result = _result_of(await self._answers.recall(NAME, topic))
        truth = self._read_status(transaction, result) if result is not None else None
        if truth is not None and truth.captured_minor:
            return truth
        question = secrets.token_hex(16)
        if await self._answers.expect(NAME, conversation_id=question, topic=topic):
            await self._ask(
                "/mpesa/transactionstatus/v1/query",
                question,
                {"CommandID": "TransactionStatusQuery", "TransactionID": transaction, "IdentifierType": "4"},
            )
        raise RailUnavailableError(NAME, "asked; the answer comes as a callback")

    def _read_status(self, transaction: str, result: dict[str, Any]) -> PaymentTruth | None:
        """The answer to a status query; None where it tells nothing, so that it is asked again."""
        code = code_of(result.get("ResultCode"))
        if code in _NOT_THERE:
            raise RailRefusedError(NAME, code, to_translate("M-Pesa knows no such transaction."))
        items = _parameters(result)
        amount = amount_minor(items.get("Amount"))
        ours = text_of(items.get("CreditPartyName")).partition("-")[0].strip() == self._shortcode
        if code != "0" or amount is None or text_of(items.get("ReceiptNo")) != transaction:
            return None
        if not ours:
            raise RailRefusedError(NAME, "not_ours", to_translate("That money went to somebody else."))
        done = text_of(items.get("TransactionStatus")) == "Completed"
        payer = text_of(items.get("DebitPartyName")).partition(" - ")[0]
        return PaymentTruth(
            rail_ref=transaction,
            reference=None,
            status=PaymentStatus.SUCCEEDED if done else PaymentStatus.PENDING,
            currency=CURRENCY,
            requested_minor=amount,
            captured_minor=amount if done else 0,
            refunded_minor=0,
            receipt_ref=transaction,
            payer=masked(payer),
            paid_at=instant_of(text_of(items.get("FinalisedTime"))),
        )

    async def _pull(self, since: datetime, until: datetime) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for _ in range(MAX_PAGES):
            answer = await self._post(
                "/pulltransactions/v1/query",
                {
                    "ShortCode": self._shortcode,
                    "StartDate": f"{since.astimezone(EAST_AFRICA):%Y-%m-%d %H:%M:%S}",
                    "EndDate": f"{until.astimezone(EAST_AFRICA):%Y-%m-%d %H:%M:%S}",
                    "OffSetValue": str(len(rows)),
                },
            )
            found = answer.get("Response")
            page = [row for part in found if isinstance(part, list) for row in part] if isinstance(found, list) else []
            rows += [row for row in page if isinstance(row, dict)]
            if len(page) < PULL_PAGE:
                return rows
        raise RailUnavailableError(NAME, "the statement has no end")

    async def _ask(self, path: str, question: str, body: dict[str, str]) -> None:
        """A question whose answer comes later, to an address that holds the question's id."""
        urls = {
            "Initiator": self._initiator,
            "SecurityCredential": self._security_credential,
            "PartyA": self._shortcode,
            "ResultURL": f"{self._callbacks}/result/{question}",
            "QueueTimeOutURL": f"{self._callbacks}/timeout/{question}",
            "Occasion": "",
        }
        answer = await self._post(path, {"Remarks": "Standpipe"} | urls | body)
        if code_of(answer.get("ResponseCode")) != "0":
            raise RailUnavailableError(NAME, f"not taken on: {code_of(answer.get('ResponseCode'))}")

    def _password(self) -> tuple[str, str]:
        stamp = f"{datetime.now(UTC).astimezone(EAST_AFRICA):%Y%m%d%H%M%S}"
        return stamp, base64.b64encode(f"{self._shortcode}{self._passkey}{stamp}".encode()).decode()

    async def _post(self, path: str, body: dict[str, str]) -> dict[str, Any]:
        for fresh in (False, True):
            token = await self._access_token(fresh=fresh)
            try:
                response = await self._http.post(path, json=body, headers={"Authorization": f"Bearer {token}"})
            except httpx.HTTPError as error:
                raise RailUnavailableError(NAME, type(error).__name__) from error
            if response.status_code != HTTPStatus.UNAUTHORIZED:
                break
        answer = read_object(response.content)
        if answer is None:
            raise RailUnavailableError(NAME, f"HTTP {response.status_code}, unreadable")
        if response.is_success:
            return answer
        code = code_of(answer.get("errorCode"))
        if response.status_code in {HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND}:
            raise RailRefusedError(NAME, code or "refused", to_translate("M-Pesa refused the request."))
        raise RailUnavailableError(NAME, code or f"HTTP {response.status_code}")

    async def _access_token(self, *, fresh: bool) -> str:
        if not fresh and time.monotonic() < self._token_until_s:
            return self._token
        try:
            response = await self._http.get(
                "/oauth/v1/generate", params={"grant_type": "client_credentials"}, auth=self._credentials
            )
            answer = json.loads(response.content)
            self._token, lasts_s = str(answer["access_token"]), int(answer["expires_in"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            # Our credentials may be wrong, which is our fault and can be put right: nothing is given up for it.
            raise RailUnavailableError(NAME, f"no access token: {type(error).__name__}") from error
        self._token_until_s = time.monotonic() + max(lasts_s - 60, 0)
        return self._token


def _push_truth(
    checkout: str,
    reference: str | None,
    status: PaymentStatus,
    *,
    failure: str | None = None,
    next_action: dict[str, Any] | None = None,
) -> PaymentTruth:
    return PaymentTruth(
        rail_ref=checkout,
        reference=reference,
        status=status,
        currency=CURRENCY,
        requested_minor=0,
        captured_minor=0,
        refunded_minor=0,
        failure_code=failure,
        failure_message=STK_MESSAGE.get(failure or "", None),
        next_action=next_action,
        captured_is_request=status is PaymentStatus.SUCCEEDED,
    )


def _pulled(row: dict[str, Any]) -> PaymentTruth | None:
    transaction, amount = text_of(row.get("transactionId")), amount_minor(row.get("amount"))
    if not is_transaction(transaction) or amount is None:
        return None
    return PaymentTruth(
        rail_ref=transaction,
        reference=None,
        status=PaymentStatus.SUCCEEDED,
        currency=CURRENCY,
        requested_minor=amount,
        captured_minor=amount,
        refunded_minor=0,
        receipt_ref=transaction,
        account_reference=text_of(row.get("billreference")) or None,
        payer=masked(text_of(row.get("msisdn"))),
        paid_at=instant_of(text_of(row.get("trxDate"))),
    )


def _result_of(body: bytes | None) -> dict[str, Any] | None:
    value = read_object(body) if body is not None else None
    result = value.get("Result") if value else None
    return result if isinstance(result, dict) else None


def _parameters(result: dict[str, Any]) -> dict[str, Any]:
    holder = result.get("ResultParameters")
    return items_of(holder.get("ResultParameter") if isinstance(holder, dict) else None, "Key", "Value")
