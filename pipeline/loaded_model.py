"""Goes in: an exported folder. Comes out: a model to ask: text for text, or labels with probabilities for texts."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from pipeline import encodings
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.exporters.huggingface import CONFIG_FILE, WEIGHTS_FILE
from pipeline.manifest import verify
from pipeline.talks import turns_of

if TYPE_CHECKING:
    import tiktoken

    from model.conversations import Turn
    from model.generation import Stop
    from model.gpt import GPT
    from model.templates import PromptTemplate

DESCRIPTION_FILE = "homegrown.json"

# What one request may ask for at most, so that it can neither fill the memory nor hold the model for ever.
MAX_NEW_TOKENS = 1024
MAX_SEED = 2**63 - 1
MAX_PROMPT_CHARACTERS = 100_000
MAX_TEXTS = 256
MAX_STOPS = 16


class Classification(TypedDict):
    """A classifier's answer for one text."""

    label: str
    probabilities: dict[str, float]


class Writing(TypedDict, total=False):
    """How text is written. What is not said here is as in `Sampling` of model/generation.py."""

    max_new_tokens: int
    """Tokens to write at most; 128 unless given."""
    temperature: float
    """0.7 unless given."""
    top_k: int
    """50 unless given."""
    top_p: float
    min_p: float
    repetition_penalty: float
    stop: Sequence[str]
    """The text ends before the first of these strings in it."""
    seed: int


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory with all it needs to be asked."""

    name: str
    task: str
    model: GPT
    encoding: tiktoken.Encoding
    template: PromptTemplate | None
    labels: list[str]

    def generate(
        self, prompts: Sequence[str], *, inputs: Sequence[str] | None = None, **how: Unpack[Writing]
    ) -> list[str]:
        """What the model writes after each prompt; an instructed model answers the prompt about the input, if given.

        Raises ConfigurationError for a classifier, and for more than a request may ask for.
        """
        self._require_writer()
        _refuse_too_much(prompts)
        if inputs:
            _refuse_too_much(inputs)
            if len(inputs) != len(prompts):
                raise ConfigurationError(f"{len(inputs)} inputs for {len(prompts)} prompts; give one for each, or none")
        encode = encodings.lister(self.encoding)
        if self.template:
            given = inputs or [""] * len(prompts)
            ids = [encode(self.template.prompt(prompt, text)) for prompt, text in zip(prompts, given, strict=True)]
        else:
            ids = [[self.encoding.eot_token, *encode(prompt)] for prompt in prompts]
        return self._write(ids, **how)

    def chat(self, conversations: Sequence[Sequence[Mapping[str, str]]], **how: Unpack[Writing]) -> list[str]:
        """What the assistant says next in each conversation: {"role": …, "content": …} by turns, the user's last.

        The model reads the tokens that training would have given it up to there. Of a conversation longer than the
        context it reads the end, as of a prompt: the first turns go, be they the system's. Raises ConfigurationError
        for a model that learned no turns, for what is no conversation, and for more than a request may ask for.
        """
        from model.conversations import encode_prompt

        template, encode, end_id = self.require_template(), encodings.lister(self.encoding), self.encoding.eot_token
        talks = _turns_of_each(conversations)
        _refuse_too_much(["".join(turn.content for turn in talk) for talk in talks])
        return self._write([encode_prompt(encode, template, talk, end_id=end_id) for talk in talks], **how)

    def require_template(self) -> PromptTemplate:
        """What turns are rendered through; ConfigurationError for a model that learned none."""
        self._require_writer()
        if self.template is None:
            raise ConfigurationError(
                f"{self.name} has no template to chat through: use `homegrown generate`, or a model fine-tuned on "
                "instructions or conversations"
            )
        return self.template

    def _require_writer(self) -> None:
        if self.task == "classification":
            raise ConfigurationError(f"{self.name} is a classifier: use `homegrown classify`")

    def _write(
        self,
        ids: Sequence[Sequence[int]],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.7,
        top_k: int = 50,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> list[str]:
        """The text that follows each row; a response loses its outer spaces."""
        from model.generation import generate

        if len(stop) > MAX_STOPS or not all(stop):
            raise ConfigurationError(f"{len(stop)} stop strings; give at most {MAX_STOPS}, none of them empty")
        if not 1 <= max_new_tokens <= MAX_NEW_TOKENS:
            raise ConfigurationError(f"max_new_tokens is {max_new_tokens}; choose 1 to {MAX_NEW_TOKENS}")
        if not 0 <= seed <= MAX_SEED:
            raise ConfigurationError(f"seed is {seed}; choose 0 to {MAX_SEED}")
        closing = self.template.closing.strip() if self.template else ""
        if closing:
            stop = [*stop, closing]
        try:
            written = generate(
                self.model,
                ids,
                max_new_tokens=max_new_tokens,
                end_id=self.encoding.eot_token,
                temperature=temperature,
                stop=_stop_at(stop, self.encoding),
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                repetition_penalty=repetition_penalty,
                seed=seed,
            )
        except ValueError as error:
            raise ConfigurationError(f"{self.name}: {error}") from error
        texts = [_before(stop, _whole_characters(self.encoding.decode_bytes(row))) for row in written]
        texts = [
            _without_start_of(closing, text) if len(row) == max_new_tokens else text
            for row, text in zip(written, texts, strict=True)
        ]
        return [text.strip() for text in texts] if self.template else texts

    def in_fewer_bits(self, weights: str) -> LoadedModel:
        """The same model with weights in float32, bfloat16 or int8: faster, and a little less exact."""
        from model.inference import for_inference

        if self.task == "classification":
            raise ConfigurationError(f"{self.name} is a classifier: fewer bits serve those that write")
        try:
            return replace(self, model=for_inference(self.model, weights))  # type: ignore[arg-type]
        except ValueError as error:
            raise ConfigurationError(f"{self.name}: {error}") from error

    def classify(self, texts: Sequence[str]) -> list[Classification]:
        """The likeliest label of each text, and the probability of every label. ConfigurationError if it cannot."""
        from model.conversations import encode_labelled
        from model.scoring import predict_classes

        if self.task != "classification":
            raise ConfigurationError(f"{self.name} is not a classifier: use `homegrown generate`")
        _refuse_too_much(texts)
        rows = [
            encode_labelled(
                encodings.lister(self.encoding),
                text,
                0,
                end_id=self.encoding.eot_token,
                context_length=self.model.config.context_length,
            ).ids
            for text in texts
        ]
        shares = predict_classes(self.model, rows, padding_id=self.encoding.eot_token).softmax(-1).tolist()
        answers: list[Classification] = []
        for row in shares:
            probabilities = dict(zip(self.labels, row, strict=True))
            answers.append({"label": max(probabilities, key=probabilities.__getitem__), "probabilities": probabilities})
        return answers


def load(folder: Path) -> LoadedModel:
    """Load an exported folder after checking every byte of it; IntegrityError if one differs from the manifest."""
    from safetensors.torch import load_file

    from model.templates import template_of
    from model.weights import from_huggingface

    verify(folder)
    description: dict[str, Any] = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    try:
        model = from_huggingface(load_file(folder / WEIGHTS_FILE), config).eval()
        template = template_of(description["template"]) if description["template"] else None
    except ValueError as error:
        raise IntegrityError(f"{folder}: {error}") from error
    return LoadedModel(
        name=description["name"],
        task=description["task"],
        model=model,
        encoding=encodings.load_encoding(folder / encodings.RANKS_FILE),
        template=template,
        labels=list(description["labels"]),
    )


def _stop_at(strings: Sequence[str], encoding: tiktoken.Encoding) -> Stop | None:
    """Ends a row when one of the strings stands in it, wherever in its last token the string ends."""
    wanted = [string.encode() for string in strings]
    # Every token has a byte at least, so a string that ends in the newest token begins no more tokens ago than this.
    longest = max(map(len, wanted), default=0)

    def stop(ids: Sequence[int]) -> int | None:
        tail = encoding.decode_bytes(list(ids[-longest:]))
        return len(ids) if any(string in tail for string in wanted) else None

    return stop if wanted else None


def _before(strings: Sequence[str], text: str) -> str:
    """The text up to the first of the strings."""
    return text[: min((at for string in strings if (at := text.find(string)) >= 0), default=len(text))]


def _whole_characters(content: bytes) -> str:
    """The text; a character that the last token only begins is left out."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(content)


def _without_start_of(closing: str, text: str) -> str:
    """The text without as much of the closing as it ends with: the rest would have come after the last token."""
    begun = next((size for size in range(len(closing) - 1, 0, -1) if text.endswith(closing[:size])), 0)
    return text[: len(text) - begun]


def _turns_of_each(conversations: Sequence[object]) -> list[list[Turn]]:
    """The turns of each conversation; of several, the error says which one is wrong."""
    talks = []
    for number, conversation in enumerate(conversations, 1):
        try:
            talks.append(turns_of(conversation))
        except ConfigurationError as error:
            if len(conversations) == 1:
                raise
            raise ConfigurationError(f"conversation {number}: {error}") from error
    return talks


def _refuse_too_much(texts: Sequence[str]) -> None:
    if not texts or len(texts) > MAX_TEXTS:
        raise ConfigurationError(f"{len(texts)} texts in one request; give 1 to {MAX_TEXTS}")
    longest = max(len(text) for text in texts)
    if longest > MAX_PROMPT_CHARACTERS:
        raise ConfigurationError(f"a text of {longest:,} characters; at most {MAX_PROMPT_CHARACTERS:,} are read")
