"""What counts as personal data, what does not, and what each policy does with it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cleaning.personal_data import KINDS, Policy, examine, mask_all

COUNT: Mapping[str, Policy] = dict.fromkeys(KINDS, "count")


def found(text: str) -> dict[str, int]:
    return examine(text, COUNT).counts


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to jane.doe+x@mail.uni-bonn.de today", "email_addresses"),
        ("call +49 30 901820 or", "phone_numbers"),
        ("call +44 (20) 7946-0958.", "phone_numbers"),
        ("(415) 555-2671", "phone_numbers"),
        ("from 8.8.8.8:53 on", "ip_addresses"),
        ("at 2606:4700:4700::1111 too", "ip_addresses"),
        ("pay with 4111 1111 1111 1111 now", "payment_cards"),
        ("amex 378282246310005", "payment_cards"),
        ("4111-1111-1111-1111 12/29", "payment_cards"),
        ("IBAN DE89 3704 0044 0532 0130 00 THE bank", "ibans"),
        ("GB82WEST12345698765432", "ibans"),
        ("de89370400440532013000", "ibans"),
        ("DE89-3704-0044-0532-0130-00", "ibans"),
        ("DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000", "ibans"),
        ("2024-05-01 4111 1111 1111 1111", "payment_cards"),
        ("Visa 5 4111111111111111", "payment_cards"),
        ("no. 3 3782 822463 10005", "payment_cards"),
        ("4111\u00a01111\u00a01111\u00a01111", "payment_cards"),
        ("212 555 1234", "phone_numbers"),
        ("1-212-555-1234", "phone_numbers"),
        ("(212)555-1234", "phone_numbers"),
        ("+1 212-555-0187", "phone_numbers"),
        ("+49\u00a030\u00a0901820", "phone_numbers"),
        ("user@mail.xn--p1ai", "email_addresses"),
        ("user@münchen.de", "email_addresses"),
        ("联系 jane@uni-bonn.de谢谢", "email_addresses"),
        ("o'brien@uni-bonn.de", "email_addresses"),
    ],
)
def test_each_form_is_found_once(text: str, kind: str) -> None:
    """Published examples of each form, alone and nothing else, also at the beginning of a line."""
    assert found(text) == found(f"\n{text}\n") == {kind: 1}


@pytest.mark.parametrize(
    "text",
    [
        "user@example.com, root@localhost, me@mail.example.org, a @ b.de",
        "matrix A@B.T and @decorator",
        "version 1.2.3.4.5, section 10.0.0.1, 192.168.0.1, 127.0.0.1, 999.1.1.1",
        "2001:db8::1, ::1, 12:30:45, be::able, 3::4",
        "4111 1111 1111 1112",
        "1234567890123, 0.4111111111111111",
        "DE89 3704 0044 0532 0130 01, AB12 3456 7890",
        "2020-01-01 10:20:30, 1 + 2 = 3, +1, (2020) 123-456",
    ],
)
def test_what_has_the_wrong_check_or_belongs_to_nobody_is_left(text: str) -> None:
    """Reserved names, private networks, wrong check digits, dates and versions."""
    assert found(text) == {}


@given(st.integers(10**14, 10**15 - 1))
def test_one_check_digit_of_ten_makes_a_card(number: int) -> None:
    """Of the ten numbers that differ in the last digit, exactly one is a card's (Luhn)."""
    digits = "4" + str(number)[1:]
    assert sum(found(f"{digits}{last}") == {"payment_cards": 1} for last in range(10)) == 1


def test_policies() -> None:
    """Count leaves the text, mask replaces, drop gives a reason, fail names the kind as well."""
    text = "jane@uni-bonn.de has 4111 1111 1111 1111"
    masked = examine(text, {**COUNT, "email_addresses": "mask", "payment_cards": "mask"})
    assert (masked.text, masked.reason) == ("<email> has <card>", None)
    dropped = examine(text, {**COUNT, "email_addresses": "drop"})
    assert (dropped.text, dropped.reason, dropped.fails) == (text, "personal data: e-mail address", None)
    failed = examine(text, {**COUNT, "payment_cards": "fail"})
    assert (failed.reason, failed.fails) == ("personal data: payment card", "payment_cards")
    assert examine(text, COUNT).counts == {"email_addresses": 1, "payment_cards": 1}


@given(st.lists(st.sampled_from(["jane@uni-bonn.de", "8.8.8.8", "+4930901820", " ", "x", "4111111111111111", "\n"])))
def test_masking_leaves_nothing_to_find(parts: list[str]) -> None:
    """What is masked once holds nothing more, and masking it again changes nothing."""
    once = mask_all(" ".join(parts))
    assert found(once) == {}
    assert mask_all(once) == once


def test_a_long_run_without_a_space_take_no_time() -> None:
    """No form is tried again at every character of a long run."""
    words = "a. 1. a@ 4111\u00a0 DE89\u00a03704 (212)\u00a0 ://a:b a.b@c. +1(2)(3)(4)(5)(6)(7)(8x -eyJ eyJaaaaaaaa."
    for unit in (*"a1A4+-@", *words.split(" "), "+1" + "1" * 60 + "x", "-----BEGIN PRIVATE KEY-----\n"):
        found(unit * (300_000 // len(unit)))
