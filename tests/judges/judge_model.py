"""Logits, loss and every gradient, in fp32, against transformers (full fine-tuning, GGUF files) and PEFT (LoRA)."""

import gguf
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import tiny_models
from tune_program import QUICKSTART, probe

LOGITS = 1e-4  # absolute, on logits of order one
LOSS = 1e-5  # relative
# A gradient is a sum of some thousand products: eps * sqrt(terms) of its largest value, and room for another order of summing.
GRADIENT = 5e-5
SMALL_VOCAB = 211


def documents(rng, lengths, vocab):
    return [
        {"ids": [rng.randrange(vocab) for _ in range(n)], "trained": [int(rng.random() < 0.6) for _ in range(n)]} for n in lengths
    ]


def batches_for(rng, vocab):
    """Documents shorter and longer than every window, one of them without anything to learn."""
    batches = [documents(rng, [37, 1, 12, 60], vocab), documents(rng, [5, 2, 90], vocab)]
    batches[1][0]["trained"] = [0] * 5
    return batches


def judged(model, batches):
    """Logits a batch, loss a batch; document by document, so that nothing can leak. Gradients are left in the model."""
    logits, losses = [], []
    for documents in batches:
        logits.append([])
        losses.append(0.0)
        for document in documents:
            ids = torch.tensor(document["ids"])[None]
            out = model(input_ids=ids, use_cache=False).logits[0]
            logits[-1].append(out.detach())
            targets = torch.where(torch.tensor(document["trained"]) == 1, ids[0], -100)[1:]
            loss = torch.nn.functional.cross_entropy(out[:-1], targets, ignore_index=-100, reduction="sum")
            losses[-1] += loss.item()
            if loss.requires_grad:
                loss.backward()
    return [torch.cat(rows) for rows in logits], losses


def compare(answers, logits, losses, gradients):
    for i, (want, loss) in enumerate(zip(logits, losses)):
        assert want.abs().max() > 0.5, "these logits are too small to judge anything"
        assert (answers[f"logits.{i}"] - want).abs().max() <= LOGITS
        assert abs(answers[f"loss.{i}"].item() - loss) <= LOSS * loss
    ours = {name.removeprefix("gradient."): tensor for name, tensor in answers.items() if name.startswith("gradient.")}
    assert set(ours) == set(gradients)
    for name, want in gradients.items():
        assert want.abs().max() > 0, name
        error = (ours[name] - want).abs().max().item()
        assert error <= GRADIENT * want.abs().max().item(), f"{name}: {error} of {want.abs().max().item()}"


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("name", tiny_models.MODELS)
def test_full_fine_tuning_equals_transformers(name, checkpointing, tiny, rng, tmp_path):
    folder = tiny(name, vocab_size=SMALL_VOCAB)
    batches = batches_for(rng, SMALL_VOCAB)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    logits, losses = judged(model, batches)
    gradients = {n: p.grad for n, p in model.named_parameters()}
    answers = probe({"model": str(folder), "batches": batches, "gradient_checkpointing": checkpointing}, tmp_path / "out.safetensors")
    compare(answers, logits, losses, gradients)


@pytest.mark.parametrize(
    "targets", [None, ["q_proj", "v_proj"], ["k_proj", "o_proj", "up_proj", "down_proj"]], ids=["all-linear", "q-v", "k-o-up-down"]
)
@pytest.mark.parametrize("name", tiny_models.MODELS)
def test_lora_equals_peft(name, targets, tiny, rng, tmp_path):
    folder = tiny(name, vocab_size=SMALL_VOCAB)
    batches = batches_for(rng, SMALL_VOCAB)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    torch.manual_seed(rng.randrange(1000))
    model = get_peft_model(base, LoraConfig(r=5, lora_alpha=15, target_modules=targets or "all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(0, 0.1)
    model.save_pretrained(tmp_path / "adapter")
    logits, losses = judged(model, batches)
    gradients = {n.replace(".default", ""): p.grad for n, p in model.named_parameters() if p.requires_grad}
    adapter = {"r": 5, "alpha": 15, "targets": targets or ["all-linear"], "init": str(tmp_path / "adapter")}
    answers = probe({"model": str(folder), "batches": batches, "adapter": adapter}, tmp_path / "out.safetensors")
    compare(answers, logits, losses, gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shards", [1, 3])
def test_every_stored_type_and_number_of_shards(dtype, shards, tiny, rng, tmp_path):
    folder = tiny("llama-gqa", vocab_size=SMALL_VOCAB, dtype=dtype, shards=shards)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (shards > 1)
    batches = [documents(rng, [20, 9], SMALL_VOCAB)]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").requires_grad_(False)
    logits, _ = judged(model, batches)
    answers = probe({"model": str(folder), "batches": batches, "backward": False}, tmp_path / "out.safetensors")
    assert (answers["logits.0"] - logits[0]).abs().max() <= LOGITS


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
@pytest.mark.parametrize("name", ["llama-mha", "llama-gqa", "llama-gqa-tied"])
def test_gguf_reads_as_transformers_reads_it(name, kind, rng, tmp_path):
    file = tmp_path / "model.gguf"
    tiny_models.write_gguf(tiny_models.build(name, 5, vocab_size=SMALL_VOCAB), file, gguf.GGMLQuantizationType[kind])
    batches = [documents(rng, [30, 7], SMALL_VOCAB)]
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager")
    logits, _ = judged(model.requires_grad_(False), batches)
    answers = probe({"model": str(file), "batches": batches, "backward": False}, tmp_path / "out.safetensors")
    assert (answers["logits.0"] - logits[0]).abs().max() <= LOGITS


def test_the_real_smollm2(rng, tmp_path):
    file = QUICKSTART / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not file.is_file():
        pytest.skip(f"{file} is absent: ./tools/quickstart.sh fetches it")
    batches = [documents(rng, [40, 15], 49152)]
    model = AutoModelForCausalLM.from_pretrained(QUICKSTART, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager")
    logits, losses = judged(model.requires_grad_(False), batches)
    answers = probe({"model": str(file), "batches": batches, "backward": False}, tmp_path / "out.safetensors")
    # logits of this model reach 40: the tolerance is that of logits of order one, scaled
    assert (answers["logits.0"] - logits[0]).abs().max() <= LOGITS * max(1.0, logits[0].abs().max().item())
    assert abs(answers["loss.0"].item() - losses[0]) <= LOSS * losses[0]
