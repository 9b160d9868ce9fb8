# Writes HEADER with the git revision of SOURCE; outside a repository with that of the variable TUNE_REVISION of the
# environment, else "unknown".
find_program(GIT git)
set(revision unknown)
if(DEFINED ENV{TUNE_REVISION})
  set(revision $ENV{TUNE_REVISION})
endif()
if(GIT)
  execute_process(COMMAND ${GIT} -C ${SOURCE} describe --always --dirty --abbrev=12
    OUTPUT_VARIABLE described OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  if(NOT failed)
    set(revision ${described})
  endif()
endif()
file(CONFIGURE OUTPUT ${HEADER} CONTENT "#pragma once

namespace tune {

inline constexpr const char* kRevision = \"@revision@\";

}  // namespace tune
" @ONLY)
