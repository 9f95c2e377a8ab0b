"""The run report shows what was reached beside the baseline, and what is written beside what the champion wrote."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.run_page import Judged, write

LINKS = {"Data Docs": "../data_docs/index.html"}


def judge(root: Path, model: Judged) -> bool:
    """Write the page of this one model."""
    return write(
        root / "run", models=[model], evaluations=root / "evaluations", checkpoints=root / "checkpoints", links=LINKS
    )


def evaluated(root: Path, low: float = 0.9) -> Judged:
    """A spam filter with figures, a curve, two answers and a sample that looks like HTML."""
    evaluation, checkpoint = root / "evaluations" / "spam", root / "checkpoints" / "spam"
    evaluation.mkdir(parents=True, exist_ok=True)
    checkpoint.mkdir(parents=True, exist_ok=True)
    figure = {
        "name": "spam accuracy", "value": 0.95, "n": 400, "low": low, "high": 0.97,
        "baseline": 0.55, "baseline_name": "always ham", "higher_is_better": True,
    }  # fmt: skip
    metrics = {"accuracy": 0.95, "main": "accuracy", "higher_is_better": True, "n": 400, "table": [figure]}
    (evaluation / "metrics.json").write_text(json.dumps(metrics))
    (evaluation / "manifest.json").write_text(str(low))
    forgetting = {"bits_per_byte_before": 1.5, "bits_per_byte_after": 2.25}
    (checkpoint / "manifest.json").write_text(json.dumps({"facts": {"forgetting": forgetting}}))
    samples = [{"prompt": "<b>win</b> now", "response": "spam", "expected": "spam"}]
    (evaluation / "samples.json").write_text(json.dumps(samples))
    (evaluation / "confusion.csv").write_text("actual,predicted\nham,ham\nspam,ham\n")
    (checkpoint / "training.csv").write_text("step,train_loss\n1,0.7\n2,0.5\n")
    (checkpoint / "validation.csv").write_text("step,validation_loss\n2,0.6\n")
    return Judged("spam", "spam version 2, challenger: worse", "http://127.0.0.1:5000/#/models/spam/versions/2", [])


def test_a_figure_stands_beside_its_baseline(tmp_path: Path) -> None:
    """The interval, the baseline and the verdict are in one row; curve and confusion matrix are there as pictures."""
    judge(tmp_path, evaluated(tmp_path))
    page = (tmp_path / "run" / "index.html").read_text()
    row = "<tr><td>spam accuracy</td><td class=n>0.95</td><td class=n>0.9 – 0.97</td><td class=n>400</td>"
    assert row + "<td class=n>0.55</td><td>always ham</td><td>yes</td></tr>" in page
    assert "it forgot 0.750 bits per byte: 1.500 before, 2.250 after" in page
    assert sorted(path.name for path in (tmp_path / "run").glob("*.png")) == ["spam-confusion.png", "spam-loss.png"]
    judge(tmp_path, evaluated(tmp_path, low=0.5))
    assert "<td>always ham</td><td>no</td></tr>" in (tmp_path / "run" / "index.html").read_text()


def test_samples_stand_beside_the_champions(tmp_path: Path) -> None:
    """The champion's answer to the same prompt has a column, only where the champion is another version."""
    model = evaluated(tmp_path)
    judge(tmp_path, model)
    alone = (tmp_path / "run" / "index.html").read_text()
    judge(
        tmp_path, Judged(model.name, model.standing, model.address, [{"prompt": "<b>win</b> now", "response": "ham"}])
    )
    beside = (tmp_path / "run" / "index.html").read_text()
    assert "<th>champion</th>" not in alone
    assert "<th>this version</th><th>champion</th>" in beside
    assert "<td>spam</td><td>spam</td><td>ham</td>" in beside


def test_texts_are_shown_as_they_are_and_nothing_is_fetched(tmp_path: Path) -> None:
    """HTML in a sample is text; the only address of another page's server is the link to the registry."""
    judge(tmp_path, evaluated(tmp_path))
    page = (tmp_path / "run" / "index.html").read_text()
    assert "&lt;b&gt;win&lt;/b&gt; now" in page and "<b>" not in page
    assert page.count("http") == page.count('<a href="http://127.0.0.1:5000/#/models/spam/versions/2">')
    assert 'src="http' not in page


def test_an_unchanged_page_is_left_alone(tmp_path: Path) -> None:
    """The second writing of the same says so and touches nothing; another evaluation is written again."""
    model = evaluated(tmp_path)
    assert judge(tmp_path, model)
    before = (tmp_path / "run" / "index.html").stat().st_mtime_ns
    assert not judge(tmp_path, model)
    assert (tmp_path / "run" / "index.html").stat().st_mtime_ns == before
    assert judge(tmp_path, evaluated(tmp_path, low=0.8))


def test_a_model_that_was_not_evaluated_is_named(tmp_path: Path) -> None:
    """It has its heading and a sentence instead of figures."""
    judge(tmp_path, Judged("base", "base version 1", "http://127.0.0.1:5000", []))
    assert "<h2>base</h2>" in (tmp_path / "run" / "index.html").read_text()
    assert "It was not evaluated." in (tmp_path / "run" / "index.html").read_text()
