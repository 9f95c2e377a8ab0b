"""What a rejection promises: where, why, whose bytes; never the bytes in a log."""

from __future__ import annotations

import hashlib

from pipeline.cleaning.rejections import RAW_LIMIT_BYTES, Rejection


def test_a_rejection_hashes_what_it_was_given_and_keeps_its_beginning() -> None:
    """The digest is of all the bytes; what is kept is bounded."""
    raw = b"x" * (RAW_LIMIT_BYTES + 1)
    rejection = Rejection.of(source="texts", name="a.txt", reason="too large", raw=raw)
    assert rejection.sha256 == hashlib.sha256(raw).hexdigest()
    assert rejection.raw == raw[:-1]


def test_a_record_s_bytes_do_not_show_when_it_is_printed() -> None:
    """What reaches a log by accident is a rejection's repr, which leaves the bytes out."""
    rejection = Rejection.of(source="texts", name="a.txt", reason="empty", raw=b"SECRET", sha256="00")
    assert "SECRET" not in repr(rejection) + str(rejection)
