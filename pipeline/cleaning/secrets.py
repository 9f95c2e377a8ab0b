"""Goes in: a text. Comes out: where keys and tokens stand in it, by the prefixes and forms their makers publish.

A prefix is looked for first, which costs nothing where there is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# (a fixed part, the whole form)
_FORMS = tuple(
    (fixed, re.compile(form))
    for fixed, form in (
        # PEM (RFC 7468) and OpenPGP (RFC 9580): up to the end mark, or the end of the text if it was cut.
        (
            "PRIVATE KEY",
            # Nothing is given back once it is taken, and nothing taken beyond the next mark: or many that begin and
            # never end would each be looked through to the end of the text.
            r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:[A-Za-z0-9+/=:,.\s\\]|-(?!----)){16,20000}+"
            r"(?:-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----|\Z)",
        ),
        ("AKIA", r"(?<!\w)AKIA[A-Z2-7]{16}(?!\w)"),  # Amazon Web Services, long-term
        ("ASIA", r"(?<!\w)ASIA[A-Z2-7]{16}(?!\w)"),  # Amazon Web Services, temporary
        ("aws_secret", r"(?<!\w)aws_secret_access_key[\"']?\s{0,9}[=:]\s{0,9}[\"']?[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])"),
        ("AccountKey=", r"(?<=AccountKey=)[A-Za-z0-9+/]{86}=="),  # Azure storage
        ("AIza", r"(?<!\w)AIza[\w-]{35}(?![\w-])"),  # Google
        *((f"gh{kind}_", rf"(?<!\w)gh{kind}_[A-Za-z0-9]{{36,255}}(?!\w)") for kind in "pousr"),  # GitHub
        ("github_pat_", r"(?<!\w)github_pat_\w{22,255}"),
        ("glpat-", r"(?<!\w)glpat-[\w-]{20,255}"),  # GitLab
        ("xox", r"(?<!\w)xox[abeoprs]-[\w-]{10,255}"),  # Slack
        ("xapp-", r"(?<!\w)xapp-[\w-]{10,255}"),
        ("hooks.slack.com/", r"(?<=hooks\.slack\.com/services/)T\w{8,20}/B\w{8,20}/\w{20,40}"),
        ("k_live_", r"(?<!\w)[rs]k_live_[A-Za-z0-9]{16,255}"),  # Stripe
        ("sk-", r"(?<!\w)sk-(?:[a-z]{2,8}[0-9]{0,2}-)?[\w-]{32,255}"),  # OpenAI and Anthropic
        ("hf_", r"(?<!\w)hf_[A-Za-z0-9]{34,255}"),  # Hugging Face
        ("npm_", r"(?<!\w)npm_[A-Za-z0-9]{36}(?!\w)"),
        ("pypi-AgEIcHlwaS5vcmc", r"(?<!\w)pypi-AgEIcHlwaS5vcmc[\w-]{50,1000}"),
        ("SG.", r"(?<!\w)SG\.[\w-]{22}\.[\w-]{43}(?![\w-])"),  # SendGrid
        ("eyJ", r"(?<!\w)eyJ[\w-]{10,500}\.eyJ[\w-]{10,4000}\.[\w-]{10,2000}"),  # JSON Web Token, RFC 7519
        ("Bearer ", r"(?<=Bearer )[\w.~+/-]{20,2000}=*"),  # RFC 6750
        ("://", r"(?<=://)[^\s/:@]{0,64}:[^\s/:@]{3,64}(?=@)"),  # a password in an address, RFC 3986
    )
)


def find(text: str) -> Iterator[tuple[int, int]]:
    """Where each key or token begins, and where the text goes on after it."""
    for fixed, form in _FORMS:
        if fixed in text:
            for match in form.finditer(text):
                yield match.span()
