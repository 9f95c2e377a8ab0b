"""From a model one walks back to its documents by digests alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.lineage import ancestors, code_digest, commit_id


def test_a_model_names_every_ancestor(made: Any) -> None:
    """A fine-tuned export leads to figures, weights, base, tokens, verdicts, documents and examples, and no further."""
    found = ancestors(made.path("exports/spam"), made.path(""))
    assert found == {
        place: made.manifest(place).digest
        for place in (
            "checkpoints/base",
            "checkpoints/spam",
            "documents/clean",
            "documents/ingested",
            "evaluations/spam",
            "examples/clean",
            "examples/ingested",
            "reports/validation",
            "tokens",
        )
    }


def test_an_ancestor_that_was_made_anew_is_not_taken_for_the_old_one(made: Any) -> None:
    """If a folder now holds another artefact, the digest is kept and said to be not here."""
    before = made.manifest("examples/ingested").digest
    messages = made.path("samples/spam/train.jsonl")
    messages.write_text(messages.read_text() + '{"text": "new", "label": "ham"}\n')
    made.run("ingest")
    found = ancestors(made.path("exports/spam"), made.path(""))
    assert found["ingested - not here"] == before
    assert "examples/ingested" not in found


def test_a_missing_ancestor_is_said_to_be_missing(made: Any) -> None:
    """What was deleted is named by its role and digest."""
    tokens = made.manifest("tokens").digest
    shutil.rmtree(made.path("tokens"))
    assert ancestors(made.path("exports/base"), made.path(""))["tokens - not here"] == tokens


def test_a_manifest_of_somebody_else_s_is_no_obstacle(made: Any) -> None:
    """A file of that name among the user's own data is not ours, and stops nothing."""
    (made.path("samples") / "manifest.json").write_text("{}")
    assert "tokens" in ancestors(made.path("exports/base"), made.path(""))


def test_the_code_s_digest_changes_with_any_file(tmp_path: Path) -> None:
    """An edited, renamed or added Python file changes the digest; other files do not."""
    folder = tmp_path / "pipeline"
    folder.mkdir()
    digests = []
    for name, text in (("a.py", "x = 1"), ("a.py", "x = 2"), ("b.py", ""), ("note.txt", "")):
        (folder / name).write_text(text)
        digests.append(code_digest((folder,)))
    assert (len(set(digests)), digests[2] == digests[3]) == (3, True)


def test_the_commit_is_told_with_whether_the_tree_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside git there is none; inside, a changed tracked file shows and an untracked one does not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_id() == ("none", True)
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    (tmp_path / "a").write_text("1")
    for arguments in (["init", "-q"], ["add", "a"], [*identity, "commit", "-qm", "a"]):
        subprocess.run(["git", *arguments], check=True)
    (tmp_path / "b").write_text("untracked")
    commit, changed = commit_id()
    assert (len(commit), changed) == (40, False)
    (tmp_path / "a").write_text("2")
    assert commit_id() == (commit, True)
