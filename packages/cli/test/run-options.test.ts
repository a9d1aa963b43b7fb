import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { vhostUserTypes } from "@virtkit/vhost-user"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { parseDevice, vhostUserOptions } from "../src/device-option.js"
import { parseListOption } from "../src/list-option.js"
import { defaultNets, formatNet, type NetOption, parseNet, parseNets } from "../src/net-option.js"
import {
  formatCpus,
  formatDisk,
  formatRings,
  parseCpus,
  parseDisk,
  parseRings,
  parseRunArguments,
} from "../src/run-options.js"
import { UsageError } from "../src/usage.js"

describe("virtkit run: --device", () => {
  it("takes a device of another process", () => {
    expect(parseDevice("vhost-user,type=fs,socket=/run/a,,b.sock,tag=work,queues=2,queue-size=256")).toEqual({
      ...{ type: "fs", socket: "/run/a,b.sock", tag: "work", queues: 2, queueSize: 256 },
    })
    expect(parseDevice("vhost-user,type=net,socket=s,mac=52:54:00:12:34:56,reconnect=off")).toEqual({
      ...{ type: "net", socket: "s", mac: "52:54:00:12:34:56", reconnect: false },
    })
    const options = parseRunArguments(["--kernel", "k", "--device", "vhost-user,type=rng,socket=s"])
    expect(options?.devices).toEqual([{ type: "rng", socket: "s" }])
    expect(vhostUserOptions(options!.devices[0]!, 3)).toEqual({
      ...{ type: "rng", socket: join(process.cwd(), "s"), name: "rng3" },
    })
  })

  it.each([
    ["vfio,socket=s", "it must be vhost-user"],
    ["vhost-user,socket=s", "type is missing"],
    ["vhost-user,type=disk,socket=s", "type must be blk"],
    ["vhost-user,type=blk", "socket is missing"],
    ["vhost-user,type=blk,socket", "socket needs a value"],
    ["vhost-user,type=blk,socket=s,queues=0", "queues must be a number"],
    ["vhost-user,type=blk,socket=s,reconnect=yes", "reconnect must be on, off"],
    ["vhost-user,type=blk,socket=s,path=x", 'unknown "path"'],
  ])("refuses %s", (text, message) => {
    expect(() => parseDevice(text)).toThrow(UsageError)
    expect(() => parseDevice(text)).toThrow(message)
  })

  it("names the types that there are", () => {
    expect(() => parseDevice("vhost-user,socket=s")).toThrow(vhostUserTypes.join(", "))
  })
})

