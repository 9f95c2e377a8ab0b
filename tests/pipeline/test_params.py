"""What params.yaml may say, what is refused and how, and how a value is set without hurting the rest of the file."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import pytest

from pipeline.errors import ConfigurationError
from pipeline.params import STAGES, load
from pipeline.set_params import set_values

OWN = Path(__file__).resolve().parents[2] / "params.yaml"
# The repository's file with a few numbers that these tests count on, so that tuning it breaks none of them.
TEXT = OWN.read_text(encoding="utf-8")
for key, value in {"steps": 900, "warmup_steps": 20, "learning_rate": 0.003, "epochs": 2, "preset": "small"}.items():
    TEXT = re.sub(rf"^( *{key}:) .*", rf"\1 {value}", TEXT, count=2 if key == "epochs" else 1, flags=re.MULTILINE)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A copy of the repository's params.yaml."""
    path = tmp_path / "params.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def edit(file: Path, old: str, new: str) -> None:
    """Replace the first occurrence, which must be there."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def refusal(file: Path) -> str:
    """What is said about a file that cannot be used, without the folder's name."""
    with pytest.raises(ConfigurationError) as caught:
        load(file).check()
    return str(caught.value).replace(f"{file.parent}/", "")


def changed_lines(before: str, file: Path) -> list[str]:
    """The lines that an edit removed and added."""
    lines = difflib.ndiff(before.splitlines(), file.read_text().splitlines())
    return [line for line in lines if line[0] in "+-"]


@pytest.mark.parametrize("preset", list(load(OWN).content["presets"]))
def test_our_own_file_is_right_under_every_preset(preset: str) -> None:
    """Every stage accepts its part of the repository's params.yaml, whichever preset is in force."""
    load(OWN).under(preset).check()


def test_a_preset_lays_its_differences_over_the_section() -> None:
    """A stage gets its section's values, except for those that the preset in force names."""
    file = load(OWN).under("environment-docs")
    section, differences = file.content["tokenize"], file.content["presets"]["environment-docs"]["tokenize"]
    assert differences == {"vocab_size": 8192}
    assert file.values("tokenize") == {**section, "vocab_size": 8192}


def test_a_preset_can_take_a_value_back_to_nothing() -> None:
    """A key that a preset leaves empty is null there: the shape's own value counts."""
    params = load(OWN).under("gpt2-124m").stage("pretrain")
    assert (params.shape, params.n_layers, params.n_heads, params.d_model) == ("gpt2-124m", None, None, None)


def test_numbers_in_scientific_notation_are_numbers(file: Path) -> None:
    """`3e-4` is a float here, as it is for DVC, and not the string that YAML 1.1 makes of it."""
    edit(file, "learning_rate: 0.003", "learning_rate: 3e-4")
    assert load(file).stage("pretrain").learning_rate == 0.0003


