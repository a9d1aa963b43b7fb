import type { QueueState } from "@virtkit/virtqueue"

/** States that disagree with themselves, or with a queue of size 8: made of one with two chains in flight. */
export function wrongStates(
  state: unknown,
  { packed, inOrder }: { packed: boolean; inOrder: boolean },
): unknown[] {
  const good = state as QueueState
  const [one, two] = [good.inFlight[0]!, good.inFlight[1]!]
  const first = (change: object): object => ({ ...good, inFlight: [{ ...one, ...change }, two] })
  const place = { address: 4096, length: 1 }
  return [
    { ...good, version: 2 },
    { ...good, ring: packed ? "split" : "packed" },
    { ...good, inOrder: !inOrder },
    { ...good, size: 16 },
    { ...good, desc: 0 },
    { ...good, avail: 0 },
    { ...good, used: 0 },
    { ...good, nextAvail: 65536 },
    { ...good, nextAvail: good.nextAvail + 1 },
    { ...good, nextUsed: -1 },
    { ...good, nextUsed: 0.5 },
    { ...good, nextUsed: good.nextAvail },
    { ...good, broken: 1 },
    { ...good, inFlight: "0" },
    { ...good, inFlight: [] },
    { ...good, inFlight: [one] },
    { ...good, inFlight: [one, null] },
    { ...good, inFlight: new Array(9).fill(one) },
    first({ id: packed ? 65536 : 8 }),
    first({ id: -1 }),
    first({ slots: 0 }),
    first({ slots: 3 }),
    first({ slots: 9 }),
    first({ readable: 3 }),
    { ...good, inFlight: [3, two] },
    first({ buffers: [place, 3] }),
    first({
      buffers: [
        { address: 0, length: 2 ** 32 - 1 },
        { address: 0, length: 2 },
      ],
    }),
    first({ buffers: {} }),
    first({ buffers: [place, null] }),
    first({ buffers: [place, { address: 4096, length: 0 }] }),
    first({ buffers: [place, { address: 2 ** 53, length: 1 }] }),
    first({ buffers: [place, { address: 2 ** 40, length: 1 }] }),
    first({ buffers: [place, { address: 4096, length: 2 ** 32 }] }),
    first({ buffers: new Array(9).fill(place) }),
    first({ whole: 1 }),
    first({ written: -1 }),
    first({ written: 2 ** 32 }),
    ...(inOrder ? [] : [first({ written: 1 })]),
    ...(packed
      ? [
          { ...good, nextAvail: 0x8000 | 8 },
          { ...good, nextUsed: 0x8000 | 8 },
          { ...good, nextAvail: 0x8000 | 12, nextUsed: 0x8000 | 8 },
          { ...good, nextAvail: 3, nextUsed: 0x8000 | 7, inFlight: [one] },
          { ...good, nextUsed: good.nextUsed & 0x7fff },
        ]
      : [first({ id: two.id })]),
  ]
}
