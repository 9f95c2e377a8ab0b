"""Goes in: an http(s) URL and the sha256 of what it should hold. Comes out: that file, under its digest, or an error.

Nothing is published before its digest is right. A transfer that breaks is tried again after a growing pause, and goes
on where it stopped only if the server says by an equal ETag that it still has the same thing. A redirect may lead to
another public host, never to a file, to an address within somebody's network, or from https to http.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from pipeline.errors import ConfigurationError, DependencyError, IntegrityError, machine_errors
from pipeline.manifest import sha256_file

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True)
class Patience:
    """How long to try, and how much to take."""

    attempts: int = 5
    first_pause_seconds: float = 1.0
    """The pause after the first attempt that failed; each further one is twice as long."""
    stall_seconds: float = 30.0
    """A server that is silent for longer has stalled, and one that in this time sends less than it should."""
    slowest_bytes_per_second: int = 1024
    limit_bytes: int = 256 << 30
    redirects: int = 5


class _TransientError(Exception):
    """A failure that may pass."""


def fetched(
    url: str,
    sha256: str,
    folder: Path,
    *,
    patience: Patience | None = None,
    sleep: Callable[[float], None] = time.sleep,
    note: Callable[[str], None] = lambda _: None,
) -> Path:
    """The content of the URL as `folder`/SHA256; what is there already is verified and not asked for again.

    DependencyError if the server does not give it, IntegrityError if what it gives is something else.
    """
    patience = patience or Patience()
    target, partial = folder / sha256, folder / f"{sha256}.partial"
    shown = _without_secrets(url)
    with machine_errors(f"downloading {shown}", folder):
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists():
            if sha256_file(target) == sha256:
                return target
            target.unlink()  # damaged since; it is fetched anew
        problem = ""
        for attempt in range(patience.attempts):
            if attempt:
                pause = patience.first_pause_seconds * 2 ** (attempt - 1)
                note(f"{shown}: {problem}; trying again in {pause:g} s")
                sleep(pause)
            try:
                _transfer(url, partial, patience)
            except _TransientError as error:
                problem = str(error)
                continue
            if (found := sha256_file(partial)) != sha256:
                partial.unlink()
                raise IntegrityError(
                    f"{shown}: its sha256 is {found}, expected {sha256}; if the new content is right, state its sha256"
                )
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.rename(target)
            _etag_file(partial).unlink(missing_ok=True)
            return target
    raise DependencyError(f"{shown}: {problem}, {patience.attempts} times; try again later, or use another address")


def _etag_file(partial: Path) -> Path:
    return partial.with_suffix(".etag")


def _transfer(url: str, partial: Path, patience: Patience) -> None:
    """One attempt to complete `partial`; _TransientError if trying again may help."""
    import httpx

    etag_file = _etag_file(partial)
    etag = etag_file.read_text(encoding="utf-8") if etag_file.exists() and partial.exists() else ""
    have = partial.stat().st_size if etag else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": etag}
    try:
        with httpx.Client(follow_redirects=False, timeout=httpx.Timeout(patience.stall_seconds)) as client:
            response = _opened(client, url, headers, patience)
            with closing(response):
                resumes = (
                    response.status_code == 206
                    and response.headers.get("etag") == etag
                    and response.headers.get("content-range", "").startswith(f"bytes {have}-")
                )
                if response.status_code >= 500 or response.status_code in (408, 425, 429):
                    raise _TransientError(f"the server answers {response.status_code}")
                if response.status_code == 416 or (response.status_code == 206 and not resumes):
                    etag_file.unlink(missing_ok=True)  # what is here does not fit what is there
                    raise _TransientError("the server cannot go on where the transfer stopped")
                if response.status_code not in (200, 206):
                    raise DependencyError(
                        f"{_without_secrets(url)}: the server answers {response.status_code}; check the address"
                    )
                _save(response, partial, have if resumes else 0, patience, url)
    except httpx.HTTPError as error:  # its text may hold the URL, and that a password
        raise _TransientError(f"the transfer fails ({type(error).__name__})") from None


def _save(response: httpx.Response, partial: Path, start: int, patience: Patience, url: str) -> None:
    etag = response.headers.get("etag", "")
    length = response.headers.get("content-length", "")
    expected = start + int(length) if length.isdecimal() else None
    too_large = f"{_without_secrets(url)}: larger than {patience.limit_bytes:,} bytes; fetch it yourself"
    if expected is not None and expected > patience.limit_bytes:
        raise ConfigurationError(too_large)
    with partial.open("ab" if start else "wb") as file:
        # A weak ETag promises the same meaning, not the same bytes: nothing can be resumed by it.
        if etag and not etag.startswith("W/"):
            _etag_file(partial).write_text(etag, encoding="utf-8")
        else:
            _etag_file(partial).unlink(missing_ok=True)
        size = seen = start
        looked = time.monotonic()
        for block in response.iter_raw():  # as they come: of a larger block the beginning would be lost with the rest
            size += len(block)
            if size > patience.limit_bytes:
                raise ConfigurationError(too_large)
            file.write(block)
            if (waited := time.monotonic() - looked) > patience.stall_seconds:
                if size - seen < waited * patience.slowest_bytes_per_second:
                    raise _TransientError(f"the server sends {(size - seen) / waited:,.0f} bytes a second")
                looked, seen = time.monotonic(), size
    if expected is not None and size != expected:
        raise _TransientError("the server ends before the content does")


def _opened(client: httpx.Client, url: str, headers: dict[str, str], patience: Patience) -> httpx.Response:
    """The answer to the URL after its redirects, its body still to be read."""
    here = url
    for _ in range(patience.redirects + 1):
        response = client.send(client.build_request("GET", here, headers=headers), stream=True)
        try:
            if here != url:
                _check_peer(response, url)
        except DependencyError:
            response.close()
            raise
        if response.status_code not in (301, 302, 303, 307, 308):
            return response
        target = response.headers.get("location", "")
        response.close()
        there = urljoin(here, target)
        _check_redirect(here, there)
        here = there
    raise DependencyError(f"{_without_secrets(url)}: redirects more than {patience.redirects} times; check the address")


def _check_redirect(here: str, there: str) -> None:
    """DependencyError for a redirect that leads where no download should."""
    before, after = urlsplit(here), urlsplit(there)
    problem = ""
    if after.scheme not in ("http", "https"):
        problem = f"redirects to {after.scheme or 'nothing'}:"
    elif (before.scheme, after.scheme) == ("https", "http"):
        problem = "redirects from https to http"
    elif (before.scheme, before.netloc) != (after.scheme, after.netloc) and not _is_public(after.hostname or ""):
        problem = "redirects to an address within a private network"
    if problem:
        raise DependencyError(f"{_without_secrets(here)}: {problem}, which is refused; name the final address yourself")


def _is_public(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return bool(urllib.request.getproxies()) and not _is_address(host)  # the proxy knows names that we do not
    return all(ipaddress.ip_address(str(address[4][0]).split("%")[0]).is_global for address in found)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _check_peer(response: httpx.Response, url: str) -> None:
    """The name was looked up once for the check and once for the connection: here is who truly answered."""
    stream = response.extensions.get("network_stream")
    peer = stream.get_extra_info("server_addr") if stream else None
    same_origin = urlsplit(url)[:2] == urlsplit(str(response.url))[:2]
    proxied = bool(urllib.request.getproxies())
    if peer and not same_origin and not proxied and not ipaddress.ip_address(str(peer[0]).split("%")[0]).is_global:
        raise DependencyError(f"{_without_secrets(url)}: redirects to an address within a private network")


def _without_secrets(url: str) -> str:
    """The URL without user, password, query and fragment, where people put keys."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
