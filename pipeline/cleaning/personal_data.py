"""Goes in: a text, and a policy for each kind of personal data. Comes out: what was found, and the text as it may stay.

Kinds are found by their form, and where a form has a check (a card's last digit, an IBAN's remainder), by that too.
Names and street addresses have no form and are not found. What is found is counted, never quoted.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.cleaning import secrets

Policy = Literal["count", "mask", "drop", "fail"]
Span = tuple[int, int]

_SPACES = " \u00a0\u202f"  # the latter two keep a number on one line, as PDFs and web pages write it

# What stands before and after an @ in an address, by RFC 5321's lengths; a look-behind keeps a long run from being
# tried at each character. Domains may be of any script (RFC 5890); after one in ASCII a text without spaces may go on.
_MAILBOX = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}(?:'[\w.%+-]{1,64})?\Z")
_MAILBOX_LENGTH = 129
_DOMAIN = re.compile(
    r"(?:[\w-]{1,63}\.){1,8}(?:xn--[A-Za-z0-9-]{2,59}(?!\w)|[A-Za-z]{2,24}(?![A-Za-z0-9_-])|[^\W\d_]{2,24}(?![\w-]))"
)
# Names that belong to nobody (RFC 2606, RFC 6761), which documentation is full of.
_RESERVED_DOMAIN = re.compile(r"(?:^|\.)(?:example|invalid|test|localhost|example\.(?:com|org|net))$", re.IGNORECASE)
# With the sign of an international number (ITU-T E.164: 8 to 15 digits here), or as North America writes them.
# No digit is given back once it is taken: or a long run of them would be cut in every possible way.
_INTERNATIONAL = re.compile(rf"\+(?=[1-9])(?:[{_SPACES}./-]?\(?\d{{1,14}}+\)?){{1,7}}(?!\w)")
_NORTH_AMERICAN = re.compile(
    rf"(?<![\w.+-])(?:1[{_SPACES}.-])?(?:\([2-9]\d{{2}}\)[{_SPACES}.-]?|[2-9]\d{{2}}[{_SPACES}.-])[{_SPACES}]?"
    rf"[2-9]\d{{2}}[{_SPACES}.-]\d{{4}}(?![\w-])"
)
_IPV4 = re.compile(r"(?<![\w.-])\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w-]|\.\d)")
# Every public address of version 6 begins with a 2 or a 3 (2000::/3).
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:])")
_DIGITS = re.compile(rf"(?<![\w.-])\d(?:[{_SPACES}-]?\d){{12,}}+")
_CARD = re.compile(rf"[2-6](?:[{_SPACES}-]?\d){{12,22}}(?![\w-]|\.\d)")
# In one piece, or in groups as cards are printed: so one may stand right after another number and a space.
_PRINTED_CARD = re.compile(
    rf"(?<![\w.-])[2-6](?:\d{{12,18}}|\d{{3}}(?:([{_SPACES}-])\d{{4}}\1\d{{4}}\1\d{{4}}(?:\1\d{{3}})?"
    rf"|([{_SPACES}-])\d{{6}}\2\d{{4,5}}))(?![\w-]|\.\d)"
)
# How a card's number begins, and how many digits it then has (ISO/IEC 7812; the issuers' published ranges).
_ISSUERS = tuple(
    (re.compile(beginning), lengths)
    for beginning, lengths in (
        ("4", (13, 16, 19)),
        ("5[1-5]|2[2-7]", (16,)),
        ("3[47]", (15,)),
        ("30|3[689]", (14, 16, 19)),
        ("35", (16, 19)),
        ("6", (16, 19)),
    )
)
_IBAN = re.compile(rf"(?<!\w)[A-Z]{{2}}\d{{2}}(?=[{_SPACES}-]?[A-Z0-9]{{4}})", re.IGNORECASE | re.ASCII)
# ISO 13616: the length of an IBAN is its country's.
_IBAN_COUNTRIES = {
    **{15: "NO", 16: "BE", 18: "DK FI FO GL NL", 19: "MK SI", 20: "AT BA EE KZ LT LU XK", 21: "CH CR HR LI LV"},
    **{22: "BG BH DE GB GE IE ME RS", 23: "AE GI IL IQ TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "PT"},
    **{26: "IS TR", 27: "FR GR IT MC MR SM", 28: "AL AZ CY DO GT HU LB PL", 29: "BR PS QA UA", 30: "JO KW MU"},
    **{31: "MT SC"},
}
_IBAN_LENGTHS = {country: length for length, countries in _IBAN_COUNTRIES.items() for country in countries.split()}


def emails(text: str) -> Iterator[Span]:
    """E-mail addresses, but for those at names that are reserved for examples."""
    for at in re.finditer("@", text):
        domain = _DOMAIN.match(text, at.end())
        if domain and not _RESERVED_DOMAIN.search(domain[0]):
            mailbox = _MAILBOX.search(text, max(0, at.start() - _MAILBOX_LENGTH), at.start())
            if mailbox:
                yield mailbox.start(), domain.end()


def phones(text: str) -> Iterator[Span]:
    """Telephone numbers: international ones with their plus sign, and North American ones in groups of 3, 3 and 4."""
    if "+" in text:
        for match in _INTERNATIONAL.finditer(text):
            yield from _longest(match, lambda digits: 8 <= len(digits) <= 15)
    for match in _NORTH_AMERICAN.finditer(text):
        yield match.span()


def ip_addresses(text: str) -> Iterator[Span]:
    """Addresses of the public internet, of version 4 and 6; private, loopback and documentation ranges are nobody's."""
    for pattern, mark in ((_IPV4, "."), (_IPV6, ":")):
        if mark in text:
            for match in pattern.finditer(text):
                try:
                    if ipaddress.ip_address(match[0]).is_global:
                        yield match.span()
                except ValueError:
                    continue


