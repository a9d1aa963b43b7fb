/*
 * The lab's process 1: runs the commands that the host sends over a virtio-serial port.
 *
 * One port carries many commands at once. A frame is 12 bytes of header, three little-endian 32-bit words
 * (command id, type, payload length), and the payload; src/protocol.ts is the other end and names the types alike.
 * Each direction of each command has a window of WINDOW bytes, so that one slow reader never stops the others.
 *
 * When the host's end of the port is gone, so is the lab's reason to be: the machine powers off.
 *
 * On the host, `agent --tsc-khz` tells what the lab's kernel would else have to measure.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { START = 1, STDIN, KILL, RESIZE, CREDIT, SHUTDOWN, PING };         /* host to lab */
enum { READY = 64, STDOUT, STDERR, EXIT, FAILED, STDIN_CREDIT, PONG };   /* lab to host */
enum { TTY = 1 };                                                  /* flags of START */
enum { VERSION = 1, HEADER = 12, MAX_COMMANDS = 64, MAX_FRAME = 64 * 1024, WINDOW = 256 * 1024, OUT_SIZE = 512 * 1024 };

struct command {
  uint32_t id;
  pid_t pid; /* 0: this slot is free */
  int in, out, err, tty;
  int exited, status, in_eof;
  uint32_t out_credit, err_credit; /* bytes that the host can still take */
  uint32_t in_start, in_length;    /* bytes of `input` that the command has not read */
  uint32_t in_freed;               /* bytes that it read and the host does not know of */
  uint8_t *input;
};

static struct command commands[MAX_COMMANDS];
static int port;
static uint8_t in_buffer[2 * (MAX_FRAME + HEADER)], out_buffer[OUT_SIZE];
static uint32_t in_length, out_start, out_length;

static uint32_t get32(const uint8_t *p) { return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24; }
static void put32(uint8_t *p, uint32_t v) { p[0] = v; p[1] = v >> 8; p[2] = v >> 16; p[3] = v >> 24; }

/* The console is what is left to tell why by: the host prints the end of it when the lab is gone unasked. */
static void power_off(const char *why) {
  fprintf(stderr, "lab agent: powers off: %s (%s)\n", why, strerror(errno));
  sync();
  reboot(RB_POWER_OFF);
  for (;;) pause();
}

/* Frames to the host ------------------------------------------------------------------------------------------- */

static void flush_port(void) {
  while (out_length) {
    ssize_t n = write(port, out_buffer + out_start, out_length > 32768 ? 32768 : out_length);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) power_off("the port cannot be written");
      return;
    }
    out_start += n;
    out_length -= n;
  }
  out_start = 0;
}

/* Room for a whole frame: output is only read from a command when this says so, which leaves the rest of the
   buffer to the few small frames that must always fit. */
static int has_room(void) { return out_length + 2 * (MAX_FRAME + HEADER) <= OUT_SIZE; }

static uint8_t *frame(uint32_t id, uint32_t type, uint32_t length) {
  if (out_start + out_length + HEADER + length > OUT_SIZE) {
    memmove(out_buffer, out_buffer + out_start, out_length);
    out_start = 0;
  }
  uint8_t *p = out_buffer + out_start + out_length;
  put32(p, id);
  put32(p + 4, type);
  put32(p + 8, length);
  out_length += HEADER + length;
  return p + HEADER;
}

static void send_pair(uint32_t id, uint32_t type, uint32_t a, uint32_t b) {
  uint8_t *p = frame(id, type, 8);
  put32(p, a);
  put32(p + 4, b);
}

/* Commands ------------------------------------------------------------------------------------------------------ */

static struct command *find(uint32_t id) {
  for (int i = 0; i < MAX_COMMANDS; i++)
    if (commands[i].pid && commands[i].id == id) return &commands[i];
  return NULL;
}