def test_a_list_becomes_a_tuple(file: Path) -> None:
    """Params are frozen all the way down: a list in the file is a tuple in the dataclass."""
    assert load(file).stage("ingest").sources == ("python-topics", "python-library", "texts")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  steps: 900", "  stepz: 900", "params.yaml: pretrain: unknown key 'stepz'; did you mean 'steps'?"),
        ("  steps: 900", "", "params.yaml: pretrain: steps is missing"),
        ("\ntokenize:", "\ntokenise:", "params.yaml: unknown section 'tokenise'; did you mean 'tokenize'?"),
        ("preset: small", "preset: smal", "preset is 'smal', which `presets` does not have; did you mean 'small'?"),
        ("    tokenize: {}", "    tokenise: {}", "presets.small: unknown stage 'tokenise'; did you mean 'tokenize'?"),
        ("    export: {}\n", "", "presets.small must name every stage; add `export: {}`"),
        ("    validate: {}", "    validate: {minimum_document: 1}", "did you mean 'minimum_documents'?"),
        (
            "models: [base, assistant, spam, sentiment]",
            "models: [base, spam]",
            "are ['base', 'assistant', 'spam', 'sentiment']",
        ),
        (
            "models: [base, assistant, spam, sentiment]",
            "models: [base, spam, assistant]",
            "are ['base', 'assistant', 'spam', 'sentiment']",
        ),
        ("models: [base, assistant, spam, sentiment]", "", "params.yaml: section 'models' is missing"),
        ("task: classification", "task: clasification", "finetunes.spam.task: Input should be"),
        ("\nmodels: [", "\nmodels: [ham, ", "models is ['ham', 'base', 'assistant', 'spam', 'sentiment']"),
    ],
)
def test_what_is_not_known_is_refused_with_the_nearest_name(file: Path, old: str, new: str, said: str) -> None:
    """A key, section, preset, stage or model that is not known or not there is named, with what was probably meant."""
    edit(file, old, new)
    assert said in refusal(file)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  steps: 900", "  steps: '50'", "params.yaml: pretrain.steps: Input should be a valid integer (found '50')"),
        ("  steps: 900", "  steps: 1.5", "pretrain.steps: "),
        ("  steps: 900", "  steps: 900.0", "pretrain.steps: "),
        ("  steps: 900", "  steps: true", "pretrain.steps: Input should be a valid integer (found True)"),
        ("  steps: 900", "  steps:", "pretrain.steps: Input should be a valid integer (found None)"),
        (
            "  drop_duplicates: true",
            "  drop_duplicates: 1",
            "clean.drop_duplicates: Input should be a valid boolean (found 1)",
        ),
        (
            "  drop_duplicates: true",
            "  drop_duplicates: 'no'",
            "clean.drop_duplicates: Input should be a valid boolean (found 'no')",
        ),
        ("  dropout: 0.0", "  dropout: .nan", "params.yaml: pretrain.dropout: must be a finite number"),
        ("  dropout: 0.0", "  dropout: .inf", "params.yaml: pretrain.dropout: must be a finite number"),
        (
            "  optimizer: muon",
            "  optimizer: adam",
            "pretrain.optimizer: Input should be 'muon' or 'adamw' (found 'adam')",
        ),
        ("  texts_licence: CC0-1.0", "  texts_licence: 2024-01-01", "ingest.texts_licence: "),
        (
            "sources: [python-topics",
            "sources: [pithon-topics",
            "params.yaml: ingest: sources names 'pithon-topics', which is not in catalogue; did you mean",
        ),
        ("  device: auto", "  device: gpu", "params.yaml: compute: device is 'gpu'; choose auto, cpu, cuda or mps"),
        ("preset: small", "preset: [small]", "params.yaml: preset is ['small']"),
        ("  small:\n", "  odd: 3\n  small:\n", "params.yaml: presets.odd: "),
        ("    tokenize: {}", "    tokenize: 3", "params.yaml: presets.small.tokenize: "),
        ("\nexport:\n  format: huggingface", "\nexport: huggingface", "params.yaml: export: "),
        ("models: [base, assistant, spam, sentiment]", "models: base", "models is base, but"),
    ],
)
def test_values_are_not_bent_to_fit(file: Path, old: str, new: str, said: str) -> None:
    """A value of the wrong type is refused with its key and what was found, never converted."""
    edit(file, old, new)
    assert said in refusal(file)


def test_a_rule_between_two_keys_names_both(file: Path) -> None:
    """A warm-up longer than the training is refused, in words that say which two numbers are at odds."""
    edit(file, "  steps: 900", "  steps: 10")
    assert refusal(file) == ("params.yaml: pretrain: warmup_steps is 20 but steps is 10; lower one or raise the other")


def test_a_missing_file_says_where_to_stand(tmp_path: Path) -> None:
    """Without the file, the advice is to run from the project's folder."""
    assert refusal(tmp_path / "params.yaml") == (
        "params.yaml: not found; run from the project's folder, where dvc.yaml stands"
    )


def test_a_file_that_is_not_utf8_is_refused_at_the_byte(file: Path) -> None:
    """Latin-1 is not guessed at."""
    file.write_bytes(b"preset: caf\xe9\n")
    assert refusal(file) == "params.yaml: not UTF-8 at byte 11"


@pytest.mark.parametrize(("text", "line"), [("preset: small\n  steps: [1\n", 2), ("a: 1\nb: 2\na: 3\n", 3)])
def test_broken_yaml_names_the_line(file: Path, text: str, line: int) -> None:
    """What is not YAML, or names a key twice, is refused with the number of its line."""
    file.write_text(text)
    assert refusal(file).startswith(f"params.yaml, line {line}: not valid YAML: ")


