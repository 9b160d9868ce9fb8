"""Preference training beside TRL's DPOTrainer: every step's loss and rewards, from the same pairs, with and without an
adapter; the losses that TRL doesn't have beside their papers' formulas; shared prompts beside pairs laid out in full. KTO
beside its KTOTrainer, which is handed the same mismatched answers."""

import json
import random

import pytest
import torch
import torch.nn.functional as F
from conftest import SEED
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from tune_program import TOPICS, metrics, recipe_for, relative, sentence, shown_rows, steps, tune, write_recipe

STEPS, PAIRS = 30, 6


def write_pairs(path, rng, count, longest=20, shape="texts"):
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(count):
            prompt = f"{rng.choice(TOPICS)}: {sentence(rng, longest)}?"
            chosen, rejected = f"{sentence(rng, longest)}.", f"{sentence(rng, longest)}!"
            row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
            if shape == "conversations":  # as UltraFeedback has them
                user = {"role": "user", "content": prompt}
                row = {name: [user, {"role": "assistant", "content": row[name]}] for name in ("chosen", "rejected")}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def write_singles(path, rng, count, longest=20):
    """Good and bad answers, some of them to one prompt."""
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            if i % 3 != 1:
                prompt = f"{rng.choice(TOPICS)} {i}: {sentence(rng, longest)}?"
            row = {"prompt": prompt, "completion": f"{sentence(rng, longest)}.", "label": i % 2 == 0}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


class Pairs:
    """One model and its pairs, the recipe that trains on them, and the same for TRL. The format of the prompt is one whose
    answers end where they are trained to end: TRL trains everything behind the prompt."""

    type, write, steps = "preference", staticmethod(write_pairs), STEPS

    def __init__(self, folder, tmp_path, options=None, learning_rate=1e-3, **sections):
        self.folder, self.output, self.learning_rate = folder, tmp_path / "run", learning_rate
        rng = random.Random(SEED)
        rows, evaluation = self.write(tmp_path / "train.jsonl", rng, PAIRS), self.write(tmp_path / "eval.jsonl", rng, PAIRS)
        recipe = recipe_for(folder, rows, self.output, evaluation, **sections)
        recipe["stage"], recipe["preference"] = "dpo", options or {}
        recipe["data"].update(chat_template="llama2", packing=False)
        recipe["data"]["datasets"][0]["type"] = recipe["data"]["eval_datasets"][0]["type"] = self.type
        recipe["train"].update(max_steps=self.steps, global_batch_size=PAIRS, per_device_train_batch_size=PAIRS, learning_rate=learning_rate)
        self.recipe = write_recipe(tmp_path / "recipe.yaml", recipe)

    def pairs(self, *arguments):
        """[(prompt, chosen, rejected)] as ids; each token of an answer is trained."""
        for row in shown_rows(self.recipe, *arguments):
            prompt, rejected = row["chosen"], row["rejected"]
            assert row["trained"] == [0] * prompt + [1] * (len(row["ids"]) - prompt)
            yield row["ids"][:prompt], row["ids"][prompt:rejected], row["ids"][rejected:]

    def model(self):
        return AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32, attn_implementation="eager")

    def train(self, *arguments):
        tune("run", "--recipe", self.recipe, *arguments)
        return steps(self.output)


class Judging:
    """Takes ids as they are, and keeps every loss."""

    def _prepare_dataset(self, dataset, *_):
        return dataset

    def compute_loss(self, *arguments, **named):
        loss = super().compute_loss(*arguments, **named)
        if self.model.training:
            self.losses.append((loss[0] if isinstance(loss, tuple) else loss).item())
        return loss


class Judge(Judging, DPOTrainer):
    pass


class KtoJudge(Judging, KTOTrainer):
    pass


def trl_losses(setting, model, tmp_path, **options):
    rows = [dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), pair)) for pair in setting.pairs()]
    return judged(Judge, DPOConfig, rows, setting, model, tmp_path, **options)


