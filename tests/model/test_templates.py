"""A template is data that renders talks one way everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.templates import ALPACA, CHATML, PLAIN, TEMPLATES, PromptTemplate, template_of


def test_chatml_letter_for_letter() -> None:
    """A prompt with an input, and the three turns of a talk, between OpenAI's markers."""
    assert CHATML.prompt("Add.", "1 2") == "<|im_start|>user\nAdd.\n\n1 2<|im_end|>\n<|im_start|>assistant\n"
    assert [CHATML.turn(role, "Hi") for role in ("system", "user", "assistant")] == [
        f"<|im_start|>{role}\nHi<|im_end|>\n" for role in ("system", "user", "assistant")
    ]


@given(instruction=st.text(), given_input=st.text(min_size=1))
def test_what_people_say_stays_as_it_is(instruction: str, given_input: str) -> None:
    """Braces, slots and markers in what is said are text: the prompt holds it unchanged, once filled in."""
    before, after = PLAIN.prompt("\0", "\1").split("\0")
    between, after = after.split("\1")
    assert PLAIN.prompt(instruction, given_input) == before + instruction + between + given_input + after


def test_an_answer_ends_at_the_closing() -> None:
    """Of what a model writes the answer is what stands before the closing, without outer spaces."""
    assert CHATML.answer("Paris.<|im_end|>\n<|im_start|>user") == "Paris."
    assert PLAIN.answer(" Paris.\n") == "Paris."


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_travels_as_plain_values(template: PromptTemplate) -> None:
    """Its parts, or its name, give the same template back."""
    assert template_of(template.to_dict()) == template_of(template.name) == template


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ("alpacca", "no template 'alpacca'; known: alpaca, chatml, plain"),
        ({"name": "own", "user": "Q: {content}"}, "has no 'assistant'"),
        ({"name": "own", "user": "Q: {content}", "assistant": "A: {content}", "tone": "x"}, "has no 'tone'"),
        (
            {"name": "own", "user": "Q: {content}", "assistant": "A: "},
            r"template own: assistant must hold a slot for the response, \{content\}, exactly once",
        ),
        ({"name": "own", "user": "Q:", "assistant": "A: {content}"}, "template own: user must hold a slot"),
        (
            {"name": "own", "user": "{content}", "assistant": "{content}", "with_input": "{input}"},
            "with_input must hold",
        ),
    ],
)
def test_a_template_without_its_slots_is_refused(chosen: Any, said: str) -> None:
    """A missing slot, part or name, and an unknown one, is an error that names it."""
    with pytest.raises(ValueError, match=said):
        template_of(chosen)


@pytest.mark.parametrize("template", [ALPACA, CHATML, PLAIN, replace(CHATML, begins='a "quoted" {{ é }}\n')])
def test_jinja_renders_the_same_text(template: PromptTemplate) -> None:
    """The chat template gives the turns' text; where the template has no closing, end-of-text ends a response."""
    jinja = pytest.importorskip("jinja2")
    turns = [
        ("system", "Be {kind}."),
        ("user", "Hi {{ you }}\n"),
        ("assistant", "Hello."),
        ("tool", "7"),
        ("user", "?"),
    ]
    # As transformers sets its environment.
    environment = jinja.Environment(trim_blocks=True, lstrip_blocks=True)
    messages = [{"role": role, "content": content} for role, content in turns]
    found = environment.from_string(template.chat_template()).render(
        messages=messages, eos_token="<end>", add_generation_prompt=True
    )
    ends = "" if template.closing else "<end>"
    expected = "".join(template.turn(*turn) + (ends if turn[0] == "assistant" else "") for turn in turns)
    assert found == template.begins + expected + template.opening