@pytest.mark.parametrize("text", ["", "- small\n", "small\n", "3\n"])
def test_a_file_without_sections_is_refused(file: Path, text: str) -> None:
    """An empty file, a list or a word is not a set of sections."""
    file.write_text(text)
    assert re.match(r"params\.yaml: expected sections such as `ingest:`, found \w+", refusal(file))


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_explains_each_of_its_params(stage: str) -> None:
    """Under each field of a stage's Params stands a line that says what it means."""
    source = (OWN.parent / "pipeline" / "stages" / f"{stage}.py").read_text()
    body = source.split("class Params:")[1].split("\n\n\n")[0].split("\n    def ")[0]
    fields = re.findall(r"^    (\w+): .*\n(.*)", body, re.MULTILINE)
    assert [name for name, below in fields if not below.startswith('    """')] == []
    assert fields


def test_setting_a_value_changes_one_line(file: Path) -> None:
    """The value stands in its place, and every comment and blank line is where it was."""
    before = file.read_text()
    set_values(file, {"pretrain.steps": "50"})
    assert changed_lines(before, file) == ["-   steps: 900", "+   steps: 50"]


def test_setting_a_value_finds_the_place_in_force(file: Path) -> None:
    """Where the preset in force has the key, the value is set in the preset, and the section keeps its own."""
    set_values(file, {}, "environment-docs")
    before = file.read_text()
    set_values(file, {"pretrain.steps": "7000"})
    assert changed_lines(before, file) == ["-       steps: 6000", "+       steps: 7000"]
    assert load(file).stage("pretrain").steps == 7000


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "spam:\n    start: base",
            "spam:\n    start: asistant",
            "spam.start: there is no model 'asistant'; did you mean",
        ),
        ("spam:\n    start: base", "spam:\n    start: spam", "spam.start: goes round in a circle (spam → spam)"),
        (
            "assistant:\n    start: base",
            "assistant:\n    start: spam",
            "spam is a classifier, which nothing starts from",
        ),
        ("spam:\n    start: base", "spam:\n    start: [base]", "spam.start: there is no model ['base']"),
        ("spam:\n    start: base\n", "spam:\n", "finetunes.spam: start is missing"),
    ],
)
def test_a_finetune_starts_from_a_model_that_there_is(file: Path, old: str, new: str, said: str) -> None:
    """An unknown start, a circle and a classifier are refused in one line."""
    edit(file, old, new)
    assert said in refusal(file)


@pytest.mark.parametrize(
    ("stage", "line", "place"),
    [("ingest", "texts: data/mine", "ingest.texts"), ("finetune", "start: base", "finetunes.NAME.start")],
)
def test_a_preset_changes_no_path_that_dvc_watches(file: Path, stage: str, line: str, place: str) -> None:
    """A key of a path in dvc.yaml would not take effect in a preset, so the file is refused, with the right place."""
    edit(file, f"    {stage}: {{}}", f"    {stage}:\n      {line}")
    with pytest.raises(ConfigurationError, match=rf"{line.split(':')[0]} cannot differ by preset, .* reads {place};"):
        load(file)


def test_starting_from_one_another_is_refused(file: Path) -> None:
    """Two entries that start from each other would never begin: the error draws the circle."""
    edit(file, "assistant:\n    start: base", "assistant:\n    start: spam")
    edit(
        file, "spam:\n    start: base\n    task: classification", "spam:\n    start: assistant\n    task: instructions"
    )
    assert "goes round in a circle (assistant → spam → assistant); one of them must start from base" in refusal(file)


def test_what_an_entry_leaves_as_it_is_can_be_set(file: Path) -> None:
    """A setting with a default need not stand in the file to be set; an unknown one is still refused."""
    set_values(file, {"finetunes.spam.lora_rank": "8"})
    assert [load(file).stage("finetune", name).lora_rank for name in ("assistant", "spam")] == [0, 8]
    with pytest.raises(ConfigurationError, match="unknown key 'lora_rnk'"):
        set_values(file, {"finetunes.spam.lora_rnk": "8"})


def test_setting_a_finetune_changes_that_finetune(file: Path) -> None:
    """A key of one fine-tuned model is set for that model only."""
    set_values(file, {"finetunes.spam.epochs": "9"})
    assert [load(file).stage("finetune", name).epochs for name in ("assistant", "spam")] == [2, 9]


