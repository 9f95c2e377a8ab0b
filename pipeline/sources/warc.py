"""Goes in: a web archive (.warc). Comes out: the text of every page in it, by its address; the rest with a reason.

Requests and the archive's own notes are no documents and are passed over. A block whose digest differs from the one
recorded with it is turned away; a record that is cut off spoils the file, since nobody knows what followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from pipeline.sources.html import extracted, python_name
from pipeline.sources.rows import RECORD_LIMIT_BYTES, Budget, Options, Refusal, RefusedError, Row
from pipeline.sources.text import decoded

if TYPE_CHECKING:
    from fastwarc.warc import WarcRecordPayloadReader

_HTML = ("text/html", "application/xhtml+xml")
_PLAIN = ("text/plain", "text/markdown")
URI = "WARC-Target-URI"


def read(stream: BinaryIO, options: Options, budget: Budget) -> Iterator[Row | Refusal]:
    """One result per response, resource or conversion record."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    documents = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion
    number = 0
    try:
        records = ArchiveIterator(
            stream, parse_http=False, record_types=WarcRecordType.any_type, stream_detect=False, fsspec_args=False
        )
        for number, record in enumerate(records, start=1):
            offset, place = record.stream_pos, f":{number}"
            length = record.content_length
            if not record.headers.get("Content-Length"):  # every record has one; fastwarc takes a torn header for whole
                raise RefusedError("is damaged: a record has no Content-Length; make the file again", offset)
            if not record.record_type & documents or length > RECORD_LIMIT_BYTES:
                if _skipped(record.reader) != length:
                    raise RefusedError("is cut off: a record ends before its length; make the file again", offset)
                if record.record_type & documents:
                    yield Refusal(f"too large: {length:,} bytes in one record", offset, place)
                elif record.record_type == WarcRecordType.unknown:
                    yield Refusal("is a record of an unknown type", offset, place)
                continue
            content = record.reader.read(length)
            if len(content) != length:
                raise RefusedError("is cut off: a record ends before its length; make the file again", offset)
            budget.spend(length)
            yield _page(record, content, options, offset, place)
    except RefusedError:
        raise
    except Exception as error:  # fastwarc raises OSError and ValueError, and its decoders their own
        raise RefusedError(f"is damaged after record {number:,}, or no WARC; make the file again") from error
    if not number:
        raise RefusedError("has no WARC record in it")


def _skipped(reader: WarcRecordPayloadReader) -> int:
    length = 0
    while block := reader.read(1 << 16):
        length += len(block)
    return length


def _page(record: object, content: bytes, options: Options, offset: int, place: str) -> Row | Refusal:
    try:
        headers, body = _verified(record, content)
        kind, _, parameters = headers.get("content-type", "").partition(";")
        kind = kind.strip().lower()
        charset = parameters.lower().partition("charset=")[2].split(";")[0].strip(" \"'")
        encoding = python_name(charset) if charset else options.encoding
        if kind in _HTML:
            text = extracted(body, encoding)
        elif kind in _PLAIN:
            text = decoded(body, encoding)
        else:
            raise RefusedError("is neither HTML nor plain text")
        if not text.strip():
            raise RefusedError("has no text in it")
    except RefusedError as refusal:
        return Refusal(refusal.reason, offset, place, content)
    return Row({"text": text, URI: headers.get("warc-target-uri", "")}, offset, place, content)


def _verified(record: object, content: bytes) -> tuple[dict[str, str], bytes]:
    """A record's headers by name in small letters, those of HTTP over those of WARC, and its decoded body."""
    import base64
    import hashlib
    import io
    import zlib

    headers = {str(name).lower(): str(value) for name, value in record.headers.items()}  # type: ignore[attr-defined]
    stated = headers.get("warc-block-digest", "")
    algorithm, _, digest = stated.partition(":")
    if digest and algorithm.lower() in ("sha1", "sha256", "md5"):
        found = hashlib.new(algorithm.lower(), content, usedforsecurity=False)
        if digest.lower() != found.hexdigest() and digest.upper() != base64.b32encode(found.digest()).decode():
            raise RefusedError("differs from the digest recorded with it")
    if not headers.get("content-type", "").startswith("application/http"):
        return headers, content
    head, separator, body = content.partition(b"\r\n\r\n")
    status, *fields = head.split(b"\r\n")
    if not separator or not status.startswith(b"HTTP/"):
        raise RefusedError("has no HTTP header")
    if status.split(b" ")[1:2] != [b"200"]:
        raise RefusedError("is an answer other than 200 OK")
    headers.pop("content-type")
    for field in fields:
        name, _, value = field.partition(b":")
        headers[name.decode("latin-1").strip().lower()] = value.decode("latin-1").strip()
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _unchunked(io.BytesIO(body))
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding in ("gzip", "x-gzip", "deflate"):
        try:
            unpacker = zlib.decompressobj(wbits=47)  # 47: gzip or zlib, by its header
            body = unpacker.decompress(body, RECORD_LIMIT_BYTES + 1)
        except zlib.error as error:
            raise RefusedError("has a compressed body that is damaged") from error
        if len(body) > RECORD_LIMIT_BYTES:
            raise RefusedError("expands beyond what one record may hold")
        if not unpacker.eof:
            raise RefusedError("has a compressed body that is cut off")
    elif coding not in ("identity", ""):
        raise RefusedError("has a body in a coding that is not read")
    return headers, body


def _unchunked(stream: BinaryIO) -> bytes:
    """A body without the chunk sizes of HTTP/1.1; a body that has none although it claims to is taken as it is."""
    whole = bytearray()
    start = stream.tell()
    while True:
        line = stream.readline(1024)
        try:
            size = int(line.split(b";")[0].strip() or b"x", 16)
        except ValueError:
            if not whole:
                stream.seek(start)
                return stream.read()
            raise RefusedError("has a chunked body that is broken") from None
        if size < 0 or len(chunk := stream.read(size)) != size:
            raise RefusedError("has a chunked body that is cut off")
        if not size:
            return bytes(whole)
        whole += chunk
        stream.readline(4)
