# Warnings are errors in the project's own code, on whichever compiler reads it: tune_warnings.
add_library(tune_warnings INTERFACE)
# -Wno-restrict: GCC 12 sees overlaps in std::string + that are not there (its bug 105651)
target_compile_options(tune_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Werror;-Wno-missing-field-initializers>
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-restrict>
  $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings;-Xcompiler=-Wall,-Wextra,-Werror>)
