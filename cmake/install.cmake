# An installed tune stands by itself and may be moved: bin/tune, share/tune/recipes, and in lib/tune the libraries that no
# system package brings. They lie there as in site-packages, because LibTorch finds NVIDIA's through ../../nvidia.
set(install_rpath)
foreach(directory ${torch_rpath})
  file(RELATIVE_PATH below ${torch_site} ${directory})
  list(APPEND install_rpath "$ORIGIN/../lib/tune/${below}")
endforeach()
get_filename_component(arrow_name ${ARROW_DIR} NAME)
list(APPEND install_rpath "$ORIGIN/../lib/tune/${arrow_name}")
# Without the second property the linker options' paths into .venv stay, and the program works where it was built only.
set_target_properties(tune PROPERTIES INSTALL_RPATH "${install_rpath}" INSTALL_REMOVE_ENVIRONMENT_RPATH ON)

install(TARGETS tune RUNTIME DESTINATION bin COMPONENT program)
file(GLOB shipped_recipes CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/recipes/*.yaml)
install(FILES ${shipped_recipes} DESTINATION share/tune/recipes COMPONENT program)
install(FILES LICENSE DESTINATION share/doc/tune COMPONENT program)

# What LibTorch opens by name while it runs, and no list of needed libraries has.
set(opened_by_name)
if(TUNE_CUDA)
  file(GLOB opened_by_name ${TORCH_DIR}/lib/libtorch_cuda_linalg.so ${TORCH_DIR}/lib/libcaffe2_nvrtc.so
    ${TORCH_DIR}/lib/libcudnn_*.so.* ${TORCH_DIR}/lib/libnvrtc-builtins*.so.*
    ${torch_site}/nvidia/*/lib/libcudnn_*.so.* ${torch_site}/nvidia/*/lib/libnvrtc-builtins.so.*)
endif()
get_filename_component(arrow_site ${ARROW_DIR} DIRECTORY)
install(CODE "
  set(program \"$<TARGET_FILE:tune>\")
  set(opened_by_name \"${opened_by_name}\")
  set(sites \"${torch_site};${arrow_site}\")" COMPONENT libraries)
install(SCRIPT cmake/install_libraries.cmake COMPONENT libraries)
