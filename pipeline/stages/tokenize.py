"""Goes in: clean documents. Comes out: a vocabulary, and token shards, training and validation apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from pipeline import encodings
from pipeline.cleaning.groups import read_groups
from pipeline.document_tokens import SPLITS, DocumentTokens, ShardMaker, split_of, split_of_digest
from pipeline.documents import Document, part_files, read_records
from pipeline.engine import Workers, make_ready, workers
from pipeline.errors import DataError, machine_errors
from pipeline.ledger import balance
from pipeline.manifest import Draft, commit, read, verify
from pipeline.params import Compute
from pipeline.remembered_shards import RememberedShards, remembered_shards
from pipeline.report import Report
from pipeline.shards import SplitWriter

__all__ = ["READS", "SPLITS", "WRITES", "Params", "run", "split_of"]

READS = {"documents": "data/documents/clean", "validation": "data/reports/validation"}
WRITES = {"tokens": "data/tokens"}
BYTES_PER_WORKER = 1 << 25  # compressed, 100 MB of text: with twice as much a second worker makes up for its beginning


@dataclass(frozen=True)
class Params:
    """The vocabulary, and how the tokens are laid out."""

    vocab_size: int
    """Entries of the vocabulary to train, <|endoftext|> among them."""
    ranks: str | None
    """A tiktoken ranks file, or GPT-2's vocab.bpe, to use instead of training; the vocabulary's size is the file's."""
    pattern: encodings.Pattern | None
    """How text is split before it is encoded; null is gpt2 in training, and with `ranks` what the file is known for."""
    training_bytes: int
    """At most this many bytes of text train the vocabulary: where there is more, a sample chosen by the texts' hash."""
    validation_fraction: float
    """The share of documents held out, chosen by the hash of the text, so that a document never changes sides."""
    parts_per_shard: int
    """About so many parts of the documents, of three million characters each, make a shard."""

    def __post_init__(self) -> None:
        if self.vocab_size <= encodings.BYTES + 1:
            raise ValueError(f"vocab_size must be more than {encodings.BYTES + 1}: every byte needs a token")
        if self.training_bytes < 1:
            raise ValueError("training_bytes must be at least 1")
        if not 0 < self.validation_fraction < 1:
            raise ValueError("validation_fraction must lie between 0 and 1")
        if self.parts_per_shard < 1:
            raise ValueError("parts_per_shard must be at least 1")


def run(params: Params, *, documents: Path, validation: Path, tokens: Path, compute: Compute, report: Report) -> None:
    """Train or load the vocabulary, then encode every document into its split, in the corpus' order."""
    compute = compute.sized(read(documents).size_bytes, BYTES_PER_WORKER)
    make_ready(compute, ShardMaker.__module__)
    given = verify(documents)
    source = documents / "documents.parquet"
    total = int(given.facts["documents"])
    read(validation)  # its manifest exists only if every expectation held
    with commit(tokens, "tokens", params=params, inputs={"documents": documents, "validation": validation}) as draft:
        ranks_file = draft.path / encodings.RANKS_FILE
        ranks, pattern = _write_vocabulary(params, source, ranks_file, report)
        vocab_size, end_of_text = len(ranks) + 1, len(ranks)
        writers = {split: SplitWriter(draft.path, split) for split in SPLITS}
        n_bytes = dict.fromkeys(SPLITS, 0)
        n_documents = dict.fromkeys(SPLITS, 0)
        texts_digests = {split: hashlib.sha256() for split in SPLITS}
        files = part_files(source)
        parts = [(file.resolve(), given.files[file.relative_to(documents).as_posix()].sha256) for file in files]
        groups = read_groups(documents)
        fingerprint = encodings.fingerprint_of(ranks, pattern)
        # Workers elsewhere may stand in another folder.
        make = partial(
            ShardMaker, documents.resolve(), ranks_file.resolve(), params.validation_fraction, draft.path.resolve()
        )
        said = ""
        with (
            remembered_shards(fingerprint, groups, params.validation_fraction) as remembered,
            workers(make, compute) as makers,
            machine_errors(f"writing {tokens}", tokens),  # or it would be the memory that is said to be written
        ):
            for made, note in _shards(remembered, makers, draft, list(_for_shards(parts, params.parts_per_shard))):
                for split, of_split in made.items():
                    places = writers[split].add(of_split.shards, of_split.ids, of_split.sources, of_split.lengths)
                    for (before, _), place in zip(of_split.shards, places, strict=True):
                        draft.known[place] = draft.known.pop(before)
                    n_bytes[split] += of_split.n_bytes
                    n_documents[split] += len(of_split.ids)
                    texts_digests[split].update(of_split.text_digests)
                if note and note != said:
                    report.note(said := note)
                report.progress(sum(n_documents.values()), total, "documents")
        balance("tokenize", "documents", read=total, written=sum(n_documents.values()))
        for split, writer in writers.items():
            if not n_documents[split]:
                raise DataError(
                    f"tokenize: no document fell into the {split} split of {total:,}; "
                    "add documents or change tokenize.validation_fraction"
                )
            writer.close()
        draft.facts |= {
            "vocab_size": vocab_size,
            "vocabulary_fingerprint": fingerprint,
            "end_of_text": end_of_text,
            "n_tokens": {split: writer.n_tokens for split, writer in writers.items()},
            "shards": {split: writer.shards for split, writer in writers.items()},
            "n_bytes": n_bytes,
            "n_documents": n_documents,
            # What was held out, whatever the vocabulary: figures in bits per byte compare if this is equal.
            "texts_digest": {split: digest.hexdigest() for split, digest in texts_digests.items()},
        }
    trained = writers["train"].n_tokens
    report.metrics({"train_tokens": trained, "validation_tokens": writers["validation"].n_tokens})
    report.note(
        f"vocabulary of {vocab_size:,}; {trained:,} training and {writers['validation'].n_tokens:,} validation "
        f"tokens; {n_bytes['train'] / trained:.2f} bytes a token"
    )


