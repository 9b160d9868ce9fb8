"""Rows of 4k, 32k and 100k tokens: trained within the planned memory, which grows with the row and not with its square;
windows that a row is three times as long as, beside transformers."""

import io
import json
import random
import time

import pytest
import sentencepiece
import torch
from conftest import SEED
from transformers import AutoModelForCausalLM

from judge_model import compare, documents, judged
from tune_program import WORDS, probe, recipe_for, steps, tune, write_recipe

CONTEXT = 16384  # as Code Llama's configuration has it; rows beyond are extrapolated
LENGTHS = [4096, 32768, 100_000]
# One head of 16, and one layer where every token sees all before it: what attention computes grows with the square, and
# 100k tokens shall take seconds here. A small vocabulary, so that logits are not what the peak is made of.
SMALL = dict(hidden_size=128, num_attention_heads=1, num_key_value_heads=1, head_dim=16, intermediate_size=352, vocab_size=400)
MODELS = {
    "llama-mha": dict(num_hidden_layers=1, max_position_embeddings=CONTEXT, rope_theta=1e6),
    "mistral-window": dict(num_hidden_layers=4, max_position_embeddings=CONTEXT, sliding_window=4096),
}


def write_tokenizer(folder, rng):
    """SentencePiece of Llama's kind, with as many pieces as the model has rows."""
    lines = (" ".join(rng.choice(WORDS) for _ in range(20)) for _ in range(200))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, vocab_size=SMALL["vocab_size"], model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())


def run_row(model, length, folder, rng):
    """A step on one row of so many tokens: what was planned, measured and said."""
    rows = folder / "rows.jsonl"
    rows.write_text(json.dumps({"text": " ".join(rng.choice(WORDS) for _ in range(length))}) + "\n")
    train = dict(max_steps=1, global_batch_size=1, per_device_train_batch_size=1, gradient_checkpointing=True)
    recipe = recipe_for(model, rows, folder / "run", stage="pretrain", train=train)
    recipe["data"] |= {"chat_template": "none", "max_length": length, "overflow": "truncate", "datasets": [{"path": str(rows), "type": "text"}]}
    path = write_recipe(folder / "recipe.yaml", recipe)
    planned = json.loads(tune("plan", "--recipe", path, "--json").stdout)["ranks"][0]["peak_bytes"]
    start = time.monotonic()
    said = tune("run", "--recipe", path).stderr
    measured = json.loads((folder / "run" / "run.json").read_text())["totals"]["peak_bytes"]
    print(f"{length} tokens: planned {planned / 2**20:.0f} MiB, measured {measured / 2**20:.0f} MiB, {time.monotonic() - start:.0f} s")
    return {"planned": planned, "measured": measured, "said": said, "step": steps(folder / "run")[0]}


@pytest.fixture(scope="module", params=list(MODELS))
def runs(request, tiny, tmp_path_factory):
    rng = random.Random(SEED)
    model = tiny(request.param, **SMALL, **MODELS[request.param])
    write_tokenizer(model, rng)
    return {length: run_row(model, length, tmp_path_factory.mktemp("row"), rng) for length in LENGTHS}


def test_a_row_trains_within_the_planned_memory(runs):
    for length, run in runs.items():
        assert run["step"]["tokens"] == length
        assert 0 < run["step"]["loss"] < 20
    for length in LENGTHS[1:]:  # the shortest is mostly the program itself
        assert abs(runs[length]["planned"] / runs[length]["measured"] - 1) <= 0.1, length


def test_memory_grows_with_the_row_and_not_with_its_square(runs):
    def slope(count, first, second):
        return (runs[second][count] - runs[first][count]) / (second - first)

    early, late = slope("measured", *LENGTHS[:2]), slope("measured", *LENGTHS[1:])
    print(f"{early:.0f} and {late:.0f} bytes a token, planned {slope('planned', LENGTHS[0], LENGTHS[-1]):.0f}")
    assert abs(late / early - 1) <= 0.15
    assert abs(slope("planned", LENGTHS[0], LENGTHS[-1]) / slope("measured", LENGTHS[0], LENGTHS[-1]) - 1) <= 0.15


def test_positions_beyond_the_models_are_said_loudly(runs):
    for length, run in runs.items():
        warning = f"its longest row has {length} tokens, the model was made for {CONTEXT} (max_position_embeddings)"
        assert (warning in run["said"]) == (length > CONTEXT)


@pytest.mark.parametrize("window", [128, 500])
def test_rows_of_three_windows_equal_transformers(window, tiny, rng, tmp_path):
    folder = tiny("mistral-window-deep", vocab_size=211, sliding_window=window, max_position_embeddings=4 * window)
    batches = [documents(rng, [3 * window, 7, 3 * window + 1], 211)]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    logits, losses = judged(model, batches)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    answers = probe({"model": str(folder), "batches": batches, "gradient_checkpointing": True}, tmp_path / "out.safetensors")
    compare(answers, logits, losses, gradients)


def test_generation_goes_on_beyond_the_context(tiny):
    """As a model does that was trained so; said once."""
    folder = tiny("llama-mha", max_position_embeddings=16)
    done = tune("generate", "--model", folder, "--prompt", "one two three four five six seven eight", "--max-tokens", 24)
    assert done.stderr.count("more than the 16 tokens that the model was made for") == 1
