import { spawnSync } from "node:child_process"
import { mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { loadKernel, unpackKernel } from "@virtkit/boot"
import fc from "fast-check"
import { afterAll, describe, expect, it } from "vitest"
import { BZ_KERNEL_OFFSET, bzImage, elf, MIB, pattern, ram, readBytes, rejection, same } from "./images.js"
import { packLz4 } from "./lz4.js"

const vmlinux = elf({
  segments: [{ address: 2 * MIB, data: pattern(70_000, 6), memorySize: 100_000 }],
  entry: 2 * MIB,
  pvhEntry: 2 * MIB,
})

function tool(command: string, ...args: string[]): (data: Uint8Array) => Uint8Array {
  return (data) => {
    const { status, stdout, error } = spawnSync(command, args, { input: data, maxBuffer: 64 * MIB })
    if (status !== 0) throw new Error(`${command}: ${error?.message ?? `exit status ${status}`}`)
    return stdout
  }
}

/** As the kernel's build does: packed, and the size in 4 bytes behind it. */
function payload(
  pack: (data: Uint8Array) => Uint8Array,
  data: Uint8Array = vmlinux,
  claim = data.length,
): Uint8Array {
  const size = Buffer.alloc(4)
  size.writeUInt32LE(claim)
  return Buffer.concat([pack(data), size])
}

/** gzip ends with the size by itself. */
const gzipped = gzipSync(vmlinux)

describe("the kernel in a bzImage", () => {
  it.each<[string, Uint8Array]>([
    ["gzip", gzipped],
    ["lz4", payload(packLz4)],
    ["lz4 by the kernel's own command", payload(tool("lz4", "-l", "-9", "-c"))],
    ["zstd", payload(tool("zstd", "-19", "-c"))],
    ["xz", payload(tool("xz", "--check=crc32", "--x86", "--lzma2=dict=1MiB", "-c"))],
    ["lzma", payload(tool("xz", "--format=lzma", "-c"))],
  ])("is unpacked from %s and started by the Linux protocol", async (_, packed) => {
    const memory = ram()
    const kernel = bzImage({ payload: packed, fields: [[0x238, 4, 100]] })
    const { bytes, path } = await unpackKernel(kernel)
    expect(same(bytes, vmlinux)).toBe(true)
    expect(path).toBeUndefined()
    const loaded = await loadKernel({ memory, kernel, cmdline: "quiet" })
    expect(loaded).toMatchObject({ kind: "vmlinux", entry: 2 * MIB, unpacked: { from: "payload" } })
    expect(same(readBytes(memory, 2 * MIB, 70_000), vmlinux.subarray(4096, 74_096))).toBe(true)
    // boot_params still has the bzImage's own header.
    expect(memory.readUint16(0x7206)).toBe(0x020f)
    expect(memory.readUint32(0x7238)).toBe(100)
  })

  it.each<[string, Uint8Array, RegExp]>([
    ["has no payload", new Uint8Array(8), /has no payload/],
    ["is not an ELF image", payload(packLz4, pattern(5000, 1)), /not a 64-bit ELF|ELF/],
    ["is damaged gzip", Buffer.from(gzipped).fill(0xff, 100, 200), /./],
    ["is damaged zstd", payload(tool("zstd", "-c")).fill(0xff, 100, 200), /zstd|ZSTD|Data|checksum|corrupt/i],
    [
      "is damaged xz",
      payload(tool("xz", "-c")).fill(0xff, 100, 200),
      /xz could not unpack the kernel: exit status/,
    ],
    ["is shorter than it says", payload(packLz4, vmlinux, 80_000), /LZ4 payload is damaged/],
    [
      "claims to be enormous",
      payload(packLz4, vmlinux, 0xffffffff),
      /unpacks to 4294967295 bytes, but it needs only/,
    ],
    [
      "is longer than it says",
      payload(tool("xz", "-c"), vmlinux, 4096),
      /there is more of it than its header says/,
    ],
  ])("is started as it is when it %s", async (_, packed, why) => {
    const loaded = await loadKernel({ memory: ram(), kernel: bzImage({ payload: packed }) })
    expect(loaded.kind).toBe("bzimage")
    expect(loaded.unpacked).toEqual({ failed: expect.stringMatching(why) })
    if (packed.length > 8 && !/ELF/.test(why.source)) {
      expect(await rejection(unpackKernel(bzImage({ payload: packed })))).toMatchObject({
        name: "KernelFormatError",
      })
    }
  })

  it("is not looked for in something else", async () => {
    expect((await rejection(unpackKernel(elf()))).message).toBe("the kernel is not a bzImage")
  })
})

describe("LZ4 legacy frames", () => {
  it("give back what was packed, whatever it is", async () => {
    const piece = fc.oneof(
      fc.uint8Array({ maxLength: 60 }),
      fc
        .tuple(fc.nat(255), fc.integer({ min: 1, max: 900 }))
        .map(([byte, count]) => new Uint8Array(count).fill(byte)),
    )
    await fc.assert(
      fc.asyncProperty(fc.array(piece, { minLength: 1, maxLength: 12 }), async (pieces) => {
        const data = Buffer.concat([...pieces, pattern(20, 1)])
        const { bytes } = await unpackKernel(bzImage({ payload: payload(packLz4, data) }))
        expect(same(bytes, data)).toBe(true)
      }),
      { numRuns: 60 },
    )
  })

  it("of several blocks are one kernel", async () => {
    const data = new Uint8Array(8 * MIB + 1000).map((_, index) => index >> 10)
    const packed = payload(tool("lz4", "-l", "-c"), data)
    const { bytes } = await unpackKernel(bzImage({ payload: packed, initSize: 16 * MIB }))
    expect(same(bytes, data)).toBe(true)
  })

  it("bad-input #32: that are damaged anywhere give an error or other bytes, never a crash", async () => {
    const packed = payload(packLz4)
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.integer({ min: 4, max: packed.length - 5 }), fc.nat(255)), {
          minLength: 1,
          maxLength: 5,
        }),
        async (changes) => {
          const copy = Uint8Array.from(packed)
          for (const [offset, value] of changes) copy[offset] = value
          const result = await unpackKernel(bzImage({ payload: copy })).catch((error: Error) => error)
          if (result instanceof Error) expect(result.name).toBe("KernelFormatError")
          else expect(result.bytes.length).toBe(vmlinux.length)
        },
      ),
      { numRuns: 60 },
    )
  })
})

