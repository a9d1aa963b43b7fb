import { SystemError } from "@virtkit/interface"
import type { GsiRoute, Vm as KvmVm } from "@virtkit/kvm"
import { expect, it } from "vitest"
import { GsiRouting } from "../src/gsi-routing.js"

/** Remembers the tables that it was given; refuses messages to `refused`. */
function fakeVm(refused = -1) {
  const tables: GsiRoute[][] = []
  const setGsiRouting = (routes: readonly GsiRoute[]) => {
    if (routes.some((route) => "msi" in route && route.msi?.address === refused)) {
      throw new SystemError("EINVAL", 22, "KVM_SET_GSI_ROUTING", "refused")
    }
    tables.push(routes.filter((route) => "msi" in route))
  }
  return { tables, routing: new GsiRouting({ setGsiRouting } as unknown as KvmVm) }
}

it("tells KVM of each route by itself, and of many together once", () => {
  const { tables, routing } = fakeVm()
  const gsis = Array.from({ length: 100 }, () => routing.allocate())
  routing.route(gsis[0]!, 0xfee0_0000, 1)
  expect(tables.map(({ length }) => length)).toEqual([1])
  routing.together(() => {
    for (const gsi of gsis) routing.route(gsi, 0xfee0_0000, gsi)
    routing.free(gsis[99]!)
  })
  expect(tables.map(({ length }) => length)).toEqual([1, 99])
  routing.together(() => {})
  routing.free(routing.allocate())
  expect(tables).toHaveLength(2)
  routing.together(() => {
    for (const gsi of gsis.slice(0, 99)) routing.free(gsi)
  })
  expect([tables.length, tables[2]?.length, routing.count]).toEqual([3, 0, 0])
})

it("a message that KVM refuses goes nowhere, and does not take those of before with it", () => {
  const { tables, routing } = fakeVm(7)
  const [first, second] = [routing.allocate(), routing.allocate()]
  routing.route(first, 0xfee0_0000, 1)
  routing.route(second, 7, 1)
  expect(tables.map((table) => table.map(({ gsi }) => gsi))).toEqual([[first], [first]])
  routing.route(second, 0xfee0_0000, 2)
  expect(tables.at(-1)).toHaveLength(2)
})

it("an error in between does not leave it collecting", () => {
  const { tables, routing } = fakeVm()
  const fail = () => {
    throw new Error("no more")
  }
  expect(() => routing.together(fail)).toThrow("no more")
  routing.route(routing.allocate(), 0xfee0_0000, 1)
  expect(tables).toHaveLength(1)
})
