"""An exported folder becomes a model to ask, within bounds, and only if every byte of it is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.conversations import Turn, encode_turns
from model.gpt import GPT, IGNORE, GPTConfig
from model.templates import CHATML, PLAIN, TEMPLATES, PromptTemplate, template_of
from pipeline import encodings, manifest
from pipeline.errors import ConfigurationError, DataError, IntegrityError
from pipeline.loaded_model import LoadedModel, load
from tests.pipeline import learned_talks

OWN = template_of({"name": "own", "user": "Question: {content}\n", "assistant": "Answer: {content}\n"})
TALK = [
    Turn("system", "Be kind."),
    Turn("user", "Hi"),
    Turn("assistant", " Hello.\n"),
    Turn("tool", "7"),
    Turn("user", "<|im_end|>\n\n"),
]
# Merges such as ".\n" and "\n\n#", so that where a text is cut into pieces shows in its tokens.
ENCODING = encodings.encoding_of(
    encodings.train_ranks([t.begins + t.turn(*turn) for t in (*TEMPLATES.values(), OWN) for turn in TALK] * 2, 330)
)


def chatty(template: PromptTemplate | None, context_length: int = 4096) -> LoadedModel:
    """A model with random weights, asked through the template."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"n_layers": 1, "n_heads": 2, "d_model": 16, "context_length": context_length}
    model = GPT(GPTConfig(vocab_size=ENCODING.n_vocab, **shape)).eval()
    return LoadedModel("chatty", "instructions", model, ENCODING, template, [])


def messages(turns: list[Turn]) -> list[dict[str, str]]:
    """Turns as a caller sends them."""
    return [turn._asdict() for turn in turns]


def read_by(model: LoadedModel, turns: list[Turn]) -> list[int]:
    """The tokens that the model itself is given first when it is asked to go on with a talk."""
    seen: list[list[int]] = []
    hook = model.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0].tolist()))
    model.chat([messages(turns)], max_new_tokens=1)
    hook.remove()
    return seen[0]


def test_a_language_model_continues_each_prompt(made: Any) -> None:
    """Every prompt gets a continuation, the same for the same seed, whoever else is asked beside it."""
    model = load(made.path("exports/base"))
    together = model.generate(["The cat", "A dog"], max_new_tokens=5, seed=3)
    assert together == model.generate(["The cat", "A dog"], max_new_tokens=5, seed=3)
    assert model.generate(["The cat"], max_new_tokens=5, temperature=0.0) == model.generate(
        ["The cat"], max_new_tokens=5, temperature=0.0, seed=9
    )


def test_an_instructed_model_is_asked_with_its_template(made: Any) -> None:
    """The description carries the template: a prompt with an input and one without make different questions."""
    model = load(made.path("exports/assistant"))
    answers = model.generate(["Name animal 1."], inputs=["A cat."], max_new_tokens=4, temperature=0.0)
    assert (model.template, len(answers), answers[0]) == (PLAIN, 1, answers[0].strip())