def test_values_that_only_fit_together_can_be_set_together(file: Path) -> None:
    """Several values are checked as a whole: a short run with a short warm-up is right."""
    set_values(file, {"pretrain.steps": "10", "pretrain.warmup_steps": "2"})
    params = load(file).stage("pretrain")
    assert (params.steps, params.warmup_steps) == (10, 2)


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("pretrain.stepz", "50", "pretrain: unknown key 'stepz'; did you mean 'steps'?"),
        ("pretrian.steps", "50", "pretrian.steps: expected SECTION.KEY; did you mean 'pretrain'?"),
        ("steps", "50", "steps: expected SECTION.KEY"),
        ("pretrain", "50", "pretrain: expected SECTION.KEY; known: "),
        ("models", "[base]", "models: is base and the entries of finetunes, so the two change together"),
        ("preset", "small", "preset: is chosen by --preset NAME"),
        ("", "50", "expected SECTION.KEY"),
        ("finetunes.spam", "50", "finetunes: unknown key 'spam'"),
        ("finetunes.spma.epochs", "50", "finetunes: unknown key 'spma'; did you mean 'spam'?"),
        ("presets.small.pretrain.steps", "50", "unknown key 'steps'"),
        ("pretrain.steps.more", "50", "unknown key 'more'"),
        ("pretrain.steps.more.still", "50", "unknown key 'more'"),
        ("pretrain.steps", "'50'", "pretrain.steps: Input should be a valid integer (found '50')"),
        ("pretrain.steps", "fifty", "pretrain.steps: Input should be a valid integer (found 'fifty')"),
        ("pretrain.steps", "", "pretrain.steps: Input should be a valid integer (found None)"),
        ("pretrain.steps", "10", "warmup_steps is 20 but steps is 10; lower one or raise the other"),
        ("pretrain.steps", "[1", "pretrain.steps: '[1' is not a YAML value"),
        (
            "pretrain.seed",
            "9223372036854775808",
            "pretrain.seed: must be 0 to 9223372036854775807 (found 92233720368547",
        ),
        ("evaluate.seed", "-1", "evaluate.seed: must be 0 to"),
        ("preset.small", "x", "unknown key 'small'"),
        ("models.0", "x", "unknown key '0'"),
    ],
)
def test_a_wrong_assignment_is_refused_and_leaves_the_file(file: Path, key: str, text: str, said: str) -> None:
    """A typo or a value that does not fit is refused with the key, and the file keeps every byte."""
    with pytest.raises(ConfigurationError) as caught:
        set_values(file, {key: text})
    assert said in str(caught.value)
    assert file.read_bytes() == TEXT.encode()
    assert [p.name for p in file.parent.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize("name", [n for n in load(OWN).content["presets"] if n != "small"])
def test_choosing_a_preset_changes_one_line(file: Path, name: str) -> None:
    """`preset:` says what runs, and nothing else in the file is touched."""
    set_values(file, {}, name)
    assert changed_lines(TEXT, file) == ["- preset: small", f"+ preset: {name}"]


def test_choosing_the_preset_in_force_changes_nothing(file: Path) -> None:
    """Going to another preset and back leaves every byte as it was."""
    set_values(file, {}, "gpt2-124m")
    set_values(file, {}, "small")
    assert file.read_bytes() == TEXT.encode()


def test_an_unknown_preset_is_refused_with_the_nearest(file: Path) -> None:
    """A typo in a preset's name changes nothing and is answered with the nearest name."""
    with pytest.raises(ConfigurationError, match="there is no preset 'gpt-124m'; did you mean 'gpt2-124m'"):
        set_values(file, {}, "gpt-124m")
    assert file.read_bytes() == TEXT.encode()


def test_a_preset_that_no_stage_can_use_is_not_put_in_force(file: Path) -> None:
    """A preset with a mistake in it is refused, values beside it or not, and the file keeps every byte."""
    edit(file, "steps: 6000", "stepz: 6000")
    before = file.read_bytes()
    for assignments in ({}, {"compute.threads": "1"}):
        with pytest.raises(ConfigurationError, match="pretrain: unknown key 'stepz'"):
            set_values(file, assignments, "environment-docs")
    assert file.read_bytes() == before


def test_a_preset_that_is_not_there_can_be_left_for_one_that_is(file: Path) -> None:
    """The file need not be right before it is set right."""
    edit(file, "preset: small", "preset: smal")
    assert set_values(file, {}, "small").preset == load(file).preset == "small"


def test_compute_counts_the_cores_it_may_use(file: Path) -> None:
    """`threads: 0` is every core this process may use; another number is taken as it stands."""
    edit(file, "  threads: 0", "  threads: 3")
    assert load(file).compute().thread_count == 3
    assert load(OWN).compute().thread_count >= 1
