import { describe, expect, it } from "vitest"
import { parseServeArguments } from "../src/serve.js"

describe("virtkit serve", () => {
  it("takes a kind, a socket and what the kind needs", () => {
    expect(parseServeArguments(["blk", "--socket", "s", "--disk", "d.img,readonly"])).toEqual({
      kind: "blk",
      socket: "s",
      disk: "d.img,readonly",
      net: undefined,
      rings: { packed: false, inOrder: false, eventIdx: true, indirect: true },
    })
    const packed = parseServeArguments(["rng", "--socket", "s", "--rings", "packed,inorder"])
    expect(packed?.rings).toMatchObject({ packed: true, inOrder: true })
    expect(parseServeArguments(["--socket", "s", "net", "--net", "passt"])?.net).toBe("passt")
    expect(parseServeArguments(["rng", "--socket", "s"])?.kind).toBe("rng")
    expect(parseServeArguments(["--help"])).toBeUndefined()
  })

  it.each([
    [[], `serve "": it must be one of blk, net, console, rng`],
    [["gpu", "--socket", "s"], `serve "gpu": it must be one of`],
    [["blk", "net", "--socket", "s"], `serve "blk net": it must be one of`],
    [["rng"], "--socket is missing"],
    [["rng", "--socket", "s", "--rings", "round"], "--rings"],
    [["rng", "--socket", ""], "--socket is missing"],
    [["blk", "--socket", "s"], "serve blk: --disk is missing"],
    [["net", "--socket", "s"], "serve net: --net is missing"],
    [["rng", "--socket", "s", "--disk", "d"], "serve rng: --disk is for blk"],
    [["blk", "--socket", "s", "--disk", "d", "--net", "passt"], "serve blk: --net is for net"],
    [["rng", "--socket", "s", "--sockets"], "Unknown option '--sockets'"],
  ])("%j is wrong: %s", (argv, message) => {
    expect(() => parseServeArguments(argv)).toThrow(message)
  })
})
