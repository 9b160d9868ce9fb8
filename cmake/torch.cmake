# LibTorch, as PyPI's wheel or as an unpacked archive: imported targets of our own, because the wheel's TorchConfig.cmake
# insists on a CUDA toolkit. A CPU-only program links torch_cpu and c10 and nothing else.
#   tune_torch       headers, torch_cpu, c10
#   tune_torch_cuda  + torch_cuda, c10_cuda, the CUDA runtime (only with TUNE_CUDA)
if(NOT TORCH_DIR)
  file(GLOB torch_candidates ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch)
  if(torch_candidates)
    list(GET torch_candidates 0 TORCH_DIR)
  else()
    message(FATAL_ERROR "no LibTorch: run ./tools/build.sh, or give -DTORCH_DIR=/path/to/libtorch (2.11 ... 2.15)")
  endif()
endif()
file(READ ${TORCH_DIR}/include/torch/headeronly/version.h torch_version_header)
string(REGEX MATCH "#define TORCH_VERSION_MAJOR ([0-9]+)" _ "${torch_version_header}")
set(torch_major ${CMAKE_MATCH_1})
string(REGEX MATCH "#define TORCH_VERSION_MINOR ([0-9]+)" _ "${torch_version_header}")
set(torch_minor ${CMAKE_MATCH_1})
if(NOT torch_major EQUAL 2 OR torch_minor LESS 11 OR torch_minor GREATER 15)
  message(FATAL_ERROR "LibTorch ${torch_major}.${torch_minor} in ${TORCH_DIR}; 2.11 ... 2.15 are accepted")
endif()
message(STATUS "LibTorch ${torch_major}.${torch_minor} in ${TORCH_DIR}")

# libtorch_cpu of a CUDA wheel needs libcudart and libcupti at run time; they lie beside it in site-packages/nvidia.
get_filename_component(torch_site ${TORCH_DIR} DIRECTORY)
file(GLOB nvidia_libraries ${torch_site}/nvidia/*/lib ${torch_site}/nvidia/*/lib64)
set(torch_rpath ${TORCH_DIR}/lib ${nvidia_libraries})

add_library(tune_torch INTERFACE)
target_include_directories(tune_torch SYSTEM INTERFACE ${TORCH_DIR}/include ${TORCH_DIR}/include/torch/csrc/api/include)
target_link_libraries(tune_torch INTERFACE ${TORCH_DIR}/lib/libtorch_cpu.so ${TORCH_DIR}/lib/libc10.so)
foreach(directory ${torch_rpath})
  target_link_options(tune_torch INTERFACE -Wl,-rpath,${directory} -Wl,-rpath-link,${directory})
endforeach()
# at::parallel_for is inline and runs on one thread in a file compiled without OpenMP.
target_compile_options(tune_torch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
target_link_options(tune_torch INTERFACE -fopenmp)
# LibTorch's include folder holds an fmt of its own, found before the system's and another version than libfmt.so.
target_compile_definitions(tune_torch INTERFACE FMT_HEADER_ONLY)

# oneDNN's product for fp32 is an unlisted export, seen in 2.15; without it ATen's own product is used.
include(CheckCXXSourceCompiles)
set(CMAKE_REQUIRED_LIBRARIES ${TORCH_DIR}/lib/libtorch_cpu.so)
set(CMAKE_REQUIRED_LINK_OPTIONS -Wl,--unresolved-symbols=ignore-in-shared-libs)
check_cxx_source_compiles("
  namespace at { class Tensor; namespace native {
  void mkldnn_matmul(const Tensor&, const Tensor&, const Tensor&, float, float); } }
  auto* volatile product = &at::native::mkldnn_matmul;
  int main() { return product == nullptr; }" TUNE_HAS_MKLDNN_MATMUL)
unset(CMAKE_REQUIRED_LIBRARIES)
unset(CMAKE_REQUIRED_LINK_OPTIONS)

if(TUNE_CUDA STREQUAL "AUTO")
  find_program(NVCC nvcc HINTS /usr/local/cuda/bin)
  if(NVCC AND EXISTS ${TORCH_DIR}/lib/libtorch_cuda.so)
    set(TUNE_CUDA ON)
  else()
    set(TUNE_CUDA OFF)
  endif()
endif()
if(TUNE_CUDA)
  find_program(NVCC nvcc HINTS /usr/local/cuda/bin REQUIRED)
  if(NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER ${NVCC})
  endif()
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    # no GPU may be visible where this is built: real code for Ampere, Ada and Hopper, PTX for what comes after
    set(CMAKE_CUDA_ARCHITECTURES 80-real 89-real 90)
  endif()
  if(DEFINED ENV{TORCH_CUDA_ARCH_LIST})
    # "8.0 9.0+PTX" -> 80-real;90 (CMake's plain number is real code and PTX)
    string(REGEX REPLACE "[ ;]+" ";" CMAKE_CUDA_ARCHITECTURES "$ENV{TORCH_CUDA_ARCH_LIST}")
    string(REGEX REPLACE "([0-9]+)\\.([0-9]+a?)" "\\1\\2-real" CMAKE_CUDA_ARCHITECTURES "${CMAKE_CUDA_ARCHITECTURES}")
    string(REPLACE "-real+PTX" "" CMAKE_CUDA_ARCHITECTURES "${CMAKE_CUDA_ARCHITECTURES}")
  endif()
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 20)
  find_package(CUDAToolkit REQUIRED)
  add_library(tune_torch_cuda INTERFACE)
  target_link_libraries(tune_torch_cuda INTERFACE tune_torch -Wl,--no-as-needed ${TORCH_DIR}/lib/libtorch_cuda.so
    ${TORCH_DIR}/lib/libc10_cuda.so -Wl,--as-needed CUDA::cudart)
endif()
message(STATUS "CUDA: ${TUNE_CUDA}")
