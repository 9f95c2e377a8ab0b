"""A download is right, or it is not there: tried against a server on loopback that fails in every way a server can."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.errors import ConfigurationError, DependencyError, IntegrityError
from pipeline.sources.catalogue import Entry
from pipeline.sources.corpus import Corpus
from pipeline.sources.download import Patience, _check_redirect, fetched
from pipeline.sources.isolation import Isolation

CONTENT = b'{"text": "one"}\n{"text": "two"}\n' * 2000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
SECRET = "SECRET-CANARY-5550"
QUICK = Patience(attempts=4, first_pause_seconds=1.0, stall_seconds=0.3)


@dataclass
class Faulty:
    """A server, and what it does at each request: the last of its answers is given again and again."""

    url: str
    answers: list[Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Faulty]:
    faulty = Faulty("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer = faulty.answers[min(len(faulty.asked), len(faulty.answers) - 1)]
            faulty.asked.append({name.lower(): value for name, value in self.headers.items()})
            self.close_connection = True
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    with Quiet(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        faulty.url = f"http://127.0.0.1:{running.server_port}/a.jsonl"
        yield faulty
        running.shutdown()


def send(handler: BaseHTTPRequestHandler, code: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(code)
    for name, value in {"Content_Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def good(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, CONTENT, ETag='"v1"')


def half(etag: str = '"v1"') -> Callable[[BaseHTTPRequestHandler], None]:
    """Promise everything, send half, hang up."""
    return lambda handler: send(handler, 200, CONTENT[:30_000], Content_Length=str(len(CONTENT)), ETag=etag)


def ranged(etag: str = '"v1"') -> Callable[[BaseHTTPRequestHandler], None]:
    """Go on where the client stopped."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-"))
        where = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        send(handler, 206, CONTENT[start:], Content_Range=where, ETag=etag)

    return answer


