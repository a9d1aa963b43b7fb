import type { GuestMemory } from "@virtkit/interface"
import { GDT_ADDRESS, PAGE_TABLE_ADDRESS } from "./layout.js"
import type { CpuSetup, GeneralRegisters, Segment, SpecialRegisters } from "./registers.js"
import { generalRegisters } from "./registers.js"
import { setUint64 } from "./zero-page.js"

const CR0_PE = 1n << 0n
const CR0_ET = 1n << 4n
const CR0_PG = 1n << 31n
const CR4_PAE = 1n << 5n
const EFER_LME = 1n << 8n
const EFER_LMA = 1n << 10n

/** Selectors of the Linux boot protocol: __BOOT_CS, __BOOT_DS, and a task segment as hardware wants one. */
const CODE_SELECTOR = 0x10
const DATA_SELECTOR = 0x18
const TASK_SELECTOR = 0x20

const CODE: Segment = {
  base: 0n,
  limit: 0xffff_ffff,
  selector: CODE_SELECTOR,
  type: 0xb,
  present: 1,
  dpl: 0,
  db: 1,
  s: 1,
  l: 0,
  g: 1,
  avl: 0,
  unusable: 0,
}
const CODE64: Segment = { ...CODE, db: 0, l: 1 }
const DATA: Segment = { ...CODE, selector: DATA_SELECTOR, type: 0x3 }
const TASK: Segment = { ...CODE, selector: TASK_SELECTOR, limit: 0x67, db: 0, s: 0, g: 0 }
const NO_LDT: Segment = { ...TASK, selector: 0, limit: 0, type: 0x2, present: 0, unusable: 1 }

/** Long mode with the first 4 GiB mapped one to one. Writes the page tables and the descriptor table. */
export function longMode(memory: GuestMemory, regs: Partial<GeneralRegisters>): CpuSetup {
  writeIdentityMap(memory)
  return segmented(memory, CODE64, regs, {
    cr0: CR0_PE | CR0_ET | CR0_PG,
    cr3: BigInt(PAGE_TABLE_ADDRESS),
    cr4: CR4_PAE,
    efer: EFER_LME | EFER_LMA,
  })
}

/** 32-bit protected mode without paging, all segments flat: how PVH starts. Writes the descriptor table. */
export function protectedMode(memory: GuestMemory, regs: Partial<GeneralRegisters>): CpuSetup {
  return segmented(memory, CODE, regs, { cr0: CR0_PE | CR0_ET, cr3: 0n, cr4: 0n, efer: 0n })
}

/** Real mode at `address`, below 1 MiB, with all segments at its paragraph. */
export function realMode(address: number, regs: Partial<GeneralRegisters>): CpuSetup {
  const selector = address >> 4
  const place = { selector, base: BigInt(selector << 4) }
  return {
    regs: generalRegisters({ rip: BigInt(address & 0xf), ...regs }),
    applySregs: (sregs) => ({
      ...sregs,
      cs: { ...sregs.cs, ...place },
      ds: { ...sregs.ds, ...place },
      es: { ...sregs.es, ...place },
      ss: { ...sregs.ss, ...place },
    }),
  }
}

type ControlRegisters = Pick<SpecialRegisters, "cr0" | "cr3" | "cr4" | "efer">

function segmented(
  memory: GuestMemory,
  code: Segment,
  regs: Partial<GeneralRegisters>,
  control: ControlRegisters,
): CpuSetup {
  const gdt = descriptorTable(code)
  memory.write(GDT_ADDRESS, gdt)
  return {
    regs: generalRegisters(regs),
    applySregs: (sregs) => ({
      ...sregs,
      ...control,
      cs: { ...code },
      ds: { ...DATA },
      es: { ...DATA },
      fs: { ...DATA },
      gs: { ...DATA },
      ss: { ...DATA },
      tr: { ...TASK },
      ldt: { ...NO_LDT },
      gdt: { base: BigInt(GDT_ADDRESS), limit: gdt.length - 1 },
      idt: { base: 0n, limit: 0 },
    }),
  }
}

/** The descriptors behind the segments above: the guest may load the selectors again. */
function descriptorTable(code: Segment): Uint8Array {
  // The task descriptor has 16 bytes in long mode.
  const bytes = new Uint8Array(TASK_SELECTOR + 16)
  const view = new DataView(bytes.buffer)
  for (const segment of [code, DATA, TASK]) {
    const limit = segment.g ? segment.limit >>> 12 : segment.limit
    const access = segment.type | (segment.s << 4) | (segment.dpl << 5) | (segment.present << 7)
    const flags = segment.avl | (segment.l << 1) | (segment.db << 2) | (segment.g << 3)
    view.setUint16(segment.selector, limit & 0xffff, true)
    view.setUint8(segment.selector + 5, access)
    view.setUint8(segment.selector + 6, ((limit >>> 16) & 0xf) | (flags << 4))
  }
  return bytes
}

const PAGE = 4096
const PRESENT_WRITABLE = 0x3
const LARGE_PAGE = 0x80
const LARGE_PAGE_SIZE = 2 * 1024 * 1024

/** PML4, PDPT and four page directories: 2 MiB pages, for not every CPU has larger ones. */
function writeIdentityMap(memory: GuestMemory): void {
  const tables = new Uint8Array(6 * PAGE)
  const view = new DataView(tables.buffer)
  setUint64(view, 0, (PAGE_TABLE_ADDRESS + PAGE) | PRESENT_WRITABLE)
  for (let gib = 0; gib < 4; gib++) {
    setUint64(view, PAGE + gib * 8, (PAGE_TABLE_ADDRESS + (2 + gib) * PAGE) | PRESENT_WRITABLE)
  }
  for (let page = 0; page < 4 * 512; page++) {
    setUint64(view, 2 * PAGE + page * 8, page * LARGE_PAGE_SIZE + (LARGE_PAGE | PRESENT_WRITABLE))
  }
  memory.write(PAGE_TABLE_ADDRESS, tables)
}