describe("virtkit run: arguments", () => {
  it("has the defaults of the manual", () => {
    expect(parseRunArguments(["--kernel", "vmlinuz"])).toEqual({
      kernel: "vmlinuz",
      initrd: undefined,
      cmdline: "",
      memory: "512M",
      cpus: { count: 1 },
      cpu: "host",
      msrFilter: undefined,
      disks: [],
      nets: [],
      devices: [],
      defaultNet: true,
      console: "serial",
      transport: "pci",
      rings: { packed: false, inOrder: false, eventIdx: true, indirect: true },
      accel: "auto",
      timeout: undefined,
      report: undefined,
    })
  })

  it("takes every option", () => {
    const options = parseRunArguments(
      "--kernel k --initrd i --cmdline quiet --memory 1G --cpus 2,threads=2 --cpu baseline --msr-filter m --disk a --disk b,readonly --console virtio --transport mmio --rings packed,inorder --accel lab --timeout 1.5 --report r --net none".split(
        " ",
      ),
    )
    expect(options).toMatchObject({
      ...{ cpus: { count: 2, threads: 2 }, cpu: "baseline", msrFilter: "m" },
      console: "virtio",
      transport: "mmio",
      rings: { packed: true, inOrder: true },
      accel: "lab",
      timeout: 1.5,
      report: "r",
    })
    expect(options?.disks.map((disk) => disk.readonly)).toEqual([false, true])
  })

  it.each([
    [[], "--kernel is missing"],
    [["--kernel", "k", "--frobnicate"], "--frobnicate"],
    [["--kernel", "k", "stray"], "stray"],
    [["--kernel"], "--kernel"],
    [["--kernel", "k", "--cpus", "two"], '--cpus "two"'],
    [["--kernel", "k", "--cpus", ""], '--cpus ""'],
    [["--kernel", "k", "--cpus", "4,cores"], '"cores" is not a whole number'],
    [["--kernel", "k", "--cpus", "4,dies=2"], 'unknown "dies"'],
    [["--kernel", "k", "--cpus", "4,cores=2,cores=2"], '"cores" is there twice'],
    [["--kernel", "k", "--cpus", "4,cores=-2"], '"-2" is not a whole number'],
    [["--kernel", "k", "--accel", "tcg"], "auto or kvm or lab"],
    [["--kernel", "k", "--transport", "isa"], "--transport"],
    [["--kernel", "k", "--rings", "round"], '--rings "round": it must be split or packed'],
    [["--kernel", "k", "--rings", ""], "--rings"],
    [["--kernel", "k", "--rings", "packed,fast"], 'unknown "fast", it can have inorder, event_idx, indirect'],
    [["--kernel", "k", "--rings", "packed,inorder=on"], "inorder takes no value"],
    [["--kernel", "k", "--rings", "split,indirect"], "indirect must be on, off"],
    [["--kernel", "k", "--net", "bridge"], "it must be tap=IF, passt, socket or none"],
    [["--kernel", "k", "--net", "tap"], "tap needs the name of an interface"],
    [["--kernel", "k", "--net", "tap="], "tap needs the name of an interface"],
    [["--kernel", "k", "--net", "tap=t,tcp=80"], 'unknown "tcp", it can have mac, mtu, capture, queues'],
    [["--kernel", "k", "--net", "tap=t,queues=0"], "queues must be a number from 1"],
    [["--kernel", "k", "--net", "tap=t,offloads=some"], "offloads must be on, off"],
    [["--kernel", "k", "--net", "tap=t,capture="], "capture needs a value"],
    [["--kernel", "k", "--net", "passt=yes"], "passt takes no value"],
    [
      ["--kernel", "k", "--net", "passt,queues=2"],
      'unknown "queues", it can have mac, mtu, capture, tcp, udp',
    ],
    [["--kernel", "k", "--net", "passt,tcp"], "tcp needs a value"],
    [["--kernel", "k", "--net", "passt,tcp="], "tcp needs a value"],
    [["--kernel", "k", "--net", "socket"], "socket needs listen=ADDRESS or connect=ADDRESS"],
    [["--kernel", "k", "--net", "socket,listen=1,connect=2"], "socket needs listen=ADDRESS or connect"],
    [["--kernel", "k", "--net", "socket,listen=wire"], '"wire" is no path'],
    [["--kernel", "k", "--net", "socket,connect=host:65536"], '"host:65536" is no path'],
    [["--kernel", "k", "--net", "none", "--net", "passt"], "--net none: there are other --net"],
    [["--kernel", "k", "--timeout", "0"], "--timeout"],
    [["--kernel", "k", "--timeout", "99999999"], "--timeout"],
    [["--kernel", "k", "--disk", ""], "--disk"],
    [["--kernel", "k", "--disk", "f,readonyl"], 'unknown "readonyl"'],
    [["--kernel", "k", "--disk", "f,readonly=1"], "readonly takes no value"],
    [["--kernel", "k", "--disk", "f,queues=0"], "queues"],
    [["--kernel", "k", "--disk", "f,cache=fast"], "cache must be"],
    [["--kernel", "k", "--disk", "f,serial="], "serial needs a value"],
    [["--kernel", "k", "--disk", "f,serial=a,serial=b"], "twice"],
    [["--kernel", "k", "--disk", "f,format=vmdk"], "format must be raw, qcow2"],
    [["--kernel", "k", "--disk", "f,iops=0"], "iops must be a number from 1"],
    [["--kernel", "k", "--disk", "f,bps=5T"], "bps must be a number from 1"],
    [["--kernel", "k", "--disk", "f,backing=b"], "backing is for format=qcow2"],
    [["--kernel", "k", "--disk", "f,format=qcow2,backing="], "backing needs a value"],
  ])("refuses %j in one line that names %j", (argv, text) => {
    expect(() => parseRunArguments(argv)).toThrow(UsageError)
    expect(() => parseRunArguments(argv)).toThrow(text)
    try {
      parseRunArguments(argv)
    } catch (error) {
      expect((error as Error).message).not.toContain("\n")
    }
  })
})