def reset(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()


def stall(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, CONTENT[:100], Content_Length=str(len(CONTENT)))
    handler.wfile.flush()
    time.sleep(1)


def trickle(handler: BaseHTTPRequestHandler) -> None:
    """Never silent, and never done."""
    send(handler, 200, b"", Content_Length=str(len(CONTENT)))
    with contextlib.suppress(OSError):
        for byte in CONTENT:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(0.05)


def fetch(server: Faulty, folder: Path, url: str = "", patience: Patience = QUICK) -> list[float]:
    """The pauses that were made until the file was there, which is checked."""
    pauses: list[float] = []
    path = fetched(url or server.url, DIGEST, folder, patience=patience, sleep=pauses.append)
    assert (path, path.read_bytes()) == (folder / DIGEST, CONTENT)
    assert [p.name for p in folder.iterdir()] == [DIGEST]
    return pauses


def test_what_is_there_is_not_asked_for_again(server: Faulty, tmp_path: Path) -> None:
    """A second call asks the server nothing; a damaged copy is fetched anew."""
    server.answers = [good]
    assert fetch(server, tmp_path) == fetch(server, tmp_path) == []
    assert len(server.asked) == 1
    (tmp_path / DIGEST).write_bytes(b"damaged")
    fetch(server, tmp_path)
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "fault",
    [lambda handler: send(handler, 503), lambda handler: send(handler, 429), reset, stall, trickle, half('W/"v1"')],
)
def test_what_may_pass_is_tried_again(
    server: Faulty, tmp_path: Path, fault: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    """After a 5xx, a reset, a stall, a trickle, a short body comes a pause, then one twice as long, then the file."""
    server.answers = [fault, fault, good]
    assert fetch(server, tmp_path) == [1.0, 2.0]


def test_attempts_are_bounded(server: Faulty, tmp_path: Path) -> None:
    """A server that is down for good is a DependencyError after the last attempt, and nothing is published."""
    server.answers = [lambda handler: send(handler, 500)]
    with pytest.raises(DependencyError, match=r"a\.jsonl: the server answers 500, 4 times; try again later"):
        fetch(server, tmp_path)
    assert len(server.asked) == 4
    assert list(tmp_path.iterdir()) == []


def test_a_transfer_goes_on_where_it_stopped(server: Faulty, tmp_path: Path) -> None:
    """With an equal ETag the second request asks for the rest only."""
    server.answers = [half(), ranged()]
    fetch(server, tmp_path)
    assert (server.asked[1]["range"], server.asked[1]["if-range"]) == ("bytes=30000-", '"v1"')


@pytest.mark.parametrize(("then", "requests"), [(ranged('"v2"'), 3), (good, 2)])
def test_it_starts_anew_when_the_file_is_another(
    server: Faulty, tmp_path: Path, then: Callable[[BaseHTTPRequestHandler], None], requests: int
) -> None:
    """A rest with another ETag is thrown away, and a whole answer replaces what was there: halves are never joined."""
    server.answers = [half(), then, good]
    fetch(server, tmp_path)
    assert len(server.asked) == requests


def test_a_wrong_checksum_is_never_published(server: Faulty, tmp_path: Path) -> None:
    """Other content than pinned is an IntegrityError at once, and is not kept."""
    server.answers = [lambda handler: send(handler, 200, b"something else")]
    with pytest.raises(IntegrityError, match=f"expected {DIGEST}"):
        fetch(server, tmp_path)
    assert (len(server.asked), list(tmp_path.iterdir())) == (1, [])


def test_a_missing_page_is_not_asked_for_twice(server: Faulty, tmp_path: Path) -> None:
    """404 will not pass; the message shows no password or key of the URL."""
    server.answers = [lambda handler: send(handler, 404)]
    url = server.url.replace("http://", f"http://user:{SECRET}@") + f"?key={SECRET}"
    with pytest.raises(DependencyError, match="answers 404; check the address") as error:
        fetch(server, tmp_path, url)
    assert len(server.asked) == 1
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("file:///etc/passwd", "redirects to file:, which is refused"),
        ("ftp://e.org/x", "redirects to ftp:, which is refused"),
        ("http://127.0.0.1:9/x", "an address within a private network, which is refused"),
        ("http://10.1.2.3/x", "an address within a private network"),
        ("http://169.254.169.254/latest/meta-data", "an address within a private network"),
        ("http://[::1]/x", "an address within a private network"),
        ("/a.jsonl", "redirects more than 5 times"),
    ],
)
def test_bad_redirects_are_refused(server: Faulty, tmp_path: Path, location: str, said: str) -> None:
    """To a file, to another scheme, into a private network, round in a circle: none is followed."""
    server.answers = [lambda handler: send(handler, 302, Location=location)]
    with pytest.raises(DependencyError, match=said):
        fetch(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_https_is_never_left_for_http() -> None:
    """A redirect from https to http is refused, a public host or not."""
    with pytest.raises(DependencyError, match="redirects from https to http"):
        _check_redirect("https://8.8.8.8/a", "http://8.8.8.8/a")
    _check_redirect("http://8.8.8.8/a", "https://8.8.4.4/a")


def test_a_redirect_on_the_same_server_is_followed(server: Faulty, tmp_path: Path) -> None:
    """The host that the user named may send on to another of its pages."""
    server.answers = [lambda handler: send(handler, 301, Location="/b.jsonl"), good]
    assert fetch(server, tmp_path) == []


def test_the_size_is_capped(server: Faulty, tmp_path: Path) -> None:
    """More than the limit is refused, whether the server says so before or just keeps sending."""
    small = Patience(limit_bytes=1000)
    for answer in (good, lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + CONTENT)):
        server.answers = [answer]
        with pytest.raises(ConfigurationError, match="larger than 1,000 bytes"):
            fetch(server, tmp_path, patience=small)


def test_an_address_that_tells_no_format_needs_one_said(server: Faulty, tmp_path: Path) -> None:
    """Before its digest is blamed; %2E is a dot."""
    server.answers = [good]
    for path in ("/download?file=a.jsonl", "/a%2Ejsonl"):
        url = server.url.replace("/a.jsonl", path)
        entry = Entry(path=url, kind="documents", licence="x", origin="y", sha256=DIGEST)
        if "?" in path:
            with pytest.raises(ConfigurationError, match="the address does not tell the format; say it by `format`"):
                Corpus(Isolation(), scratch=tmp_path).read("web", entry, key="k").__next__()
            entry = replace(entry, format="jsonl")
        assert len(list(Corpus(Isolation(), scratch=tmp_path).read("web", entry, key="k"))) == 4000


def test_a_url_is_a_source(server: Faulty, tmp_path: Path) -> None:
    """Its records come like those of a local file, named after the URL's last part, with its digest among the facts."""
    server.answers = [good]
    entry = Entry(path=server.url + "?v=1", kind="documents", licence="x", origin="y", sha256=DIGEST)
    corpus = Corpus(Isolation(), scratch=tmp_path)
    found = list(corpus.read("web", entry, key="k"))
    assert [record.name for record in found[:2]] == ["a.jsonl:1", "a.jsonl:2"]  # type: ignore[union-attr]
    assert (len(found), corpus.facts["web"]["sha256"]) == (4000, DIGEST)
