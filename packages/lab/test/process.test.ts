import { Duplex } from "node:stream"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { Channel } from "../src/channel.js"
import { complete } from "../src/exec.js"
import { LabProcess } from "../src/process.js"
import * as protocol from "../src/protocol.js"
import { encodeFrame, encodePair, encodeStart, FrameReader } from "../src/protocol.js"

const WINDOW = 1000

/** The agent's end of a channel, without an agent. */
class FakeAgent {
  readonly received: { id: number; type: number; payload: Buffer }[] = []
  readonly channel: Channel
  readonly #stream: Duplex

  constructor(version = protocol.VERSION) {
    const reader = new FrameReader(
      (id, type, payload) => void this.received.push({ id, type, payload: Buffer.from(payload) }),
    )
    this.#stream = new Duplex({
      read: () => {},
      write: (chunk: Buffer, _encoding, callback) => {
        reader.write(chunk)
        callback()
      },
    })
    this.channel = new Channel(this.#stream)
    this.send(encodePair(0, protocol.READY, version, WINDOW))
  }

  send(frame: Buffer): void {
    this.#stream.push(frame)
  }

  end(): void {
    this.#stream.destroy()
  }

  of(type: number): Buffer[] {
    return this.received.filter((frame) => frame.type === type).map((frame) => frame.payload)
  }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
const request = { args: ["cmd", "arg"], env: ["A=b"], cwd: "/" }

async function started(): Promise<{ agent: FakeAgent; child: LabProcess }> {
  const agent = new FakeAgent()
  await agent.channel.ready
  return { agent, child: new LabProcess(agent.channel, request) }
}

describe("frames", () => {
  it("survive any cut of the stream", () => {
    const frames = [
      encodeFrame(1, 65, Buffer.from("hello")),
      encodeFrame(2, 66, Buffer.alloc(0)),
      encodePair(3, 67, 4, 0xffffffff),
    ]
    const bytes = Buffer.concat(frames)
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }), (sizes) => {
        const seen: string[] = []
        const reader = new FrameReader(
          (id, type, payload) => void seen.push(`${id} ${type} ${payload.toString("hex")}`),
        )
        for (let at = 0, index = 0; at < bytes.length; index++) {
          const size = sizes[index % sizes.length] ?? 1
          reader.write(bytes.subarray(at, at + size))
          at += size
        }
        expect(seen).toEqual(["1 65 68656c6c6f", "2 66 ", "3 67 04000000ffffffff"])
      }),
    )
  })

  it("that are too long are refused before they are stored", () => {
    const bytes = Buffer.alloc(12)
    bytes.writeUInt32LE(protocol.MAX_FRAME + 1, 8)
    expect(() => new FrameReader(() => {}).write(bytes)).toThrow(RangeError)
  })

  it("carry no zero byte in an argument, and no more than fits", () => {
    expect(() => encodeStart(1, { ...request, args: ["a\0b"] })).toThrow(TypeError)
    expect(() => encodeStart(1, { ...request, args: ["a".repeat(70_000)] })).toThrow(RangeError)
  })
})

describe("a command", () => {
  it("sends its arguments, gives its output and status", async () => {
    const { agent, child } = await started()
    const result = complete(child, { stdin: "in" })
    agent.send(encodeFrame(1, protocol.STDOUT, Buffer.from("out")))
    agent.send(encodeFrame(1, protocol.STDERR, Buffer.from("err")))
    agent.send(encodePair(1, protocol.EXIT, 3, 0))
    expect(await result).toEqual({
      status: 3,
      signal: null,
      stdout: Buffer.from("out"),
      stderr: Buffer.from("err"),
    })
    expect(agent.of(protocol.START)[0]!.subarray(16).toString()).toBe("/\0cmd\0arg\0A=b\0")
    expect(agent.of(protocol.STDIN).map(String)).toEqual(["in", ""])
    expect(agent.channel.active).toBe(0)
  })

  it("names the signal that killed it", async () => {
    const { agent, child } = await started()
    agent.send(encodePair(1, protocol.EXIT, 0, 9))
    expect(await child.exited).toEqual({ status: null, signal: "SIGKILL" })
  })

  it("that could not start says why", async () => {
    const { agent, child } = await started()
    agent.send(encodePair(1, protocol.FAILED, 2, 0))
    await expect(child.exited).rejects.toMatchObject({
      code: "ENOENT",
      message: expect.stringContaining("cmd"),
    })
  })

  it("gets no more input than its window, until it has read", async () => {
    const { agent, child } = await started()
    child.stdin.write(Buffer.alloc(2500))
    await turn()
    expect(Buffer.concat(agent.of(protocol.STDIN)).length).toBe(WINDOW)
    agent.send(encodePair(1, protocol.STDIN_CREDIT, 600, 0))
    await turn()
    expect(Buffer.concat(agent.of(protocol.STDIN)).length).toBe(WINDOW + 600)
  })

  it("gets credit for output only as its reader takes it", async () => {
    const { agent, child } = await started()
    const chunk = Buffer.alloc(protocol.MAX_FRAME)
    for (let count = 0; count < 4; count++) agent.send(encodeFrame(1, protocol.STDOUT, chunk))
    await turn()
    expect(agent.of(protocol.CREDIT)).toEqual([])
    child.stdout.resume()
    await turn()
    const credit = agent.of(protocol.CREDIT).reduce((sum, payload) => sum + payload.readUInt32LE(4), 0)
    expect(credit).toBe(4 * chunk.length)
  })

  it("goes on when nobody wants its output any more", async () => {
    const { agent, child } = await started()
    child.stdout.destroy()
    agent.send(encodeFrame(1, protocol.STDOUT, Buffer.alloc(100)))
    await turn()
    expect(agent.of(protocol.CREDIT)[0]!.readUInt32LE(4)).toBe(100)
  })

  it("is killed when its caller gives up, times out or gets too much", async () => {
    for (const [options, code] of [
      [{ signal: AbortSignal.abort(new Error("enough")) }, "enough"],
      [{ timeout: 1 }, "took more than 1 ms"],
      [{ maxOutput: 10 }, "more than 10 bytes"],
    ] as const) {
      const { agent, child } = await started()
      agent.send(encodeFrame(1, protocol.STDOUT, Buffer.alloc(11)))
      await expect(complete(child, options)).rejects.toThrow(code)
      expect(agent.of(protocol.KILL)[0]?.readUInt32LE(0)).toBe(9)
    }
  })

  it("fails when the lab ends, and so does the next", async () => {
    const { agent, child } = await started()
    const result = complete(child, {})
    agent.end()
    await expect(result).rejects.toMatchObject({ code: "ERR_VIRTKIT_LAB_GONE" })
    expect(() => new LabProcess(agent.channel, request)).toThrow("the lab ended")
  })
})

describe("a channel", () => {
  it("is not ready when its stream ends first, or the agent is of another version", async () => {
    const silent = new Channel(
      new Duplex({ read: () => {}, write: (_chunk, _encoding, callback) => callback() }).destroy(),
    )
    await expect(silent.ready).rejects.toMatchObject({ code: "ERR_VIRTKIT_LAB_GONE" })
    await expect(new FakeAgent(99).channel.ready).rejects.toThrow("another version")
  })
})
