# Builds for Windows by mingw-w64, and runs what was built under Wine.
# Debian: g++-mingw-w64-x86-64-posix wine wine64
set(CMAKE_SYSTEM_NAME Windows)
set(CMAKE_SYSTEM_PROCESSOR x86_64)
set(CMAKE_C_COMPILER x86_64-w64-mingw32-gcc-posix)
set(CMAKE_CXX_COMPILER x86_64-w64-mingw32-g++-posix)
set(CMAKE_RC_COMPILER x86_64-w64-mingw32-windres)
# Inlined functions are no sections of their own, of which binutils' linker takes the square of their number to link.
set(CMAKE_CXX_FLAGS_INIT "-O1")
set(CMAKE_EXE_LINKER_FLAGS_INIT "-static")  # Wine has none of the compiler's libraries
set(CMAKE_CROSSCOMPILING_EMULATOR wine)
list(APPEND CMAKE_FIND_ROOT_PATH /usr/x86_64-w64-mingw32)
include("${CMAKE_CURRENT_LIST_DIR}/cross.cmake")
# Boost.Process spells a header as only Windows' own file systems find it.
include_directories(SYSTEM "${PYNISHER_HEADER_PACKAGES}/windows")
