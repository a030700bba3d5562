# The package: what `cmake --install` copies, and what find_package(pynisher) reads from there or from the build tree.

include(CMakePackageConfigHelpers)

set(pynisher_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/pynisher")

install(TARGETS pynisher EXPORT pynisher_targets
  ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}"
  LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}"
  RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}"
  FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
  # For users whose CMake is older than file sets.
  INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT pynisher_targets NAMESPACE pynisher:: DESTINATION "${pynisher_package_dir}")

# A static library leaves what it needs to its users, who need the Boost that it was compiled for.
get_target_property(pynisher_type pynisher TYPE)
set(pynisher_boost_dependency "")
if(pynisher_type STREQUAL "STATIC_LIBRARY" AND pynisher_boost_process_library)
  set(pynisher_boost_dependency "find_dependency(Boost ${Boost_VERSION} EXACT CONFIG COMPONENTS process)\n")
endif()
configure_package_config_file("${CMAKE_CURRENT_LIST_DIR}/pynisher_config.cmake.in"
  "${PROJECT_BINARY_DIR}/pynisher-config.cmake"
  INSTALL_DESTINATION "${pynisher_package_dir}"
  NO_SET_AND_CHECK_MACRO)
# Before 1.0 a new minor version may break its users.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/pynisher-config-version.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES
  "${PROJECT_BINARY_DIR}/pynisher-config.cmake"
  "${PROJECT_BINARY_DIR}/pynisher-config-version.cmake"
  DESTINATION "${pynisher_package_dir}")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}")

# With -Dpynisher_DIR=<this build directory> a program uses the library without installing it.
export(EXPORT pynisher_targets NAMESPACE pynisher:: FILE "${PROJECT_BINARY_DIR}/pynisher_targets.cmake")
