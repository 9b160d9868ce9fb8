"""Mixtral against transformers and PEFT: routing, the auxiliary loss, adapters on experts; balanced and badly unbalanced."""


import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter, load_balancing_loss_func

import tiny_models
from bf16 import bf16_autocast
from judge_model import GRADIENT, LOGITS, LOSS, SMALL_VOCAB, documents
from judge_training import LORA_LEARNING_RATE, Schedule, Setting, compare, loss_of, plain_loop
from tune_program import eval_losses, probe, recipe_for, relative, steps, tune, write_chats, write_recipe

NAMES = ["mixtral", "mixtral-eight"]
COEFFICIENT = 0.7  # so that a mistake in the auxiliary loss shows


class Expert(torch.nn.Module):
    def __init__(self, gate_up, down):
        super().__init__()
        gate, up = gate_up.chunk(2)
        self.w1, self.w3, self.w2 = (torch.nn.Linear(w.shape[1], w.shape[0], bias=False) for w in (gate, up, down))
        for linear, weight in ((self.w1, gate), (self.w3, up), (self.w2, down)):
            linear.weight.data.copy_(weight)

    def forward(self, x):
        return self.w2(torch.nn.functional.silu(self.w1(x)) * self.w3(x))


class Experts(torch.nn.ModuleList):
    """Mixtral's experts as modules of their own, as the files have them, so that PEFT can put an adapter on each."""

    def forward(self, x, chosen, weights):
        y = torch.zeros_like(x)
        for number, expert in enumerate(self):
            token, place = torch.where(chosen == number)
            y = y.index_add(0, token, (expert(x[token]) * weights[token, place, None]).to(y.dtype))
        return y


def load(folder, unfused=True):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager")
    if unfused:
        for layer in model.model.layers:
            experts = layer.mlp.experts
            layer.mlp.experts = Experts(Expert(g.data, d.data) for g, d in zip(experts.gate_up_proj, experts.down_proj))
        model.config.model_type = "unfused"  # else PEFT wants adapters on the fused parameters that are no longer there
    return model.requires_grad_(False)


def on_disk(name):
    """The name of a parameter in files."""
    return name.replace(".default", "").replace(".mlp.", ".block_sparse_moe.").replace(".gate.linear.", ".gate.")


def judged(model, batches):
    """(logits, loss, auxiliary loss) a batch, document by document; the gradients of loss + COEFFICIENT * auxiliary loss
    a trained token are left in the model."""
    results = []
    for batch in batches:
        logits, loss, trained, routers = [], 0.0, 0, None
        for document in batch:
            ids = torch.tensor(document["ids"])[None]
            out = model(input_ids=ids, use_cache=False, output_router_logits=True)
            targets = torch.where(torch.tensor(document["trained"]) == 1, ids[0], -100)[1:]
            loss = loss + torch.nn.functional.cross_entropy(out.logits[0, :-1], targets, ignore_index=-100, reduction="sum")
            trained += int((targets != -100).sum())
            logits.append(out.logits[0].detach())
            rows = [layer.reshape(-1, layer.shape[-1]) for layer in out.router_logits]
            routers = rows if routers is None else [torch.cat(pair) for pair in zip(routers, rows)]
        aux = load_balancing_loss_func(tuple(routers), routers[0].shape[-1], 2)
        total = loss + COEFFICIENT * trained * aux
        if total.requires_grad:
            total.backward()
        results.append((torch.cat(logits), loss.item(), aux.item()))
    return results


def check(answers, results):
    for i, (logits, loss, aux) in enumerate(results):
        assert logits.abs().max() > 0.5, "these logits are too small to judge anything"
        assert (answers[f"logits.{i}"] - logits).abs().max() <= LOGITS
        assert relative(answers[f"loss.{i}"].item(), loss) <= LOSS
        assert relative(answers[f"aux_loss.{i}"].item(), aux) <= LOSS


