import { memfdCreate } from "@virtkit/native"
import { VhostUserError } from "./error.js"
import { type InflightQueue, inflightBytes, inflightQueue } from "./inflight.js"
import type { InflightDescription } from "./payload.js"
import { type MappedFile, mapFile } from "./shared-file.js"

/** The memory in which a connection writes down what is in flight; the front end keeps it when this process dies. */
export class InflightRegion {
  readonly #mapped: MappedFile
  readonly #description: InflightDescription

  /** GET_INFLIGHT_FD: new memory for so many queues of that size. The caller sends the descriptor and closes it. */
  static create({ numQueues, queueSize }: InflightDescription): { fd: number; size: number } {
    const size = inflightBytes({ numQueues, queueSize })
    return { fd: memfdCreate("virtkit-inflight", size), size }
  }

  /** SET_INFLIGHT_FD: memory that the front end kept. Closes nothing. Throws {@link VhostUserError}. */
  constructor(description: InflightDescription, fd: number) {
    const needed = inflightBytes(description)
    if (description.size < needed) {
      throw new VhostUserError(`SET_INFLIGHT_FD: ${description.size} bytes, ${needed} are needed`)
    }
    this.#description = description
    this.#mapped = mapFile(fd, description.offset, needed, "SET_INFLIGHT_FD")
  }

  queue(index: number): InflightQueue | undefined {
    const { buffer, byteOffset, size } = this.#mapped
    return inflightQueue(new Uint8Array(buffer, byteOffset, size), this.#description, index)
  }

  close(): void {
    this.#mapped.release()
  }
}
