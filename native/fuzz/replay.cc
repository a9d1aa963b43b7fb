// Runs a harness with files, without libFuzzer: for `npm test`.
#include <cstdio>
#include <vector>

#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int count, char** paths) {
  for (int i = 1; i < count; i++) {
    fprintf(stderr, "%s\n", paths[i]);
    FILE* file = fopen(paths[i], "rb");
    if (file == nullptr) return 2;
    std::vector<uint8_t> bytes(1 << 20);
    bytes.resize(fread(bytes.data(), 1, bytes.size(), file));
    fclose(file);
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  return 0;
}
