"""Turns of a talk in, one text out: the template that training, evaluation, serving and export all render through.

A template is data and travels with the model. `chat_template` writes it in Jinja, as transformers reads it.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

CONTENT = "{content}"
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class PromptTemplate:
    """How the turns of a talk become text. `{content}` is the slot for what was said; other braces are text."""

    name: str
    """What people call it."""
    user: str
    """A user's turn."""
    assistant: str
    """The model's turn: what stands before the slot opens a response, what stands after it closes one."""
    begins: str = ""
    """What stands before the first turn."""
    system: str = "{content}\n\n"
    """A turn that sets the scene."""
    tool: str = "### Tool:\n{content}\n\n"
    """A turn in which a tool answers."""
    with_input: str = "{instruction}\n\n### Input:\n{input}"
    """How an instruction with an input becomes what the user says."""

    def __post_init__(self) -> None:
        for role in ROLES:
            if getattr(self, role).count(CONTENT) != 1:
                what = "a slot for the response" if role == "assistant" else "a slot"
                raise ValueError(f"template {self.name}: {role} must hold {what}, {CONTENT}, exactly once")
        if any(self.with_input.count(slot) != 1 for slot in ("{instruction}", "{input}")):
            raise ValueError(f"template {self.name}: with_input must hold {{instruction}} and {{input}} once each")

    @property
    def opening(self) -> str:
        """What stands before a response."""
        return self.assistant.partition(CONTENT)[0]

    @property
    def closing(self) -> str:
        """What stands after a response, and is learned with it; where it is empty, end-of-text stands there."""
        return self.assistant.partition(CONTENT)[2]

    def turn(self, role: str, content: str) -> str:
        """One turn as text. Raises ValueError for a role that nobody has."""
        if role not in ROLES:
            raise ValueError(f"a turn has the role {role!r}, but must have one of {', '.join(ROLES)}")
        text: str = getattr(self, role)
        return text.replace(CONTENT, content)

    def prompt(self, instruction: str, input: str = "") -> str:
        """The text before the response to one instruction; braces in the instruction or input stay as they are."""
        said = {"{instruction}": instruction, "{input}": input}
        asked = re.sub(r"\{instruction\}|\{input\}", lambda slot: said[slot[0]], self.with_input)
        return self.begins + self.turn("user", asked if input else instruction) + self.opening

    def answer(self, written: str) -> str:
        """The response in what a model wrote after the prompt: up to the closing, without outer spaces."""
        closing = self.closing.strip()
        return (written.partition(closing)[0] if closing else written).strip()

    def chat_template(self) -> str:
        """The same in Jinja, for tokenizer_config.json."""

        def shown(role: str) -> str:
            before, after = (json.dumps(part) for part in getattr(self, role).split(CONTENT))
            end = "eos_token" if role == "assistant" and not self.closing else after
            return "{{ " + f"{before} + message['content'] + {end}" + " }}"

        cases = "".join(
            "{% " + ("elif" if number else "if") + f" message['role'] == '{role}'" + " %}" + shown(role)
            for number, role in enumerate(ROLES)
        )
        return (
            "{{ " + json.dumps(self.begins) + " }}{% for message in messages %}" + cases + "{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ " + json.dumps(self.opening) + " }}{% endif %}"
        )

    def to_dict(self) -> dict[str, str]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)


PLAIN = PromptTemplate(
    name="plain", user="### Instruction:\n{content}\n\n", assistant="### Response:\n{content}", system="{content}\n\n"
)
"""Alpaca's headings without its preamble, which would be half of what a small model reads."""

ALPACA = dataclasses.replace(
    PLAIN,
    name="alpaca",
    begins=(
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    ),
)
"""The prompt of Stanford Alpaca (Taori et al., 2023), with the tutorial's first sentence for both forms."""

CHATML = PromptTemplate(
    name="chatml",
    system="<|im_start|>system\n{content}<|im_end|>\n",
    user="<|im_start|>user\n{content}<|im_end|>\n",
    assistant="<|im_start|>assistant\n{content}<|im_end|>\n",
    tool="<|im_start|>tool\n{content}<|im_end|>\n",
    with_input="{instruction}\n\n{input}",
)
"""OpenAI's chat markup. Its markers are written in ordinary tokens, as the vocabulary has no others to spare."""

TEMPLATES = {template.name: template for template in (ALPACA, CHATML, PLAIN)}


def template_of(chosen: str | Mapping[str, str]) -> PromptTemplate:
    """The template of this name, or of these parts; ValueError names what is wrong with them."""
    if isinstance(chosen, str):
        if chosen not in TEMPLATES:
            raise ValueError(f"there is no template {chosen!r}; known: {', '.join(TEMPLATES)}")
        return TEMPLATES[chosen]
    known = [field.name for field in dataclasses.fields(PromptTemplate)]
    for key in chosen:
        if key not in known:
            raise ValueError(f"a template has no {key!r}; it has {', '.join(known)}")
    for key in ("name", "user", "assistant"):
        if key not in chosen:
            raise ValueError(f"the template has no {key!r}; it needs name, user and assistant")
    return PromptTemplate(**chosen)
