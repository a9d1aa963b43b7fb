// Memory that JavaScript, system calls and KVM all see: mappings placed over a window of a SharedArrayBuffer.
//
// No Node.js version lets an addon make a SharedArrayBuffer of foreign memory on Node-API 8, so it is done the other
// way round: an ordinary SharedArrayBuffer reserves the addresses, and MAP_FIXED puts the wanted memory there. Its
// backing store is freed (unmapped, or returned to the heap) when no thread refers to the buffer any more; until then
// the addresses stay valid for JavaScript, whatever `release` did.

#include <fcntl.h>
#include <linux/memfd.h>
#include <napi.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <string>

#include "errors.h"
#include "modules.h"
#include "options.h"

namespace virtkit {
namespace {

constexpr double kPage = 4096;
constexpr double kHugePage = 2 * 1024 * 1024;

static_assert(sizeof(void*) == 8, "host addresses are handed out as Numbers below 2^53");

// A mapping laid over addresses that belong to somebody else. Undoing it must leave those addresses usable, so it puts
// fresh anonymous memory there instead of unmapping.
class Overlay {
 public:
  Overlay() = default;
  ~Overlay() { Undo(); }
  Overlay(const Overlay&) = delete;
  Overlay& operator=(const Overlay&) = delete;

  // Returns errno, 0 on success. Whatever happens the addresses are backed by memory afterwards.
  int Map(void* address, size_t size, int flags, int fd, off_t offset) {
    void* result = mmap(address, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, offset);
    const int error = result == MAP_FAILED ? errno : 0;
    address_ = address;
    size_ = size;
    // The kernel may have removed the old mapping before it found that the new one is impossible.
    if (error != 0) Undo();
    return error;
  }

  void Undo() {
    if (size_ == 0) return;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    void* result = mmap(address_, size_, PROT_READ | PROT_WRITE, flags, -1, 0);
    // A host that accounts memory strictly may refuse to promise it; nobody will use it, so no promise is needed.
    if (result == MAP_FAILED) {
      result = mmap(address_, size_, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, -1, 0);
    }
    if (result == MAP_FAILED) madvise(address_, size_, MADV_DONTNEED);
    size_ = 0;
  }

 private:
  void* address_ = nullptr;
  size_t size_ = 0;
};

class MemoryMapping : public Napi::ObjectWrap<MemoryMapping> {
 public:
  static void Init(Napi::Env env, Napi::Object exports) {
    exports.Set("MemoryMapping", DefineClass(env, "MemoryMapping",
                                             {
                                                 InstanceMethod<&MemoryMapping::Release>("release"),
                                             }));
  }

  explicit MemoryMapping(const Napi::CallbackInfo& info) : Napi::ObjectWrap<MemoryMapping>(info) {
    Napi::Env env = info.Env();
    if (info.Length() < 1 || !info[0].IsObject()) ThrowType(env, "MemoryMapping needs an options object");
    const Options options(info[0].As<Napi::Object>(), "MemoryMapping");
    const double size = options.Integer("size", kPage, kMaxSafeInteger);
    const double alignment = options.Integer("alignment", kPage, 1024.0 * 1024 * 1024, size >= kHugePage ? kHugePage : kPage);
    if (std::fmod(size, kPage) != 0) ThrowRange(env, "MemoryMapping: size must be a multiple of 4096");
    if ((static_cast<uint64_t>(alignment) & (static_cast<uint64_t>(alignment) - 1)) != 0) {
      ThrowRange(env, "MemoryMapping: alignment must be a power of two");
    }
    const uintptr_t base = Reserve(info, size + alignment);
    const uint64_t mask = static_cast<uint64_t>(alignment) - 1;
    const uintptr_t address = (base + mask) & ~mask;

    if (!options.Boolean("plain", false)) {
      Place(env, options, reinterpret_cast<void*>(address), static_cast<size_t>(size));
      // A small buffer may come from recycled heap, which was zeroed by writing: what lies around the window is unused.
      DropPages(base, address);
      DropPages(address + static_cast<uintptr_t>(size), base + static_cast<uintptr_t>(size + alignment));
    }

    Napi::Object self = info.This().As<Napi::Object>();
    Define(self, "byteOffset", static_cast<double>(address - base));
    Define(self, "size", size);
    Define(self, "hostAddress", static_cast<double>(address));
  }

 private:
  static void Define(Napi::Object self, const char* name, double value) {
    self.DefineProperty(Napi::PropertyDescriptor::Value(name, Napi::Number::New(self.Env(), value), napi_enumerable));
  }

  // Gives back the whole pages of a range of zeroes, which reads as zeroes afterwards.
  static void DropPages(uintptr_t start, uintptr_t end) {
    const auto page = static_cast<uintptr_t>(kPage);
    start = (start + page - 1) & ~(page - 1);
    end &= ~(page - 1);
    if (start < end) madvise(reinterpret_cast<void*>(start), end - start, MADV_DONTNEED);
  }