def check_gradients(answers, model):
    ours = {name.removeprefix("gradient."): tensor for name, tensor in answers.items() if name.startswith("gradient.")}
    wanted = {on_disk(n): p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert set(ours) == set(wanted)
    for name, want in wanted.items():
        want = torch.zeros_like(ours[name]) if want is None else want  # of an expert that no token visited
        error = (ours[name] - want).abs().max().item()
        assert error <= GRADIENT * max(want.abs().max().item(), 1e-3), f"{name}: {error} of {want.abs().max().item()}"


def batches_for(rng):
    return [documents(rng, [37, 1, 12, 60], SMALL_VOCAB), documents(rng, [5, 2, 90], SMALL_VOCAB)]


def unbalanced(folder, tmp_path):
    """All tokens go to expert 0, none to the last: a direction that every token shares decides."""
    model = load(folder, unfused=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] += 8.0
        for layer in model.model.layers:
            layer.mlp.gate.weight[0, 0] += 20.0
            layer.mlp.gate.weight[-1, 0] -= 20.0
            for writer in (layer.self_attn.o_proj.weight, layer.mlp.experts.down_proj):
                writer[..., 0, :] = 0.0  # nothing but the embedding writes into that direction
    model.save_pretrained(tmp_path / "unbalanced")
    return tmp_path / "unbalanced"


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("train_router", [False, True], ids=["frozen-router", "trained-router"])
@pytest.mark.parametrize("name", NAMES)
def test_full_fine_tuning_equals_transformers(name, train_router, checkpointing, tiny, rng, tmp_path):
    folder, batches = tiny(name, vocab_size=SMALL_VOCAB), batches_for(rng)
    fused = load(folder, unfused=False)
    model = load(folder)
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(train_router or ".mlp.gate." not in parameter_name)
    results = judged(model, batches)
    with torch.no_grad():
        for (logits, _, _), (want, _, _) in zip(results, judged(fused, batches)):
            assert (logits - want).abs().max() <= 1e-5, "the judge's own experts are not those of transformers"
    request = {"model": str(folder), "batches": batches, "train_router": train_router, "router_aux_loss_coef": COEFFICIENT,
               "gradient_checkpointing": checkpointing}  # fmt: skip
    answers = probe(request, tmp_path / "out.safetensors")
    check(answers, results)
    check_gradients(answers, model)


@pytest.mark.parametrize(
    "targets",
    [["q_proj", "k_proj", "v_proj", "o_proj", "w1", "w2", "w3"], ["q_proj", "v_proj"], ["w2"], ["o_proj", "w1", "w3", "gate"]],
    ids=["all-linear", "q-v", "w2", "o-w1-w3-gate"],
)
@pytest.mark.parametrize("routing", ["balanced", "unbalanced"])
def test_lora_equals_peft(routing, targets, tiny, rng, tmp_path):
    folder, batches = tiny("mixtral", vocab_size=SMALL_VOCAB), batches_for(rng)
    if routing == "unbalanced":
        folder = unbalanced(folder, tmp_path)
    model = load(folder)
    if "gate" in targets:  # PEFT puts adapters on linear layers, which transformers' router isn't
        for layer in model.model.layers:
            layer.mlp.gate = LinearRouter(model.config, layer.mlp.gate)
    torch.manual_seed(rng.randrange(1000))
    judges_targets = ["gate.linear" if name == "gate" else name for name in targets]
    model = get_peft_model(model, LoraConfig(r=5, lora_alpha=15, target_modules=judges_targets, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(0, 0.02 if ".gate." in parameter_name else 0.1)
    save_as_on_disk(model, tmp_path / "adapter")
    results = judged(model, batches)
    adapter = {"r": 5, "alpha": 15, "targets": targets, "init": str(tmp_path / "adapter")}
    request = {"model": str(folder), "batches": batches, "adapter": adapter, "router_aux_loss_coef": COEFFICIENT}
    answers = probe(request, tmp_path / "out.safetensors")
    check(answers, results)
    check_gradients(answers, model)
    share = answers["expert_share.0"]
    assert abs(share.sum() - 1) < 1e-6
    if routing == "unbalanced":
        assert share[0] == 0.5 and share[-1] == 0, share


class LinearRouter(MixtralTopKRouter):
    """The router with a linear layer inside, which PEFT can wrap."""

    def __init__(self, config, router):
        super().__init__(config)
        del self.weight
        self.linear = torch.nn.Linear(*reversed(router.weight.shape), bias=False)
        self.linear.weight.data.copy_(router.weight)

    def forward(self, hidden):
        logits = self.linear(hidden.reshape(-1, self.hidden_dim))
        weights, chosen = torch.topk(torch.softmax(logits, -1), self.top_k, dim=-1)
        return logits, weights / weights.sum(-1, keepdim=True), chosen


def save_as_on_disk(model, folder):
    model.save_pretrained(folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({on_disk(name): tensor for name, tensor in tensors.items()}, folder / "adapter_model.safetensors", {"format": "pt"})


def peft_model(model, folder):
    torch.manual_seed(11)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "w1", "w2", "w3"]
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM"))
    save_as_on_disk(model, folder)
    return model


def test_fifty_lora_steps_equal_peft(tiny, rng, tmp_path):
    """With adapters on attention and on every expert."""
    schedule = Schedule(LORA_LEARNING_RATE, "cosine", warmup=5)
    setting = Setting(tiny("mixtral"), rng, tmp_path, schedule, adapter={"init_adapter": str(tmp_path / "init")})
    model = peft_model(load(tiny("mixtral")), tmp_path / "init")
    lines = setting.train()
    compare(lines, plain_loop(model, setting.rows, schedule), schedule)
    assert all(abs(sum(line["expert_share"]) - 1) < 1e-6 for line in lines)
    # and PEFT loads what was written onto transformers' own experts
    tuned = PeftModel.from_pretrained(load(tiny("mixtral"), unfused=False), setting.output / "final")
    ids = torch.tensor(setting.rows[0]["ids"])[None]
    with torch.no_grad():
        assert (tuned(input_ids=ids).logits - model(input_ids=ids).logits).abs().max() <= 1e-3


def test_bf16_lora_ends_where_peft_does(tiny, rng, tmp_path):
    schedule = Schedule(LORA_LEARNING_RATE)
    sections = dict(adapter={"init_adapter": str(tmp_path / "init")}, train={"precision": "bf16"})
    setting = Setting(tiny("mixtral"), rng, tmp_path, schedule, **sections)
    model = peft_model(load(tiny("mixtral")).to(torch.bfloat16), tmp_path / "init")
    setting.train()
    plain_loop(model, setting.rows, schedule, autocast=bf16_autocast)
    with torch.no_grad(), bf16_autocast():
        want = loss_of(model, setting.evaluation_rows).item()
    assert relative(eval_losses(setting.output)[-1], want) <= 0.01


def test_a_step_of_full_fine_tuning_keeps_the_router(tiny, rng, tmp_path):
    rows = write_chats(tmp_path / "rows.jsonl", rng, 8)
    recipe = recipe_for(tiny("mixtral"), rows, tmp_path / "run", adapter={"type": "none"}, train={"max_steps": 1})
    tune("run", "--recipe", write_recipe(tmp_path / "recipe.yaml", recipe))
    before, after = load(tiny("mixtral"), unfused=False), load(tmp_path / "run" / "final", unfused=False)
    for (name, old), (_, new) in zip(before.named_parameters(), after.named_parameters()):
        assert torch.equal(old, new) == (".mlp.gate." in name), name


def test_packed_equals_unpacked(tiny, rng, tmp_path):
    rows = write_chats(tmp_path / "rows.jsonl", rng, 16, longest=12)
    results = []
    for packing in (False, True):
        recipe = recipe_for(
            tiny("mixtral"), rows, tmp_path / f"run-{packing}", data={"packing": packing, "max_length": 512},
            train={"max_steps": 3, "global_batch_size": 16, "per_device_train_batch_size": 16, "router_aux_loss_coef": 0.5},
        )  # fmt: skip
        tune("run", "--recipe", write_recipe(tmp_path / "recipe.yaml", recipe))
        results.append(steps(tmp_path / f"run-{packing}"))
    for line, reference in zip(*results):
        for key, tolerance in (("loss", 2e-6), ("router_aux_loss", 2e-6), ("grad_norm", 2e-5)):
            assert relative(line[key], reference[key]) <= tolerance, key


def test_a_gguf_of_experts_is_a_base_model(tiny, rng, tmp_path):
    """Written by us and judged by llama.cpp elsewhere; read back, it is the same model to the last bit."""
    folder, file = tiny("mixtral"), tmp_path / "model.gguf"
    tune("export", "--format", "gguf", "--quant", "f32", "--model", folder, "--output", file)
    batches = [documents(rng, [20, 9], SMALL_VOCAB)]
    answers = [probe({"model": str(model), "batches": batches, "backward": False}, tmp_path / "out.safetensors") for model in (folder, file)]
    assert torch.equal(answers[0]["logits.0"], answers[1]["logits.0"])


def test_an_adapter_on_one_half_of_the_gate_is_refused(tiny, rng, tmp_path):
    rows = write_chats(tmp_path / "rows.jsonl", rng, 4)
    recipe = recipe_for(tiny("mixtral"), rows, tmp_path / "run", adapter={"lora_target_modules": ["w1"]})
    said = tune("run", "--recipe", write_recipe(tmp_path / "recipe.yaml", recipe), expect=2).stderr
    assert "only one of w1 and w3" in said
