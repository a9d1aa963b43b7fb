/**
 * Kernel structures as tables: a {@link Layout} knows size, alignment and how to read and write a typed object at an
 * offset. Fields follow each other with C's natural alignment for x86-64; a test compares all sizes with the kernel
 * headers that the addon was compiled with.
 */
export interface Layout<T> {
  /** Bytes, a multiple of `align`. */
  readonly size: number
  readonly align: number
  read(view: DataView, offset: number): T
  write(view: DataView, offset: number, value: T): void
}

function scalar<T>(
  size: number,
  read: (view: DataView, offset: number) => T,
  write: (view: DataView, offset: number, value: T) => void,
): Layout<T> {
  return { size, align: size, read, write }
}

export const u8: Layout<number> = scalar(
  1,
  (v, o) => v.getUint8(o),
  (v, o, x) => v.setUint8(o, x),
)
export const u16: Layout<number> = scalar(
  2,
  (v, o) => v.getUint16(o, true),
  (v, o, x) => v.setUint16(o, x, true),
)
export const u32: Layout<number> = scalar(
  4,
  (v, o) => v.getUint32(o, true),
  (v, o, x) => v.setUint32(o, x, true),
)
export const u64: Layout<bigint> = scalar(
  8,
  (v, o) => v.getBigUint64(o, true),
  (v, o, x) => v.setBigUint64(o, x, true),
)
export const i64: Layout<bigint> = scalar(
  8,
  (v, o) => v.getBigInt64(o, true),
  (v, o, x) => v.setBigInt64(o, x, true),
)

/** A byte that is 0 or 1. */
export const flag: Layout<boolean> = scalar(
  1,
  (v, o) => v.getUint8(o) !== 0,
  (v, o, x) => v.setUint8(o, x ? 1 : 0),
)

/** `length` opaque bytes, copied. Shorter values are filled up with zeros, longer ones refused. */
export function bytes(length: number): Layout<Uint8Array> {
  return {
    size: length,
    align: 1,
    read: (view, offset) =>
      new Uint8Array(view.buffer.slice(view.byteOffset + offset, view.byteOffset + offset + length)),
    write(view, offset, value) {
      if (value.length > length) throw new RangeError(`${value.length} bytes in a field of ${length}`)
      const target = new Uint8Array(view.buffer, view.byteOffset + offset, length)
      target.fill(0)
      target.set(value)
    },
  }
}

/** `length` bytes that mean nothing: not in the object, written as zeros. */
export function reserved(length: number): Layout<undefined> {
  return { size: length, align: 1, read: () => undefined, write: () => {} }
}

export function array<T>(element: Layout<T>, length: number): Layout<readonly T[]> {
  return {
    size: element.size * length,
    align: element.align,
    read: (view, offset) => Array.from({ length }, (_, i) => element.read(view, offset + i * element.size)),
    write(view, offset, values) {
      if (values.length !== length) throw new RangeError(`${values.length} elements in an array of ${length}`)
      for (let i = 0; i < length; i++) element.write(view, offset + i * element.size, values[i]!)
    },
  }
}

type Fields<T> = { readonly [K in keyof T]-?: Layout<T[K]> }
/** Keys that begin with an underscore are padding. */
type Padding = { readonly [key: `_${string}`]: Layout<undefined> }

/** A structure of `fields`, in their order. */
export function struct<T>(fields: Fields<T> & Padding): Layout<T> {
  const entries: { key: string; layout: Layout<unknown>; offset: number }[] = []
  let end = 0
  let align = 1
  for (const [key, value] of Object.entries(fields)) {
    const layout = value as Layout<unknown>
    end = roundUp(end, layout.align)
    entries.push({ key, layout, offset: end })
    end += layout.size
    align = Math.max(align, layout.align)
  }
  const kept = entries.filter((entry) => !entry.key.startsWith("_"))
  return {
    size: roundUp(end, align),
    align,
    read(view, offset) {
      const object: Record<string, unknown> = {}
      for (const entry of kept) object[entry.key] = entry.layout.read(view, offset + entry.offset)
      return object as T
    },
    write(view, offset, value) {
      const object = value as Record<string, unknown>
      for (const entry of kept) entry.layout.write(view, offset + entry.offset, object[entry.key])
    },
  }
}

function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple
}

/** The structure in a buffer of its own. */
export function encode<T>(layout: Layout<T>, value: T): DataView {
  const view = new DataView(new ArrayBuffer(layout.size))
  layout.write(view, 0, value)
  return view
}

/** An empty buffer for the kernel to fill. */
export function blank(layout: Layout<unknown>): DataView {
  return new DataView(new ArrayBuffer(layout.size))
}

/** A header and a list of entries, as the variable-length structures are: a 32-bit count first. */
export function encodeList<T>(
  headerSize: number,
  element: Layout<T>,
  values: readonly T[],
  room: number = values.length,
): DataView {
  const view = new DataView(new ArrayBuffer(headerSize + element.size * room))
  view.setUint32(0, room, true)
  values.forEach((value, i) => {
    element.write(view, headerSize + i * element.size, value)
  })
  return view
}

/** The entries of such a list, as many as its count says. */
export function decodeList<T>(headerSize: number, element: Layout<T>, view: DataView): T[] {
  const count = view.getUint32(0, true)
  return Array.from({ length: count }, (_, i) => element.read(view, headerSize + i * element.size))
}
