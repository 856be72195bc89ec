# deepseek::cpp: the C++ API over a static engine. Included by deepseekConfig.cmake.
#
# It holds the whole engine, so a program links deepseek::cpp or deepseek::c, not both.

if(NOT TARGET deepseek::cpp)
  include(CMakeFindDependencyMacro)
  find_dependency(Threads)
  add_library(deepseek::cpp STATIC IMPORTED)
  get_filename_component(_deepseek_cpp_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
  set_target_properties(deepseek::cpp PROPERTIES
    IMPORTED_LOCATION "${_deepseek_cpp_prefix}/lib/libdeepseek_cpp.a"
    IMPORTED_LINK_INTERFACE_LANGUAGES CXX
    INTERFACE_COMPILE_FEATURES cxx_std_17
    INTERFACE_INCLUDE_DIRECTORIES "${_deepseek_cpp_prefix}/include"
    # A shared library that links it exports none of its symbols.
    INTERFACE_LINK_OPTIONS "LINKER:--exclude-libs,libdeepseek_cpp.a"
    INTERFACE_LINK_LIBRARIES "Threads::Threads;${CMAKE_DL_LIBS};m")
  unset(_deepseek_cpp_prefix)
endif()
