# DeepSeekEdgeConfig.cmake: find_package(DeepSeekEdge) gives the target DeepSeekEdge::runtime, the
# headers to run compiled models with. A model.so brings the runtime itself.
#
#   cmake -DCMAKE_PREFIX_PATH=$(python -m deepseek_edge.runtime) ...

if(NOT TARGET DeepSeekEdge::runtime)
  get_filename_component(_deepseek_edge_headers "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)
  add_library(DeepSeekEdge::runtime INTERFACE IMPORTED)
  set_target_properties(DeepSeekEdge::runtime PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${_deepseek_edge_headers}"
    INTERFACE_LINK_LIBRARIES "${CMAKE_DL_LIBS}")
  unset(_deepseek_edge_headers)
endif()
