"""What an alert says, in the device's language. English where a language is not spoken yet."""

from dataclasses import dataclass
from typing import Any

from standpipe.platform.units import money_text, volume_text


@dataclass(frozen=True, slots=True)
class Text:
    """Title and body of a push."""

    title: str
    body: str


_CATALOGUE: dict[str, dict[str, tuple[str, str]]] = {
    "en": {
        "LOW_BALANCE": ("Water is running low", "{label}: {money} left, enough for {days}. Top up to keep it flowing."),
        "EMPTY": ("Your water credit is used up", "{label}: the valve closes until you top up."),
        "TOP_UP": ("Credit is on your meter", "{label}: the meter has confirmed your top-up."),
        "TOP_UP_FAILED": (
            "Top-up did not go through",
            "{label}: the payment failed. If money was taken after all, it will still be credited.",
        ),
        "TAKEN_BACK": (
            "A payment was given back",
            "{label}: money went back to the payer. The app shows what it means.",
        ),
        "AUTO_PAID": ("Topped up automatically", "{label}: your card was charged, and the credit is on its way."),
        "AUTO_DECLINED": ("Automatic top-up declined", "{label}: your card was declined. We will try again later."),
        "AUTO_AUTHENTICATE": ("Your bank wants you to confirm", "{label}: open the app to finish the top-up."),
        "AUTO_TURNED_OFF": ("Automatic top-up is off", "{label}: your card did not work. Choose another in the app."),
        "TOKEN_ISSUED": (
            "Type a token on your meter",
            "{label}: it does not answer. Type {token} on its keypad.",
        ),
        "ACCESS_CLAIMED": (
            "A new owner on your meter",
            "{label}: somebody with a claim code can see it and pay for it now. If you do not know them, open Members.",
        ),
        "ACCESS_OWNER": ("A new owner in your household", "{label}: a member is an owner now. See Members in the app."),
        "ACCESS_MOVED_OUT": (
            "Your household has moved out",
            "{label}: an owner said so, and this meter is closed to you.",
        ),
        "LEAK": (
            "Your meter notices a leak",
            "{label}: water runs when nobody should be using any. Check taps and pipes.",
        ),
        "TAMPER": ("Somebody touched your meter", "{label}: the meter says that it was opened or moved."),
        "BATTERY": ("Your meter's battery is low", "{label}: the utility will change it; you need do nothing."),
        "OTHER": ("Standpipe", "{label}: there is news in the app."),
        "day": ("{count} day", "{count} days"),
        "soon": ("", "less than a day"),
    },
    "sw": {
        "LOW_BALANCE": ("Maji yanakaribia kuisha", "{label}: imebaki {money}, karibu {days}. Ongeza salio."),
        "EMPTY": ("Salio la maji limeisha", "{label}: vali imefungwa hadi uongeze salio."),
        "TOP_UP": ("Salio limefika kwenye mita", "{label}: mita imethibitisha malipo yako."),
        "TOP_UP_FAILED": (
            "Malipo hayakufaulu",
            "{label}: malipo hayakukamilika. Pesa ikikatwa, itaongezwa kwenye mita.",
        ),
        "TAKEN_BACK": ("Malipo yamerudishwa", "{label}: pesa imerudi kwa mlipaji. Angalia programu."),
        "AUTO_PAID": ("Salio limeongezwa lenyewe", "{label}: kadi yako imekatwa, salio liko njiani."),
        "AUTO_DECLINED": ("Kadi imekataliwa", "{label}: malipo ya moja kwa moja yamekataliwa. Tutajaribu tena."),
        "AUTO_AUTHENTICATE": ("Benki inataka uthibitishe", "{label}: fungua programu kumaliza malipo."),
        "AUTO_TURNED_OFF": ("Malipo ya moja kwa moja yamezimwa", "{label}: kadi haikufanya kazi. Chagua nyingine."),
        "TOKEN_ISSUED": (
            "Andika tokeni kwenye mita",
            "{label}: mtandao haufiki. Andika {token} kwenye mita.",
        ),
        "ACCESS_CLAIMED": (
            "Mmiliki mpya kwenye mita yako",
            "{label}: mtu mwenye msimbo sasa anaiona na kuilipia. Kama humjui, fungua Wanachama.",
        ),
        "ACCESS_OWNER": ("Mmiliki mpya wa kaya", "{label}: mwanachama sasa ni mmiliki. Angalia Wanachama."),
        "ACCESS_MOVED_OUT": ("Kaya yako imehama", "{label}: mmiliki amesema hivyo, na mita hii huioni tena."),
        "LEAK": ("Mita inaona uvujaji", "{label}: maji yanatiririka bila kutumiwa. Angalia mabomba na mifereji."),
        "TAMPER": ("Mita imeguswa", "{label}: mita inasema imefunguliwa au imesogezwa."),
        "BATTERY": ("Betri ya mita inaisha", "{label}: shirika la maji litaibadilisha; huhitaji kufanya chochote."),
        "OTHER": ("Standpipe", "{label}: kuna habari mpya kwenye programu."),
        "day": ("siku {count}", "siku {count}"),
        "soon": ("", "chini ya siku moja"),
    },
    "fr": {
        "LOW_BALANCE": ("Votre crédit d'eau baisse", "{label} : il reste {money}, environ {days}. Rechargez."),
        "EMPTY": ("Votre crédit d'eau est épuisé", "{label} : la vanne se ferme jusqu'à la recharge."),
        "TOP_UP": ("Crédit reçu par le compteur", "{label} : le compteur a confirmé votre recharge."),
        "TOP_UP_FAILED": (
            "La recharge a échoué",
            "{label} : paiement échoué. Tout montant débité malgré tout sera crédité.",
        ),
        "TAKEN_BACK": ("Un paiement a été rendu", "{label} : l'argent est retourné au payeur. Voyez l'application."),
        "AUTO_PAID": ("Recharge automatique faite", "{label} : votre carte a été débitée, le crédit est en route."),
        "AUTO_DECLINED": ("Recharge automatique refusée", "{label} : carte refusée. Nous réessaierons plus tard."),
        "AUTO_AUTHENTICATE": ("Votre banque demande confirmation", "{label} : ouvrez l'application pour terminer."),
        "AUTO_TURNED_OFF": ("Recharge automatique arrêtée", "{label} : la carte n'a pas fonctionné. Changez-la."),
        "TOKEN_ISSUED": (
            "Tapez un code sur le compteur",
            "{label} : la radio ne passe pas. Tapez {token} au clavier du compteur.",
        ),
        "ACCESS_CLAIMED": (
            "Un nouveau propriétaire sur votre compteur",
            "{label} : quelqu'un muni d'un code le voit et peut le payer. Si vous l'ignorez, ouvrez Membres.",
        ),
        "ACCESS_OWNER": ("Un nouveau propriétaire du foyer", "{label} : un membre est propriétaire. Voyez Membres."),
        "ACCESS_MOVED_OUT": (
            "Votre foyer a déménagé",
            "{label} : un propriétaire l'a dit ; ce compteur vous est fermé.",
        ),
        "LEAK": (
            "Votre compteur signale une fuite",
            "{label} : de l'eau coule sans usage. Vérifiez robinets et tuyaux.",
        ),
        "TAMPER": ("On a touché à votre compteur", "{label} : le compteur dit avoir été ouvert ou déplacé."),
        "BATTERY": (
            "La pile du compteur est faible",
            "{label} : le service des eaux la changera ; rien à faire pour vous.",
        ),
        "OTHER": ("Standpipe", "{label} : il y a du nouveau dans l'application."),
        "day": ("{count} jour", "{count} jours"),
        "soon": ("", "moins d'un jour"),
    },
}
_INVITATION = {
    "en": "Somebody shares their water meter with you on Standpipe. Sign in with this number to see it.",
    "sw": "Mtu anakushirikisha mita yake ya maji kwenye Standpipe. Ingia kwa nambari hii kuiona.",
    "fr": "Quelqu'un partage son compteur d'eau avec vous sur Standpipe. Connectez-vous avec ce numéro pour le voir.",
}


