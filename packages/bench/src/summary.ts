export interface Summary {
  readonly median: number
  readonly min: number
  readonly max: number
  readonly runs: number
}

export function summarize(values: readonly number[]): Summary {
  if (values.length === 0) throw new RangeError("no values to summarize")
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const median = sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
  return { median, min: sorted[0]!, max: sorted.at(-1)!, runs: sorted.length }
}

/**
 * Runs the contestants in turn, A B A B ..., so that a machine whose speed drifts is fair to both; one round first that
 * does not count.
 */
export async function interleave<T extends string>(
  contestants: Readonly<Record<T, () => number | Promise<number>>>,
  runs: number,
): Promise<Record<T, Summary>> {
  const names = Object.keys(contestants) as T[]
  const values = Object.fromEntries(names.map((name) => [name, []])) as unknown as Record<T, number[]>
  for (let run = -1; run < runs; run++) {
    for (const name of names) {
      const value = await contestants[name]()
      if (run >= 0) values[name].push(value)
    }
  }
  return Object.fromEntries(names.map((name) => [name, summarize(values[name])])) as Record<T, Summary>
}
