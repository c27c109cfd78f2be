"""Every sentence that the code says to people stands in every catalogue, with the same gaps."""

import ast
import copy
import string
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from standpipe.platform.errors import InvalidInputError, NotFoundError, RateLimitedError
from standpipe.platform.language import LANGUAGES, SOURCE, in_language, phrase, translate, translate_many

PACKAGE = Path(__file__).resolve().parents[2] / "standpipe"
KEYWORDS = {"to_translate": None, "phrase": None, "translate_many": (1, 2)}
OTHERS = [language for language in LANGUAGES if language != SOURCE]


def said_in_code() -> dict[str, str]:
    """English sentences, each with a place where it stands."""
    found = extract_from_dir(PACKAGE, [("**.py", "python")], keywords=KEYWORDS)
    return {
        message if isinstance(message, str) else message[0]: f"{file}:{line}" for file, line, message, _, _ in found
    }


def catalogue(language: str) -> Catalog:
    with (PACKAGE / "locale" / f"{language}.po").open("rb") as file:
        return read_po(file, locale=language)


def gaps(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def texts(message: Message) -> tuple[list[str], list[str]]:
    """A message's English and its translations, plural forms apart."""
    theirs = [message.string] if isinstance(message.string, str) else list(message.string)
    return ([message.id] if isinstance(message.id, str) else list(message.id)), theirs


@pytest.mark.parametrize("language", OTHERS)
def test_nothing_is_said_that_is_not_translated(language: str) -> None:
    known = {texts(message)[0][0]: message for message in catalogue(language) if message.id}
    said = said_in_code()
    assert len(said) > 80, "the extractor finds what is marked"
    assert {text: place for text, place in said.items() if text not in known} == {}
    empty = [text for text in said if not all(texts(known[text])[1])]
    assert empty == []


@pytest.mark.parametrize("language", OTHERS)
def test_a_catalogue_holds_nothing_that_is_not_said_and_keeps_the_gaps(language: str) -> None:
    said = said_in_code()
    for message in catalogue(language):
        if message.id:
            english, theirs = texts(message)
            assert english[0] in said, "nobody says this any more"
            assert not message.fuzzy
            for text in theirs:
                assert gaps(text) == gaps(english[0]), text


def test_a_phrase_is_english_until_somebody_asks() -> None:
    said = phrase("Type your PIN on the phone {phone} when it asks.", phone="+254•••678")
    assert said == "Type your PIN on the phone +254•••678 when it asks."
    assert in_language(said, "fr-CI") == "Tapez votre code PIN sur le téléphone +254•••678 quand il le demande."
    assert in_language(said, "xx") == said
    assert in_language("Of no catalogue", "sw") == "Of no catalogue"


def test_what_fills_a_gap_is_never_read_as_one() -> None:
    assert in_language(phrase("Your Standpipe code is {code}.", code="{0.__class__}"), "sw").endswith("{0.__class__}.")


@pytest.mark.parametrize("count", [0, 1, 2, 11])
def test_plurals_follow_the_language(count: int) -> None:
    french = translate_many("{count} day", "{count} days", count, "fr").format(count=count)
    assert french == f"{count} jour{'' if count < 2 else 's'}"


def test_an_error_is_said_in_its_readers_language() -> None:
    assert RateLimitedError(7).text_in("fr") == "Trop d'essais. Attendez 7 secondes."
    assert str(RateLimitedError(7)) == "Too many tries. Please wait 7 seconds."
    wrong = InvalidInputError(phrase("The code is wrong or has expired. Ask for a new one."), ("code",))
    assert wrong.text_in("sw").startswith("Msimbo si sahihi")
    assert NotFoundError("No such thing.").text_in("sw") == "No such thing."
    assert translate("", "sw") == ""


def test_a_phrase_survives_being_copied() -> None:
    said = phrase("Your Standpipe code is {code}.", code="7")
    assert in_language(copy.deepcopy(said), "fr") == "Votre code Standpipe est 7."


# Operators alone read these: rooms of the office and the radio, and files of rooms that serve both.
OFFICE = (
    "office",
    "operations",
    "meter_gateway",
    "documents",
    "sts",
    "vending",
    "supply",
    "readings",
    "ledger",
    "billing/price_tables.py",
    "billing/review.py",
    "billing/supply_terms.py",
    "meters/credit.py",
    "meters/keypads.py",
    "meters/price_tables.py",
    "payments/arrears.py",
    "payments/refunds.py",
    "payments/settlement_files.py",
    "payments/suspense_work.py",
    "tariffs/file_text.py",
    "tariffs/files.py",
    "tariffs/publishing.py",
    "tariffs/sample.py",
    "utilities/operators.py",
)
# Errors that a customer may read, and which of their arguments is the sentence. NotFoundError is told as "Not found.".
TOLD = {
    "ForbiddenError": 0,
    "InvalidInputError": 0,
    "MeterBlockedError": 0,
    "NotAuthenticatedError": 0,
    "QuoteOutdatedError": 0,
    "RailRefusedError": 2,
    "SignInUnavailableError": 0,
    "invalid": 0,
}
MARKS = ("phrase", "to_translate")


def unmarked(source: str) -> list[str]:
    """Sentences that are given to a customer's error as they are, whatever stands around them."""

    def literals(node: ast.expr) -> list[str]:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MARKS:
            return []
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            return [ast.unparse(node)]
        if isinstance(node, ast.Name):
            return [ast.unparse(made) for made in constants.get(node.id, ()) if literals(made)]
        return [text for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr) for text in literals(part)]

    tree = ast.parse(source)
    constants: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            text = isinstance(node.value, ast.JoinedStr | ast.Constant | ast.IfExp)
            constants.setdefault(node.targets[0].id, []).extend([node.value] if text else [])
    found: list[str] = []
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in TOLD:
            place = TOLD[call.func.id]
            sentences = [*call.args[place : place + 1], *(one.value for one in call.keywords if one.arg == "message")]
            found += [text for sentence in sentences for text in literals(sentence)]
    return found


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ('InvalidInputError("Unmarked.", ("field",))', 1),
        ('InvalidInputError(phrase("Marked."), ("field",))', 0),
        ('InvalidInputError(f"Filled {gap}.")', 1),
        ('InvalidInputError(phrase("One.") if so else "Two.")', 1),
        ('WRONG = "Of a name."\nForbiddenError(WRONG)', 1),
        ('invalid(message="Named.")', 1),
        ('RailRefusedError(NAME, "code", "Unmarked.")', 1),
        ('RailRefusedError(NAME, "code", to_translate("Marked."))', 0),
        ("InvalidInputError(error.message)", 0),
    ],
)
def test_an_unmarked_sentence_is_found(source: str, wrong: int) -> None:
    assert len(unmarked(source)) == wrong


def test_no_error_that_customers_read_holds_an_unmarked_sentence() -> None:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(OFFICE) and (wrong := unmarked(path.read_text())):
            found[name] = wrong
    assert found == {}
