// What JavaScript wrote into the arrays of a BlockEngine, as a job. Knows nothing of JavaScript.
#pragma once

#include <cstddef>
#include <cstdint>

#include "io_ops.h"

namespace virtkit {

// The submission arrays: an entry a request, and the segments of all of them.
struct JobArrays {
  const uint8_t* ops = nullptr;
  const uint8_t* flags = nullptr;
  const int32_t* fds = nullptr;
  const double* offsets = nullptr;
  const double* lengths = nullptr;
  const uint32_t* tags = nullptr;
  const uint32_t* firstSegments = nullptr;
  const uint32_t* segmentCounts = nullptr;
  const double* segmentAddresses = nullptr;
  const uint32_t* segmentLengths = nullptr;
  // Of the last two arrays.
  size_t segments = 0;
};

// Copies entry `index` into the job; returns what is wrong with it, or nullptr.
const char* FillJob(const JobArrays& arrays, size_t index, IoJob& job);

}  // namespace virtkit
