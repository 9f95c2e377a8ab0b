"""Goes in: ../shared/data. Comes out: benchmarks/results/multiple-choice.json: figures and pace beside the harness.

lm-evaluation-harness scores the same items with its own Hugging Face backend on the same weights and threads. Figures:
BLiMP's paradigms and HellaSwag's first thousand on stories260K, and on a model that a run exported. Pace: items a
second of the first HellaSwag and ARC items with GPT-2's 124M shape and random weights, and with stories260K; the
harness gets the best of several batch sizes. Rounds alternate, medians are kept.

    pip install -c constraints.txt -e '.[harness,dev]'
    python benchmarks/multiple_choice.py --repetitions 5
    python benchmarks/multiple_choice.py --no-figures --no-pace --export data/exports/base
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SHARED = ROOT.parent / "shared" / "data"
HELLASWAG = SHARED / "hellaswag-val" / "hellaswag_val_first1000.txt"
ARC = SHARED / "llmfoundry-eval" / "world_knowledge" / "arc_easy.jsonl"
COPA = SHARED / "llmfoundry-eval" / "commonsense_reasoning" / "copa.jsonl"
BLIMP = SHARED / "blimp" / "data"
BATCH_SIZES = (4, 16)


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--items", type=int, default=40, help="of each set, for the pace of the 124M shape")
    parser.add_argument("--figures", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--pace", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--export", type=Path, help="an exported language model, for the same figures")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    from record_run import git, hardware

    from pipeline.manifest import verify

    path = ROOT / "benchmarks" / "results" / "multiple-choice.json"
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    about = {"commit": git("rev-parse", "HEAD"), "hardware": hardware(), "torch": torch.__version__, "threads": 1}
    wanted = [("figures", "stories260K", stories)] if asked.figures else []
    if asked.export:
        wanted.append(("figures_of_an_export", verify(asked.export).digest, lambda: exported(asked.export)))
    for key, model, parts in wanted:
        record[key] = {**about, "model": model, "sets": []}
        for row in figures(parts()):
            record[key]["sets"].append(row)
            path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if asked.pace:
        with tempfile.TemporaryDirectory() as folder:
            contenders = {"stories260K": (stories(), 4 * asked.items), "gpt2-124m": (shape_124m(), asked.items)}
            record["pace"] = {
                **about,
                "repetitions": asked.repetitions,
                "models": {
                    name: pace(*parts, theirs(parts, Path(folder) / name), items, asked.repetitions)
                    for name, (parts, items) in contenders.items()
                },
            }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


Parts = tuple[Any, Any, Any]
"""A model of ours, how it splits text, and the same tokenizer for transformers."""


def figures(parts: Parts) -> Iterator[dict[str, Any]]:
    """Ours beside the harness's, on every item of every set, one set at a time."""
    from pipeline.evaluations.multiple_choice import read_tasks

    with tempfile.TemporaryDirectory() as folder:
        backend = theirs(parts, Path(folder))
        for path in (*sorted(BLIMP.glob("*.jsonl")), HELLASWAG):
            (task,) = read_tasks(path)
            ours = our_figures(parts[0], parts[1], task)
            other = harness_figures(backend, path, None)
            row = {"set": task.name, "n": len(task.items), "homegrown": ours, "harness": other}
            row["largest_difference"] = max(abs(ours[metric] - other[metric]) for metric in ours)
            print(json.dumps(row), file=sys.stderr, flush=True)
            yield row


def our_figures(model: Any, splitter: Any, task: Any) -> dict[str, float]:
    """Metric → figure, by this project."""
    from pipeline.evaluations.answers import open_answers
    from pipeline.evaluations.multiple_choice import evaluate

    with tempfile.TemporaryDirectory() as folder, open_answers("benchmark", Path(folder)) as answers:
        measures, _ = evaluate(model, splitter, task, answers)
    return {measure.name.split()[-1]: sum(measure.scores) / len(measure.scores) for measure in measures}


def harness_figures(backend: Any, path: Path, limit: int | None) -> dict[str, float]:
    """Metric → figure, by the harness from end to end: its task, its prompts, its metrics."""
    from lm_eval.evaluator import evaluate

    task = harness_task(path)
    result = evaluate(backend, {task.config.task: task}, limit=limit, bootstrap_iters=0, log_samples=False)
    values = result["results"][task.config.task]
    return {metric: float(values[f"{metric},none"]) for metric in ("acc", "acc_norm") if f"{metric},none" in values}


