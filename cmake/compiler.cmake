# One compiler, one set of warnings. g++ 12 destroys temporaries of a co_await statement twice: refused.
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang" OR CMAKE_CXX_COMPILER_VERSION VERSION_LESS 19)
  message(FATAL_ERROR "zpair builds with clang 19 or newer (found ${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}): "
                      "run ./dev setup, then configure with a preset (cmake --preset dev)")
endif()

set(CMAKE_CXX_STANDARD 23)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 17)

set(ZPAIR_SANITIZE "" CACHE STRING "sanitizers, as -fsanitize= takes them")
option(ZPAIR_MUTATIONS "compile the mutation switches and fault points that tests use" ON)

find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_C_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_NOHASHDIR=1 CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} ${CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_C_COMPILER_LAUNCHER})
endif()

add_compile_options(-Wall -Wextra -fno-omit-frame-pointer -g1 $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor>)
add_link_options(-fuse-ld=lld-19 -rdynamic)
set(CMAKE_CXX_FLAGS_DEBUG "-O1")
set(CMAKE_C_FLAGS_DEBUG "-O1")
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2")
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2")
if(ZPAIR_SANITIZE)
  add_compile_options(-fsanitize=${ZPAIR_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${ZPAIR_SANITIZE})
endif()