static void close_fd(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

/* Each command lives in a cgroup of its own: killing that reaches whatever it started, daemons too. */
static void group_path(char *path, size_t size, uint32_t id, const char *file) {
  snprintf(path, size, "/sys/fs/cgroup/command-%u%s", id, file);
}

static int write_file(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  int ok = write(fd, text, strlen(text)) >= 0;
  close(fd);
  return ok ? 0 : -1;
}

static void kill_command(struct command *c, int signal) {
  char path[64];
  group_path(path, sizeof path, c->id, "/cgroup.kill");
  if (signal != SIGKILL || write_file(path, "1") < 0) kill(-c->pid, signal);
}

static void release(struct command *c) {
  char path[64];
  group_path(path, sizeof path, c->id, "");
  rmdir(path); /* stays while a daemon that the command left behind lives */
  close_fd(&c->in);
  close_fd(&c->out);
  close_fd(&c->err);
  free(c->input);
  memset(c, 0, sizeof *c);
}

/* The child's side of fork(): never returns. `report` is closed by a successful exec and carries errno otherwise. */
static void become(uint32_t id, const char *cwd, char **argv, char **envp, int in, int out, int err, int tty, int report) {
  char path[64];
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  signal(SIGPIPE, SIG_DFL);
  setsid();
  group_path(path, sizeof path, id, "/cgroup.procs");
  write_file(path, "0");
  write_file("/proc/self/oom_score_adj", "0");
  if (tty) ioctl(in, TIOCSCTTY, 0);
  if (dup2(in, 0) >= 0 && dup2(out, 1) >= 0 && dup2(err, 2) >= 0 && chdir(cwd) == 0) {
    environ = envp;
    execvp(argv[0], argv);
  }
  int code = errno;
  if (write(report, &code, sizeof code) < 0) _exit(126);
  _exit(127);
}

static int open_tty(uint32_t size, int *slave) {
  int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  char name[64];
  if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0 || ptsname_r(master, name, sizeof name)) return -1;
  struct winsize window = {.ws_row = size & 0xffff, .ws_col = size >> 16};
  ioctl(master, TIOCSWINSZ, &window);
  *slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
  return master;
}

/* Payload of START: flags, window size (rows | columns << 16), argument count, environment count, then the working
   directory, the arguments and the environment, each ending in a zero byte. */
static void start(uint32_t id, uint8_t *payload, uint32_t length) {
  struct command *c = NULL;
  for (int i = 0; i < MAX_COMMANDS && !c; i++)
    if (!commands[i].pid) c = &commands[i];
  if (!c || length < 17 || payload[length - 1] != 0 || find(id)) {
    send_pair(id, FAILED, c ? EINVAL : EAGAIN, 0);
    return;
  }
  uint32_t flags = get32(payload), size = get32(payload + 4), argc = get32(payload + 8), envc = get32(payload + 12);
  char **words = argc && argc + envc <= length ? calloc(argc + envc + 2, sizeof *words) : NULL;
  char *p = (char *)payload + 16, *end = (char *)payload + length, *cwd = p;
  p += strlen(p) + 1;
  for (uint32_t i = 0; words && i < argc + envc; i++) {
    if (p >= end) {
      free(words);
      words = NULL;
      break;
    }
    words[i < argc ? i : i + 1] = p;
    p += strlen(p) + 1;
  }
  if (!words) {
    send_pair(id, FAILED, EINVAL, 0);
    return;
  }

  int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1}, report[2] = {-1, -1}, slave = -1, code = 0;
  int tty = (flags & TTY) != 0;
  if (pipe2(report, O_CLOEXEC) < 0) code = errno;
  else if (tty) {
    in[1] = open_tty(size, &slave);
    if (in[1] < 0 || slave < 0) code = errno;
    else out[0] = fcntl(in[1], F_DUPFD_CLOEXEC, 3);
  } else if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0) code = errno;
  uint8_t *input = code ? NULL : malloc(WINDOW);
  if (!code && !input) code = ENOMEM;

  char group[64];
  group_path(group, sizeof group, id, "");
  mkdir(group, 0755);
  pid_t pid = code ? -1 : fork();
  if (pid == 0) become(id, cwd, words, words + argc + 1, tty ? slave : in[0], tty ? slave : out[1], tty ? slave : err[1], tty, report[1]);
  if (pid < 0 && !code) code = errno;
  close_fd(&report[1]);
  close_fd(&in[0]);
  close_fd(&out[1]);
  close_fd(&err[1]);
  close_fd(&slave);
  free(words);
  if (!code && read(report[0], &code, sizeof code) != sizeof code) code = 0;
  close_fd(&report[0]);

  *c = (struct command){.id = id, .pid = pid, .in = in[1], .out = out[0], .err = err[0], .tty = tty, .out_credit = WINDOW, .err_credit = WINDOW, .input = input};
  if (code) {
    if (pid > 0) waitpid(pid, NULL, 0);
    release(c);
    send_pair(id, FAILED, code, 0);
    return;
  }
  for (int i = 0; i < 3; i++) {
    int fd = (int[]){c->in, c->out, c->err}[i];
    if (fd >= 0) fcntl(fd, F_SETFL, O_NONBLOCK | fcntl(fd, F_GETFL));
  }
}

