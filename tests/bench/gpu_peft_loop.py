"""PyTorch + PEFT on a GPU at the work of tests/gpu/speed_test.cpp: LoRA of rank 16 on all linear layers of Llama 2 7B's
shape in bf16, documents of 2,048 tokens, random weights. Prints tokens a second and the allocator's peak.

    python tests/bench/gpu_peft_loop.py --rows 8
    python tests/bench/gpu_peft_loop.py --rows 4 --checkpointing
"""

import argparse
import time

import torch
import transformers
from peft import LoraConfig, get_peft_model

TOKENS, WARMUP, STEPS = 2048, 2, 4
parser = argparse.ArgumentParser()
parser.add_argument("--rows", type=int, default=8)
parser.add_argument("--checkpointing", action="store_true")
arguments = parser.parse_args()

torch.set_default_device("cuda")
torch.set_default_dtype(torch.bfloat16)
config = transformers.LlamaConfig(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=32, max_position_embeddings=4096, use_cache=False, attn_implementation="sdpa",
)  # fmt: skip
model = transformers.LlamaForCausalLM(config)
adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
model = get_peft_model(model, adapter, autocast_adapter_dtype=False)
if arguments.checkpointing:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
model.train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
ids = (torch.arange(arguments.rows * TOKENS, dtype=torch.int64) * 7919 % 32000).view(arguments.rows, TOKENS)
seconds = 0.0
for step in range(WARMUP + STEPS):
    torch.cuda.synchronize()
    begin = time.perf_counter()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    loss.item()
    torch.cuda.synchronize()
    if step >= WARMUP:
        seconds += time.perf_counter() - begin
rate = STEPS * arguments.rows * TOKENS / seconds
print(f"peft: {rate:.0f} tokens/s, peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB, loss {loss.item():.3f}")
