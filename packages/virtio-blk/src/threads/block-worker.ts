// What a thread of a disk runs. A file of its own, beside the module that starts it: see thread.ts.
import { parentPort, workerData } from "node:worker_threads"
import { DiskThread } from "./disk-thread.js"
import type { CommandMessage, ThreadMessage, ThreadSetup } from "./messages.js"
import { plainError } from "./plain-error.js"

const port = parentPort!
const tell = (message: ThreadMessage) => port.postMessage(message)

try {
  const disk = await DiskThread.open(workerData as ThreadSetup, (reason) =>
    tell({ kind: "needsReset", reason }),
  )
  port.on("message", (message: CommandMessage) => {
    const { id, command } = message
    if (id === 0) disk.handle(command)
    else void answer(disk, message)
  })
  tell({ kind: "ready", info: disk.info })
} catch (error) {
  tell({ kind: "failed", error: plainError(error) })
}

async function answer(disk: DiskThread, { id, command }: CommandMessage): Promise<void> {
  let value: number | undefined
  let error: unknown
  try {
    value = (await disk.handle(command)) ?? undefined
  } catch (reason) {
    error = reason
  }
  tell({ kind: "done", id, value, error: error === undefined ? undefined : plainError(error) })
  // Nothing of the disk is open any more; the port would keep the thread.
  if (command.kind === "close") port.close()
}
