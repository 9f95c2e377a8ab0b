"""Three talks, and a registry with a model that knows them by heart; what it answers can be written down in a test."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from model.batches import collate
from model.conversations import Turn, encode_turns
from model.gpt import GPT, GPTConfig
from model.templates import CHATML
from pipeline import encodings
from pipeline.exporters.huggingface import write_model
from pipeline.loaded_model import DESCRIPTION_FILE
from pipeline.manifest import commit
from pipeline.tracking import registry
from pipeline.tracking.connection import connect

KIND = [
    Turn("system", "Be kind."),
    Turn("user", "Hi"),
    Turn("assistant", "Hello!"),
    Turn("user", "Who are you?"),
    Turn("assistant", "A friend.\nAnd you?"),
]
CURT = [
    Turn("user", "Hi"),
    Turn("assistant", "Hm."),
    Turn("user", "Who are you?"),
    Turn("assistant", "Nobody, é."),
]
# An instruction with an input, as CHATML joins them.
ABOUT = [Turn("user", "Name it.\n\nA cat."), Turn("assistant", "Cat")]
ENCODING = encodings.encoding_of({bytes([byte]): byte for byte in range(256)})


def learned() -> GPT:
    """A model whose tokens are bytes, and that knows the talks."""
    torch.manual_seed(1)
    model = GPT(GPTConfig(vocab_size=257, context_length=256, n_layers=1, n_heads=2, d_model=32))
    talks = [encode_turns(ENCODING.encode_ordinary, CHATML, talk, end_id=256) for talk in (KIND, CURT, ABOUT)]
    batch = collate(talks, 256)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(batch.ids_BT, batch.targets).backward()
        optimizer.step()
    return model


def export(folder: Path, task: str) -> None:
    """The model in a folder, with a figure, as the registry wants it; as a language model it has no template."""
    template = None if task == "language-model" else CHATML.to_dict()
    with commit(folder, "export") as draft:
        write_model(learned(), draft.path, end_of_text=256, labels=[])
        encodings.write_ranks(ENCODING._mergeable_ranks, draft.path / encodings.RANKS_FILE)
        description = {"name": folder.name, "task": task, "template": template, "labels": []}
        (draft.path / DESCRIPTION_FILE).write_text(json.dumps(description))
        (draft.path / "README.md").write_text(f"# {folder.name}\n")
        metrics = {"main": "loss", "loss": 1.0, "higher_is_better": False, "data": "d"}
        draft.facts |= {"name": folder.name, "task": task, "metrics": metrics}


def register(folder: Path, task: str) -> None:
    """Export the model there and make it the champion of the folder's name."""
    export(folder, task)
    registry.register(
        folder.name, folder, samples=folder / "none", tags={}, code=[], requirements=["torch"], client=connect()
    )
