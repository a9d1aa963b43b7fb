import { memfdCreate } from "@virtkit/native"
import { VhostUserError } from "./error.js"
import { type InflightQueue, inflightBytes, inflightQueue } from "./inflight.js"
import { PackedInflight, packedRegionBytes } from "./inflight-packed.js"
import type { InflightDescription } from "./payload.js"
import { type MappedFile, mapFile } from "./shared-file.js"

/** The memory in which a connection writes down what is in flight; the front end keeps it when this process dies. */
export class InflightRegion {
  readonly #mapped: MappedFile
  readonly #description: InflightDescription

  /** GET_INFLIGHT_FD: new memory for so many queues of that size. The caller sends the descriptor and closes it. */
  static create({ numQueues, queueSize }: InflightDescription): { fd: number; size: number } {
    // Which kind of ring there will be may not be known yet.
    const size = Math.max(inflightBytes({ numQueues, queueSize }), numQueues * packedRegionBytes(queueSize))
    return { fd: memfdCreate("virtkit-inflight", size), size }
  }

  /** SET_INFLIGHT_FD: memory that the front end kept. Closes nothing. Throws {@link VhostUserError}. */
  constructor(description: InflightDescription, fd: number) {
    const needed = inflightBytes(description)
    if (description.size < needed) {
      throw new VhostUserError(`SET_INFLIGHT_FD: ${description.size} bytes, ${needed} are needed`)
    }
    this.#description = description
    const most = InflightRegion.#packedBytes(description)
    this.#mapped = mapFile(fd, description.offset, Math.min(most, description.size), "SET_INFLIGHT_FD")
  }

  static #packedBytes({ numQueues, queueSize }: InflightDescription): number {
    return numQueues * packedRegionBytes(queueSize)
  }

  /** Undefined when there is no room for that queue. Throws {@link VhostUserError} when the memory was made for split rings. */
  packed(index: number): PackedInflight | undefined {
    const { buffer, byteOffset, size } = this.#mapped
    const { numQueues, queueSize } = this.#description
    if (index >= numQueues) return undefined
    const needed = InflightRegion.#packedBytes(this.#description)
    if (size < needed) throw new VhostUserError(`SET_INFLIGHT_FD: ${size} bytes, packed rings need ${needed}`)
    const bytes = packedRegionBytes(queueSize)
    return new PackedInflight(new Uint8Array(buffer, byteOffset + index * bytes, bytes), queueSize)
  }

  split(index: number): InflightQueue | undefined {
    const { buffer, byteOffset, size } = this.#mapped
    return inflightQueue(new Uint8Array(buffer, byteOffset, size), this.#description, index)
  }

  close(): void {
    this.#mapped.release()
  }
}