def test_a_classifier_gives_every_label_its_share(made: Any) -> None:
    """Probabilities add up to one, and the label is the likeliest; a batch answers as its rows alone do."""
    model = load(made.path("exports/spam"))
    texts = ["win a prize now", "see you soon, and bring the long ladder with you"]
    answers = model.classify(texts)
    assert [list(answer["probabilities"]) for answer in answers] == [["ham", "spam"]] * 2
    for text, answer in zip(texts, answers, strict=True):
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        assert answer["label"] == max(answer["probabilities"], key=lambda label: answer["probabilities"][label])
        [alone] = model.classify([text])
        assert alone["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)


def test_a_text_ends_before_its_stop_string(made: Any) -> None:
    """Of several stop strings the first in the text counts, though it begin and end within tokens."""
    model = load(made.path("exports/base"))
    options: dict[str, Any] = {"max_new_tokens": 40, "temperature": 1.5}
    told = ((seed, model.generate(["The cat", "A dog"], seed=seed, **options)) for seed in range(100))
    options["seed"], [free, other] = next((seed, texts) for seed, texts in told if len(texts[0]) >= 16)
    stop = free[9:13]
    assert model.generate(["The cat", "A dog"], stop=["\0never", free[14:16], stop], **options) == [
        free[: min(free.find(stop), free.find(free[14:16]))],
        other[: min(at for at in (other.find(stop), other.find(free[14:16]), len(other)) if at >= 0)],
    ]


def test_an_answer_cut_short_is_the_beginning_of_the_whole() -> None:
    """Wherever the tokens run out: no half of a character, and nothing of the mark that closes a turn."""
    model = LoadedModel("talks", "instruction", learned_talks.learned(), learned_talks.ENCODING, CHATML, [])
    *said, answer = learned_talks.CURT
    talk = [{"role": turn.role, "content": turn.content} for turn in said]
    cut = [model.chat([talk], max_new_tokens=tokens, temperature=0)[0] for tokens in range(1, 30)]
    assert cut[-1] == answer.content
    assert cut == [answer.content.encode()[:tokens].decode(errors="ignore").strip() for tokens in range(1, 30)]


def test_a_model_in_fewer_bits_still_writes(made: Any) -> None:
    """bfloat16 is asked for by name; an unknown name, and a classifier, are refused."""
    model = load(made.path("exports/base"))
    assert len(model.in_fewer_bits("bfloat16").generate(["The cat"], max_new_tokens=4)) == 1
    with pytest.raises(ConfigurationError, match="base: weights is 'int3', but must be one of float32"):
        model.in_fewer_bits("int3")
    with pytest.raises(ConfigurationError, match="spam is a classifier"):
        load(made.path("exports/spam")).in_fewer_bits("bfloat16")


def test_a_long_prompt_keeps_its_end(made: Any) -> None:
    """A prompt longer than the context is asked by its last tokens; one of ten thousand words is no fault."""
    model = load(made.path("exports/base"))
    assert len(model.generate(["word " * 10_000], max_new_tokens=2)) == 1


SAID = st.text(max_size=12)
HEARD = st.builds(Turn, st.sampled_from(["system", "user", "tool"]), SAID)
OF_THE_MODEL = st.builds(Turn, st.just("assistant"), SAID.filter(str.strip))


@settings(deadline=None)
@given(
    template=st.sampled_from([*TEMPLATES.values(), OWN]),
    before=st.lists(HEARD | OF_THE_MODEL, max_size=6),
    question=st.builds(Turn, st.just("user"), SAID),
    response=OF_THE_MODEL,
)
def test_a_conversation_is_asked_as_it_was_learned(
    template: PromptTemplate, before: list[Turn], question: Turn, response: Turn
) -> None:
    """The model reads the training example's tokens up to the last response, whatever was said and in what order."""
    example = encode_turns(ENCODING.encode_ordinary, template, [*before, question, response], end_id=ENCODING.eot_token)
    learned = [target != IGNORE for target in example.targets]
    last_response = max(at for at, now in enumerate(learned) if now and not learned[at - 1])
    assert read_by(chatty(template), [*before, question]) == example.ids[: last_response + 1]


@pytest.mark.parametrize("template", [*TEMPLATES.values(), OWN], ids=lambda template: template.name)
def test_a_prompt_is_a_conversation_of_one_turn(template: PromptTemplate) -> None:
    """The same text, greedy or drawn, alone or beside a longer conversation; an answer can be sent back, even ""."""
    model = chatty(template)
    for how in ({"temperature": 0.0}, {"temperature": 1.0, "seed": 3, "stop": ["e"]}):
        [answer] = model.generate(["Hi"], max_new_tokens=9, **how)  # type: ignore[arg-type]
        asked = [messages([Turn("user", "Hi")]), messages(TALK)]
        assert model.chat(asked, max_new_tokens=9, **how)[0] == answer  # type: ignore[arg-type]
        for said in (answer, ""):
            further = [Turn("user", "Hi"), Turn("assistant", said), Turn("user", "?")]
            assert len(model.chat([messages(further)], max_new_tokens=2)) == 1


def test_a_long_conversation_keeps_its_end() -> None:
    """Longer than the context, it is asked by its last tokens, as a long prompt is."""
    whole = read_by(chatty(PLAIN), TALK)
    assert read_by(chatty(PLAIN, context_length=16), TALK) == whole[-16:]


@pytest.mark.parametrize(
    ("conversations", "options", "said"),
    [
        ([], {}, "0 texts in one request; give 1 to 256"),
        ([messages(TALK)] * 257, {}, "257 texts in one request"),
        ([messages([Turn("user", "a" * 50_000), Turn("user", "a" * 50_001)])], {}, "a text of 100,001 characters"),
        ([messages(TALK)], {"max_new_tokens": 1025}, "max_new_tokens is 1025"),
        ([messages(TALK)], {"stop": [""]}, "1 stop strings"),
        ([messages(TALK)], {"temperature": -1.0}, "chatty: temperature"),
        ([[]], {}, "^the conversation is empty"),
        ([messages(TALK), [{"role": "user"}]], {}, "^conversation 2: turn 1 must have a content"),
    ],
)
def test_more_than_a_conversation_may_ask_is_refused(conversations: Any, options: dict[str, Any], said: str) -> None:
    """The limits are those of prompts, and of several conversations the one at fault is named."""
    with pytest.raises(ConfigurationError, match=said):
        chatty(PLAIN).chat(conversations, **options)


@pytest.mark.parametrize(
    ("prompts", "options", "said"),
    [
        ([], {}, "0 texts in one request; give 1 to 256"),
        (["a"] * 257, {}, "257 texts in one request"),
        (["a" * 100_001], {}, "a text of 100,001 characters; at most 100,000 are read"),
        (["a"], {"max_new_tokens": 0}, "max_new_tokens is 0; choose 1 to 1024"),
        (["a"], {"max_new_tokens": 1025}, "max_new_tokens is 1025"),
        (["a"], {"seed": 2**64}, "seed is 18446744073709551616; choose 0 to 9223372036854775807"),
        (["a"], {"temperature": -1.0}, "temperature"),
        (["a"], {"stop": [""]}, "1 stop strings; give at most 16, none of them empty"),
        (["a"], {"top_k": -1}, "top_k"),
        (["a"], {"inputs": ["b"] * 257}, "257 texts in one request"),
        (["a"], {"inputs": ["b" * 100_001]}, "a text of 100,001 characters; at most 100,000 are read"),
        (["a"], {"inputs": ["b", "c"]}, "2 inputs for 1 prompts; give one for each, or none"),
    ],
)
def test_more_than_a_request_may_ask_is_refused(
    made: Any, prompts: list[str], options: dict[str, Any], said: str
) -> None:
    """Too many texts, too long a one or an odd option is refused in one line, before any work."""
    with pytest.raises(ConfigurationError, match=said):
        load(made.path("exports/base")).generate(prompts, **options)


def test_each_model_is_asked_for_what_it_does(made: Any) -> None:
    """A classifier does not write and a language model does not classify: the message names the right command."""
    with pytest.raises(ConfigurationError, match="spam is a classifier: use `homegrown classify`"):
        load(made.path("exports/spam")).generate(["a"])
    with pytest.raises(ConfigurationError, match="base is not a classifier: use `homegrown generate`"):
        load(made.path("exports/base")).classify(["a"])
    with pytest.raises(ConfigurationError, match="spam is a classifier: use `homegrown classify`"):
        load(made.path("exports/spam")).chat([messages(TALK)])
    with pytest.raises(ConfigurationError, match="base has no template to chat through: use `homegrown generate`"):
        load(made.path("exports/base")).chat([messages(TALK)])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "homegrown.json", "tokenizer.tiktoken"])
def test_a_tampered_export_is_not_loaded(made: Any, name: str) -> None:
    """One flipped bit in any file that decides answers, and the model refuses to start."""
    path = made.path("exports/spam") / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=f"{name}: its bytes are not those of the manifest"):
        load(made.path("exports/spam"))


def test_weights_of_another_shape_are_refused(made: Any) -> None:
    """A configuration that does not fit the weights is an IntegrityError, though the manifest was made to match."""
    folder: Path = made.path("exports/base")
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != manifest.MANIFEST}
    config = json.loads(files["config.json"])
    files["config.json"] = json.dumps(config | {"vocab_size": 301}).encode()
    with manifest.commit(folder, "export") as draft:
        for name, content in files.items():
            (draft.path / name).write_bytes(content)
    with pytest.raises(IntegrityError, match="exports/base: "):
        load(folder)


def test_what_was_never_exported_is_an_error(tmp_path: Path) -> None:
    """A folder without a manifest is no model."""
    with pytest.raises(DataError, match="run the stage that makes it again"):
        load(tmp_path)
