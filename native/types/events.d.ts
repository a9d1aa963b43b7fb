/** A non-blocking, close-on-exec eventfd. Closed by `close`, or when the object is collected. */
export declare class EventFd {
  /**
   * `fd`: one that another process made and sent; it is taken over, its flags stay as they are, and no call ever waits on it.
   * Throws, and takes nothing, when it is no eventfd. `borrowed`: somebody else closes it, another thread of this process
   * say, and not before this object is closed. Default false.
   */
  constructor(fd?: number, borrowed?: boolean)
  /** The descriptor, -1 once closed. */
  readonly fd: number
  /** Adds one to the counter, which wakes whoever waits. Nothing happens once closed. */
  signal(): void
  /** Sets the counter to zero; whether it was above. */
  clear(): boolean
  /**
   * Blocks this thread until the eventfd is signalled, for `milliseconds` at most (-1: without end); whether it was signalled
   * since the last wait. The counter stays as it is. For threads that do nothing else.
   */
  wait(milliseconds: number): boolean
  /** Idempotent. */
  close(): void
}

/**
 * Watches any number of descriptors from the event loop of the thread that made it.
 *
 * Edge-triggered: a descriptor is reported once for each time that it becomes readable or is signalled again, whether or
 * not anybody read from it; reports of one descriptor may merge. Descriptors that were ready when they were added are
 * reported. The poller never reads from a descriptor and never changes its flags.
 *
 * All pollers of a thread share one epoll descriptor, at which they look again, up to 16 times, before the event loop has
 * its turn.
 */
export declare class Poller {
  /**
   * `onReady(count)` is called with the first `count` entries of `tokens` set, at most 64 a call. A token that was removed
   * by an earlier one of the same batch may still follow. What it throws is an uncaught exception.
   */
  constructor(onReady: (count: number) => void)
  /** Overwritten before every call of `onReady`. */
  readonly tokens: Uint32Array
  /**
   * Throws with `code` EEXIST when `fd` is a member already, of this poller or another one of the thread, EPERM when it is of a
   * kind that cannot be watched.
   */
  add(fd: number, token: number): void
  /** Nothing of that member is reported any more but errors and hang-ups. Throws with `code` ENOENT when it is none. */
  pause(fd: number, token: number): void
  /** It is reported again, and at once if it is readable. */
  resume(fd: number, token: number): void
  /** Call it before the descriptor is closed. Descriptors that are no members are ignored. */
  remove(fd: number): void
  /** Whether it keeps the process alive; it does at first. */
  ref(): void
  unref(): void
  /** Members are left open. Idempotent. An open poller is never collected. */
  close(): void
}
