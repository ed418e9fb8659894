# ScaLAPACK and ELPA, which must have been built for the MPI in use. Sets lamina_scalapack and lamina_elpa, and the targets
# of these names. SCALAPACK_LIBRARIES names libraries in place of what is found, such as MKL's.
include(CheckCXXSourceCompiles)
set(lamina_scalapack OFF)
set(lamina_elpa OFF)

function(lamina_compiles result code)
  set(CMAKE_REQUIRED_LIBRARIES MPI::MPI_CXX ${ARGN})
  set(CMAKE_REQUIRED_QUIET ON)
  check_cxx_source_compiles("${code}" ${result})
  set(${result} "${${result}}" PARENT_SCOPE)
endfunction()

if(LAMINA_MPI AND LAMINA_SCALAPACK)
  # Not by its own config file: Debian's names a library that does not exist. Debian calls the library by its MPI.
  lamina_compiles(LAMINA_IS_OPENMPI "#include <mpi.h>\n#ifndef OPEN_MPI\n#error another\n#endif\nint main() {}")
  lamina_compiles(LAMINA_IS_MPICH "#include <mpi.h>\n#ifndef MPICH_VERSION\n#error another\n#endif\nint main() {}")
  set(names scalapack)
  if(LAMINA_IS_OPENMPI)
    list(PREPEND names scalapack-openmpi)
  elseif(LAMINA_IS_MPICH)
    list(PREPEND names scalapack-mpich)
  endif()
  if(NOT SCALAPACK_LIBRARIES)
    find_library(LAMINA_SCALAPACK_LIBRARY NAMES ${names} NAMES_PER_DIR)
    if(LAMINA_SCALAPACK_LIBRARY)
      set(SCALAPACK_LIBRARIES ${LAMINA_SCALAPACK_LIBRARY})
    endif()
  endif()
  if(SCALAPACK_LIBRARIES)
    lamina_compiles(LAMINA_SCALAPACK_LINKS "
      #include <mpi.h>
      extern \"C\" { int Csys2blacs_handle(MPI_Comm); void pdgesvd_(); void psgemr2d_(); void pdsyntrd_(); }
      int main() { pdgesvd_(); psgemr2d_(); pdsyntrd_(); return Csys2blacs_handle(MPI_COMM_SELF); }"
      ${SCALAPACK_LIBRARIES} ${LAPACK_LIBRARIES} BLAS::BLAS)
  endif()
  if(SCALAPACK_LIBRARIES AND LAMINA_SCALAPACK_LINKS)
    set(lamina_scalapack ON)
    message(STATUS "ScaLAPACK: ${SCALAPACK_LIBRARIES}")
    add_library(lamina_scalapack INTERFACE)
    target_link_libraries(lamina_scalapack INTERFACE ${SCALAPACK_LIBRARIES} ${LAPACK_LIBRARIES} BLAS::BLAS)
  elseif(NOT LAMINA_SCALAPACK STREQUAL "AUTO")
    message(FATAL_ERROR "LAMINA_SCALAPACK is ${LAMINA_SCALAPACK}, but CMake finds no ScaLAPACK for this MPI that links "
      "(found: \"${SCALAPACK_LIBRARIES}\"). Install libscalapack-openmpi-dev or libscalapack-mpich-dev, name the "
      "libraries in SCALAPACK_LIBRARIES, or leave LAMINA_SCALAPACK at AUTO.")
  endif()
endif()

# ELPA stands on the ScaLAPACK that it was linked with: Debian has it for its default MPI alone.
if(lamina_scalapack AND LAMINA_ELPA)
  find_path(LAMINA_ELPA_INCLUDE elpa/elpa.h PATH_SUFFIXES elpa)
  find_library(LAMINA_ELPA_LIBRARY elpa)
  set(other)
  if(LAMINA_ELPA_LIBRARY AND NOT LAMINA_ELPA_LIBRARY MATCHES "\\.a$")
    file(STRINGS ${LAMINA_ELPA_LIBRARY} needed REGEX "^libscalapack-(openmpi|mpich)\\.so" LIMIT_COUNT 1)
    if(needed AND LAMINA_SCALAPACK_LIBRARY)
      string(REGEX REPLACE "\\.so.*" "" needed ${needed})
      if(NOT LAMINA_SCALAPACK_LIBRARY MATCHES "/${needed}\\.")
        set(other " (it stands on ${needed}, of another MPI)")
      endif()
    endif()
  endif()
  if(LAMINA_ELPA_INCLUDE AND LAMINA_ELPA_LIBRARY AND NOT other)
    set(lamina_elpa ON)
    message(STATUS "ELPA: ${LAMINA_ELPA_LIBRARY}")
    add_library(lamina_elpa INTERFACE)
    target_include_directories(lamina_elpa SYSTEM INTERFACE ${LAMINA_ELPA_INCLUDE})
    target_link_libraries(lamina_elpa INTERFACE ${LAMINA_ELPA_LIBRARY})
  endif()
endif()
if(LAMINA_ELPA AND NOT lamina_elpa AND NOT LAMINA_ELPA STREQUAL "AUTO")
  message(FATAL_ERROR "LAMINA_ELPA is ${LAMINA_ELPA}, but CMake finds no elpa/elpa.h and libelpa${other}, or no ScaLAPACK. "
    "Install libelpa-dev and libscalapack-openmpi-dev, name ELPA's folder in CMAKE_PREFIX_PATH, or leave LAMINA_ELPA at AUTO.")
endif()
