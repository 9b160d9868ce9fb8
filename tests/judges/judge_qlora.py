"""QLoRA: the base's values are bitsandbytes', the training is PEFT's on that base, and what is merged is what was trained.

The scales' own eight bits are the exception to "bit for bit": bitsandbytes rounds them to the nearest code on CUDA, but
only nearly so on the CPU, and its mean of the scales depends on the order of a sum. The judge takes its table, its
definition (the nearest code) and our mean.
"""

import json
import re

import bitsandbytes.functional as bnb
import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from judge_quantize import probe
from judge_training import LORA_LEARNING_RATE, Schedule, Setting, compare, fresh_adapter, loss_of, plain_loop
from tune_program import eval_losses, relative, steps, tune

BLOCK, SCALE_BLOCK = 64, 256


def aligned(count, to=64):
    return -(-count // to) * to


class OurNf4:
    """What our quantiser makes of a matrix: bytes as checkpoints/quantize/nf4.h lays them out, and its values."""

    def __init__(self, tmp_path, values):
        values.astype(np.float32).tofile(tmp_path / "values")
        probe("nf4", *(tmp_path / name for name in ("values", "bytes", "fp32", "bf16")))
        data = np.fromfile(tmp_path / "bytes", np.uint8)
        blocks = -(-values.size // BLOCK)
        at = aligned(blocks * BLOCK // 2 + blocks)
        self.codes, self.scale_codes = data[: blocks * BLOCK // 2], data[blocks * BLOCK // 2 :][:blocks]
        self.mean, self.scales = np.split(data[at : at + 4 * (1 + -(-blocks // SCALE_BLOCK))].view(np.float32), [1])
        self.fp32 = torch.from_numpy(np.fromfile(tmp_path / "fp32", np.float32))
        self.bf16 = torch.from_numpy(np.fromfile(tmp_path / "bf16", np.int16)).view(torch.bfloat16)


def matrices():
    random = np.random.default_rng(3)
    outliers = random.standard_t(2, (96, 640)).astype(np.float32)
    ties = (np.round(random.standard_normal((64, 512)) * 4) / 4).astype(np.float32)
    ties[0] = 0
    return [random.standard_normal((1024, 512)).astype(np.float32), outliers, ties * 1e-3]


@pytest.mark.parametrize("kind", ["signed", "unsigned"])
def test_the_dynamic_map_is_theirs(tmp_path, kind):
    probe("map", kind, tmp_path / "map")
    np.testing.assert_array_equal(np.fromfile(tmp_path / "map", np.float32), bnb.create_dynamic_map(signed=kind == "signed").numpy())


@pytest.mark.parametrize("number", [0, 1, 2])
def test_values_are_bitsandbytes_to_the_bit(tmp_path, number):
    values = matrices()[number]
    ours, tensor = OurNf4(tmp_path, values), torch.from_numpy(values)
    codes, state = bnb.quantize_4bit(tensor, blocksize=BLOCK, quant_type="nf4", compress_statistics=False)
    np.testing.assert_array_equal(ours.codes, codes.flatten().numpy())

    scales, mean = state.absmax, torch.from_numpy(ours.mean)
    assert torch.allclose(mean, scales.mean(), rtol=1e-6, atol=0)
    rest = torch.nn.functional.pad(scales - mean, (0, -len(scales) % SCALE_BLOCK)).view(-1, SCALE_BLOCK)
    largest = rest.abs().amax(1, keepdim=True)
    np.testing.assert_array_equal(ours.scales, largest.flatten().numpy())
    table = bnb.create_dynamic_map()
    nearest = torch.bucketize((rest * (1 / largest)).flatten()[: len(scales)], (table[:-1] + table[1:]) / 2)
    np.testing.assert_array_equal(ours.scale_codes, nearest.numpy())

    _, nested = bnb.quantize_4bit(tensor, blocksize=BLOCK, quant_type="nf4", compress_statistics=True)
    nested.absmax, nested.offset = torch.from_numpy(ours.scale_codes.copy()), mean[0]
    nested.state2.absmax = torch.from_numpy(ours.scales.copy())
    for dtype, got in ((torch.float32, ours.fp32), (torch.bfloat16, ours.bf16)):
        nested.dtype = dtype
        assert torch.equal(bnb.dequantize_4bit(codes, nested).flatten(), got)


def quantised_model(folder):
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
    )
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", quantization_config=settings, device_map="cpu"
    )


def qlora_setting(folder, rng, tmp_path, schedule, **adapter):
    adapter = {"type": "qlora", "init_adapter": str(tmp_path / "init"), **adapter}
    return Setting(folder, rng, tmp_path, schedule, adapter=adapter)


def dequantised_base(folder, adapter, output):
    """The base as we train on it, as a Hugging Face folder: a fresh adapter's B is zero and changes nothing."""
    tune("export", "--format", "hf", "--quant", "f32", "--model", folder, "--adapter", adapter, "--merge-base", "dequantized",
         "--output", output)  # fmt: skip
    return output


@pytest.mark.parametrize("name", ["llama-gqa", "mistral-window", "mixtral"])
def test_fifty_steps_equal_peft_on_the_dequantised_base(name, tiny, rng, tmp_path):
    attention_only = name == "mixtral"
    schedule = Schedule(4 * LORA_LEARNING_RATE if attention_only else LORA_LEARNING_RATE, "cosine", warmup=5)
    folder = tiny(name)
    # PEFT's names of experts are its own (judge_mixtral); what is quantised doesn't depend on what is adapted
    targets = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]} if attention_only else {}
    setting = qlora_setting(folder, rng, tmp_path, schedule, **{f"lora_{key}": value for key, value in targets.items()})
    fresh_adapter(setting.model(), tmp_path / "init", **targets)
    lines = setting.train()
    setting.folder = dequantised_base(folder, tmp_path / "init", tmp_path / "base")
    changed = [name for name, value in load_file(folder / "model.safetensors").items()
               if not torch.equal(value.float(), load_file(setting.folder / "model.safetensors")[name].float())]  # fmt: skip
    assert changed and all("proj" in name or ".experts." in name for name in changed)
    model = PeftModel.from_pretrained(setting.model(), tmp_path / "init", is_trainable=True)
    compare(lines, plain_loop(model, setting.rows, schedule), schedule, learned=0.95 if attention_only else 0.7)


def test_the_loss_follows_peft_and_bitsandbytes(tiny, rng, tmp_path):
    # Slower than elsewhere: rows that are learned by heart in fifty steps make much of every difference, and their scales'
    # codes are not quite ours (above).
    folder, schedule = tiny("llama-gqa", hidden_size=128, num_attention_heads=8, intermediate_size=320), Schedule(1e-3)
    setting = qlora_setting(folder, rng, tmp_path, schedule)
    model = fresh_adapter(quantised_model(folder), tmp_path / "init")
    lines = setting.train()
    history = plain_loop(model, setting.rows, schedule)
    assert history[-1][0] < 0.7 * history[0][0], "nothing was learned, so nothing is judged"
    print([f"{relative(line['loss'], loss):.1e}" for line, (loss, _) in zip(lines, history)][::7])
    for line, (loss, _) in zip(lines, history):
        assert relative(line["loss"], loss) <= 0.01, f"step {line['step']}: loss {line['loss']}, judge {loss}"


def logits_of(model, rows):
    with torch.no_grad():
        return [model(input_ids=torch.tensor(row["ids"])[None], use_cache=False).logits[0] for row in rows]


def test_what_is_merged_is_what_was_trained_or_says_how_far_it_is_from_it(tiny, rng, tmp_path):
    folder = tiny("llama-gqa")
    setting = qlora_setting(folder, rng, tmp_path, Schedule(LORA_LEARNING_RATE))
    fresh_adapter(setting.model(), tmp_path / "init")
    setting.train()
    base = dequantised_base(folder, tmp_path / "init", tmp_path / "base")
    load = lambda path: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")  # noqa: E731
    rows = setting.evaluation_rows
    trained = logits_of(PeftModel.from_pretrained(load(base), setting.output / "final"), rows)
    on_original = logits_of(PeftModel.from_pretrained(load(folder), setting.output / "final"), rows)
    said = {}
    for choice, want in (("dequantized", trained), ("original", on_original)):
        output = tmp_path / choice
        said[choice] = tune("export", "--format", "hf", "--quant", "f32", "--run", setting.output, "--merge-base", choice, "--verify",
                            "--output", output).stderr  # fmt: skip
        assert max((a - b).abs().max() for a, b in zip(logits_of(load(output), rows), want)) <= 1e-4
        assert json.loads((output / "tune_export.json").read_text())["merge_base"] == choice
    assert "original base" not in said["dequantized"]
    assert re.search(r"merged into the original base.*logits differ from the trained model's by [\d.e+-]+ at most", said["original"])
    default = tmp_path / "default.gguf"
    tune("export", "--format", "gguf", "--quant", "f32", "--run", setting.output, "--verify", "--output", default)


def test_a_merge_base_is_refused_where_nothing_can_be_chosen(tiny, rng, tmp_path):
    setting = Setting(tiny("llama-mha"), rng, tmp_path, Schedule(LORA_LEARNING_RATE), train={"max_steps": 1})
    setting.train()
    text = tune("export", "--format", "hf", "--run", setting.output, "--merge-base", "original", "--output", tmp_path / "x", expect=2)
    assert "trained on the base model's own weights" in text.stderr
    text = tune("export", "--format", "adapter", "--run", setting.output, "--merge-base", "original", "--output", tmp_path / "x",
                expect=2)  # fmt: skip
    assert "nothing is merged" in text.stderr
    assert steps(setting.output)
