import { StateError } from "@virtkit/interface"
import { describe, expect, it } from "vitest"
import { Lifecycle, type VmState } from "../src/lifecycle.js"

const paths: VmState[][] = [
  ["running", "paused", "running", "exited", "closed"],
  ["running", "paused", "exited", "closed"],
  ["exited", "closed"],
  ["closed"],
]
const states: VmState[] = ["created", "running", "paused", "exited", "closed"]
const legal = new Set([
  "created>running",
  "created>exited",
  "created>closed",
  "running>paused",
  "running>exited",
  "paused>running",
  "paused>exited",
  "exited>closed",
])

function at(state: VmState): Lifecycle {
  const lifecycle = new Lifecycle(() => {})
  const route: Record<VmState, VmState[]> = {
    created: [],
    running: ["running"],
    paused: ["running", "paused"],
    exited: ["exited"],
    closed: ["closed"],
  }
  for (const next of route[state]) lifecycle.to(next)
  return lifecycle
}

describe("Lifecycle", () => {
  it.each(paths)("goes %s ...", (...path) => {
    const seen: VmState[] = []
    const lifecycle = new Lifecycle((state) => seen.push(state))
    for (const state of path) lifecycle.to(state)
    expect(seen).toEqual(path)
    expect(lifecycle.state).toBe(path.at(-1))
  })

  for (const from of states) {
    for (const to of states) {
      if (legal.has(`${from}>${to}`)) continue
      it(`refuses ${from} to ${to} and stays`, () => {
        const lifecycle = at(from)
        expect(() => lifecycle.to(to)).toThrow(StateError)
        expect(lifecycle.state).toBe(from)
      })
    }
  }

  it("names the operation and both states when one is required", () => {
    expect(() => at("paused").require("start", "created")).toThrow(
      "start: the VM is paused, it must be created",
    )
  })
})