def harness_task(path: Path) -> Any:
    """The harness's own task, as its YAML says it, over a file of ours in the form of the set's publisher."""
    import lm_eval
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    name, split, rows = documents(path)
    config = load_yaml(next(Path(lm_eval.__file__).parent.glob(f"tasks/{name}.yaml")))
    config.pop("tag", None)
    data = {split: Dataset.from_list(rows)}
    config |= {"custom_dataset": lambda **_: data, "training_split": None, "validation_split": None, "test_split": None}
    return ConfigurableTask(config=config | {f"{split}_split": split})


def documents(path: Path) -> tuple[str, str, list[dict[str, Any]]]:
    """The task's file in the harness, a split of it, and the records as their publisher has them."""
    if path == HELLASWAG:
        lines = path.read_text(encoding="utf-8").split("\n")
        blocks = [lines[first : first + 6] for first in range(0, len(lines) - 5, 6)]
        return "hellaswag/hellaswag", "validation", [_hellaswag(block) for block in blocks]
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path == ARC:
        return "arc/arc_easy", "test", [_arc(row) for row in rows]
    if path == COPA:
        return "super_glue/copa/default", "validation", [_copa(row) for row in rows]
    return f"blimp/{path.stem}", "validation", rows


def _hellaswag(block: list[str]) -> dict[str, Any]:
    activity, _, context = block[0].partition(": ")
    return {"activity_label": activity, "ctx_a": context, "ctx_b": "", "endings": block[2:], "label": block[1]}


def _arc(row: dict[str, Any]) -> dict[str, Any]:
    labels = [str(number) for number in range(len(row["choices"]))]
    question = row["query"].removeprefix("Question: ")
    return {
        "question": question,
        "choices": {"text": row["choices"], "label": labels},
        "answerKey": str(row["gold"]),
    }


def _copa(row: dict[str, Any]) -> dict[str, Any]:
    premise, _, connector = row["query"].rpartition(", ")
    kind = {"because": "cause", "therefore": "effect"}[connector]
    first, second = row["choices"]
    return {"premise": f"{premise}.", "question": kind, "choice1": first, "choice2": second, "label": row["gold"]}


def stories() -> Parts:
    """The published model of 260,000 parameters with its SentencePiece vocabulary, which puts <s> first."""
    import tokenizers
    import transformers

    from model.weights import from_huggingface
    from pipeline.evaluations.multiple_choice import Splitter
    from tests.model.test_stories260k import BEGINNING, STORIES, read_llama2c

    model = from_huggingface(*read_llama2c(STORIES / "stories260K.bin")).eval()
    pieces = list(_pieces(STORIES / "tok512.bin"))
    ids = {piece: number for number, (piece, _) in enumerate(pieces)}
    # The likelier a piece, the earlier its two halves are joined.
    joins = sorted(
        (-score, piece[:cut], piece[cut:])
        for piece, score in pieces[259:]
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    )
    merges = [(left, right) for _, left, right in joins]
    fast = tokenizers.Tokenizer(
        tokenizers.models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    fast.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    fast.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    )
    fast.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BEGINNING)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    return model, Splitter(lambda text: fast.encode(text, add_special_tokens=False).ids, BEGINNING, True), tokenizer


def exported(folder: Path) -> Parts:
    """A language model as a run exported it, with its own vocabulary, which transformers reads from the same folder."""
    import transformers

    from pipeline.evaluations.multiple_choice import Splitter
    from pipeline.loaded_model import load

    loaded = load(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return loaded.model, Splitter(loaded.encoding.encode_ordinary, loaded.encoding.eot_token), tokenizer


def _pieces(path: Path) -> Iterator[tuple[str, float]]:
    """Every piece of llama2.c's vocabulary file with its score, as SentencePiece spells them."""
    content, at = path.read_bytes(), 4
    while at < len(content):
        score, length = struct.unpack_from("<fi", content, at)
        piece = content[at + 8 : at + 8 + length].decode()
        yield piece.strip("\n") if piece.strip("\n") in ("<s>", "</s>") else piece.replace(" ", "▁"), score
        at += 8 + length


def shape_124m() -> Parts:
    """GPT-2's shape with random weights, and GPT-2's vocabulary."""
    from model.gpt import GPT
    from model.presets import preset
    from pipeline import encodings
    from pipeline.evaluations.multiple_choice import Splitter

    torch.manual_seed(0)
    encoding = encodings.load_encoding(SHARED / "gpt2-tokenizer" / "vocab.bpe")
    model = GPT(preset("gpt2-124m")).eval()
    return model, Splitter(encoding.encode_ordinary, encoding.eot_token), encoding


def theirs(parts: Parts, folder: Path, batch_size: int = 16) -> Any:
    """The harness's Hugging Face backend over the exported weights."""
    import transformers
    from lm_eval.models.huggingface import HFLM

    from pipeline.exporters.huggingface import write_model, write_tokenizer

    model, splitter, tokenizer = parts
    folder.mkdir(parents=True, exist_ok=True)
    write_model(model, folder, end_of_text=splitter.start_id, labels=[])
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerFast):
        ranks = {bytes(token): rank for token, rank in tokenizer._mergeable_ranks.items()}
        write_tokenizer(ranks, folder, context_length=model.config.context_length)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return HFLM(pretrained=network, tokenizer=tokenizer, batch_size=batch_size, device="cpu")