def _shards(
    remembered: RememberedShards,
    makers: Workers[tuple[int, Sequence[Path]], tuple[dict[str, DocumentTokens], str]],
    draft: Draft,
    for_shards: Sequence[tuple[bytes, Sequence[Path]]],
) -> Iterator[tuple[dict[str, DocumentTokens], str]]:
    """What is made of the parts for each shard, or was before, and what there is to say of the encoder, in order.

    Workers make what is new while the rest is taken from memory.
    """
    known = [remembered.hold(digest) for digest, _ in for_shards]
    fresh = makers.map((number, paths) for number, (_, paths) in enumerate(for_shards) if not known[number])
    for number, (digest, paths) in enumerate(for_shards):
        made, note = remembered.take(draft, digest, number) if known[number] else None, ""
        if made is None:
            [(made, note)] = makers.map([(number, paths)]) if known[number] else [next(fresh)]
            remembered.keep(draft, digest, made)
        yield made, note


def _for_shards(parts: Sequence[tuple[Path, str]], parts_per_shard: int) -> Iterator[tuple[bytes, list[Path]]]:
    """The parts that make each shard and one digest for them, of all parts with theirs.

    Like a part, a shard ends where its content says, so a changed part changes the shards near it and no others.
    """
    chosen: list[Path] = []
    digest = hashlib.sha256()
    for path, sha256 in parts:
        chosen.append(path)
        digest.update(sha256.encode())
        may_end = len(chosen) >= parts_per_shard / 2 and int(sha256[:8], 16) / 2**32 < 2 / parts_per_shard
        if may_end or len(chosen) >= 1.5 * parts_per_shard:
            yield digest.digest(), chosen
            chosen, digest = [], hashlib.sha256()
    if chosen:
        yield digest.digest(), chosen


def _write_vocabulary(
    params: Params, source: Path, path: Path, report: Report
) -> tuple[dict[bytes, int], encodings.Pattern]:
    """Write the ranks file that everything after this reads, given or trained; its ranks and pattern come back."""
    if params.ranks:
        given = Path(params.ranks)
        ranks, pattern = encodings.read_ranks(given), params.pattern or encodings.pattern_of(given)
    else:
        report.note(f"training a byte-level BPE vocabulary of {params.vocab_size:,}")
        pattern = params.pattern or "gpt2"
        ranks = encodings.train_ranks(_sample(params, source), params.vocab_size, pattern)
    encodings.write_ranks(ranks, path, pattern)
    return ranks, pattern


def _sample(params: Params, source: Path) -> Iterator[str]:
    """Texts of the training split, at most `training_bytes` of them, chosen by hash where there are more."""
    # The footers know about how large the texts are, so nobody need read them all twice.
    footers = [pq.read_metadata(file) for file in part_files(source)]
    groups = [footer.row_group(number) for footer in footers for number in range(footer.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    n_bytes = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == "text")
    share = params.training_bytes / max(1.0, n_bytes * (1 - params.validation_fraction))
    left = params.training_bytes
    of_groups = read_groups(source.parent)
    for document in read_records(source, Document):
        text = document.text.encode()
        digest = hashlib.sha256(text).digest()
        # The first eight bytes decide the split, so the next eight are independent of it.
        if (
            split_of_digest(of_groups.get(document.id, digest), params.validation_fraction) == "train"
            and int.from_bytes(digest[8:16]) / 2**64 < share
        ):
            left -= len(text)
            if left < 0:
                return
            yield document.text