static void push_input(struct command *c, const uint8_t *data, uint32_t length) {
  if (length == 0) c->in_eof = 1;
  if (c->in < 0) { /* the command closed its stdin: swallow, so that the host's writer is not stuck */
    c->in_freed += length;
    return;
  }
  if (c->in_length + length > WINDOW) return kill_command(c, SIGKILL); /* the host broke the protocol */
  if (c->in_start + c->in_length + length > WINDOW) {
    memmove(c->input, c->input + c->in_start, c->in_length);
    c->in_start = 0;
  }
  memcpy(c->input + c->in_start + c->in_length, data, length);
  c->in_length += length;
}

static void write_input(struct command *c) {
  while (c->in >= 0 && c->in_length) {
    ssize_t n = write(c->in, c->input + c->in_start, c->in_length);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) break;
    if (n < 0) { /* nobody reads any more */
      c->in_freed += c->in_length;
      c->in_length = 0;
      if (!c->tty) close_fd(&c->in);
      break;
    }
    c->in_start += n;
    c->in_length -= n;
    c->in_freed += n;
  }
  if (c->in_length == 0) c->in_start = 0;
  /* A terminal has no end of file, only a key that means it. */
  if (c->in_eof && c->in_length == 0 && c->in >= 0) {
    if (c->tty) {
      ssize_t ignored = write(c->in, "\x04", 1);
      (void)ignored;
      c->in_eof = 0;
    } else close_fd(&c->in);
  }
  if (c->in_freed >= WINDOW / 4 || (c->in_freed && !c->in_length)) {
    send_pair(c->id, STDIN_CREDIT, c->in_freed, 0);
    c->in_freed = 0;
  }
}

/* Moves what there is from one of the command's outputs to the port. Gives 1 when the pipe is empty for good. */
static int read_output(struct command *c, int *fd, uint32_t *credit, uint32_t type) {
  while (*fd >= 0 && *credit && has_room()) {
    uint32_t want = *credit < MAX_FRAME ? *credit : MAX_FRAME;
    uint8_t *p = frame(c->id, type, want);
    ssize_t n = read(*fd, p, want);
    if (n <= 0) out_length -= HEADER + want;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return c->exited && !c->tty; /* a terminal's output trails behind; it ends in EIO */
    if (n <= 0) {
      close_fd(fd);
      return 1;
    }
    out_length -= want - n;
    put32(p - 4, n);
    *credit -= n;
    flush_port();
  }
  return *fd < 0;
}

static void reap(void) {
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
    for (int i = 0; i < MAX_COMMANDS; i++)
      if (commands[i].pid == pid) {
        commands[i].exited = 1;
        commands[i].status = status;
      }
}

static void serve(struct command *c) {
  write_input(c);
  int out_done = read_output(c, &c->out, &c->out_credit, STDOUT);
  int err_done = read_output(c, &c->err, &c->err_credit, STDERR);
  if (!c->exited || !out_done || !err_done) return;
  send_pair(c->id, EXIT, WIFEXITED(c->status) ? WEXITSTATUS(c->status) : 0, WIFSIGNALED(c->status) ? WTERMSIG(c->status) : 0);
  release(c);
}

/* Frames from the host ------------------------------------------------------------------------------------------ */

static void handle(uint32_t id, uint32_t type, uint8_t *payload, uint32_t length) {
  if (type == START) return start(id, payload, length);
  if (type == SHUTDOWN) power_off("asked to");
  if (type == PING) return send_pair(0, PONG, 0, 0);
  struct command *c = find(id);
  if (!c) return; /* it ended while the frame was under way */
  if (type == STDIN) return push_input(c, payload, length);
  if (length < 8) return;
  uint32_t a = get32(payload), b = get32(payload + 4);
  if (type == KILL) kill_command(c, a);
  if (type == CREDIT && a == STDOUT) c->out_credit += b;
  if (type == CREDIT && a == STDERR) c->err_credit += b;
  if (type == RESIZE && c->tty) {
    struct winsize window = {.ws_row = a, .ws_col = b};
    ioctl(c->in, TIOCSWINSZ, &window);
  }
}

