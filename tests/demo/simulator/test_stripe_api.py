"""The stand-in for Stripe, driven by the real SDK: it must be as strict as what it stands for."""

import pytest
import stripe

from standpipe_demo.simulator import fake_stripe
from standpipe_demo.simulator.webhooks import sign
from tests.support.loopback import loopback

KEY = "sk_test_fake"
ORDER = {"amount": 1_500, "currency": "kes", "metadata": {"top_up_id": "top_1"}}


@pytest.fixture
async def app():
    return fake_stripe.make_app(api_key=KEY, webhook_url=None, webhook_secret="", store=None)


@pytest.fixture
async def api(app):
    async with loopback(app) as url:
        http = stripe.HTTPXClient(timeout=5)
        yield stripe.StripeClient(KEY, base_addresses={"api": url}, http_client=http, max_network_retries=0).v1
        await http.close_async()


def _succeed(app, intent_id: str) -> None:
    state = app.state.stripe
    state.succeed(state.intent(intent_id))


async def test_create_retrieve_and_search(api):
    made = await api.payment_intents.create_async(ORDER)
    assert (made.status, made.amount, made.metadata["top_up_id"]) == ("requires_payment_method", 1_500, "top_1")
    assert (await api.payment_intents.retrieve_async(made.id)).client_secret == made.client_secret
    found = await api.payment_intents.search_async({"query": "metadata['top_up_id']:'top_1'"})
    assert [intent.id for intent in found.data] == [made.id]


async def test_p28_one_key_makes_one_intent_and_another_body_is_refused(api):
    first = await api.payment_intents.create_async(ORDER, {"idempotency_key": "k"})
    assert (await api.payment_intents.create_async(ORDER, {"idempotency_key": "k"})).id == first.id
    with pytest.raises(stripe.IdempotencyError):
        await api.payment_intents.create_async(ORDER | {"amount": 9}, {"idempotency_key": "k"})


async def test_a_charge_is_an_id_until_it_is_asked_for(api, app):
    """Stripe's own rule. A fake that always expands would hide a forgotten ``expand`` from every test."""
    made = await api.payment_intents.create_async(ORDER)
    _succeed(app, made.id)
    plain = await api.payment_intents.retrieve_async(made.id)
    assert isinstance(plain.latest_charge, str)
    full = await api.payment_intents.retrieve_async(made.id, {"expand": ["latest_charge"]})
    assert full.latest_charge.amount_refunded == 0


async def test_p16_a_declined_intent_may_succeed_later(api, app):
    made = await api.payment_intents.create_async(ORDER)
    app.state.stripe.fail(app.state.stripe.intent(made.id))
    declined = await api.payment_intents.retrieve_async(made.id)
    assert (declined.status, declined.last_payment_error.code) == ("requires_payment_method", "card_declined")
    _succeed(app, made.id)
    assert (await api.payment_intents.retrieve_async(made.id)).status == "succeeded"


async def test_a_succeeded_intent_is_not_cancelled(api, app):
    made = await api.payment_intents.create_async(ORDER)
    _succeed(app, made.id)
    with pytest.raises(stripe.InvalidRequestError):
        await api.payment_intents.cancel_async(made.id)


async def test_refunds_count_once_per_key_and_refuse_another_body(api, app):
    made = await api.payment_intents.create_async(ORDER)
    _succeed(app, made.id)
    for _ in range(2):
        await api.refunds.create_async({"payment_intent": made.id, "amount": 500}, {"idempotency_key": "r"})
    full = await api.payment_intents.retrieve_async(made.id, {"expand": ["latest_charge"]})
    assert full.latest_charge.amount_refunded == 500
    with pytest.raises(stripe.IdempotencyError):
        await api.refunds.create_async({"payment_intent": made.id, "amount": 501}, {"idempotency_key": "r"})


async def test_a_refund_without_an_amount_is_the_rest(api, app):
    made = await api.payment_intents.create_async(ORDER)
    _succeed(app, made.id)
    assert (await api.refunds.create_async({"payment_intent": made.id})).amount == 1_500


async def test_errors_are_stripes(api):
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await api.payment_intents.retrieve_async("pi_absent")
    assert (refused.value.code, refused.value.http_status) == ("resource_missing", 404)
    assert refused.value.request_id
    with pytest.raises(stripe.InvalidRequestError):
        await api.payment_intents.create_async(ORDER | {"amount": 0})


async def test_a_wrong_key_is_an_authentication_error(app):
    async with loopback(app) as url:
        http = stripe.HTTPXClient(timeout=5)
        client = stripe.StripeClient("sk_test_x", base_addresses={"api": url}, http_client=http)
        with pytest.raises(stripe.AuthenticationError):
            await client.v1.payment_intents.retrieve_async("pi_1")
        await http.close_async()


async def test_its_signature_is_one_that_the_sdk_accepts():
    body = b'{"id": "evt_1", "object": "event"}'
    stripe.WebhookSignature.verify_header(body.decode(), sign(body, "whsec_x"), "whsec_x", 300)
