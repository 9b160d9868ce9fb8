// Blocks of a GGUF type and back, for the judges. All files are raw, little-endian fp32 or blocks.
//   quantize_probe encode TYPE VALUES BLOCKS [IMPORTANCE]      importance: one row of columns
//   quantize_probe decode TYPE BLOCKS VALUES
//   quantize_probe nf4 VALUES BYTES FP32 BF16                  quantised, and back in both types
//   quantize_probe map signed|unsigned VALUES
//   quantize_probe time TYPE VALUES ROUNDS                     -> the least seconds a round on one core, on stdout
#include <chrono>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "checkpoints/gguf/blocks/blocks.h"
#include "checkpoints/quantize/dynamic_map.h"
#include "checkpoints/quantize/nf4.h"

namespace {

using tune::GgufType;

const std::map<std::string, GgufType> kTypes = {
    {"q4_0", GgufType::q4_0}, {"q4_1", GgufType::q4_1}, {"q5_0", GgufType::q5_0}, {"q5_1", GgufType::q5_1},
    {"q8_0", GgufType::q8_0}, {"q4_k", GgufType::q4_k}, {"q5_k", GgufType::q5_k}, {"q6_k", GgufType::q6_k}};

template <typename T>
std::vector<T> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
  std::vector<T> values(bytes.size() / sizeof(T));
  std::copy(bytes.begin(), bytes.end(), reinterpret_cast<char*>(values.data()));
  return values;
}

template <typename T>
void write(const std::string& path, const std::vector<T>& values) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(T)));
}

std::vector<std::byte> encoded(GgufType type, const std::vector<float>& values, const std::vector<float>& importance) {
  const tune::GgufTypeTraits& traits = *tune::traits_of(type);
  std::vector<std::byte> bytes(values.size() / static_cast<std::size_t>(traits.block) *
                               static_cast<std::size_t>(traits.block_bytes));
  tune::quantize(type, values, bytes, importance);
  return bytes;
}

void through_nf4(const std::vector<std::string>& arguments) {
  const std::vector<float> values = read<float>(arguments.at(1));
  const tune::Nf4Layout layout(std::ssize(values));
  std::vector<std::byte> bytes(static_cast<std::size_t>(layout.bytes));
  tune::Nf4Quantizer quantizer(layout.values, bytes);
  quantizer.add(values);
  quantizer.finish();
  write(arguments.at(2), bytes);
  for (const auto& [dtype, size, path] :
       {std::tuple{tune::Dtype::fp32, 4, arguments.at(3)}, {tune::Dtype::bf16, 2, arguments.at(4)}}) {
    std::vector<std::byte> back(values.size() * static_cast<std::size_t>(size));
    tune::dequantize_nf4(layout, bytes.data(), 0, layout.values, dtype, back.data());
    write(path, back);
  }
}

double seconds_of(GgufType type, const std::vector<float>& values, int rounds) {
  double least = 1e30;
  for (int i = 0; i < rounds; ++i) {
    const auto start = std::chrono::steady_clock::now();
    encoded(type, values, {});
    least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return least;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const std::string& what = arguments.at(0);
  if (what == "nf4") {
    through_nf4(arguments);
    return 0;
  }
  if (what == "map") {
    const auto& map = tune::dynamic_map(arguments.at(1) == "signed").values;
    write(arguments.at(2), std::vector<float>(map.begin(), map.end()));
    return 0;
  }
  const GgufType type = kTypes.at(arguments.at(1));
  if (what == "encode") {
    write(arguments.at(3), encoded(type, read<float>(arguments.at(2)),
                                   arguments.size() > 4 ? read<float>(arguments[4]) : std::vector<float>{}));
  } else if (what == "decode") {
    const std::vector<std::byte> bytes = read<std::byte>(arguments.at(2));
    const tune::GgufTypeTraits& traits = *tune::traits_of(type);
    std::vector<float> values(bytes.size() / static_cast<std::size_t>(traits.block_bytes) *
                              static_cast<std::size_t>(traits.block));
    tune::dequantize(type, bytes, values);
    write(arguments.at(3), values);
  } else {
    std::cout << seconds_of(type, read<float>(arguments.at(2)), std::stoi(arguments.at(3))) << '\n';
  }
}