static void read_port(void) {
  ssize_t n = read(port, in_buffer + in_length, sizeof in_buffer - in_length);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) power_off(n == 0 ? "the port has ended" : "the port cannot be read");
  in_length += n;
  uint32_t at = 0;
  while (in_length - at >= HEADER) {
    uint8_t *p = in_buffer + at;
    uint32_t length = get32(p + 8);
    if (length > MAX_FRAME) power_off("a frame is too long");
    if (in_length - at < HEADER + length) break;
    handle(get32(p), get32(p + 4), p + HEADER, length);
    at += HEADER + length;
  }
  in_length -= at;
  memmove(in_buffer, in_buffer + at, in_length);
}

static void watch(struct pollfd *fds, int *count, int fd, short events) {
  if (fd >= 0) fds[(*count)++] = (struct pollfd){.fd = fd, .events = events};
}

/*
 * Keeps a VM with one processor that never runs, for as long as the lab lives.
 *
 * The kernel patches its own code, also that of the scheduler, when the first VM and the first local APIC come into use, and
 * when the last have gone: six times for each guest. QEMU's software processors now and then go on with what was there in between, a breakpoint,
 * for ever: docs/decisions/0021-a-vm-that-is-always-there.md. Failing is no harm.
 */
static void keep_vm(void) {
  int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  int vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
  if (vm < 0 || ioctl(vm, KVM_CREATE_IRQCHIP, 0) < 0 || ioctl(vm, KVM_CREATE_VCPU, 0) < 0)
    fprintf(stderr, "lab agent: no VM to keep (%s)\n", strerror(errno));
}

/* Time of the host ---------------------------------------------------------------------------------------------- */

struct moment {
  uint64_t tsc, ns;
};

/* The time stamp counter and the clock at the same moment: of some tries, the one that was interrupted the least. */
static struct moment now(void) {
  struct moment best = {0, 0};
  for (uint64_t tries = 0, least = UINT64_MAX; tries < 64; tries++) {
    struct timespec t;
    uint64_t before = __builtin_ia32_rdtsc();
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    uint64_t gap = __builtin_ia32_rdtsc() - before;
    if (gap >= least) continue;
    least = gap;
    best = (struct moment){before + gap / 2, t.tv_sec * UINT64_C(1000000000) + t.tv_nsec};
  }
  return best;
}

/* Prints the frequency of the host's time stamp counter, which is the lab's, in kHz. */
static int print_tsc_khz(void) {
  struct moment begin = now();
  usleep(20000);
  struct moment end = now();
  return printf("%.0f\n", (end.tsc - begin.tsc) * 1e6 / (end.ns - begin.ns)) < 0;
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "--tsc-khz") == 0) return print_tsc_khz();
  static struct pollfd fds[2 + 3 * MAX_COMMANDS];
  struct rlimit files = {65536, 65536};
  setrlimit(RLIMIT_NOFILE, &files);
  write_file("/proc/self/oom_score_adj", "-1000");
  signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigprocmask(SIG_BLOCK, &set, NULL);
  int children = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  port = argc > 1 ? open(argv[1], O_RDWR | O_NONBLOCK | O_CLOEXEC) : -1;
  if (port < 0) {
    power_off("no port");
  }
  keep_vm();
  send_pair(0, READY, VERSION, WINDOW);

  for (;;) {
    int count = 0;
    flush_port();
    watch(fds, &count, children, POLLIN);
    watch(fds, &count, port, POLLIN | (out_length ? POLLOUT : 0));
    for (int i = 0; i < MAX_COMMANDS; i++) {
      struct command *c = &commands[i];
      if (!c->pid) continue;
      if (c->in_length) watch(fds, &count, c->in, POLLOUT);
      if (c->out_credit && has_room()) watch(fds, &count, c->out, POLLIN);
      if (c->err_credit && has_room()) watch(fds, &count, c->err, POLLIN);
    }
    if (poll(fds, count, -1) < 0) continue;
    if (fds[0].revents) {
      struct signalfd_siginfo info;
      while (read(children, &info, sizeof info) > 0) continue;
      reap();
    }
    if (fds[1].revents & (POLLHUP | POLLERR)) power_off("the host has closed the port");
    if (fds[1].revents & POLLIN) read_port();
    for (int i = 0; i < MAX_COMMANDS; i++)
      if (commands[i].pid) serve(&commands[i]);
  }
}
