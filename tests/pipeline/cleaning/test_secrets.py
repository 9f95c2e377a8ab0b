"""Keys and tokens are found by their published forms. They are put together here, so that no scanner takes fright."""

from __future__ import annotations

import pytest

from pipeline.cleaning.secrets import find

LETTERS = "aB3dE5gH7jK9mN1pQ2sT4vW6yZ8bC0eF" * 4


@pytest.mark.parametrize(
    "secret",
    [
        "AK" + "IA" + "ABCDEFGHIJKLMNOP",
        "AI" + "za" + LETTERS[:35],
        "gh" + "p_" + LETTERS[:36],
        "github" + "_pat_" + LETTERS[:82],
        "gl" + "pat-" + LETTERS[:20],
        "xo" + "xb-" + LETTERS[:24],
        "sk" + "_live_" + LETTERS[:24],
        "sk" + "-proj-" + LETTERS[:48],
        "sk" + "-ant-" + "api03-" + LETTERS[:90],
        "hf" + "_" + LETTERS[:34],
        "npm" + "_" + LETTERS[:36],
        "pypi-" + "AgEIcHlwaS5vcmc" + LETTERS[:60],
        "S" + "G." + LETTERS[:22] + "." + LETTERS[:43],
        "ey" + "J" + LETTERS[:20] + ".ey" + "J" + LETTERS[:20] + "." + LETTERS[:20],
    ],
)
def test_each_form_is_found_whole(secret: str) -> None:
    """The span is the secret's, whatever stands around it."""
    assert [(f"see {secret} !")[start:end] for start, end in find(f"see {secret} !")] == [secret]


def test_a_private_key_goes_with_its_marks() -> None:
    """From the mark at the beginning to that at the end, or to the end of a text that was cut."""
    begin, end = "-----BEGIN RSA PRIVATE" + " KEY-----", "-----END RSA PRIVATE" + " KEY-----"
    key = f"{begin}\n{LETTERS}\n{LETTERS}\n{end}"
    assert list(find(f"a {key} b")) == [(2, 2 + len(key))]
    assert list(find(f"a {begin}\n{LETTERS}")) == [(2, len(f"a {begin}\n{LETTERS}"))]


def test_a_password_in_an_address_is_one() -> None:
    """The name and the password, not the host."""
    text = "postgres://admin:hun" + "ter22@db.internal/x"
    assert [text[a:b] for a, b in find(text)] == ["admin:hun" + "ter22"]


def test_words_that_look_a_little_like_them_are_none() -> None:
    """Prose about keys holds no key."""
    assert list(find("ghp_short, sk-learn, hf_hub, AKIA, the PRIVATE KEY, http://host:8080/a, eyJ")) == []