describe("bad-input #32: an LZ4 block", () => {
  /** A frame of one block, and bytes behind it that are not its own. */
  function frame(block: readonly number[], claim: number, size = block.length): Uint8Array {
    const head = Buffer.alloc(8)
    head.writeUInt32LE(0x184c2102, 0)
    head.writeUInt32LE(size, 4)
    return payload(
      () => Buffer.concat([head, Uint8Array.from(block), Buffer.alloc(64)]),
      new Uint8Array(claim),
    )
  }
  const four = [1, 2, 3, 4]

  it("is unpacked when it is whole", async () => {
    // 4 literals, then 6 bytes from 2 back, then 1 literal.
    const block = [0x42, ...four, 2, 0, 0x10, 9]
    const { bytes } = await unpackKernel(bzImage({ payload: frame(block, 11) }))
    expect([...bytes]).toEqual([1, 2, 3, 4, 3, 4, 3, 4, 3, 4, 9])
  })

  it.each<[string, Uint8Array]>([
    ["reaches beyond the payload", frame([0x40, ...four], 4, 10_000)],
    ["has literals beyond its end", frame([0x50, ...four], 5)],
    ["has a literal length beyond its end", frame([0xf0], 15)],
    ["has more literals than there is room", frame([0x40, ...four], 3)],
    ["ends within a distance", frame([0x40, ...four, 1], 8)],
    ["ends within a match length", frame([0x4f, ...four, 1, 0], 40)],
    ["has a match of distance 0", frame([0x40, ...four, 0, 0], 8)],
    ["has a match before its start", frame([0x40, ...four, 5, 0], 8)],
    ["has a longer match than there is room", frame([0x42, ...four, 1, 0], 9)],
  ])("that %s is refused", async (_, packed) => {
    const error = await rejection(unpackKernel(bzImage({ payload: packed })))
    expect(error.message).toBe("the kernel: the kernel's LZ4 payload is damaged")
  })

  it("cannot reach into the block before it", async () => {
    const blocks = [
      [0x40, ...four],
      [0x10, 9, 2, 0],
    ].map((block) => [block.length, 0, 0, 0, ...block])
    const bytes = Uint8Array.from([0x02, 0x21, 0x4c, 0x18, ...blocks.flat()])
    const error = await rejection(unpackKernel(bzImage({ payload: payload(() => bytes, new Uint8Array(9)) })))
    expect(error.message).toMatch(/damaged/)
  })
})

