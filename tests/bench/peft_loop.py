"""The tightest plain PyTorch (+ PEFT) loop on rows of equal length; prints one JSON object. Started by bench.py."""

import argparse
import contextlib
import json
import resource
import time

START = time.time()

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--mode", choices=["lora", "full"], required=True)
parser.add_argument("--precision", choices=["fp32", "bf16"], required=True)
parser.add_argument("--tokens", type=int, default=512)
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--warmup", type=int, default=5)
parser.add_argument("--steps", type=int, default=15)
arguments = parser.parse_args()

import torch  # noqa: E402
import transformers  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
lora, bf16 = arguments.mode == "lora", arguments.precision == "bf16"
# full fine-tuning in bf16 keeps fp32 weights and computes under autocast; a frozen base is bf16 itself
weights = torch.bfloat16 if lora and bf16 else torch.float32
model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=weights, attn_implementation="sdpa")
model.config.use_cache = False
if lora:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config, autocast_adapter_dtype=False)
model.train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4 if lora else 2e-5, fused=True)
autocast = torch.autocast("cpu", torch.bfloat16) if bf16 and not lora else contextlib.nullcontext()
generator = torch.Generator().manual_seed(1)
seconds, first_step = [], 0.0
for step in range(arguments.warmup + arguments.steps):
    ids = torch.randint(3, model.config.vocab_size, (arguments.batch, arguments.tokens), generator=generator)
    if step == 0:
        first_step = time.time() - START
    begin = time.perf_counter()
    with autocast:
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    loss.item()
    seconds.append(time.perf_counter() - begin)
measured = sorted(seconds[arguments.warmup :])
print(json.dumps({
    "tokens_per_s": arguments.batch * arguments.tokens / measured[len(measured) // 2],
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "start_s": first_step,
}))  # fmt: skip
