"""Goes in: nothing. Comes out: benchmarks/results/generation.json: how fast a 124M model writes, beside its peers.

GPT-2's 124M shape with random weights continues 128 tokens by 128, greedily, at batch 1 and 8, on one thread, which is
counted in CPU-seconds so that a busy machine counts less. Rounds alternate between the contenders; medians are kept.
litgpt knows no learned positions and gets rotary ones; batch 8 is its own forward pass in a loop of ours.

    pip install transformers litgpt==0.5.13
    python benchmarks/generation.py --rounds 5 --checkpoint data/checkpoints/base --tokens data/tokens

With a trained checkpoint and its tokens it also says what bfloat16 and int8 weights cost in perplexity.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PROMPT, NEW = 128, 128
SHAPE = "gpt2-124m"
Write = Callable[[Tensor], Any]


def main() -> None:
    """Measure every contender in turn, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--tokens", type=Path)
    parser.add_argument("--name", default="generation")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    from record_run import git, hardware

    record: dict[str, Any] = {
        "commit": git("rev-parse", "HEAD"),
        "hardware": hardware(),
        "torch": torch.__version__,
        "shape": SHAPE,
        "threads": 1,
        "tokens": {"prompt": PROMPT, "new": NEW},
        "rounds": asked.rounds,
    }
    record["memory_gb_per_second"] = round(memory_rate() / 1e9, 1)
    record["tokens_per_cpu_second"] = {f"batch {b}": measure(b, asked.rounds) for b in (1, 8)}
    weights = 2 * sum(p.numel() for p in shared_model().parameters())
    writes = {b: record["tokens_per_cpu_second"][f"batch {b}"]["homegrown bfloat16"]["median"] / b for b in (1, 8)}
    record["share_of_memory_rate"] = {
        f"batch {b}": round(rate * weights / record["memory_gb_per_second"] / 1e9, 3) for b, rate in writes.items()
    }
    if asked.checkpoint and asked.tokens:
        record["perplexity"] = perplexities(asked.checkpoint, asked.tokens)
    path = ROOT / "benchmarks" / "results" / f"{asked.name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


def measure(batch: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Tokens written per CPU-second, prompt included, by each contender."""
    prompts = torch.randint(0, 50_000, (batch, PROMPT), generator=torch.Generator().manual_seed(0))
    contenders = {name: write for make in (ours, transformers, litgpt) for name, write in make(batch).items()}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, write in contenders.items():
            began = time.process_time()
            write(prompts)
            if turn:  # the first is for warming up
                rates[name].append(batch * NEW / (time.process_time() - began))
                print(f"batch {batch} {name}: {rates[name][-1]:.1f}", file=sys.stderr, flush=True)
    return {
        name: {"median": round(statistics.median(all_), 1), "all": [round(rate, 1) for rate in all_]}
        for name, all_ in rates.items()
    }


def shared_model() -> Any:
    """The model that ours and transformers run, the same weights."""
    from model.gpt import GPT
    from model.presets import preset

    torch.manual_seed(0)
    return GPT(preset(SHAPE)).eval()


def ours(batch: int) -> dict[str, Write]:
    """This project, in each of its precisions."""
    from model.generation import generate
    from model.inference import for_inference

    def writer(model: Any) -> Write:
        def write(prompts: Tensor) -> None:
            rows = generate(model, prompts.tolist(), max_new_tokens=NEW)
            assert [len(row) for row in rows] == [NEW] * batch

        return write

    model = shared_model()
    return {f"homegrown {weights}": writer(for_inference(model, weights)) for weights in ("bfloat16", "int8")}


def transformers(batch: int) -> dict[str, Write]:
    """transformers' GPT-2 with both of its ways to attend."""
    import transformers as hf

    from model.weights import to_huggingface

    weights, config = to_huggingface(shared_model())
    found = {}
    for attention in ("sdpa", "eager"):
        values = {key: value for key, value in config.items() if key not in ("architectures", "torch_dtype")}
        theirs = hf.GPT2LMHeadModel(hf.GPT2Config(**values, attn_implementation=attention))
        theirs.load_state_dict(weights, strict=False)
        theirs.tie_weights()
        theirs = theirs.to(torch.bfloat16).eval()

        def write(prompts: Tensor, theirs: Any = theirs) -> None:
            with torch.inference_mode():
                written = theirs.generate(
                    prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=NEW, do_sample=False,
                    eos_token_id=None, pad_token_id=0,
                )  # fmt: skip
            assert written.shape == (batch, PROMPT + NEW)

        found[f"transformers bfloat16 {attention}"] = write
    return found


def litgpt(batch: int) -> dict[str, Write]:
    """litgpt's GPT of the same size, its cache set up once as its generate script does."""
    try:
        from litgpt import GPT, Config
    except ImportError as error:
        print(f"litgpt is left out: {error}", file=sys.stderr)
        return {}
    config = Config(
        n_layer=12, n_head=12, n_embd=768, vocab_size=50_257, padded_vocab_size=50_257, block_size=1024, bias=True,
        rotary_percentage=1.0, parallel_residual=False, norm_class_name="LayerNorm", mlp_class_name="GptNeoxMLP",
        gelu_approximate="tanh",
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT(config).to(torch.bfloat16).eval()
    model.max_seq_length = PROMPT + NEW
    with torch.inference_mode():
        model.set_kv_cache(batch_size=batch, dtype=torch.bfloat16)

    def write(prompts: Tensor) -> None:
        with torch.inference_mode():
            position = torch.arange(PROMPT)
            ids = model(prompts, position)[:, -1].argmax(-1, keepdim=True)
            position = position[-1:]
            for _ in range(NEW - 1):
                position = position + 1
                ids = model(ids, position)[:, -1].argmax(-1, keepdim=True)

    return {"litgpt bfloat16": write}


def memory_rate() -> float:
    """Bytes a second that one thread reads from memory, the best of several."""
    block = torch.ones(100_000_000)
    best = math.inf
    for _ in range(7):
        began = time.perf_counter()
        block.sum()
        best = min(best, time.perf_counter() - began)
    return block.numel() * block.element_size() / best


@torch.inference_mode()
def perplexities(checkpoint: Path, tokens: Path) -> dict[str, float]:
    """Perplexity on the first 100,000 or so validation tokens, in each precision."""
    from model.checkpoint import load_model
    from model.inference import WEIGHTS, for_inference
    from pipeline import manifest
    from pipeline.shards import map_split

    facts = manifest.read(tokens).facts
    split = map_split(tokens, "validation", facts)
    model = load_model(checkpoint)
    context = model.config.context_length
    rows = min(100_000, len(split) - 1) // context
    ids = torch.from_numpy(split[: rows * context + 1].astype("int64"))
    found = {}
    for weights in WEIGHTS:
        lean = for_inference(model, weights)
        nats = 0.0
        for row in range(rows):
            window = ids[row * context : (row + 1) * context + 1]
            logits = lean.logits(lean(window[None, :-1]))[0]
            nats += float(F.cross_entropy(logits, window[1:], reduction="sum"))
        found[weights] = round(math.exp(nats / (rows * context)), 3)
    return found


if __name__ == "__main__":
    main()