describe("the cache of unpacked kernels", () => {
  const directory = mkdtempSync(join(tmpdir(), "virtkit-boot-cache-"))
  afterAll(() => rmSync(directory, { recursive: true }))
  const cacheDir = join(directory, "not", "there", "yet")

  function kernelFile(name: string, seed: number): string {
    const path = join(directory, name)
    const packed = payload(packLz4, elf({ segments: [{ address: 2 * MIB, data: pattern(5000, seed) }] }))
    writeFileSync(path, bzImage({ payload: packed }))
    return path
  }

  it("is filled once and used from then on", async () => {
    const kernel = kernelFile("one", 1)
    const from = async () => (await loadKernel({ memory: ram(), kernel, unpack: { cacheDir } })).unpacked
    expect(await from()).toEqual({ from: "payload" })
    expect(await from()).toEqual({ from: "cache" })
    const { path, bytes } = await unpackKernel(kernel, { cacheDir })
    expect(readFileSync(path ?? "")).toEqual(Buffer.from(bytes))
    expect(readdirSync(cacheDir)).toHaveLength(1)
  })

  it("knows a kernel that was replaced", async () => {
    const kernel = kernelFile("two", 2)
    await unpackKernel(kernel, { cacheDir })
    kernelFile("two", 3)
    utimesSync(kernel, 1, 1)
    const { bytes } = await unpackKernel(kernel, { cacheDir })
    expect(bytes.slice(4096)).toEqual(pattern(5000, 3))
  })

  it("keeps bytes that are no file by their content", async () => {
    const kernel = readFileSync(kernelFile("three", 4))
    const first = await unpackKernel(kernel, { cacheDir })
    expect((await unpackKernel(kernel, { cacheDir })).path).toBe(first.path)
    const place = BZ_KERNEL_OFFSET + 100
    kernel[place] = (kernel[place] ?? 0) ^ 1
    const second = await unpackKernel(kernel, { cacheDir })
    expect(second.path).not.toBe(first.path)
    expect(second.bytes).toEqual(first.bytes)
  })

  it("does not grow without end", async () => {
    for (let seed = 10; seed < 18; seed++) await unpackKernel(kernelFile(`grow${seed}`, seed), { cacheDir })
    expect(readdirSync(cacheDir)).toHaveLength(4)
  })

  it("is no reason to fail", async () => {
    const blocked = join(directory, "file")
    writeFileSync(blocked, "")
    const result = await unpackKernel(kernelFile("four", 5), { cacheDir: join(blocked, "below") })
    expect(result.path).toBeUndefined()
    expect(result.bytes.slice(4096)).toEqual(pattern(5000, 5))
  })

  it("that holds rubbish does not stop the kernel", async () => {
    const kernel = kernelFile("five", 6)
    const { path = "" } = await unpackKernel(kernel, { cacheDir })
    writeFileSync(path, "rubbish")
    const loaded = await loadKernel({ memory: ram(), kernel, unpack: { cacheDir } })
    expect(loaded.kind).toBe("bzimage")
    expect(loaded.unpacked).toHaveProperty("failed")
  })
})
