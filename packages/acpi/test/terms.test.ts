import { aml } from "@virtkit/acpi"
import { ConfigError } from "@virtkit/interface"
import { describe, expect, it } from "vitest"
import { hex } from "./machine.js"

describe("objects (ACPI 20.2.5)", () => {
  it.each<[string, aml.Aml, string]>([
    ["Name", aml.name("_UID", 1), "08 5f 55 49 44 01"],
    ["Package", aml.pack(5, 0, "\\A"), "12 0a 03 0a 05 00 5c 41 5f 5f 5f"],
    ["Buffer", aml.buffer(hex("aa bb")), "11 05 0a 02 aa bb"],
    ["Scope", aml.scope("\\_SB", aml.name("A", 0)), "10 0c 5c 5f 53 42 5f 08 41 5f 5f 5f 00"],
    ["Device", aml.device("A"), "5b 82 05 41 5f 5f 5f"],
    ["Method", aml.method("_EVT", { args: 1, serialized: true }), "14 06 5f 45 56 54 09"],
    ["OperationRegion", aml.operationRegion("R", "systemIO", 0x604, 1), "5b 80 52 5f 5f 5f 01 0b 04 06 01"],
    [
      "Field",
      aml.field("R", { access: "byte", update: "writeAsZeros" }, [
        ["A", 3],
        [undefined, 5],
        ["B", 64],
      ]),
      "5b 81 13 52 5f 5f 5f 41 41 5f 5f 5f 03 00 05 42 5f 5f 5f 40 04",
    ],
    ["Field with lock", aml.field("R", { access: "dword", lock: true }, []), "5b 81 06 52 5f 5f 5f 13"],
  ])("%s", (_, actual, expected) => {
    expect(actual).toEqual(hex(expected))
  })

  it("refuses what the encoding cannot hold", () => {
    expect(() => aml.pack(...new Array<number>(256).fill(0))).toThrow(ConfigError)
    expect(() => aml.method("A", { args: 8 })).toThrow(ConfigError)
    expect(() => aml.field("R", { access: "any" }, [["A.B", 1]])).toThrow(ConfigError)
    expect(() => aml.arg(7)).toThrow(ConfigError)
    expect(() => aml.local(8)).toThrow(ConfigError)
  })
})

describe("statements and operators (ACPI 20.2.5.3, 20.2.5.4)", () => {
  const [a, b, to] = [aml.local(0), aml.arg(1), aml.local(7)]
  it.each<[string, aml.Aml, string]>([
    ["Store", aml.store(1, a), "70 01 60"],
    ["Notify", aml.notify("PWRB", 0x80), "86 50 57 52 42 0a 80"],
    ["If", aml.ifThen(a, aml.returnValue(1)), "a0 04 60 a4 01"],
    ["Else", aml.otherwise(aml.returnValue(0)), "a1 03 a4 00"],
    ["While", aml.whileDo(aml.less(a, b), aml.add(a, 1, a)), "a2 08 95 60 69 72 60 01 60"],
    ["LAnd", aml.logicalAnd(a, b), "90 60 69"],
    ["LOr", aml.logicalOr(a, b), "91 60 69"],
    ["LNot", aml.logicalNot(a), "92 60"],
    ["LEqual", aml.equal(a, b), "93 60 69"],
    ["LGreater", aml.greater(a, b), "94 60 69"],
    ["Subtract", aml.subtract(a, b, to), "74 60 69 67"],
    ["ShiftLeft", aml.shiftLeft(a, 2, to), "79 60 0a 02 67"],
    ["ShiftRight", aml.shiftRight(a, 2), "7a 60 0a 02 00"],
    ["And", aml.and(a, b), "7b 60 69 00"],
    ["Or", aml.or(a, b, to), "7d 60 69 67"],
    ["CreateDWordField", aml.createDWordField(b, 4, "CDW2"), "8a 69 0a 04 43 44 57 32"],
    ["a call", aml.call("\\M", 1, a), "5c 4d 5f 5f 5f 01 60"],
  ])("%s", (_, actual, expected) => {
    expect(actual).toEqual(hex(expected))
  })
})

describe("resources (ACPI 6.4)", () => {
  it.each<[string, aml.Aml, string]>([
    ["Memory32Fixed", aml.memory32Fixed(0xd0000000, 0x1000), "86 09 00 01 00 00 00 d0 00 10 00 00"],
    ["IO", aml.io(0x3f8, 8), "47 01 f8 03 f8 03 01 08"],
    ["Interrupt", aml.interrupt(16), "89 06 00 03 01 10 00 00 00"],
    [
      "Interrupt, level, low, shared",
      aml.interrupt([5, 6], { trigger: "level", polarity: "low", shared: true }),
      "89 0a 00 0d 02 05 00 00 00 06 00 00 00",
    ],
    [
      "WordBusNumber",
      aml.wordSpace({ type: "bus", min: 0, max: 255 }),
      "88 0d 00 02 0c 00 00 00 00 00 ff 00 00 00 00 01",
    ],
    [
      "DWordIO",
      aml.dwordSpace({ type: "io", min: 0xd00, max: 0xffff, usage: "consumer" }),
      "87 17 00 01 0d 03 00 00 00 00 00 0d 00 00 ff ff 00 00 00 00 00 00 00 f3 00 00",
    ],
    [
      "QWordMemory",
      aml.qwordSpace({ type: "memory", min: 2 ** 40, max: 2 ** 40 + 2 ** 32 - 1, prefetchable: true }),
      "8a 2b 00 00 0c 07 00 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00 ff ff ff ff 00 01 00 00 " +
        "00 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00",
    ],
    ["ResourceTemplate", aml.resourceTemplate(aml.io(0x70, 2)), "11 0d 0a 0a 47 01 70 00 70 00 01 02 79 00"],
  ])("%s", (_, actual, expected) => {
    expect(actual).toEqual(hex(expected))
  })

  it("refuses addresses that do not fit", () => {
    expect(() => aml.memory32Fixed(2 ** 32, 1)).toThrow(ConfigError)
    expect(() => aml.io(0x10000, 1)).toThrow(ConfigError)
    expect(() => aml.interrupt([])).toThrow(ConfigError)
    expect(() => aml.wordSpace({ type: "io", min: 2, max: 1 })).toThrow(ConfigError)
  })
})