def invitation_text(language: str) -> str:
    """The text message to somebody who is invited. It says nothing of the household: numbers are mistyped."""
    return _INVITATION.get(_short(language), _INVITATION["en"])


LANGUAGES = tuple(_CATALOGUE)
"""The languages that alerts are told in (BCP 47)."""


def text_of(kind: str, params: dict[str, Any], language: str) -> Text:
    """The words for an alert. ``params`` are those it was raised with; unknown languages fall back to English."""
    words = _CATALOGUE.get(_short(language), _CATALOGUE["en"])
    # A key of a newer release still tells that there is something to read: no alert may stop the others.
    title, body = words.get(params.get("variant") or kind, words["OTHER"])
    count = max(int(params.get("days_left") or 0), 0)
    one, many = words["day"] if count else words["soon"]
    left = money_text(int(params.get("credit_minor") or 0), str(params.get("currency") or "USD"), language)
    if params.get("left_ml") is not None:
        left = volume_text(int(params["left_ml"]), language)
    values = {
        "label": params.get("label", ""),
        "token": params.get("token", ""),
        "money": left,
        "days": (one if count == 1 else many).format(count=count),
    }
    return Text(title, body.format(**values))


def _short(language: str) -> str:
    return language.replace("_", "-").partition("-")[0].lower()
