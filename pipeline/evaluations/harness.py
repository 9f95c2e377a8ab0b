"""Goes in: one of our models. Comes out: a model on which any task of lm-evaluation-harness runs. lm-eval's only door.

    import lm_eval
    from pipeline.evaluations.harness import HarnessModel
    lm_eval.simple_evaluate(HarnessModel.of(loaded), tasks=["piqa"])

The harness gets most of its tasks' data from the network; a task config can name local files instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.encodings import lister
from pipeline.errors import DependencyError
from pipeline.evaluations.multiple_choice import Splitter

try:
    from lm_eval.api.model import LM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise DependencyError(
        "the evaluation harness is not installed; get it with: pip install -c constraints.txt 'homegrown[harness]'"
    ) from error

if TYPE_CHECKING:
    from model.gpt import GPT
    from pipeline.loaded_model import LoadedModel

NEW_TOKENS = 256
PROMPTS_AT_ONCE = 16


class HarnessModel(LM):  # type: ignore[misc]
    """What the harness asks of a model, answered by ours."""

    def __init__(self, model: GPT, splitter: Splitter, decode: Callable[[Sequence[int]], str]) -> None:
        """`decode` turns written tokens into text."""
        super().__init__()
        self.model, self.splitter, self.decode = model, splitter, decode

    @classmethod
    def of(cls, loaded: LoadedModel) -> HarnessModel:
        """A language model as it was exported."""
        encoding = loaded.encoding
        return cls(loaded.model, Splitter(lister(encoding), encoding.eot_token), encoding.decode)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, and whether it is what greedy writing gives."""
        from model.choices import score_continuations

        # What belongs to one question stands together; without a context only the document tells.
        groups = [
            list(group) for _, group in itertools.groupby(requests, key=lambda r: (r.args[0], r.task_name, r.doc_id))
        ]
        choices = [self.splitter.choice(group[0].args[0], [r.args[1] for r in group]) for group in groups]
        scores = [score for row in score_continuations(self.model, choices) for score in row]
        found = [(score.log_probability, score.is_greedy) for score in scores]
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return found

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Log-probability of each text, every token predicted once, in windows that do not overlap but the last."""
        from model.choices import Choice, score_continuations

        found = []
        for request in requests:
            (text,) = request.args
            windows = get_rolling_token_windows(
                self.splitter.encode(text), self.splitter.start_id, self.model.config.context_length, 1
            )
            choices = [Choice(before, [after]) for before, after in map(make_disjoint_window, windows)]
            total = sum(row[0].log_probability for row in score_continuations(self.model, choices))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
            found.append(total)
        return found

    def generate_until(self, requests: list[Any]) -> list[str]:
        """What the model writes after each context, up to the first of the task's stop strings."""
        order = sorted(range(len(requests)), key=lambda i: (repr(requests[i].args[1]), len(requests[i].args[0])))
        found = [""] * len(requests)
        for _, alike in itertools.groupby(order, key=lambda i: repr(requests[i].args[1])):
            numbers = list(alike)
            for first in range(0, len(numbers), PROMPTS_AT_ONCE):
                some = numbers[first : first + PROMPTS_AT_ONCE]
                written = self._write([requests[i].args[0] for i in some], requests[some[0]].args[1])
                for i, text in zip(some, written, strict=True):
                    found[i] = text
                    self.cache_hook.add_partial("generate_until", requests[i].args, text)
        return found

    def _write(self, contexts: list[str], options: dict[str, Any]) -> list[str]:
        from model.generation import generate

        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        new_tokens = int(options.get("max_gen_toks", NEW_TOKENS))
        room = max(1, self.model.config.context_length - new_tokens)
        start = self.splitter.start_id
        beginning = [start] if self.splitter.begins else []
        prompts = [[*beginning, *self.splitter.encode(context)][-room:] or [start] for context in contexts]

        def stop(ids: Sequence[int]) -> int | None:
            text = self.decode(ids)
            return len(ids) if any(mark in text for mark in stops) else None

        written = generate(
            self.model,
            prompts,
            max_new_tokens=new_tokens,
            end_id=start,
            stop=stop,
            temperature=float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0,
        )
        texts = [self.decode(ids) for ids in written]
        return [
            text[: min((at for mark in stops if (at := text.find(mark)) >= 0), default=len(text))] for text in texts
        ]