def payment_cards(text: str) -> Iterator[Span]:
    """Numbers that begin as an issuer's do, have as many digits, and end in the right one (Luhn)."""
    for digits in _DIGITS.finditer(text):
        if first := _CARD.match(text, digits.start()):
            yield from _longest(first, _is_card)
        # Beyond the end of the digits so far as to see what follows them.
        for printed in _PRINTED_CARD.finditer(text, digits.start(), digits.end() + 2):
            yield from _longest(printed, _is_card)


def ibans(text: str) -> Iterator[Span]:
    """International bank account numbers of the right length and with the right check digits (ISO 13616)."""
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2].upper())
        if length is None:
            continue
        form = re.compile(rf"(?:[A-Za-z0-9][{_SPACES}-]?){{{length - 1}}}[A-Za-z0-9](?!\w)")
        number = form.match(text, match.start())
        if number and _remainder_97("".join(filter(str.isalnum, number[0]))) == 1:
            yield number.span()


@dataclass(frozen=True)
class Kind:
    """A kind of personal data: what a reason calls it, how it is found, and what stands in its place when masked."""

    name: str
    find: Callable[[str], Iterator[Span]]
    mask: str


# In the order in which they are looked for; a longer form comes before one that could be a part of it.
KINDS = {
    "secrets": Kind("secret", secrets.find, "<secret>"),
    "email_addresses": Kind("e-mail address", emails, "<email>"),
    "ibans": Kind("IBAN", ibans, "<iban>"),
    "payment_cards": Kind("payment card", payment_cards, "<card>"),
    "phone_numbers": Kind("telephone number", phones, "<phone>"),
    "ip_addresses": Kind("IP address", ip_addresses, "<ip>"),
}


@dataclass
class Findings:
    """What was found in one text, and what is to be done about it."""

    text: str
    counts: dict[str, int] = field(default_factory=dict)
    masked: list[str] = field(default_factory=list)
    reason: str | None = None
    """Why the record should be dropped, if it should."""
    fails: str | None = None
    """The kind whose policy stops the run, if it was found."""


def to_bytes(findings: Findings) -> bytes:
    """The findings, for a memo: nothing where nothing was found, and the text only where it was masked."""
    if not findings.counts:
        return b""
    text = findings.text if findings.masked else None
    return json.dumps([findings.counts, findings.masked, findings.reason, findings.fails, text]).encode()


def from_bytes(value: bytes, text: str) -> Findings:
    """The findings of a text again."""
    if not value:
        return Findings(text)
    counts, masked, reason, fails, masked_text = json.loads(value)
    return Findings(text if masked_text is None else masked_text, counts, masked, reason, fails)


def examine(text: str, policies: Mapping[str, Policy]) -> Findings:
    """Look for every kind, and apply its policy: count it, mask it, drop the record, or stop the run."""
    found = Findings(text)
    for key, kind in KINDS.items():
        spans = _apart(kind.find(found.text))
        if not spans:
            continue
        found.counts[key] = len(spans)
        policy = policies[key]
        if policy == "mask":
            found.text = _masked(found.text, spans, kind.mask)
            found.masked.append(key)
        elif policy in ("drop", "fail") and found.reason is None:
            found.reason = f"personal data: {kind.name}"
        if policy == "fail" and found.fails is None:
            found.fails = key
    return found


def mask_all(text: str) -> str:
    """The text with every kind masked: for showing to people who look at a report."""
    return examine(text, dict.fromkeys(KINDS, "mask")).text


def _apart(spans: Iterable[Span]) -> list[Span]:
    """The spans in order, without those that begin within another: two forms may know the same number."""
    apart: list[Span] = []
    for span in sorted(spans):
        if not apart or span[0] >= apart[-1][1]:
            apart.append(span)
    return apart


def _masked(text: str, spans: list[Span], mask: str) -> str:
    parts, position = [], 0
    for start, end in spans:
        parts += [text[position:start], mask]
        position = end
    return "".join(parts) + text[position:]


def _longest(match: re.Match[str], is_one: Callable[[str], bool]) -> Iterator[Span]:
    """The longest run of whole groups of digits, from the match's beginning on, that is one of what is looked for."""
    groups = [group.span() for group in re.finditer(r"\d+", match[0])]
    digits = "".join(match[0][start:end] for start, end in groups)
    for start, end in reversed(groups):
        if is_one(digits):
            yield match.start(), match.start() + end
            return
        digits = digits[: len(digits) - (end - start)]


def _is_card(digits: str) -> bool:
    return any(len(digits) in lengths and form.match(digits) for form, lengths in _ISSUERS) and _luhn(digits)


def _luhn(number: str) -> bool:
    digits = [int(digit) for digit in number]
    doubled = [digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _remainder_97(iban: str) -> int:
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97