def judged(judge, config_type, rows, setting, model, tmp_path, **options):
    config = config_type(
        output_dir=str(tmp_path / "trl"), max_steps=setting.steps, per_device_train_batch_size=PAIRS, learning_rate=setting.learning_rate,
        lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0, adam_beta2=0.999, use_cpu=True, bf16=False, report_to=[],
        logging_steps=1, save_strategy="no", gradient_checkpointing=False, disable_tqdm=True, max_length=None, beta=0.1,
        disable_dropout=True, **options,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(setting.folder)
    tokenizer.pad_token = tokenizer.eos_token
    trainer = judge(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.losses = []
    trainer.train()
    return trainer


def compare(lines, trainer, learned=0.9):
    history = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    assert len(lines) == len(trainer.losses) == STEPS
    assert trainer.losses[-1] < learned * trainer.losses[0], "nothing was learned, so nothing is judged"
    for line, loss, logged in zip(lines, trainer.losses, history):
        assert relative(line["loss"], loss) <= 1e-4, f"step {line['step']}: loss {line['loss']}, TRL {loss}"
        for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"):
            assert line[name] == pytest.approx(float(logged[name]), rel=1e-3, abs=1e-3), (line["step"], name)


def fresh_adapter(model, folder):
    torch.manual_seed(11)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_thirty_steps_equal_trl(loss_type, tiny, tmp_path):
    """An adapter to start from whose B is zero: the reference, computed once here, is TRL's base without the adapter."""
    adapter = {"init_adapter": str(tmp_path / "init")}
    setting = Pairs(tiny("llama-gqa"), tmp_path, {"loss_type": loss_type}, adapter=adapter)
    model = fresh_adapter(setting.model(), tmp_path / "init")
    lines = setting.train()
    compare(lines, trl_losses(setting, model, tmp_path, loss_type=[loss_type]))


def test_full_fine_tuning_equals_trl(tiny, tmp_path):
    setting = Pairs(tiny("llama-mha"), tmp_path, adapter={"type": "none"}, learning_rate=2e-4)
    lines = setting.train()
    compare(lines, trl_losses(setting, setting.model(), tmp_path))


def log_probabilities(model, pairs):
    """[(sum of chosen, sum of rejected, tokens of chosen, of rejected)], each pair laid out in full."""
    result = []
    for prompt, *answers in pairs:
        sums = []
        for answer in answers:
            ids = torch.tensor(prompt + answer)[None]
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
            sums.append(logits.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum())
        result.append((*sums, len(answers[0]), len(answers[1])))
    return result


def written_out(loss_type, policy, reference):
    """The papers' formulas, with beta 0.1, or 2 and gamma 0.5 for SimPO, and labels smoothed by a tenth."""
    losses = []
    for (chosen, rejected, n, m), (ref_chosen, ref_rejected, *_) in zip(policy, reference):
        if loss_type == "orpo":
            chosen, rejected = chosen / n, rejected / m
            odds = (chosen - torch.log1p(-chosen.exp())) - (rejected - torch.log1p(-rejected.exp()))
            losses.append(-chosen - 0.1 * F.logsigmoid(odds))
            continue
        x = 2 * (chosen / n - rejected / m) - 0.5 if loss_type == "simpo" else 0.1 * ((chosen - ref_chosen) - (rejected - ref_rejected))
        if loss_type == "hinge":
            losses.append(torch.relu(1 - x))
            continue
        losses.append(-0.9 * F.logsigmoid(x) - 0.1 * F.logsigmoid(-x))
    return torch.stack(losses).mean()


OPTIONS = {
    "sigmoid": {"label_smoothing": 0.1},
    "hinge": {"loss_type": "hinge"},
    "orpo": {"loss_type": "orpo"},
    "simpo": {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.5, "label_smoothing": 0.1},
}


@pytest.mark.parametrize("kind, name", zip(OPTIONS, ["mistral-window", "llama-mha", "llama-gqa-tied", "mistral-window"]))
def test_other_losses_equal_their_formulas(kind, name, tiny, tmp_path):
    """With the prompt laid out once for each answer, by autograd; a fresh adapter, whose reference is the base."""
    rate = 1e-4 if kind == "hinge" else 1e-3  # it has no slope behind its margin
    setting = Pairs(tiny(name), tmp_path, OPTIONS[kind], adapter={"init_adapter": str(tmp_path / "init")}, learning_rate=rate)
    model = fresh_adapter(setting.model(), tmp_path / "init")
    lines, pairs = setting.train(), list(setting.pairs())
    with torch.no_grad(), model.disable_adapter():
        reference = log_probabilities(model, pairs)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=setting.learning_rate, weight_decay=0.0)
    for line in lines:
        loss = written_out(kind, log_probabilities(model, pairs), reference)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        optimizer.step()
        optimizer.zero_grad()
        assert relative(line["loss"], loss.item()) <= 1e-4, f"step {line['step']}"
        assert relative(line["grad_norm"], norm) <= 1e-3, f"step {line['step']}"
    assert lines[-1]["loss"] < 0.97 * lines[0]["loss"]


def test_a_fresh_adapters_reference_is_its_base(tiny, tmp_path):
    """The first step's margin is none, the loss log 2; what was trained is what PEFT loads; `tune eval` says the same."""
    setting = Pairs(tiny("llama-gqa"), tmp_path)
    lines = setting.train()
    assert lines[0]["rewards/margins"] == pytest.approx(0, abs=1e-5) and lines[0]["loss"] == pytest.approx(0.6931472, rel=1e-5)
    evaluated = [line for line in metrics(setting.output) if "eval_loss" in line]
    pairs = list(setting.pairs("--eval"))
    model = PeftModel.from_pretrained(setting.model(), setting.output / "final")
    with torch.no_grad():
        policy = log_probabilities(model, pairs)
        with model.disable_adapter():
            reference = log_probabilities(model, pairs)
    margins = [0.1 * ((c - rc) - (r - rr)) for (c, r, *_), (rc, rr, *_) in zip(policy, reference)]
    assert evaluated[-1]["eval_loss"] == pytest.approx(-sum(F.logsigmoid(m).item() for m in margins) / len(margins), rel=1e-4)
    assert evaluated[-1]["eval_rewards/margins"] == pytest.approx(sum(m.item() for m in margins) / len(margins), rel=1e-3, abs=1e-4)
    answer = json.loads(tune("eval", "--recipe", setting.recipe, "--json").stdout)
    assert answer["loss"] == pytest.approx(evaluated[-1]["eval_loss"], rel=1e-5)


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_any_split_over_ranks_gives_the_same(adapter, tiny, tmp_path):
    folder = tiny("llama-gqa")
    rate = 1e-3 if adapter == "lora" else 2e-4
    one, two, packed = (Pairs(folder, tmp_path / name, adapter={"type": adapter}, learning_rate=rate) for name in made(tmp_path, "one", "two", "packed"))
    want = one.train()
    shares = ["--nproc=2", "--set", "train.per_device_train_batch_size=1"]
    strategies = [[], ["--set", "distributed.strategy=shard"]]
    for strategy in strategies:
        got = two.train("--resume", "never", *shares, *strategy)
        for a, b in zip(want, got):
            assert relative(b["loss"], a["loss"]) <= 1e-5 and b["rewards/margins"] == pytest.approx(a["rewards/margins"], abs=1e-5)
    got = packed.train("--set", "data.packing=true")  # as many slots of several pairs: other steps, but it trains
    assert got[-1]["loss"] < got[0]["loss"]


class Singles(Pairs):
    type, write, steps = "unpaired_preference", staticmethod(write_singles), 10

    def __init__(self, folder, tmp_path, options=None, **named):
        super().__init__(folder, tmp_path, {"loss_type": "kto", **(options or {})}, **named)

    def rows(self, *arguments):
        """[{prompt_ids, completion_ids, KL_completion_ids, label}], as TRL's collator wants them."""
        for row in shown_rows(self.recipe, *arguments):
            ids, own, other = row["ids"], row["completion"], row["mismatched"]
            assert row["trained"] == [0] * own + [1] * (other - own) + [0] * (len(ids) - other)
            yield {"prompt_ids": ids[:own], "completion_ids": ids[own:other], "KL_completion_ids": ids[other:], "label": row["label"]}


KTO_METRICS = ("kl", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected")


@pytest.mark.parametrize("name, adapter, rate", [("llama-gqa", "lora", 1e-3), ("llama-mha", "none", 2e-4)])
def test_kto_equals_trl(name, adapter, rate, tiny, tmp_path):
    """With an adapter to start from, and full fine-tuning: the reference is that of before the first step. Where the good
    answers weigh more, the KL becomes positive; where the bad ones do, its estimate is cut off at 0."""
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.75} if adapter == "lora" else {"desirable_weight": 0.1}
    start = {"init_adapter": str(tmp_path / "init")} if adapter == "lora" else {"type": "none"}
    setting = Singles(tiny(name), tmp_path, {"beta": 0.1, **weights}, adapter=start, learning_rate=rate)
    model = fresh_adapter(setting.model(), tmp_path / "init") if adapter == "lora" else setting.model()
    lines, rows = setting.train(), list(setting.rows())
    trainer = judged(KtoJudge, KTOConfig, rows, setting, model, tmp_path, **weights)
    history = [entry for entry in trainer.state.log_history if "kl" in entry]
    assert len(lines) == len(trainer.losses) == len(history) == setting.steps and trainer.losses[-1] < 0.9 * trainer.losses[0]
    for line, loss, logged in zip(lines, trainer.losses, history):
        assert relative(line["loss"], loss) <= 1e-4, f"step {line['step']}: loss {line['loss']}, TRL {loss}"
        assert relative(line["grad_norm"], float(logged["grad_norm"])) <= 1e-3, line["step"]
        for metric in KTO_METRICS:
            assert line[metric] == pytest.approx(float(logged[metric]), rel=1e-3, abs=1e-3), (line["step"], metric)
    last = [line["kl"] for line in lines[-3:]]
    assert min(last) > 0.1 if adapter == "lora" else max(last) == 0


def test_kto_over_any_split_is_the_same(tiny, tmp_path):
    """A fresh adapter, whose reference is the base. One micro-batch of all rows; of one row each, on one rank and on two,
    of which each has three, and which may share the weights."""
    setting = Singles(tiny("llama-gqa"), tmp_path)
    alone = ["--set", "train.per_device_train_batch_size=1", "--set", "eval.per_device_eval_batch_size=1"]
    curves = []
    for shares in ([], alone, [*alone, "--nproc=2"], [*alone, "--nproc=2", "--set", "distributed.strategy=shard"]):
        setting.train("--resume", "never", "--set", "train.max_steps=5", *shares)
        curves.append(metrics(setting.output))
        for a, b in zip(curves[0], curves[-1], strict=True):
            for key in (key for key in a if key.removeprefix("eval_") in ("loss", *KTO_METRICS)):
                assert b[key] == pytest.approx(a[key], rel=1e-5, abs=2e-5), (shares, a["step"], key)
    first, last = (line for line in curves[0] if "loss" in line and line["step"] in (1, 5))
    assert first["loss"] == pytest.approx(0.5, abs=1e-5) and first["kl"] == pytest.approx(0, abs=1e-5) and last["kl"] > 0.1


def test_a_kto_evaluation_has_one_kl(tiny, tmp_path):
    """Its mean is over all rows of the set; the loss by the formula, from what PEFT makes of the trained adapter; `tune
    eval` says the same."""
    setting = Singles(tiny("llama-gqa"), tmp_path)
    setting.train()
    evaluated = [line for line in metrics(setting.output) if "eval_loss" in line][-1]
    rows = list(setting.rows("--eval"))
    model = PeftModel.from_pretrained(setting.model(), setting.output / "final")
    answers = [(row["prompt_ids"], row["completion_ids"], row["KL_completion_ids"]) for row in rows]
    with torch.no_grad():
        policy = log_probabilities(model, answers)
        with model.disable_adapter():
            reference = log_probabilities(model, answers)
    ratios = [(p[0] - r[0], p[1] - r[1]) for p, r in zip(policy, reference)]
    kl = max(0.0, sum(other.item() for _, other in ratios) / len(ratios))
    signed = [(own - kl) if row["label"] else (kl - own) for (own, _), row in zip(ratios, rows)]
    assert evaluated["eval_kl"] == pytest.approx(kl, rel=1e-3, abs=1e-4)
    assert evaluated["eval_loss"] == pytest.approx(sum(1 - torch.sigmoid(0.1 * s).item() for s in signed) / len(signed), rel=1e-4)
    answer = json.loads(tune("eval", "--recipe", setting.recipe, "--json").stdout)
    assert answer["answers"] == len(rows) and answer["loss"] == pytest.approx(evaluated["eval_loss"], rel=1e-5)
    assert answer["kl"] == pytest.approx(evaluated["eval_kl"], rel=1e-5, abs=1e-6)
    assert "rewards/accuracies" not in answer and answer["rewards/margins"] == pytest.approx(evaluated["eval_rewards/margins"], rel=1e-4)


def made(tmp_path, *names):
    for name in names:
        (tmp_path / name).mkdir()
        yield name


def test_conversations_are_pairs_too(tiny, tmp_path):
    setting = Pairs(tiny("llama-mha"), tmp_path)
    texts = shown_rows(setting.recipe)
    write_pairs(tmp_path / "train.jsonl", random.Random(SEED), PAIRS, shape="conversations")
    conversations = shown_rows(setting.recipe)
    assert [row["ids"] for row in texts] == [row["ids"] for row in conversations]


def test_bad_pairs_and_settings_are_refused_by_name(tiny, tmp_path):
    setting = Pairs(tiny("llama-mha"), tmp_path)
    with open(tmp_path / "train.jsonl", "a") as file:
        file.write('{"prompt": "a", "chosen": "b", "rejected": "b"}\n{"prompt": "a", "chosen": "b"}\n{"chosen": "b", "rejected": "c"}\n')
    said = tune("plan", "--recipe", setting.recipe, expect=3).stderr
    for part in (f"train.jsonl:{PAIRS + 1}: chosen and rejected are the same", 'the row has no "rejected"', 'the row has no "prompt"'):
        assert part in said
    for change, part in {
        "stage=sft": "type is preference, but stage is sft",
        "data.overflow=split": "half a pair teaches nothing",
        "preference.simpo_gamma=1": "simpo_gamma is given, but loss_type is sigmoid",
        "preference.loss_type=dpo": "write sigmoid",
    }.items():
        assert part in tune("plan", "--recipe", setting.recipe, "--set", change, expect=2).stderr
