# What the GPU tests need of the rooms, for run.sh's project; gpu_sources_are_complete tells when it falls behind.
file(GLOB gpu_sources RELATIVE ${root} CONFIGURE_DEPENDS ${root}/train/kernels/*.cpp ${root}/train/kernels/*.cu
     ${root}/train/optim/*.cpp ${root}/train/objectives/*.cpp ${root}/train/plan/*.cpp ${root}/checkpoints/files/*.cpp
     ${root}/checkpoints/safetensors/*.cpp ${root}/checkpoints/peft/*.cpp ${root}/checkpoints/quantize/*.cpp)
list(FILTER gpu_sources EXCLUDE REGEX "(no_cuda|hash)\\.cpp$")
list(APPEND gpu_sources train/model/decoder.cpp train/model/dora.cpp train/model/input_statistics.cpp train/model/layer.cpp
     train/model/linear.cpp train/model/load.cpp train/model/lora.cpp train/model/mlp.cpp train/model/overflow.cpp
     train/model/parameter.cpp train/model/pissa.cpp train/model/random_stream.cpp
     train/model/router.cpp train/model/sequence.cpp
     train/parallel/gloo.cpp train/parallel/gradient_sum.cpp train/parallel/nccl.cpp train/parallel/rank.cpp
     train/parallel/watch.cpp train/parallel/world.cpp train/non_finite.cpp train/step.cpp train/stop.cpp
     train/device.cpp train/host_arena.cpp checkpoints/weights.cpp checkpoints/huggingface/convert.cpp
     checkpoints/huggingface/model_tensors.cpp checkpoints/training/slice_name.cpp data/batch.cpp data/dealing.cpp data/loader.cpp data/mixing.cpp
     data/order.cpp data/packing.cpp recipes/schema/error.cpp recipes/schema/paths.cpp
     recipes/schema/tell.cpp)
# What c10d's headers show; in the whole build train/CMakeLists.txt says it.
set(c10d_definitions USE_DISTRIBUTED USE_C10D_GLOO USE_C10D_NCCL)
