import * as protocol from "./constants.js"
import { DirtyLog } from "./dirty-log.js"
import { FrontEndMemory } from "./guest-memory.js"
import type { Handlers } from "./handler.js"
import { type Reply, type Request, u64 } from "./message.js"
import * as payload from "./payload.js"
import { type MappedFile, mapFile } from "./shared-file.js"

/** What requests about memory need of whoever runs the queues. */
export interface MemoryUser {
  /** Features of SET_FEATURES. */
  features(): bigint
  /** Stops the rings that run, changes what is under them, and has them go on. */
  paused(change: () => void): Promise<void>
}

/** The requests about guest memory and its log. */
export class MemoryRequests {
  readonly memory: FrontEndMemory
  readonly handlers: Handlers
  readonly #user: MemoryUser
  #log: MappedFile | undefined

  constructor(user: MemoryUser) {
    this.#user = user
    this.memory = new FrontEndMemory((region, fd) => ({
      guestAddress: region.guestAddress,
      ...mapFile(fd, region.fileOffset, region.size, "memory table"),
    }))
    this.handlers = [
      [protocol.VHOST_USER_SET_MEM_TABLE, (request) => this.#setMemoryTable(request)],
      [protocol.VHOST_USER_GET_MAX_MEM_SLOTS, () => ({ payload: u64(BigInt(protocol.MAX_MEM_SLOTS)) })],
      [protocol.VHOST_USER_ADD_MEM_REG, (request) => this.#addRegion(request)],
      [protocol.VHOST_USER_REM_MEM_REG, (request) => this.#removeRegion(request)],
      [protocol.VHOST_USER_SET_LOG_BASE, (request) => this.#setLogBase(request)],
      // It would be signalled when the log was written to; front ends look at the log when they want to know.
      [protocol.VHOST_USER_SET_LOG_FD, () => undefined],
    ]
  }

  close(): void {
    this.#setLog(undefined)
    this.memory.close()
  }

  async #setMemoryTable(request: Request): Promise<undefined> {
    const regions = payload.parseMemoryTable(request)
    await this.#user.paused(() => this.memory.replace(regions, request.fds))
  }

  /** Queues know the regions of when they were made, so they are made again. */
  async #addRegion(request: Request): Promise<undefined> {
    const region = payload.parseSingleRegion(request)
    const add = () => this.memory.add(region, request.fds[0]!)
    if (this.memory.has(region)) add()
    else await this.#user.paused(add)
  }

  async #removeRegion(request: Request): Promise<undefined> {
    const region = payload.parseSingleRegion(request)
    if (this.memory.isLastUse(region)) await this.#user.paused(() => this.memory.remove(region))
    else this.memory.remove(region)
  }

  #setLogBase(request: Request): Reply {
    const { size, offset } = payload.parseLogBase(request)
    this.#setLog(mapFile(request.fds[0]!, offset, size, "SET_LOG_BASE"))
    return { payload: u64(0n) }
  }

  #setLog(log: MappedFile | undefined): void {
    this.#log?.release()
    this.#log = log
    this.chooseLog()
  }

  /** The features have changed, which say whether writes are logged. */
  chooseLog(): void {
    const log = this.#log
    const wanted = (this.#user.features() & protocol.VHOST_F_LOG_ALL) !== 0n
    this.memory.log =
      wanted && log !== undefined
        ? new DirtyLog(new Uint8Array(log.buffer, log.byteOffset, log.size))
        : undefined
  }
}
