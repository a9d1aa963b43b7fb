import type { ExternalQueue } from "@virtkit/interface"
import { EventFd, Poller } from "@virtkit/native"

/** The eventfds of one queue. */
interface EventsOfQueue {
  /** The driver made buffers available: the thread waits for it. */
  readonly kick: EventFd
  /** The thread has used some: the kernel interrupts the guest, or this thread does. */
  readonly call: EventFd
}

/** The eventfds between a driver and the threads that work on its queues, for the life of the device. */
export class QueueEvents {
  readonly queues: readonly EventsOfQueue[]
  readonly #poller: Poller
  /** By queue, that of the driver that is there. */
  readonly #connected: (ExternalQueue | undefined)[]
  /** By queue: this thread looks at its call. */
  readonly #watched: boolean[]

  constructor(queues: number) {
    this.queues = Array.from({ length: queues }, () => ({ kick: new EventFd(), call: new EventFd() }))
    this.#connected = this.queues.map(() => undefined)
    this.#watched = this.queues.map(() => false)
    this.#poller = new Poller((count) => this.#ready(count))
    // What keeps the process alive is the VM that runs.
    this.#poller.unref()
  }

  /** Calls are interrupts of that queue from now on. */
  connect(index: number, queue: ExternalQueue): void {
    const { call } = this.queues[index]!
    // Signals for the queue of before.
    call.clear()
    this.#connected[index] = queue
    this.#watch(index, true)
    queue.connect(call.fd, (direct) => {
      if (this.#connected[index] === queue) this.#watch(index, !direct)
    })
  }

  /** Calls are nothing from now on. */
  disconnect(index: number): void {
    this.#connected[index] = undefined
    this.#watch(index, false)
  }

  kick(index: number): void {
    this.queues[index]!.kick.signal()
  }

  close(): void {
    for (const index of this.queues.keys()) this.disconnect(index)
    this.#poller.close()
    for (const { kick, call } of this.queues) {
      kick.close()
      call.close()
    }
  }

  #watch(index: number, on: boolean): void {
    if (this.#watched[index] === on) return
    this.#watched[index] = on
    const { fd } = this.queues[index]!.call
    // One that is added is reported if it was signalled before.
    if (on) this.#poller.add(fd, index)
    else this.#poller.remove(fd)
  }

  #ready(count: number): void {
    const { tokens } = this.#poller
    for (let i = 0; i < count; i++) {
      const index = tokens[i]!
      if (this.#watched[index] && this.queues[index]!.call.clear()) this.#connected[index]?.interrupt()
    }
  }
}
