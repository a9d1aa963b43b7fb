import type { Segment, SpecialRegisters } from "@virtkit/boot"

const real: Segment = {
  base: 0n,
  limit: 0xffff,
  selector: 0,
  type: 3,
  present: 1,
  dpl: 0,
  db: 0,
  s: 1,
  l: 0,
  g: 0,
  avl: 0,
  unusable: 0,
}

/** Like what KVM_GET_SREGS gives after reset, with fields that the package does not know. */
export function resetSregs(): SpecialRegisters & { cr8: bigint; apicBase: bigint } {
  return {
    cs: { ...real, base: 0xffff0000n, selector: 0xf000, type: 0xb },
    ds: real,
    es: real,
    fs: real,
    gs: real,
    ss: real,
    tr: { ...real, s: 0, type: 0xb },
    ldt: { ...real, s: 0, type: 2 },
    gdt: { base: 0n, limit: 0xffff },
    idt: { base: 0n, limit: 0xffff },
    cr0: 0x60000010n,
    cr3: 0n,
    cr4: 0n,
    efer: 0n,
    cr8: 0n,
    apicBase: 0xfee00900n,
  }
}