describe("--cpus", () => {
  it("is a number, an arrangement, or both", () => {
    expect(parseCpus("4")).toEqual({ count: 4 })
    expect(parseCpus("sockets=2,threads=2")).toEqual({ sockets: 2, threads: 2 })
    expect(parseCpus("8,cores=4")).toEqual({ count: 8, cores: 4 })
  })

  it("reads back what formatCpus writes", () => {
    const number = fc.integer({ min: 1, max: 255 })
    const shape = fc
      .record({ count: number, sockets: number, cores: number, threads: number }, { requiredKeys: [] })
      .filter((counts) => Object.keys(counts).length > 0)
    fc.assert(
      fc.property(shape, (counts) => {
        expect(parseCpus(formatCpus(counts))).toEqual(counts)
      }),
    )
  })
})

describe("--rings", () => {
  it("says the kind, then what else is offered", () => {
    expect(parseRings("packed")).toEqual({ packed: true, inOrder: false, eventIdx: true, indirect: true })
    expect(parseRings("split,inorder,event_idx=off,indirect=on")).toEqual({
      packed: false,
      inOrder: true,
      eventIdx: false,
      indirect: true,
    })
  })

  it("reads back what formatRings writes", () => {
    const offers = fc.record({
      packed: fc.boolean(),
      inOrder: fc.boolean(),
      eventIdx: fc.boolean(),
      indirect: fc.boolean(),
    })
    fc.assert(
      fc.property(offers, (rings) => {
        expect(parseRings(formatRings(rings))).toEqual(rings)
      }),
    )
  })
})

describe("--disk", () => {
  it("reads a doubled comma as a comma of the name", () => {
    expect(parseDisk("a,,b,readonly")).toEqual({ path: "a,b", readonly: true })
    expect(parseListOption("x,key=a,,b", "--x", ["key"]).keys.get("key")).toBe("a,b")
  })

  it("takes format, backing files and limits", () => {
    expect(parseDisk("f,format=qcow2,backing=a,,b,backing=/c,iops=1K,bps=20M,cache=direct")).toEqual({
      path: "f",
      readonly: false,
      format: "qcow2",
      backing: ["a,b", "/c"],
      cache: "direct",
      limits: { operationsPerSecond: 1024, bytesPerSecond: 20 * 2 ** 20 },
    })
    const text = "f,format=qcow2,backing=a,,b,backing=/c,bps=7"
    expect(formatDisk(parseDisk(text), "f")).toBe(text)
  })

  it("reads back what formatDisk writes", () => {
    const option = fc.record(
      {
        path: fc.string({ minLength: 1, unit: fc.constantFrom("a", ",", "=", "é") }),
        readonly: fc.boolean(),
        serial: fc.string({ minLength: 1, unit: fc.constantFrom("s", ",", "=") }),
        cache: fc.constantFrom(
          "writeback" as const,
          "writethrough" as const,
          "direct" as const,
          "unsafe" as const,
        ),
        queues: fc.integer({ min: 1, max: 64 }),
        format: fc.constant("qcow2" as const),
        engine: fc.constantFrom("auto" as const, "io_uring" as const, "threads" as const),
        poll: fc.integer({ min: 0, max: 1000 }),
        thread: fc.oneof(fc.boolean(), fc.integer({ min: 1, max: 64 })),
        limits: fc.constantFrom(
          { operationsPerSecond: 500 },
          { bytesPerSecond: 20 * 2 ** 20 },
          { operationsPerSecond: 1, bytesPerSecond: 2 },
        ),
      },
      { requiredKeys: ["path", "readonly"] },
    )
    fc.assert(
      fc.property(option, (disk) => {
        expect(parseDisk(formatDisk(disk, disk.path))).toEqual(disk)
      }),
    )
  })
})