def pace(model: Any, splitter: Any, _: Any, backend: Any, items: int, repetitions: int) -> dict[str, Any]:
    """Items a second of both, on the first items of HellaSwag and ARC, from text to log-probabilities."""
    from pipeline.evaluations.multiple_choice import DELIMITER, read_tasks

    found: dict[str, Any] = {}
    for path in (HELLASWAG, ARC):
        (task,) = (task.first(items) for task in read_tasks(path))
        theirs_task = harness_task(path)
        requests = list(_requests(theirs_task, items))
        texts = [(item.context, [DELIMITER + choice for choice in item.choices]) for item in task.items]

        def ours(texts: Sequence[tuple[str, list[str]]] = texts) -> list[float]:
            from model.choices import score_continuations
            from model.hardware import choose_float32_products

            choose_float32_products(faster=True)  # as the command does
            scores = score_continuations(model, [splitter.choice(*text) for text in texts])
            torch.set_float32_matmul_precision("highest")
            return [score.log_probability for row in scores for score in row]

        def harness(batch_size: int, requests: list[Any] = requests) -> list[float]:
            backend.batch_size_per_gpu = batch_size
            return [log_p for log_p, _ in backend.loglikelihood(requests, disable_tqdm=True)]

        contenders: dict[str, Callable[[], list[float]]] = {"homegrown": ours}
        contenders |= {f"harness, batch {size}": lambda size=size: harness(size) for size in BATCH_SIZES}
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        answers: dict[str, list[float]] = {}
        for _turn in range(repetitions):
            for name, score in contenders.items():
                began = time.process_time()
                answers[name] = score()
                rates[name].append(len(texts) / (time.process_time() - began))
                print(f"{task.name} {name}: {rates[name][-1]:.2f} items/s", file=sys.stderr, flush=True)
        pairs = zip(answers["homegrown"], answers[f"harness, batch {BATCH_SIZES[0]}"], strict=True)
        medians = {name: statistics.median(all_) for name, all_ in rates.items()}
        best = max(rate for name, rate in medians.items() if name != "homegrown")
        found[task.name] = {
            "items": len(texts),
            "items_per_cpu_second": {name: round(rate, 3) for name, rate in medians.items()},
            "times_the_harness": round(medians["homegrown"] / best, 2),
            "largest_difference_nats": max(abs(a - b) for a, b in pairs),
        }
    return found


def pairs_of_scores(model: Any, splitter: Any, backend: Any, path: Path, items: int) -> list[tuple[float, float]]:
    """Log-probability of every choice of the first items: ours, and the backend's from the harness's own prompts."""
    from model.choices import score_continuations
    from pipeline.evaluations.multiple_choice import DELIMITER, read_tasks

    (task,) = (task.first(items) for task in read_tasks(path))
    choices = [splitter.choice(item.context, [DELIMITER + text for text in item.choices]) for item in task.items]
    ours = [score.log_probability for row in score_continuations(model, choices) for score in row]
    requests = list(_requests(harness_task(path), items))
    return list(zip(ours, (log_p for log_p, _ in backend.loglikelihood(requests, disable_tqdm=True)), strict=True))


def _requests(task: Any, items: int) -> Iterator[Any]:
    for number, doc in enumerate(list(task.test_docs() if task.has_test_docs() else task.validation_docs())[:items]):
        yield from task.construct_requests(doc, task.fewshot_context(doc, 0), metadata=(task.config.task, number, 1))


def quiet() -> None:
    """Nothing but what goes wrong on the terminal."""
    import lm_eval  # noqa: F401
    from datasets import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    disable_progress_bars()


if __name__ == "__main__":
    main()
