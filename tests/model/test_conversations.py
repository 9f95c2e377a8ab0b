"""Instruction pairs and labelled texts become tokens of which only the right ones are learned."""

from __future__ import annotations

import pytest
import torch

from model.batches import collate
from model.conversations import ALPACA, CHATML, PLAIN, Turn, encode_labelled, encode_pair, encode_prompt, encode_turns
from model.gpt import GPT, IGNORE, GPTConfig
from model.templates import PromptTemplate

END = 256


def encode(text: str) -> list[int]:
    """One token per byte."""
    return list(text.encode())


def decode(ids: list[int]) -> str:
    """Undo `encode`; end-of-text shows as a bar."""
    return "".join("|" if i == END else "_" if i == IGNORE else chr(i) for i in ids)


def test_the_tutorials_prompt() -> None:
    """The Alpaca prompt with and without an input, letter for letter."""
    begins = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    assert ALPACA.prompt("Say hi.") == f"{begins}\n\n### Instruction:\nSay hi.\n\n### Response:\n"
    assert ALPACA.prompt("Add.", "1 {2}") == (
        f"{begins}\n\n### Instruction:\nAdd.\n\n### Input:\n1 {{2}}\n\n### Response:\n"
    )


def test_only_the_response_and_one_end_of_text_are_learned() -> None:
    """Every target is the next token; those inside the prompt are masked, the last is end-of-text."""
    example = encode_pair(encode, ALPACA, "Say hi.", "", "hi", end_id=END)
    prompt = ALPACA.prompt("Say hi.")
    assert decode(example.ids) == prompt + "hi"
    assert isinstance(example.targets, list)
    assert decode(example.targets) == "_" * (len(prompt) - 1) + "hi|"


def test_nothing_to_learn_is_refused() -> None:
    """An empty response is an error that says so."""
    with pytest.raises(ValueError, match="response is empty"):
        encode_pair(encode, ALPACA, "Say hi.", "", "", end_id=END)


TALK = [Turn("system", "Be kind."), Turn("user", "Hi"), Turn("assistant", "Hello."), Turn("user", "2+2?")]


def test_of_a_talk_only_the_assistants_turns_are_learned() -> None:
    """Every response is learned to its end, which is end-of-text; what others say is read and never learned."""
    example = encode_turns(encode, PLAIN, [*TALK, Turn("assistant", "4")], end_id=END)
    heard = ["Be kind.\n\n### Instruction:\nHi\n\n### Response:\n", "### Instruction:\n2+2?\n\n### Response:\n"]
    assert decode(example.ids) == heard[0] + "Hello.|" + heard[1] + "4"
    assert isinstance(example.targets, list)
    assert decode(example.targets) == "_" * (len(heard[0]) - 1) + "Hello.|" + "_" * len(heard[1]) + "4|"


def test_a_closing_is_learned_with_its_response() -> None:
    """In ChatML a response ends with its marker, and the talk, whose last question has no answer, with end-of-text."""
    example = encode_turns(encode, CHATML, TALK, end_id=END)
    heard = CHATML.turn("system", "Be kind.") + CHATML.turn("user", "Hi") + CHATML.opening
    assert decode(example.ids) == heard + "Hello.<|im_end|>\n"
    assert isinstance(example.targets, list)
    assert decode(example.targets) == "_" * (len(heard) - 1) + "Hello.<|im_end|>\n|"


@pytest.mark.parametrize("template", [ALPACA, CHATML, PLAIN])
def test_a_talk_is_asked_to_go_on_as_it_was_learned(template: PromptTemplate) -> None:
    """What a model reads before a response is what it read there in training; an empty response is read as it is."""
    example = encode_turns(encode, template, [*TALK, Turn("assistant", "4")], end_id=END)
    prompt = encode_prompt(encode, template, TALK, end_id=END)
    assert example.ids == prompt + encode("4" + template.closing)
    said = decode(encode_prompt(encode, template, [Turn("assistant", ""), Turn("user", "Hi")], end_id=END))
    closed = template.closing or "|"
    assert said == template.begins + template.opening + closed + template.turn("user", "Hi") + template.opening


@pytest.mark.parametrize("template", [ALPACA, CHATML, PLAIN])
def test_a_pair_is_a_talk_of_two_turns(template: PromptTemplate) -> None:
    """An instruction and its response, rendered as a pair or as a talk, are the same tokens and targets."""
    pair = encode_pair(encode, template, "Say hi.", "", "hi", end_id=END)
    assert pair == encode_turns(encode, template, [Turn("user", "Say hi."), Turn("assistant", "hi")], end_id=END)


def test_a_talk_without_a_response_is_refused() -> None:
    """No response, an empty one, and a role that nobody has are errors that say so."""
    for turns, said in (
        ([Turn("user", "Hi")], "no response"),
        ([Turn("user", "Hi"), Turn("assistant", " \n")], "response is empty"),
        ([Turn("narrator", "Hi"), Turn("assistant", "Hi")], "has the role 'narrator'"),
    ):
        with pytest.raises(ValueError, match=said):
            encode_turns(encode, PLAIN, turns, end_id=END)


def test_a_labelled_text_is_cut_at_the_context() -> None:
    """The text's first tokens and its label; a text without tokens is an end-of-text."""
    assert encode_labelled(encode, "abcdef", 1, end_id=END, context_length=4).ids == [END, *encode("abc")]
    assert encode_labelled(encode, "", 0, end_id=END, context_length=4).ids == [END]


def test_the_loss_of_a_batch_does_not_depend_on_its_padding() -> None:
    """Two examples of unequal length have, together, the loss of their targets one by one."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=257, context_length=300, n_layers=1, n_heads=2, d_model=16)).eval()
    examples = [encode_pair(encode, ALPACA, "Say hi.", "", response, end_id=END) for response in ("hi", "good evening")]
    together = collate(examples, END)
    assert together.scored() == len("hi|") + len("good evening|")
    alone = [collate([example], END) for example in examples]
    total = sum(model.loss(batch.ids_BT, batch.targets, reduction="sum") for batch in alone)
    torch.testing.assert_close(model.loss(together.ids_BT, together.targets, reduction="sum"), total)
