# Everything Lamina stands on, found once. A cluster's modules are chosen with the usual variables: CMAKE_PREFIX_PATH,
# CMAKE_CXX_COMPILER, MPI_CXX_COMPILER, BLA_VENDOR, BLAS_LIBRARIES, LAPACK_LIBRARIES.

find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(fmt REQUIRED)
find_package(nlohmann_json 3.10 REQUIRED)
find_package(CLI11 REQUIRED)
# Boost.Math's distributions, which are headers alone.
find_path(LAMINA_BOOST_INCLUDE boost/math/distributions/students_t.hpp HINTS ${Boost_INCLUDE_DIR} ${BOOST_ROOT}/include)
if(NOT LAMINA_BOOST_INCLUDE)
  message(FATAL_ERROR "CMake finds no boost/math/distributions/students_t.hpp. Install libboost-dev, or name Boost's folder "
    "in CMAKE_PREFIX_PATH.")
endif()
add_library(lamina_boost INTERFACE)
target_include_directories(lamina_boost SYSTEM INTERFACE ${LAMINA_BOOST_INCLUDE})

# The OpenMP build of OpenBLAS shares its threads with ours; the pthread build would run a second pool beside it.
# Debian keeps the variants in folders of their own, behind one alternatives link that may name another.
if(NOT BLA_VENDOR AND NOT BLAS_LIBRARIES)
  find_library(LAMINA_OPENBLAS_OPENMP openblas PATH_SUFFIXES openblas-openmp NO_CACHE
    PATHS /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}/openblas-openmp /usr/lib/x86_64-linux-gnu/openblas-openmp
          /usr/lib/aarch64-linux-gnu/openblas-openmp NO_DEFAULT_PATH)
  if(LAMINA_OPENBLAS_OPENMP)
    # In the cache: FindBLAS clears ordinary variables of these names.
    set(BLAS_LIBRARIES ${LAMINA_OPENBLAS_OPENMP} CACHE STRING "BLAS to link, in place of what BLA_VENDOR finds")
    set(LAPACK_LIBRARIES ${LAMINA_OPENBLAS_OPENMP} CACHE STRING "LAPACK to link")
  endif()
endif()
find_package(BLAS REQUIRED)
find_package(LAPACK REQUIRED)
if(NOT TARGET BLAS::BLAS)
  add_library(BLAS::BLAS INTERFACE IMPORTED)
  target_link_libraries(BLAS::BLAS INTERFACE ${BLAS_LIBRARIES})
endif()
message(STATUS "BLAS: ${BLAS_LIBRARIES}")

# lamina_find_optional(NAME TARGET HEADER LIBRARIES HINTS REMEDY): a library without a package of its own that CMake could ask.
# Sets lamina_TARGET to ON and makes the target lamina_TARGET where it is found; where it is not, ends the configuration if
# the cache's LAMINA_NAME asks for it by ON.
function(lamina_find_optional name target header libraries hints remedy)
  find_path(LAMINA_${name}_INCLUDE ${header} HINTS ${hints} PATH_SUFFIXES include)
  find_library(LAMINA_${name}_LIBRARY NAMES ${libraries} HINTS ${hints} PATH_SUFFIXES lib lib64)
  set(found OFF)
  if(LAMINA_${name}_INCLUDE AND LAMINA_${name}_LIBRARY)
    set(found ON)
    message(STATUS "${name}: ${LAMINA_${name}_LIBRARY}")
    add_library(lamina_${target} INTERFACE)
    target_include_directories(lamina_${target} SYSTEM INTERFACE ${LAMINA_${name}_INCLUDE})
    target_link_libraries(lamina_${target} INTERFACE ${LAMINA_${name}_LIBRARY})
  elseif(NOT LAMINA_${name} STREQUAL "AUTO")
    message(FATAL_ERROR "LAMINA_${name} is ${LAMINA_${name}}, but CMake finds no ${header} and library (${libraries}). "
      "${remedy}, or leave LAMINA_${name} at AUTO.")
  endif()
  set(lamina_${target} ${found} PARENT_SCOPE)
endfunction()

# Peers to compare with, never needed.
if(LAMINA_ONEDNN)
  # Not by its own config file: Debian's ends the configuration where OpenCL's headers are missing, which only a GPU
  # would need.
  lamina_find_optional(ONEDNN onednn oneapi/dnnl/dnnl.hpp dnnl "" "Install libdnnl-dev, name its folder in CMAKE_PREFIX_PATH")
endif()
# BLIS is opened when the program runs, and only its OpenMP build: see kernels/cpu/blis.cpp.
set(lamina_blis OFF)
if(LAMINA_BLIS)
  find_library(LAMINA_BLIS_LIBRARY blis PATH_SUFFIXES blis-openmp
    PATHS /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}/blis-openmp /usr/lib/x86_64-linux-gnu/blis-openmp
          /usr/lib/aarch64-linux-gnu/blis-openmp NO_DEFAULT_PATH DOC "The OpenMP build of BLIS")
  if(LAMINA_BLIS_LIBRARY)
    set(lamina_blis ON)
    message(STATUS "BLIS: ${LAMINA_BLIS_LIBRARY}")
  elseif(NOT LAMINA_BLIS STREQUAL "AUTO")
    message(FATAL_ERROR "LAMINA_BLIS is ${LAMINA_BLIS}, but CMake finds no libblis.so. Install libblis-openmp-dev, "
      "set LAMINA_BLIS_LIBRARY to the file, or leave LAMINA_BLIS at AUTO.")
  endif()
