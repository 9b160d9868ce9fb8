#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace tune {

struct Stages;

/// One verb of the command line. run gets the arguments behind the verb; returns the exit code; throws Error.
struct Verb {
  const char* name;
  const char* summary;  // one line for `tune --help`
  int (*run)(const std::vector<std::string>& arguments);
};

/// In the order of `tune --help`. The list is in command_line.cpp; each function in verbs/<name>.cpp.
const std::vector<Verb>& verbs();

int run_verb(const std::vector<std::string>& arguments);
int plan_verb(const std::vector<std::string>& arguments);
int recipes_verb(const std::vector<std::string>& arguments);
int models_verb(const std::vector<std::string>& arguments);
int data_verb(const std::vector<std::string>& arguments);
int eval_verb(const std::vector<std::string>& arguments);
int generate_verb(const std::vector<std::string>& arguments);
int export_verb(const std::vector<std::string>& arguments);
int imatrix_verb(const std::vector<std::string>& arguments);
int verify_verb(const std::vector<std::string>& arguments);
int upscale_verb(const std::vector<std::string>& arguments);
int slurm_verb(const std::vector<std::string>& arguments);
int inspect_verb(const std::vector<std::string>& arguments);
int doctor_verb(const std::vector<std::string>& arguments);
int completion_verb(const std::vector<std::string>& arguments);

void print_plans(const Stages& all, std::int64_t ranks);  // what `tune plan` says, for `tune run --dry-run`
std::string program_version();                            // "0.1.0 (revision), LibTorch 2.15.0"
int print_version();  // of the program and of LibTorch, and whether CUDA is built in

}  // namespace tune
