import type { Readable } from "node:stream"

/**
 * Shows `listen` everything that a readable stream delivers without being a reader of it: back-pressure and the choice
 * of who reads stay with the stream's user, which an additional "data" listener would take away.
 */
export function tapOutput(stream: Readable, listen: (chunk: Uint8Array) => void): void {
  const push = stream.push.bind(stream)
  stream.push = (chunk: unknown, encoding?: BufferEncoding) => {
    if (chunk instanceof Uint8Array) listen(chunk)
    return push(chunk, encoding)
  }
}

/** Reads and discards, unless somebody reads already: a guest must not stop because nobody wants its output. */
export function discardUnread(stream: Readable): void {
  if (stream.readableFlowing === null && stream.listenerCount("readable") === 0) stream.resume()
}
