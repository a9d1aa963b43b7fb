import { ConfigError } from "@virtkit/interface"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { apicIds, apicIdWidths, checkCpus, MAX_CPUS } from "../src/cpu-topology.js"

describe("checkCpus", () => {
  it.each([
    [1, [1, 1, 1, 1]],
    [6, [6, 1, 6, 1]],
    [{}, [1, 1, 1, 1]],
    [{ sockets: 2, cores: 2, threads: 2 }, [8, 2, 2, 2]],
    [{ threads: 2 }, [2, 1, 1, 2]],
    [{ count: 8, sockets: 2 }, [8, 2, 4, 1]],
    [{ count: 8, threads: 2 }, [8, 1, 4, 2]],
    [{ count: 8, cores: 2 }, [8, 4, 2, 1]],
    [{ count: 8, cores: 2, threads: 2 }, [8, 2, 2, 2]],
    [{ count: 8, sockets: 2, cores: 2 }, [8, 2, 2, 2]],
    [{ count: 8, sockets: 2, threads: 1 }, [8, 2, 4, 1]],
  ])("reads %j as QEMU's -smp does", (given, [count, sockets, cores, threads]) => {
    expect(checkCpus(given)).toEqual({ count, sockets, cores, threads })
  })

  it.each([
    [0, /^cpus: 0 is not possible, give a number from 1 to 255$/],
    [1.5, /cpus: 1.5/],
    [Number.NaN, /cpus: NaN/],
    [{ cores: 0 }, /cpus: cores 0 is not possible/],
    [{ count: 5, sockets: 2 }, /5 cannot be arranged as sockets 2 x cores \? x threads \?/],
    [{ count: 1, sockets: 2 }, /1 cannot be arranged/],
    [
      { count: 4, sockets: 2, cores: 2, threads: 2 },
      /4 cannot be arranged as sockets 2 x cores 2 x threads 2/,
    ],
    [MAX_CPUS + 1, /APIC ids up to 255; ids above 254 need x2APIC/],
    [2 ** 20, /APIC ids up to 1048575/],
    [{ sockets: 17, cores: 5, threads: 2 }, /APIC ids up to 265/],
    [{ sockets: 2 ** 20, cores: 2 ** 20, threads: 2 ** 20 }, /x2APIC/],
  ])("refuses %j", (given, message) => {
    expect(() => checkCpus(given)).toThrow(ConfigError)
    expect(() => checkCpus(given)).toThrow(message)
  })
})

describe("APIC ids", () => {
  it("have fields that are powers of two", () => {
    expect(apicIds(checkCpus({ sockets: 2, cores: 3, threads: 2 }))).toEqual([
      ...[0, 1, 2, 3, 4, 5],
      ...[8, 9, 10, 11, 12, 13],
    ])
    expect(apicIds(checkCpus(3))).toEqual([0, 1, 2])
  })

  it("tell socket, core and thread apart, whatever the topology", () => {
    const number = fc.integer({ min: 1, max: 12 })
    fc.assert(
      fc.property(number, number, number, (sockets, cores, threads) => {
        fc.pre(sockets * cores * threads <= 60)
        const topology = checkCpus({ sockets, cores, threads })
        const widths = apicIdWidths(topology)
        const ids = apicIds(topology)
        expect(new Set(ids).size).toBe(topology.count)
        expect(new Set(ids.map((id) => id >> widths.package)).size).toBe(sockets)
        expect(new Set(ids.map((id) => id >> widths.thread)).size).toBe(sockets * cores)
        expect(ids[0]).toBe(0)
      }),
    )
  })
})
