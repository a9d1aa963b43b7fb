// What programs that forbid system calls share: forbid-io-uring.c, forbid-processes.c.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

// Becomes the command behind argv[0], under the filter. Returns the status to end with when it cannot.
static int RunUnder(struct sock_filter* filter, size_t bytes, int argc, char** argv) {
  struct sock_fprog program = {bytes / sizeof *filter, filter};
  if (argc < 2) return 2;
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    perror("seccomp");
    return 2;
  }
  execvp(argv[1], argv + 1);
  perror(argv[1]);
  return 2;
}
