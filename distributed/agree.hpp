// Errors inside collective work: one rank's failure becomes the same exception on every rank, never a hang.
#pragma once

#include <exception>
#include <new>
#include <string>

#include "distributed/communicator.hpp"

namespace lamina {

inline constexpr const char* kOutOfMemory = "out of memory; use fewer or smaller layers, or more ranks";

// Runs `work`, then require()s that it succeeded on every rank: throws AgreedError on all when it failed on
// any. `work` must not communicate, or only through code that itself agrees, whose AgreedError passes
// through. Collective. A rank that fails before such a nested agreement meets the others in that one: it is
// the same collective, so they fail there with its message.
template <class Work>
void together(Communicator& comm, Work&& work) {
  std::string message;
  try {
    work();
  } catch (const AgreedError&) {
    throw;
  } catch (const std::bad_alloc&) {
    message = kOutOfMemory;
  } catch (const std::exception& error) {
    message = *error.what() ? error.what() : "an exception without a message";
  } catch (...) {
    message = "an exception of unknown type";
  }
  comm.require(message);
}

}  // namespace lamina
