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

# Peers to compare with, never needed.
set(lamina_onednn OFF)
if(LAMINA_ONEDNN)
  # Not by its own config file: Debian's ends the configuration where OpenCL's headers are missing, which only a GPU
  # would need.
  find_path(LAMINA_ONEDNN_INCLUDE oneapi/dnnl/dnnl.hpp)
  find_library(LAMINA_ONEDNN_LIBRARY dnnl)
  if(LAMINA_ONEDNN_INCLUDE AND LAMINA_ONEDNN_LIBRARY)
    set(lamina_onednn ON)
    message(STATUS "oneDNN: ${LAMINA_ONEDNN_LIBRARY}")
    add_library(lamina_dnnl INTERFACE)
    target_include_directories(lamina_dnnl SYSTEM INTERFACE ${LAMINA_ONEDNN_INCLUDE})
    target_link_libraries(lamina_dnnl INTERFACE ${LAMINA_ONEDNN_LIBRARY})
  elseif(NOT LAMINA_ONEDNN STREQUAL "AUTO")
    message(FATAL_ERROR "LAMINA_ONEDNN is ${LAMINA_ONEDNN}, but CMake finds no dnnl.hpp and libdnnl. Install "
      "libdnnl-dev, name oneDNN's folder in CMAKE_PREFIX_PATH, or leave LAMINA_ONEDNN at AUTO.")
  endif()
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
  set(lamina_cusparselt OFF)
  if(LAMINA_CUSPARSELT)
    set(hints ${CUSPARSELT_ROOT} $ENV{CUSPARSELT_ROOT})
    find_path(LAMINA_CUSPARSELT_INCLUDE cusparseLt.h HINTS ${hints} PATH_SUFFIXES include)
    find_library(LAMINA_CUSPARSELT_LIBRARY NAMES cusparseLt libcusparseLt.so.0 HINTS ${hints} PATH_SUFFIXES lib lib64)
    if(LAMINA_CUSPARSELT_INCLUDE AND LAMINA_CUSPARSELT_LIBRARY)
      set(lamina_cusparselt ON)
      message(STATUS "cuSPARSELt: ${LAMINA_CUSPARSELT_LIBRARY}")
      add_library(lamina_sparselt INTERFACE)
      target_include_directories(lamina_sparselt SYSTEM INTERFACE ${LAMINA_CUSPARSELT_INCLUDE})
      target_link_libraries(lamina_sparselt INTERFACE ${LAMINA_CUSPARSELT_LIBRARY})
    elseif(NOT LAMINA_CUSPARSELT STREQUAL "AUTO")
      message(FATAL_ERROR "LAMINA_CUSPARSELT is ${LAMINA_CUSPARSELT}, but CMake finds no cusparseLt.h and libcusparseLt. "
        "Name cuSPARSELt's folder in CUSPARSELT_ROOT, or leave LAMINA_CUSPARSELT at AUTO.")
    endif()
  endif()
endif()
# Collectives between GPUs.
set(lamina_nccl OFF)
if(LAMINA_CUDA AND LAMINA_NCCL)
  find_path(LAMINA_NCCL_INCLUDE nccl.h HINTS ${NCCL_ROOT}/include $ENV{NCCL_ROOT}/include)
  # The Python package of NCCL has no libnccl.so beside its libnccl.so.2.
  find_library(LAMINA_NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS ${NCCL_ROOT}/lib $ENV{NCCL_ROOT}/lib)
  if(LAMINA_NCCL_INCLUDE AND LAMINA_NCCL_LIBRARY)
    set(lamina_nccl ON)
    message(STATUS "NCCL: ${LAMINA_NCCL_LIBRARY}")
    add_library(lamina_nccl INTERFACE)
    target_include_directories(lamina_nccl SYSTEM INTERFACE ${LAMINA_NCCL_INCLUDE})
    target_link_libraries(lamina_nccl INTERFACE ${LAMINA_NCCL_LIBRARY})
  elseif(NOT LAMINA_NCCL STREQUAL "AUTO")
    message(FATAL_ERROR "LAMINA_NCCL is ${LAMINA_NCCL}, but CMake finds no nccl.h and libnccl. Install libnccl-dev, "
      "name its folder in NCCL_ROOT, or leave LAMINA_NCCL at AUTO.")
  endif()
endif()
if(LAMINA_TESTS)
  find_package(GTest REQUIRED)
endif()
if(LAMINA_MICRO)
  find_package(benchmark REQUIRED)
endif()
