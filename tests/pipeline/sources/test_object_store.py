"""A bucket reads like a folder; tried against a real S3 protocol server on loopback."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipeline.cleaning.rejections import Rejection
from pipeline.errors import ConfigurationError, DependencyError, IntegrityError
from pipeline.sources import object_store
from pipeline.sources.catalogue import Entry
from pipeline.sources.corpus import Corpus
from pipeline.sources.isolation import Isolation

pytest.importorskip("s3fs", reason="the extra s3 is not installed")
SECRET = "SECRET-CANARY-8088"
FILES = {
    "corpus/a.txt": b"one",
    "corpus/deep/b.jsonl.gz": gzip.compress(b'{"text": "two"}\nbroken\n', mtime=0),
    "corpus/c.png": b"picture",
    "corpus/.git/x.txt": b"hidden",
    "corpus/folder/": b"",
    "elsewhere/d.txt": b"not asked for",
}


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """A server with a bucket in it, and the environment that leads there."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    environment = {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": url,
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        for name, content in FILES.items():
            client.put_object(Bucket="bucket", Key=name, Body=content)
        yield url
    server.stop()


def read(address: str, scratch: Path, **entry: str) -> tuple[list[str], Corpus]:
    """What became of each record of a prefix, and the reader with its facts."""
    corpus = Corpus(Isolation(children=2), scratch=scratch)
    described = Entry(path=address, kind="documents", licence="x", origin="y", **entry)  # type: ignore[arg-type]
    found = corpus.read("s3", described, key="ingest.catalogue.s3.path")
    said = [f"{r.name}: {r.reason if isinstance(r, Rejection) else r.text}" for r in found]  # type: ignore[attr-defined]
    return said, corpus


def test_a_prefix_reads_like_a_folder(store: str, tmp_path: Path) -> None:
    """Objects come by name, compressed ones too, the unreadable with a reason; nothing is left in scratch."""
    said, corpus = read("s3://bucket/corpus", tmp_path)
    assert said == [
        ".git/x.txt: its name begins with a dot", "a.txt: one", "c.png: files named .png are not read",
        "deep/b.jsonl.gz:1: two", "deep/b.jsonl.gz:2: is not JSON: character 0 of the line",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    assert (corpus.facts["s3"]["files"], corpus.facts["s3"]["records"]) == (2, 2)
    digest = str(corpus.facts["s3"]["sha256"])
    assert read("s3://bucket/corpus", tmp_path, sha256=digest)[0] == said
    with pytest.raises(IntegrityError, match="what is read has sha256"):
        read("s3://bucket/corpus", tmp_path, sha256="0" * 64)


def test_one_object_is_a_source(store: str, tmp_path: Path) -> None:
    """An address of one object gives that object."""
    assert read("s3://bucket/corpus/a.txt", tmp_path)[0] == ["a.txt: one"]


def test_azures_ways_are_known_too(tmp_path: Path) -> None:
    """adlfs names a single object alone, where s3fs says all of it, and spells an ETag in small letters.

    Found with adlfs 2026.8 and Azurite, which is no Python package; here is a store of fsspec's that answers alike.
    """
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    class Like(MemoryFileSystem):  # type: ignore[misc]
        protocol = "azlike"
        store: ClassVar[dict[str, Any]] = {}
        etags: ClassVar[dict[str, str]] = {}

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return "/" + path.removeprefix("azlike://").strip("/")

        def info(self, path: str, **kwargs: Any) -> Any:
            return super().info(path, **kwargs) | {"etag": self.etags.get(path, "")}

        def find(self, path: str, **kwargs: Any) -> Any:
            found = super().find(path, **kwargs)
            return [path] if [*found] == [path] else {name: self.info(name) for name in found}

        def _open(self, path: str, *args: Any, **kwargs: Any) -> Any:
            file = super()._open(path, *args, **kwargs)
            file.details = self.info(path)
            return file

    fsspec.register_implementation("azlike", Like, clobber=True)
    system = Like()
    for name in ("a", "b"):
        system.pipe_file(f"/bucket/{name}.txt", b"one")
        system.etags[f"/bucket/{name}.txt"] = '"0x1"'
    assert read("azlike://bucket/a.txt", tmp_path)[0] == ["a.txt: one"]
    objects = object_store.objects_of("azlike://bucket", key="k", scratch=tmp_path)
    assert next(objects).name == "a.txt"
    system.etags["/bucket/b.txt"] = '"0x2"'
    with pytest.raises(IntegrityError, match="azlike://bucket: an object changed while it was read"):
        next(objects)


def test_what_is_not_there_is_a_wrong_setting(store: str, tmp_path: Path) -> None:
    """An empty prefix or an unknown bucket names the key to correct."""
    for address in ("s3://bucket/nothing", "s3://no-such-bucket/a"):
        with pytest.raises(ConfigurationError, match=r"ingest\.catalogue\.s3\.path: nothing is stored at s3://"):
            read(address, tmp_path)


def test_a_store_that_is_down_is_a_dependency(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so in one line, without what the library says, which may hold keys."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(DependencyError, match="the store does not answer") as error:
        read("s3://bucket/corpus", tmp_path)
    assert SECRET not in str(error.value)
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_store_that_knows_nobody_says_so(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials the error is about those, not about the store."""
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(DependencyError, match="refuses access; check the credentials"):
        read("s3://bucket/corpus", tmp_path / "scratch")
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_not_the_stores_fault(store: str) -> None:
    """What fails here while a copy is written is told as what it is."""
    system, _ = object_store._connected("s3://bucket/corpus", "k")
    with pytest.raises(OSError, match="No space left"):
        object_store._copy(system, "bucket/corpus/a.txt", Path("/dev/full"), "s3://bucket", "k")


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the store's package the error names the extra to install."""
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(DependencyError, match=r"gs:// needs a package; pip install 'homegrown\[gcs\]'"):
        read("gs://bucket/a", tmp_path)


def test_this_machine_is_no_store(tmp_path: Path) -> None:
    """file:// would go round the rules for local paths; an unknown scheme is refused too."""
    for address, said in (
        ("file:///etc/passwd", "is this machine"), ("nonsense://x", "is no address"), ("s3://", "is no address")
    ):  # fmt: skip
        with pytest.raises(ConfigurationError, match=said):
            list(object_store.objects_of(address, key="k", scratch=tmp_path))
    assert list(tmp_path.iterdir()) == []
