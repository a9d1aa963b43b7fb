/**
 * Lets the event loop turn until `done` returns true. Rejects with `what` after `timeoutMs` (a guard against a hanging
 * test, not an assertion about time).
 */
export async function until(done: () => boolean, what: string, timeoutMs = 10_000): Promise<void> {
  const deadline = performance.now() + timeoutMs
  for (let turn = 0; !done(); turn++) {
    if (performance.now() > deadline) throw new Error(`waited ${timeoutMs} ms for ${what}`)
    // The first turns cost nothing; later ones leave the processor to the threads that are being waited for.
    if (turn < 50) await new Promise((resolve) => setImmediate(resolve))
    else await new Promise((resolve) => setTimeout(resolve, 1))
  }
}
