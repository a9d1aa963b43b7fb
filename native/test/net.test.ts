import { closeSync, openSync } from "node:fs"
import { Tap } from "@virtkit/native"
import { describe, expect, it } from "vitest"

const sizes = { segments: 16, buffers: 8, frames: 4 }

/** What the constructor throws. */
function failure(options: unknown): NodeJS.ErrnoException {
  try {
    new Tap(options as never).close()
  } catch (error) {
    return error as NodeJS.ErrnoException
  }
  throw new Error("it did not throw")
}

// With a TAP: packages/virtio-net/test/tap.root.test.ts.
describe("Tap", () => {
  it("says what is wrong with its options", () => {
    expect(failure(undefined)).toBeInstanceOf(TypeError)
    expect(failure({ fd: "0", ...sizes })).toBeInstanceOf(TypeError)
    expect(failure({ fd: -1, ...sizes })).toBeInstanceOf(RangeError)
    expect(failure({ fd: 0x8000_0000, ...sizes })).toBeInstanceOf(RangeError)
  })

  it("refuses descriptors of other things, and leaves them open", () => {
    const fd = openSync("/dev/null", "r+")
    expect(failure({ fd, ...sizes })).toMatchObject({
      syscall: "TUNGETIFF",
      code: expect.stringMatching(/^E/),
    })
    closeSync(fd)
    expect(failure({ fd, ...sizes })).toMatchObject({ syscall: "fcntl", code: "EBADF", errno: 9 })
  })
})
