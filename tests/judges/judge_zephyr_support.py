"""recipes/zephyr-support.yaml on real support conversations with a shrunken Zephyr: what is shipped is what is run."""

import json
import math

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaTokenizer

from tune_program import SHARED, eval_losses, relative, steps, tune

DATA = SHARED / "bitext-support"
CHANGES = [  # of size, not of kind
    "train.device=cpu", "train.precision=fp32", "model.dtype=fp32", "train.max_steps=3", "train.global_batch_size=4",
    "train.per_device_train_batch_size=2", "data.max_length=1024", "eval.eval_steps=2", "save.save_steps=2",
    "eval.sample_max_tokens=4",
]  # fmt: skip

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is absent: it is no part of the project")


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """Zephyr in small, where the recipe looks for it, tuned; (models folder, output folder, the recipe's arguments)."""
    root = tmp_path_factory.mktemp("support")
    (root / "models").mkdir()
    (root / "models" / "zephyr-7b-beta").symlink_to(tiny("mistral-window-deep"))
    arguments = ["--recipe", "zephyr-support", "--set", f"output_dir={root / 'run'}"]
    for change in CHANGES:
        arguments += ["--set", change]
    environment = dict(TUNE_MODELS=str(root / "models"), TUNE_DATA=str(DATA))
    tune("run", *arguments, **environment)
    return root / "models" / "zephyr-7b-beta", root / "run", arguments, environment


def rows_of(run, *more):
    _, _, arguments, environment = run
    return [json.loads(line) for line in tune("data", "show", "--json", *arguments, *more, **environment).stdout.splitlines()]


def test_every_conversation_is_taken_and_rendered_as_transformers_does(run):
    tokenizer = LlamaTokenizer.from_pretrained(run[0])
    # as the model card of Zephyr has it
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    )
    for file, arguments in [("sft_train.jsonl", []), ("sft_valid.jsonl", ["--eval"])]:
        rows = rows_of(run, *arguments)
        conversations = [json.loads(line)["messages"] for line in open(DATA / file, encoding="utf-8")]
        assert len(rows) == len(conversations)
        judged = 0
        for row, messages in zip(rows, conversations):
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            # transformers merges runs of spaces in another order than SentencePiece: judge_tokenizer.py has both
            if "  " not in text:
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                assert row["ids"][-len(ids) :] == ids, f"{row['file']}:{row['line']}"
                judged += 1
            trained = tokenizer.decode([t for t, on in zip(row["ids"], row["trained"]) if on])
            answers = [message["content"].strip() for message in messages if message["role"] == "assistant"]
            assert trained == "".join(answer + "</s>" for answer in answers), f"{row['file']}:{row['line']}"
        assert judged > 0.8 * len(rows)


def test_it_learns_and_its_loss_is_transformers_loss(run):
    folder, output, _, _ = run
    assert len(steps(output)) == 3
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(model, output / "final").eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows_of(run, "--eval"):
            ids = torch.tensor(row["ids"])[None]
            targets = torch.where(torch.tensor(row["trained"]) == 1, ids[0], -100)[1:]
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum").item()
            count += int((targets != -100).sum())
    losses = eval_losses(output)
    assert relative(losses[-1], total / count) <= 1e-5
    assert losses[-1] < losses[0] and math.isfinite(losses[0])


def test_it_hands_over_what_the_recipe_asks_for(run):
    output = run[1]
    assert (output / "final" / "adapter_model.safetensors").is_file()
    assert sorted(path.name for path in (output / "export").iterdir()) == ["adapter", "model-q8_0.Modelfile", "model-q8_0.gguf"]
    assert list((output / "tensorboard").iterdir())