  // Makes the SharedArrayBuffer, keeps it as property `buffer` and returns its address.
  uintptr_t Reserve(const Napi::CallbackInfo& info, double length) {
    Napi::Env env = info.Env();
    Napi::Object self = info.This().As<Napi::Object>();
    Napi::Value buffer =
        env.Global().Get("SharedArrayBuffer").As<Napi::Function>().New({Napi::Number::New(env, length)});
    Napi::Value view = env.Global().Get("Uint8Array").As<Napi::Function>().New(
        {buffer, Napi::Number::New(env, 0), Napi::Number::New(env, 1)});
    self.DefineProperty(Napi::PropertyDescriptor::Value("buffer", buffer, napi_enumerable));
    // The property keeps the addresses reserved for as long as this object is reachable; this one keeps them until its
    // finalizer has run, which writes there.
    keep_ = Napi::Persistent(view.As<Napi::Object>());

    void* data = nullptr;
    if (napi_get_typedarray_info(env, view, nullptr, nullptr, &data, nullptr, nullptr) != napi_ok || data == nullptr) {
      ThrowType(env, "MemoryMapping: the buffer has no address");
    }
    return reinterpret_cast<uintptr_t>(data);
  }

  void Place(Napi::Env env, const Options& options, void* address, size_t size) {
    const int fd = static_cast<int>(options.Integer("fd", -1, 0x7fffffff, -1));
    const bool shared = options.Boolean("shared", fd >= 0);
    const double offset = options.Integer("fileOffset", 0, kMaxSafeInteger, 0);
    if (fd >= 0) CheckFile(env, fd, offset + static_cast<double>(size));

    const int flags = (shared ? MAP_SHARED : MAP_PRIVATE) | (fd < 0 ? MAP_ANONYMOUS : 0);
    const int error = overlay_.Map(address, size, flags, fd, static_cast<off_t>(offset));
    if (error != 0) ThrowErrno(env, error, "mmap", std::to_string(size) + " bytes");

    // Advice that the kernel cannot follow is no reason to fail, except memory that was to be there beforehand.
    if (options.Boolean("dontFork", true)) madvise(address, size, MADV_DONTFORK);
    if (options.Boolean("dontDump", true)) madvise(address, size, MADV_DONTDUMP);
    if (options.Has("hugePages")) {
      madvise(address, size, options.Boolean("hugePages", false) ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    }
    if (options.Boolean("populate", false) && madvise(address, size, MADV_POPULATE_WRITE) != 0) {
      const int populateError = errno;
      overlay_.Undo();
      ThrowErrno(env, populateError, "madvise", "MADV_POPULATE_WRITE of " + std::to_string(size) + " bytes");
    }
  }

  // Access past the last page of a file is SIGBUS, which ends the process.
  static void CheckFile(Napi::Env env, int fd, double end) {
    struct stat info {};
    if (fstat(fd, &info) != 0) ThrowErrno(env, errno, "fstat");
    if (S_ISREG(info.st_mode) && std::ceil(static_cast<double>(info.st_size) / kPage) * kPage < end) {
      ThrowRange(env, "MemoryMapping: the file has " + std::to_string(info.st_size) + " bytes, fewer than are mapped");
    }
  }

  Napi::Value Release(const Napi::CallbackInfo& info) {
    overlay_.Undo();
    return info.Env().Undefined();
  }

  // Order matters: members are destroyed last to first, the overlay must go while the buffer is held.
  Napi::ObjectReference keep_;
  Overlay overlay_;
};

// memfdCreate(name, size, hugePageSize): the size is sealed, so that no process that receives the descriptor can make
// accesses by this one fail.
Napi::Value MemfdCreate(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (info.Length() < 2 || !info[0].IsString() || !info[1].IsNumber()) ThrowType(env, "memfdCreate(name, size, hugePageSize)");
  const std::string name = info[0].As<Napi::String>();
  const double size = info[1].As<Napi::Number>().DoubleValue();
  const double hugePageSize = info.Length() > 2 && info[2].IsNumber() ? info[2].As<Napi::Number>().DoubleValue() : 0;
  if (!(size >= 1 && size <= kMaxSafeInteger)) ThrowRange(env, "memfdCreate: size out of range");

  unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  if (hugePageSize != 0) {
    const double shift = std::log2(hugePageSize);
    if (shift != std::floor(shift) || shift < 16 || shift > 34) ThrowRange(env, "memfdCreate: huge page size");
    flags |= MFD_HUGETLB | (static_cast<unsigned int>(shift) << MFD_HUGE_SHIFT);
  }
  const int fd = memfd_create(name.c_str(), flags);
  if (fd < 0) ThrowErrno(env, errno, "memfd_create");
  const char* failed = nullptr;
  if (ftruncate(fd, static_cast<off_t>(size)) != 0) {
    failed = "ftruncate";
  } else if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    failed = "F_ADD_SEALS";
  }
  if (failed != nullptr) {
    const int error = errno;
    close(fd);
    ThrowErrno(env, error, failed);
  }
  return Napi::Number::New(env, fd);
}

}  // namespace

void InitMemory(Napi::Env env, Napi::Object exports) {
  MemoryMapping::Init(env, exports);
  exports.Set("memfdCreate", Napi::Function::New<MemfdCreate>(env, "memfdCreate"));
}

}  // namespace virtkit
