// What a disk image or block device is, and whose it is.

#include <fcntl.h>
#include <linux/fs.h>
#include <napi.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "block_engine.h"
#include "errors.h"
#include "modules.h"
#include "write_together.h"

namespace virtkit {
namespace {

int Fd(const Napi::CallbackInfo& info) {
  if (info.Length() < 1 || !info[0].IsNumber()) ThrowType(info.Env(), "a file descriptor must be a number");
  return info[0].As<Napi::Number>().Int32Value();
}

template <typename Value>
Value Query(Napi::Env env, int fd, unsigned long request, const char* name) {
  Value value{};
  if (ioctl(fd, request, &value) != 0) ThrowErrno(env, errno, name);
  return value;
}

// blockFileInfo(fd)
Napi::Value BlockFileInfo(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = Fd(info);
  struct stat file {};
  if (fstat(fd, &file) != 0) ThrowErrno(env, errno, "fstat");
  const bool device = S_ISBLK(file.st_mode);
  double size = static_cast<double>(file.st_size);
  uint32_t logical = 512;
  uint32_t physical = 512;
  uint32_t optimal = 0;
  int readOnly = 0;
  if (device) {
    size = static_cast<double>(Query<uint64_t>(env, fd, BLKGETSIZE64, "BLKGETSIZE64"));
    logical = Query<uint32_t>(env, fd, BLKSSZGET, "BLKSSZGET");
    physical = Query<uint32_t>(env, fd, BLKPBSZGET, "BLKPBSZGET");
    optimal = Query<uint32_t>(env, fd, BLKIOOPT, "BLKIOOPT");
    readOnly = Query<int>(env, fd, BLKROGET, "BLKROGET");
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("kind", device ? "block" : S_ISREG(file.st_mode) ? "file" : "other");
  result.Set("size", size);
  result.Set("logicalBlockSize", logical);
  result.Set("physicalBlockSize", physical);
  result.Set("optimalIoSize", optimal);
  result.Set("readonly", readOnly != 0);
  return result;
}

// directAlignment(fd): what memory, and what offsets and lengths, have to be multiples of under O_DIRECT.
Napi::Value DirectAlignment(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = Fd(info);
  // The C library's structure may be too old for it.
  struct statx file {};
  if (syscall(__NR_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &file) != 0) ThrowErrno(env, errno, "statx");
  if ((file.stx_mask & STATX_DIOALIGN) == 0 || file.stx_dio_mem_align == 0 || file.stx_dio_offset_align == 0) {
    return env.Undefined();
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("memory", file.stx_dio_mem_align);
  result.Set("offset", file.stx_dio_offset_align);
  return result;
}

// lockFile(fd, exclusive): an open file description lock on the whole file.
Napi::Value LockFile(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = Fd(info);
  if (info.Length() < 2 || !info[1].IsBoolean()) ThrowType(env, "lockFile(fd, exclusive)");
  struct flock lock {};
  lock.l_type = info[1].As<Napi::Boolean>().Value() ? F_WRLCK : F_RDLCK;
  lock.l_whence = SEEK_SET;
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return Napi::Boolean::New(env, true);
  if (errno != EAGAIN && errno != EACCES) ThrowErrno(env, errno, "F_OFD_SETLK");
  return Napi::Boolean::New(env, false);
}

}  // namespace

void InitBlock(Napi::Env env, Napi::Object exports) {
  InitBlockEngine(env, exports);
  InitWriteTogether(env, exports);
  exports.Set("blockFileInfo", Napi::Function::New<BlockFileInfo>(env, "blockFileInfo"));
  exports.Set("directAlignment", Napi::Function::New<DirectAlignment>(env, "directAlignment"));
  exports.Set("lockFile", Napi::Function::New<LockFile>(env, "lockFile"));
}

}  // namespace virtkit
