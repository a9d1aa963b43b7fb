/**
 * A shorter and plainer input that still fails: pieces are taken out, half of what is left at first and single bytes at
 * last, then bytes become 0. `fails` is called at most `attempts` times.
 */
export async function minimise(
  input: Uint8Array,
  fails: (input: Uint8Array) => boolean | Promise<boolean>,
  attempts: number,
): Promise<Uint8Array> {
  let best = input
  let left = attempts
  const better = async (candidate: Uint8Array): Promise<boolean> => {
    if (left-- <= 0 || !(await fails(candidate))) return false
    best = candidate
    return true
  }
  for (let size = Math.ceil(best.length / 2); size >= 1 && left > 0; ) {
    let shorter = false
    for (let at = 0; at < best.length && left > 0; ) {
      if (await better(without(best, at, size))) shorter = true
      else at += size
    }
    if (size === 1 && !shorter) break
    size = Math.max(1, Math.floor(size / 2))
  }
  for (let at = 0; at < best.length && left > 0; at++) {
    if (best[at] !== 0) await better(best.with(at, 0))
  }
  return best
}

function without(bytes: Uint8Array, at: number, count: number): Uint8Array {
  const end = Math.min(bytes.length, at + count)
  const result = new Uint8Array(bytes.length - (end - at))
  result.set(bytes.subarray(0, at))
  result.set(bytes.subarray(end), at)
  return result
}
