# Part of `cmake --install`: copies what `program` loads from below the folders `sites`, and what is `opened_by_name`.
file(GET_RUNTIME_DEPENDENCIES EXECUTABLES ${program} LIBRARIES ${opened_by_name}
  RESOLVED_DEPENDENCIES_VAR found UNRESOLVED_DEPENDENCIES_VAR missing CONFLICTING_DEPENDENCIES_PREFIX several)
# The toolkit's copy of a library may be found beside LibTorch's own.
foreach(name ${several_FILENAMES})
  list(APPEND found ${several_${name}})
endforeach()
list(FILTER missing EXCLUDE REGEX "^lib(cuda|nvidia-ml)\\.so")  # the driver's, which belong to the host
if(missing)
  message(FATAL_ERROR "not found: ${missing}")
endif()
foreach(library ${found} ${opened_by_name})
  file(REAL_PATH ${library} real)
  foreach(site ${sites})
    file(REAL_PATH ${site} real_site)
    cmake_path(IS_PREFIX real_site ${real} inside)
    if(inside)
      cmake_path(GET real PARENT_PATH folder)
      cmake_path(RELATIVE_PATH folder BASE_DIRECTORY ${real_site} OUTPUT_VARIABLE below)
      file(INSTALL ${library} DESTINATION "${CMAKE_INSTALL_PREFIX}/lib/tune/${below}" TYPE SHARED_LIBRARY FOLLOW_SYMLINK_CHAIN)
      break()
    endif()
  endforeach()
endforeach()