describe("--net", () => {
  it("is passt by default for a user who is not root, where it is installed", () => {
    const directory = mkdtempSync(join(tmpdir(), "virtkit-path-"))
    try {
      const searchPath = `/nonexistent:${directory}`
      expect(defaultNets(1000, searchPath)).toEqual([])
      writeFileSync(join(directory, "passt"), "")
      expect(defaultNets(1000, searchPath)).toEqual(parseNets(["passt"]))
      expect(defaultNets(0, searchPath)).toEqual([])
    } finally {
      rmSync(directory, { recursive: true })
    }
    expect(parseRunArguments(["--kernel", "k", "--net", "none"])?.defaultNet).toBe(false)
  })

  it("is a TAP, passt, a socket, or nothing", () => {
    expect(parseNets(["none"])).toEqual([])
    expect(
      parseNet("tap=tap0,mac=52:54:00:00:00:01,queues=2,mtu=9000,offloads=off,create,capture=a,,b"),
    ).toEqual({
      tap: { name: "tap0", create: true },
      mac: "52:54:00:00:00:01",
      queues: 2,
      mtu: 9000,
      offloads: false,
      capture: "a,b",
    })
    expect(parseNet("passt,tcp=8080:80,udp=53,tcp=22")).toEqual({
      passt: { tcp: ["8080:80", "22"], udp: ["53"] },
    })
    expect(parseNet("socket,listen=./wire")).toEqual({ socket: { listen: { path: "./wire" } } })
    expect(parseNet("socket,connect=[::1]:7000")).toEqual({
      socket: { connect: { host: "::1", port: 7000 } },
    })
    expect(parseNet("socket,listen=7000")).toEqual({ socket: { listen: { port: 7000 } } })
  })

  it("reads back what formatNet writes", () => {
    const word = fc.string({ minLength: 1, unit: fc.constantFrom("a", ",", "=", "/", "é") })
    const ports = fc.array(fc.constantFrom("80", "8080:80", "1-9"), { maxLength: 3 })
    const port = fc.integer({ min: 1, max: 65535 })
    const address = fc.oneof(
      word.map((path) => ({ path: `/${path}` })),
      port.map((number) => ({ port: number })),
      fc.record({ host: fc.constantFrom("localhost", "::1", "10.0.0.1"), port }),
    )
    const common = {
      mac: word,
      mtu: fc.integer({ min: 1, max: 65535 }),
      capture: word,
    }
    const option: fc.Arbitrary<NetOption> = fc.oneof(
      fc.record(
        {
          tap: fc.record({ name: word, create: fc.boolean() }),
          queues: fc.integer({ min: 1, max: 16 }),
          offloads: fc.boolean(),
          ...common,
        },
        { requiredKeys: ["tap"] },
      ),
      fc.record({ passt: fc.record({ tcp: ports, udp: ports }), ...common }, { requiredKeys: ["passt"] }),
      fc.record({ socket: fc.record({ listen: address }), ...common }, { requiredKeys: ["socket"] }),
      fc.record({ socket: fc.record({ connect: address }), ...common }, { requiredKeys: ["socket"] }),
    )
    fc.assert(
      fc.property(option, (net) => {
        expect(parseNet(formatNet(net))).toEqual(net)
      }),
    )
  })
})
