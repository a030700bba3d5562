# What the toolchain files of this directory share: libraries come from the folder that header_packages.cmake has made,
# and nothing of the building machine's own is taken for the target's.
set(PYNISHER_HEADER_PACKAGES "" CACHE PATH "The folder that cmake/platforms/header_packages.cmake has made")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES PYNISHER_HEADER_PACKAGES)
list(APPEND CMAKE_FIND_ROOT_PATH "${PYNISHER_HEADER_PACKAGES}")
list(APPEND CMAKE_PREFIX_PATH "${PYNISHER_HEADER_PACKAGES}")
set(CMAKE_FIND_PACKAGE_PREFER_CONFIG ON)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