endif()

# Its library proper alone: libxsmmnoblas has an sgemm_ of its own that only prints an error. LIBXSMM 2 has other functions.
set(lamina_libxsmm OFF)
set(lamina_libxsmm_why "")
if(LAMINA_LIBXSMM)
  find_path(LAMINA_LIBXSMM_INCLUDE libxsmm.h)
  find_library(LAMINA_LIBXSMM_LIBRARY xsmm)
  if(LAMINA_LIBXSMM_INCLUDE AND LAMINA_LIBXSMM_LIBRARY)
    include(CheckCXXSourceCompiles)
    set(CMAKE_REQUIRED_INCLUDES ${LAMINA_LIBXSMM_INCLUDE})
    set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)  # nothing is linked
    unset(lamina_libxsmm_api CACHE)  # another one may be named
    check_cxx_source_compiles("#include <libxsmm.h>
      libxsmm_smmfunction_reducebatch_strd make(libxsmm_blasint n, float one, int flags) {
        return libxsmm_smmdispatch_reducebatch_strd(n, n, n, n, n, &n, &n, &n, &one, &one, &flags, &flags);
      }" lamina_libxsmm_api)
    unset(CMAKE_TRY_COMPILE_TARGET_TYPE)
    unset(CMAKE_REQUIRED_INCLUDES)
    if(lamina_libxsmm_api)
      set(lamina_libxsmm ON)
      message(STATUS "LIBXSMM: ${LAMINA_LIBXSMM_LIBRARY}")
      add_library(lamina_xsmm INTERFACE)
      target_include_directories(lamina_xsmm SYSTEM INTERFACE ${LAMINA_LIBXSMM_INCLUDE})
      target_link_libraries(lamina_xsmm INTERFACE
        ${LAMINA_LIBXSMM_LIBRARY} BLAS::BLAS Threads::Threads rt m ${CMAKE_DL_LIBS})
    else()
      set(lamina_libxsmm_why " (the one found has not the functions of 1.17)")
      message(STATUS "LIBXSMM: ${LAMINA_LIBXSMM_INCLUDE}/libxsmm.h has not the functions of 1.17")
    endif()
  endif()
  if(NOT lamina_libxsmm AND NOT LAMINA_LIBXSMM STREQUAL "AUTO")
    message(FATAL_ERROR "LAMINA_LIBXSMM is ${LAMINA_LIBXSMM}, but CMake finds no libxsmm.h and libxsmm with the functions of "
      "1.17. Install libxsmm-dev, name LIBXSMM's folder in CMAKE_PREFIX_PATH, or leave LAMINA_LIBXSMM at AUTO.")
  endif()
endif()

if(LAMINA_MPI)
  find_package(MPI REQUIRED COMPONENTS CXX)
endif()
include(cmake/scalapack.cmake)
if(LAMINA_HWLOC)
  find_path(LAMINA_HWLOC_INCLUDE hwloc.h)
  find_library(LAMINA_HWLOC_LIBRARY hwloc)
  if(LAMINA_HWLOC_INCLUDE AND LAMINA_HWLOC_LIBRARY)
    add_library(hwloc::hwloc INTERFACE IMPORTED)
    target_include_directories(hwloc::hwloc INTERFACE ${LAMINA_HWLOC_INCLUDE})
    target_link_libraries(hwloc::hwloc INTERFACE ${LAMINA_HWLOC_LIBRARY})
  endif()
endif()
if(LAMINA_CUDA)
  enable_language(CUDA)
  # CMake 3.25, Debian 12's, does not know that nvcc 12 and newer have C++20.
  if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  endif()
  find_package(CUDAToolkit 12.9 REQUIRED)
  # A peer to compare with, never needed. Python's wheel of it has the library under its version alone.
  if(LAMINA_CUSPARSELT)
    lamina_find_optional(CUSPARSELT cusparselt cusparseLt.h "cusparseLt;libcusparseLt.so.0"
      "${CUSPARSELT_ROOT};$ENV{CUSPARSELT_ROOT}" "Name its folder in CUSPARSELT_ROOT")
  endif()
endif()
# Collectives between GPUs.
if(LAMINA_CUDA AND LAMINA_NCCL)
  # The Python package of NCCL has no libnccl.so beside its libnccl.so.2.
  lamina_find_optional(NCCL nccl nccl.h "nccl;libnccl.so.2" "${NCCL_ROOT};$ENV{NCCL_ROOT}"
    "Install libnccl-dev, name its folder in NCCL_ROOT")
endif()
if(LAMINA_TESTS)
  find_package(GTest REQUIRED)
endif()
if(LAMINA_MICRO)
  find_package(benchmark REQUIRED)
endif()
