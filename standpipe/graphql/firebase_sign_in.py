"""Firebase ID tokens as bearer tokens."""

import functools

from standpipe.graphql.context import Services
from standpipe.graphql.identity import Identity
from standpipe.households.firebase import FirebaseClaims, FirebaseTokens, is_firebase
from standpipe.households.identities import find_customer, link_by_phone
from standpipe.households.sign_in import normalise_phone
from standpipe.platform.errors import InvalidInputError, NotAuthenticatedError
from standpipe.platform.language import phrase


async def identify(services: Services, token: str) -> Identity | None:
    """The customer of a Firebase token; None for every other kind of token.

    Raises NotAuthenticatedError, or SignInUnavailableError where Google does not answer.
    """
    firebase = services.firebase
    if firebase is None or not is_firebase(token):
        return None
    claims = await firebase.verify(token)
    async with services.sessions() as conn:
        customer_id = await find_customer(
            conn, issuer=claims.issuer, subject=claims.subject, signed_in_at_s=claims.signed_in_at_s
        )
    if customer_id is None:
        customer_id = await _first_sign_in(services, firebase, claims, token)
    return Identity(claims.expires_at_s, customer_id, check_revoked=functools.partial(firebase.check, token))


async def _first_sign_in(services: Services, firebase: FirebaseTokens, claims: FirebaseClaims, token: str) -> str:
    """Open or link the account by the phone number, on a sign-in that still holds."""
    if claims.phone is None:
        raise NotAuthenticatedError(
            phrase("This sign-in has no verified phone number. Sign in to Firebase by phone first.")
        )
    try:
        phone = normalise_phone(claims.phone, services.sms_countries)
    except InvalidInputError as error:
        raise NotAuthenticatedError(error.message) from None
    await firebase.check(token)
    async with services.sessions.begin() as conn:
        return await link_by_phone(conn, issuer=claims.issuer, subject=claims.subject, phone=phone)
