import type { SharedMemory } from "@virtkit/memory"
import type { BlockBackendInfo } from "../backend.js"
import type { FileBackendOptions, OpenedFile } from "../backends/file.js"
import type { Qcow2Options } from "../backends/qcow2/index.js"
import type { DiskOptions } from "../device.js"
import type { BlockLimits } from "../limits.js"
import type { PlainError } from "./plain-error.js"

/** Where a thread finds the data of the disk: a raw image is open already, once for all threads. */
export type DiskSource =
  | { readonly format: "raw"; readonly file: OpenedFile; readonly options: FileBackendOptions }
  | { readonly format: "qcow2"; readonly options: Qcow2Options }

/** A queue that a thread has for its life. The eventfds are the main thread's to close. */
export interface QueueOfThread {
  readonly index: number
  /** The driver made buffers available. */
  readonly kick: number
  /** Buffers were used, and the driver wants to know. */
  readonly call: number
}

/** What a thread starts with. Plain data, as all that follows. */
export interface ThreadSetup {
  readonly disk: DiskOptions
  readonly source: DiskSource
  /** Which of its threads it is, from 0. */
  readonly thread: number
  readonly threads: number
  readonly queues: readonly QueueOfThread[]
  readonly counters: SharedArrayBuffer
  readonly limit: SharedArrayBuffer
}

/** Where the driver placed a queue. */
export interface QueuePlace {
  readonly index: number
  readonly size: number
  readonly desc: number
  readonly avail: number
  readonly used: number
}

export type Command =
  | {
      readonly kind: "activate"
      readonly memory: SharedMemory
      readonly features: bigint
      readonly writeback: number
      /** Those of the thread's queues that the driver enabled. */
      readonly queues: readonly QueuePlace[]
    }
  | { readonly kind: "reset" }
  | { readonly kind: "startQueue"; readonly queue: QueuePlace }
  | { readonly kind: "resetQueue"; readonly index: number }
  | { readonly kind: "writeConfig"; readonly offset: number; readonly data: Uint8Array }
  | { readonly kind: "resize"; readonly size: number | undefined }
  | { readonly kind: "setLimits"; readonly limits: BlockLimits | undefined }
  | { readonly kind: "close" }

/** `id` 0: nobody waits for an answer, and what goes wrong is the end of the thread. */
export interface CommandMessage {
  readonly id: number
  readonly command: Command
}

export type ThreadMessage =
  | { readonly kind: "ready"; readonly info: BlockBackendInfo }
  | { readonly kind: "failed"; readonly error: PlainError }
  /** `value`: after "resize", the bytes of the disk. */
  | {
      readonly kind: "done"
      readonly id: number
      readonly value: number | undefined
      readonly error: PlainError | undefined
    }
  | { readonly kind: "needsReset"; readonly reason: string }
