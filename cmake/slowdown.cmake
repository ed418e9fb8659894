# What a build may be slowed down by. It is read without a project too: cmake -DLAMINA_INJECT_SLOWDOWN=5 -P cmake/slowdown.cmake
set(LAMINA_INJECT_SLOWDOWN 0 CACHE STRING "Percent by which native CPU kernels are made slower: to test a gate, never to release")
if(NOT LAMINA_INJECT_SLOWDOWN MATCHES "^[0-9]+(\\.[0-9]+)?$" OR LAMINA_INJECT_SLOWDOWN GREATER 100)
  message(FATAL_ERROR "LAMINA_INJECT_SLOWDOWN: expected 0 to 100 percent, found ${LAMINA_INJECT_SLOWDOWN}")
endif()
if(LAMINA_INJECT_SLOWDOWN GREATER 0 AND NOT CMAKE_SCRIPT_MODE_FILE)
  message(WARNING "LAMINA_INJECT_SLOWDOWN=${LAMINA_INJECT_SLOWDOWN}: native CPU kernels of this build are made slower, to test a gate")
  install(CODE "message(FATAL_ERROR \"built with LAMINA_INJECT_SLOWDOWN=${LAMINA_INJECT_SLOWDOWN}: a build to test a gate with, not to install\")")
endif()
