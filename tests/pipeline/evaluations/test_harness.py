"""The harness and we agree: through the adapter, and with its own Hugging Face backend on exported weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -c constraints.txt '.[harness]'")

from benchmarks import multiple_choice as benchmark
from model.gpt import GPT, GPTConfig
from pipeline import encodings
from pipeline.evaluations.harness import HarnessModel
from pipeline.evaluations.multiple_choice import Splitter, read_tasks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not benchmark.SHARED.exists(), reason="../shared/data is not beside the checkout"),
]
FILES = {
    "hellaswag": benchmark.HELLASWAG,
    "arc": benchmark.ARC,
    "copa": benchmark.COPA,
    "blimp": benchmark.BLIMP / "adjunct_island.jsonl",
}


def small() -> benchmark.Parts:
    """A small random model with a byte-pair vocabulary of 600, and a context that HellaSwag's longest overflow."""
    torch.manual_seed(1)
    texts = [benchmark.HELLASWAG.read_text(encoding="utf-8")[:100_000]]
    encoding = encodings.encoding_of(encodings.train_ranks(texts, 600))
    shape = {"n_layers": 2, "n_heads": 2, "d_model": 32, "norm": "layernorm", "positions": "learned", "mlp": "gelu"}
    biases = {"qkv_bias": True, "linear_bias": True}
    model = GPT(GPTConfig(vocab_size=600, context_length=96, **shape, **biases)).eval()
    return model, Splitter(encoding.encode_ordinary, encoding.eot_token), encoding


@pytest.fixture(scope="module", params=["stories260K", "random"])
def parts(request: pytest.FixtureRequest) -> benchmark.Parts:
    """A model, how it splits text, and its tokenizer."""
    benchmark.quiet()
    return benchmark.stories() if request.param == "stories260K" else small()


@pytest.mark.parametrize("name", FILES)
def test_our_figures_are_the_harness_s_through_the_adapter(name: str, parts: benchmark.Parts) -> None:
    """On the first 100 items, the harness's prompts and metrics over our model give our own figures."""
    model, splitter, tokenizer = parts
    (task,) = (task.first(100) for task in read_tasks(FILES[name]))
    adapter = HarnessModel(model, splitter, tokenizer.decode)
    theirs = benchmark.harness_figures(adapter, FILES[name], 100)
    ours = benchmark.our_figures(model, splitter, task)
    assert ours == {metric: pytest.approx(theirs[metric], abs=1e-3) for metric in task.metrics}


@pytest.mark.parametrize("name", FILES)
def test_our_scores_are_those_of_its_own_backend(name: str, parts: benchmark.Parts, tmp_path: Path) -> None:
    """transformers with the exported weights and tokenizer finds every choice of 20 items as likely as we do."""
    model, splitter, _ = parts
    found = benchmark.pairs_of_scores(model, splitter, benchmark.theirs(parts, tmp_path), FILES[name], 20)
    assert len(found) >= 40
    assert all(ours == pytest.approx(theirs, abs=1e-3) for ours, theirs in found)


def test_a_text_s_probability_is_that_of_the_harness_s_own_backend(parts: benchmark.Parts, tmp_path: Path) -> None:
    """Rolling windows over a text longer than the context add up to the same, and greedy writing stops alike."""
    from lm_eval.api.instance import Instance

    model, splitter, tokenizer = parts
    backend = benchmark.theirs(parts, tmp_path)
    adapter = HarnessModel(model, splitter, tokenizer.decode)
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside. " * 20

    def ask(kind: str, *arguments: Any) -> Any:
        instances = [Instance(kind, {}, arguments, 0)]
        return [getattr(lm, kind)(instances)[0] for lm in (adapter, backend)]

    if not splitter.begins:  # transformers puts <s> before such a text a second time
        ours, theirs = ask("loglikelihood_rolling", text)
        assert ours == pytest.approx(theirs, rel=1e-4)
    ours, theirs = ask("generate_until", "Once upon a time, there was", {"until": ["."], "max_gen_toks": 30})
    assert ours.strip() == theirs.strip()
