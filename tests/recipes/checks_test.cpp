#include "recipes/schema/checks.h"

#include "tests/recipes/recipe_text.h"

namespace tune {
namespace {

TEST(Checks, SayWhatCannotGoTogether) {
  const std::string model = "model: {base_model: base}\n";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {kLeast + "train: {precision: fp16}", ""},
      {kLeast + "adapter: {type: none}\ntrain: {precision: fp16, optimizer_in_backward: true, max_grad_norm: 0}",
       "r.yaml:4:49: optimizer_in_backward is true, but precision is fp16: whether its gradients overflow is known at "
       "the end of a step only; leave it out, or write precision: bf16"},
      {kLeast + "train: {precision: fp8}", ""},
      {kLeast + "adapter: {type: none}\ntrain: {precision: fp8}",
       "r.yaml:4:20: precision is fp8, but adapter.type is none: only weights that aren't trained can be kept in it; "
       "write precision: bf16"},
      {kLeast + "adapter: {type: qlora}\ntrain: {precision: fp8}",
       "r.yaml:4:20: precision is fp8, but adapter.type is qlora: the base is kept in 4 bits already; write precision: "
       "bf16, or type: lora"},
      {kLeast + "adapter: {use_dora: true}\ntrain: {precision: fp8}",
       "r.yaml:4:20: precision is fp8, but use_dora measures the rows' lengths, for which its products are too coarse; "
       "write precision: bf16"},
      {kLeast + "train: {precision: fp8, device: cpu}",
       "r.yaml:3:20: precision is fp8, but device is cpu: its products need a GPU of compute capability 9.0 (Hopper); "
       "write precision: bf16"},
      {"model: {base_model: base, dtype: fp16}\ndata: {datasets: [{path: a}]}\ntrain: {precision: fp8}",
       "r.yaml:1:34: dtype is fp16, but precision is fp8: a frozen base computes in its own dtype; leave dtype out"},
      {"model: {base_model: base, dtype: fp16}\ndata: {datasets: [{path: a}]}\nadapter: {type: none}",
       "r.yaml:1:34: dtype is fp16, but all weights are trained with precision bf16; write dtype: bf16, or precision: "
       "fp16"},
      {"model: {base_model: base, dtype: fp16}\ndata: {datasets: [{path: a}]}",
       "r.yaml:1:34: dtype is fp16, but precision is bf16: a frozen base computes in its own dtype; leave dtype out, "
       "or write the same in both places"},
      {"model: {base_model: base, dtype: bf16}\ndata: {datasets: [{path: a}]}\nadapter: {type: none}\ntrain: "
       "{precision: fp32}",
       "r.yaml:1:34: dtype is bf16, but all weights are trained with precision fp32; write dtype: fp32, or precision: "
       "bf16"},
      {kLeast + "adapter: {lora_target_modules: [q_porj]}",
       "r.yaml:3:32: lora_target_modules holds \"q_porj\"; did you mean q_proj?"},
      {kLeast + "adapter: {lora_target_modules: [all-linear, q_proj]}",
       "r.yaml:3:32: lora_target_modules holds all-linear and other names; all-linear stands alone"},
      {kLeast + "adapter: {type: none, init_adapter: a}",
       "r.yaml:3:37: init_adapter is given, but adapter.type is none; write type: lora, or merge the adapter into the "
       "base "
       "model first"},
      {kLeast + "train: {lr_scheduler_type: wsd, warmup_ratio: 0.5, decay_ratio: 0.6}",
       "r.yaml:3:65: warmup_ratio 0.5 + decay_ratio 0.6 is more than 1; together they share all steps"},
      {kLeast + "train: {max_steps: 5, warmup_steps: 6}",
       "r.yaml:3:37: warmup_steps is 6, max_steps only 5; warm up for fewer steps"},
      {kLeast + "stage: dpo\npreference: {loss_type: kto}",
       "r.yaml:2:19: type is chat, but stage is dpo; stage dpo learns from type: unpaired_preference"},
      {model + "data: {datasets: [{path: a, type: preference}]}\nstage: dpo\npreference: {loss_type: kto}",
       "r.yaml:2:35: type is preference, but loss_type is kto; kto learns from single answers, good or bad: write "
       "type: "
       "unpaired_preference"},
      {model + "data: {datasets: [{path: a, type: unpaired_preference}]}\nstage: dpo",
       "r.yaml:2:35: type is unpaired_preference, but loss_type is sigmoid; single answers are for "
       "preference.loss_type: "
       "kto; the others learn from type: preference"},
      {model + "data: {datasets: [{path: a, type: unpaired_preference}]}",
       "r.yaml:2:35: type is unpaired_preference, but stage is sft; good and bad answers are for stage: dpo"},
      {model + "data: {datasets: [{path: a, type: preference}]}\nstage: dpo\npreference: {desirable_weight: 2, "
               "undesirable_weight: 3}",
       "r.yaml:4:32: desirable_weight is given, but loss_type is sigmoid; leave it out\n"
       "r.yaml:4:55: undesirable_weight is given, but loss_type is sigmoid; leave it out"},
      {model + "data: {datasets: [{path: a, type: unpaired_preference, field_roles: {bot: assistant}}]}\nstage: dpo\n"
               "preference: {loss_type: kto, label_smoothing: 0.1, simpo_gamma: 1, desirable_weight: 0, "
               "undesirable_weight: 0}",
       "r.yaml:4:47: label_smoothing is given, but loss_type is kto; leave it out\n"
       "r.yaml:4:65: simpo_gamma is given, but loss_type is kto; leave it out\n"
       "r.yaml:4:109: desirable_weight and undesirable_weight are both 0, so that nothing is learned; raise one of "
       "them, "
       "or leave them out"},
      {kLeast + "export: [{format: gguf, check: vllm}]",
       "r.yaml:3:32: check is vllm with format gguf; it goes with format adapter; leave it out"},
      {kLeast + "export: [{format: adapter, check: vllm}]", ""},
      {kLeast + "eval: {eval_steps: 5}",
       "r.yaml:3:20: eval_steps is 5, but there are no data.eval_datasets; name some, or leave eval_steps out"},
      {model + "data: {datasets: [{path: a}], eval_datasets: []}\neval: {eval_steps: 5}",
       "r.yaml:3:20: eval_steps is 5, but there are no data.eval_datasets; name some, or leave eval_steps out"},
      {kLeast + "stage: pretrain",  // train_on follows the stage where it is not given
       ""},
      {model + "stage: pretrain\ndata: {train_on: last, datasets: [{path: a}]}",
       "r.yaml:3:18: train_on is last, but stage pretrain trains every token; leave it out or write all"},
      {model + "data: {datasets: [{path: a, holdout_every: 1}]}",
       "r.yaml:2:44: holdout_every is 1; it must be 2 or more, or 0 for all rows"},
      {model + "data: {datasets: [{path: a}], eval_datasets: [{path: a, holdout_every: 10}]}",
       "r.yaml:2:54: \"a\" is trained on and evaluated on; write the same holdout_every: 10 in both places, or name "
       "another "
       "file"},
      {model + "data: {datasets: [{path: a/../b.jsonl}], eval_datasets: [{path: ./b.jsonl}]}",
       "r.yaml:2:65: \"./b.jsonl\" is trained on and evaluated on; write the same holdout_every: 10 in both places, or "
       "name another file"},
      {model + "data: {datasets: [{path: a, type: prompt_completion, field_names: {promt: q}}]}",
       "r.yaml:2:75: field_names has \"promt\"; a data set of type prompt_completion has prompt or completion; did you "
       "mean prompt?"},
      {model + "data: {datasets: [{path: a, type: text, field_names: {body: text}}]}",
       "r.yaml:2:61: field_names has \"body\"; a data set of type text has text; our name comes first: {text: body}"},
      {model + "data: {datasets: [{path: a, type: text, fim_rate: 0.5}]}",
       "r.yaml:2:51: fim_rate with type text, which fills nothing in; leave it out, or write type: fim"},
      {model + "data: {max_length: 16, datasets: [{path: a, type: fim}]}",
       "r.yaml:2:20: max_length is 16, but a data set is of type fim; write 32 or more"},
      {model + "data: {datasets: [{path: a, type: fim, fim_rate: 0.9, fim_spm_rate: 0}]}", ""},
      {model + "data: {datasets: [{path: a, type: fim, field_names: {content: text}}]}",
       "r.yaml:2:63: field_names has \"content\"; a data set of type fim has text, prefix, middle or suffix; our name "
       "comes first: {text: content}"},
      {model + "data: {datasets: [{path: a, field_names: {x: y}}]}",
       "r.yaml:2:46: field_names has \"x\"; a data set of type chat has messages, role or content; our name comes "
       "first: {messages: name in the file}"},
      {model + "data: {datasets: [{path: a, field_roles: {bot: asistant}}]}",
       "r.yaml:2:48: role \"bot\" maps to \"asistant\"; it must be system, user or assistant"},
      {kLeast + "adapter: {type: none}\nexport: [{format: gguf-lora}]",
       "r.yaml:4:19: format is gguf-lora, but adapter.type is none, so there is no adapter; write hf, gguf or onnx"},
      {kLeast + "export: [{format: hf, quant: q8_0}]",
       "r.yaml:3:30: quant is q8_0 with format hf; q8_0 goes with gguf; write f32, f16 or bf16"},
      {kLeast + "export: [{format: gguf, quant: int4}]",
       "r.yaml:3:32: quant is int4 with format gguf; int4 goes with onnx; write f32, f16, bf16, q8_0, q6_k, q5_k_m, "
       "q5_0, q4_k_m or q4_0"},
      {kLeast + "export: [{format: onnx, quant: q8_0}]",
       "r.yaml:3:32: quant is q8_0 with format onnx; q8_0 goes with gguf; write f32, f16, bf16, int8 or int4"},
      {kLeast + "export: [{format: hf, flavour: genai}]",
       "r.yaml:3:32: flavour is given with format hf; only onnx has flavours; leave it out"},
      {kLeast + "export: [{format: onnx}, {format: onnx, flavour: standard, quant: bf16}]",
       "r.yaml:3:26: onnx standard bf16 is exported twice; keep one of them"},
      {kLeast + "export: [{format: onnx}, {format: onnx, flavour: genai}, {format: onnx, separate_adapter: true}]", ""},
      {kLeast + "export: [{format: gguf, separate_adapter: true}]",
       "r.yaml:3:43: separate_adapter is true with format gguf; only onnx has it; leave it out"},
      {kLeast + "adapter: {type: none}\nexport: [{format: onnx, separate_adapter: true}]",
       "r.yaml:4:43: separate_adapter is true, but adapter.type is none, so there is no adapter; leave it out"},
      {kLeast + "export: [{format: adapter, quant: f16}]",
       "r.yaml:3:35: quant is given, but format adapter keeps the adapter's own numbers; leave it out"},
      {kLeast + "export: [{format: gguf}, {format: gguf, quant: bf16}]",
       "r.yaml:3:26: gguf bf16 is exported twice; keep one of them"},
      {model + "data: {datasets: [{path: a, type: text, field_roles: {bot: assistant}}]}",
       "r.yaml:2:54: field_roles with type text, which has no roles; leave it out, or write type: chat"},
      {model + "data: {datasets: [{path: a}], eval_datasets: [{path: b, weight: 2}]}",
       "r.yaml:2:65: weight has no effect on evaluation: every row is taken once; leave it out"},
      {"model: {base_model: base, dtype: fp32}\ndata: {datasets: [{path: a}]}",
       "r.yaml:1:34: dtype is fp32, but precision is bf16: a frozen base computes in its own dtype; leave dtype out, "
       "or write the same in both places"},
      {kLeast + "adapter: {type: none}\ntrain: {optimizer_in_backward: true}",
       "r.yaml:4:32: optimizer_in_backward is true, but max_grad_norm is 1: the norm is known only when all is "
       "updated; write max_grad_norm: 0"},
      {kLeast + "train: {optimizer_in_backward: true, max_grad_norm: 0}",
       "r.yaml:3:32: optimizer_in_backward is true, but adapter.type is lora: an adapter's gradients are small; leave "
       "it out, or write adapter.type: none"},
      {kLeast + "adapter: {type: none}\ntrain: {optimizer_in_backward: true, max_grad_norm: 0, global_batch_size: 8, "
                "per_device_train_batch_size: 2}",
       "r.yaml:4:32: optimizer_in_backward is true, but gradient_accumulation_steps is 4: a layer is updated in its "
       "first backward pass; write gradient_accumulation_steps: 1 and a larger per_device_train_batch_size"},
      {kLeast +
           "adapter: {type: none}\ntrain: {optimizer_in_backward: true, max_grad_norm: 0}\ndistributed: {strategy: "
           "shard}",
       "r.yaml:4:32: optimizer_in_backward is true, but distributed.strategy is shard: it is for one rank; leave one "
       "of "
       "the two out"},
      {kLeast + "adapter: {type: none}\ntrain: {optimizer_in_backward: true, max_grad_norm: 0, optim: adafactor}", ""},
      {kLeast + "adapter: {type: none}\ntrain: {optim: adafactor}\ndistributed: {strategy: shard}",
       "r.yaml:4:16: optim is adafactor, whose rows and columns strategy shard cuts apart; write adamw_8bit, or leave "
       "strategy out"},
      {kLeast + "train: {optim: adafactor}\ndistributed: {strategy: shard}", ""},
      {kLeast + "train: {optim: sgd, offload_optimizer: true}",
       "r.yaml:3:40: offload_optimizer is true, but optim is sgd, which has no state; leave it out, or write optim: "
       "adamw or adamw_8bit"},
      {kLeast + "train: {offload_optimizer: true, optim: adafactor}",
       "r.yaml:3:28: offload_optimizer is true, but optim is adafactor, whose state is a number a row and column; "
       "leave it out, or write optim: adamw or adamw_8bit"},
      {kLeast + "train: {offload_optimizer: true, optim: adamw_8bit}", ""},
      {kLeast + "train: {bf16_stochastic_round: true}",
       "r.yaml:3:32: bf16_stochastic_round is true, but adapter.type is lora: an adapter has fp32 masters; leave it "
       "out, or write adapter.type: none"},
      {kLeast + "adapter: {type: none}\ntrain: {bf16_stochastic_round: true, precision: fp32}",
       "r.yaml:4:32: bf16_stochastic_round is true, but the weights are of fp32; leave it out, or write precision: "
       "bf16"},
      {kLeast + "export: [{format: hf}, {format: hf}]", "r.yaml:3:24: hf is exported twice; keep one of them"},
      {kLeast + "output_dir: ./base/", "r.yaml:3:13: output_dir is the base model's folder; name another one"},
  };
  for (const auto& [yaml, expected] : cases) EXPECT_EQ(complaint(yaml), expected) << yaml;
}

}  // namespace
}  // namespace tune
