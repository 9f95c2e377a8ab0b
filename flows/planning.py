"""`homegrown plan`. Goes in: params, and changes nobody writes. Comes out: what pretraining will take, printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline import manifest, params
from pipeline.errors import HomegrownError
from pipeline.set_params import preview


def show(root: Path, preset: str | None, settings: Mapping[str, str], *, as_json: bool = False) -> None:
    """Print the plan; the errors of the params, and InputOutputError, after the plan, for what does not fit."""
    file = preview(root / params.PARAMS_FILE, preset, settings)
    from pipeline import training_plan
    from pipeline.stages import pretrain
    from pipeline.training_run import model_errors

    vocab_size, corpus_tokens, assumed = _tokens(root, file)
    with model_errors("pretrain"):
        wanted = pretrain.settled(file.stage("pretrain"), vocab_size)
        config = pretrain.model_config(wanted, vocab_size)
        plan = pretrain.plan_of(wanted, config, corpus_tokens, file.compute(), len(file.models))
    if as_json:
        made = {**training_plan.as_object(plan), "model": config.to_dict(), "params": asdict(wanted)}
        print(json.dumps({**made, "assumed": assumed}, indent=2))
    else:
        print("\n".join([*training_plan.as_lines(plan), *(f"assumed     {line}" for line in assumed)]))
    training_plan.refuse_what_does_not_fit(plan)


def _tokens(root: Path, file: params.ParamsFile) -> tuple[int, int | None, list[str]]:
    """The vocabulary's size and the corpus' tokens, from the tokens' manifest, or what is assumed instead."""
    tokenize: Any = file.stage("tokenize")
    try:
        tokens = manifest.read(root / "data" / "tokens")
    except HomegrownError:
        tokens = None
    if tokens and tokens.params == asdict(tokenize):
        return int(tokens.facts["vocab_size"]), int(tokens.facts["n_tokens"]["train"]), []
    why = "the tokens were made with other params" if tokens else "there are no tokens yet"
    if tokenize.ranks:
        from pipeline import encodings

        size = len(encodings.read_ranks(root / tokenize.ranks)) + 1
        return size, None, [f"{why}: the {size:,} words of {tokenize.ranks}"]
    return tokenize.vocab_size, None, [f"{why}: the {tokenize.vocab_size:,} words of tokenize.vocab_size"]
