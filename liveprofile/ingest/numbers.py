"""Numbers as people write them in files: decimal commas, thousands, currencies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

# Spaces between thousands may be of three kinds.
_SPACES = " \u00a0\u202f"
_GROUP = f"[{_SPACES}'’]"
# Dots between thousands are optional. 12.50 is no number here: its dot would be lost.
_COMMA_NUMBER = re.compile(
    rf"\s*-?(\d+|\d{{1,3}}(\.\d{{3}})+|\d{{1,3}}({_GROUP}\d{{3}})+)(,\d+)?\s*"
)
# 1,234 is no number here: its comma may be a decimal mark.
_GROUPED_NUMBER = re.compile(
    rf"\s*-?(\d{{1,3}}(,\d{{3}})+\.\d+|\d{{1,3}}({_GROUP}\d{{3}})+(\.\d+)?)\s*"
)
_NO_DIGITS = re.compile(rf"[{_SPACES},'’]")
_CURRENCY = re.compile(
    r"[€$£¥₩₪₫₱₴₸₹₺₽]|R\$|zł|Kč|kr\.?|Ft|lei|Fr\.|EUR|USD|GBP|CHF|PLN|CZK|SEK|NOK|DKK|HUF|RON|BGN"
    r"|TRY|UAH|JPY|CNY|INR|BRL|MXN|CAD|AUD|NZD|ZAR"
)


def number_of(text: str, decimal: str, currency: str = "") -> float | None:
    """The number in a text with this decimal mark; None if it is none.

    currency: may stand before or after the number. Another one makes it no number.
    """
    if currency:
        text = _without(text, currency)
    if decimal == ",":
        if not _COMMA_NUMBER.fullmatch(text):
            return None
        text = re.sub(rf"\.|{_GROUP}", "", text).replace(",", ".")
    elif _GROUPED_NUMBER.fullmatch(text):
        text = _NO_DIGITS.sub("", text)
    return finite(text)


def currency_of(values: Iterable[str]) -> str:
    """The currency that most of the texts begin or end with; "" if most have none."""
    found: Counter[str] = Counter()
    for value in values:
        text = value.strip()
        matches = (_CURRENCY.match(text.lstrip("-")), _last_currency(text))
        found[next((match.group() for match in matches if match), "")] += 1
    return found.most_common(1)[0][0] if found else ""


def finite(text: str | None) -> float | None:
    """A number of Python's form; None if it is none, or infinite."""
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and abs(value) < float("inf") else None


def _last_currency(text: str) -> re.Match[str] | None:
    return next((match for match in _CURRENCY.finditer(text) if match.end() == len(text)), None)


def _without(text: str, currency: str) -> str:
    """-$5, $-5 and 5 $ become -5, -5 and 5."""
    text = text.strip()
    sign = "-" if text.startswith("-") else ""
    rest = text[len(sign) :].strip()
    if rest.startswith(currency):
        return sign + rest[len(currency) :].strip()
    return sign + rest.removesuffix(currency).strip()
