import { ConfigError, SystemError } from "@virtkit/interface"
import type { GsiRoute, Vm as KvmVm } from "@virtkit/kvm"

/** Global system interrupts that are wired to pins of the in-kernel controllers; those above are for messages. */
const WIRED_GSIS = 24
const ISA_GSIS = 16
/** KVM_MAX_IRQ_ROUTES on x86. */
const MAX_GSIS = 4096

/** What KVM_CREATE_IRQCHIP sets up: the ISA interrupts on a pin of a 8259 and one of the IOAPIC, the rest on the IOAPIC. */
const WIRED: readonly GsiRoute[] = [
  ...Array.from({ length: ISA_GSIS }, (_, gsi): GsiRoute => {
    return { gsi, irqchip: gsi < 8 ? "pic-master" : "pic-slave", pin: gsi % 8 }
  }),
  ...Array.from({ length: WIRED_GSIS }, (_, gsi): GsiRoute => ({ gsi, irqchip: "ioapic", pin: gsi })),
]

/** The interrupt routes of one VM: KVM takes the whole table at each change. */
export class GsiRouting {
  readonly #vm: KvmVm
  /** By GSI; null while its message has no destination. */
  readonly #messages = new Map<number, GsiRoute | null>()
  /** While routes are changed together: the GSIs among them that got one, and whether KVM has to be told at all. */
  #together: { readonly gsis: number[]; changed: boolean } | undefined

  constructor(vm: KvmVm) {
    this.#vm = vm
  }

  /** A GSI for a message-signalled interrupt, routed nowhere. Throws {@link ConfigError} when there is none left. */
  allocate(): number {
    for (let gsi = WIRED_GSIS; gsi < MAX_GSIS; gsi++) {
      if (this.#messages.has(gsi)) continue
      this.#messages.set(gsi, null)
      return gsi
    }
    throw new ConfigError(
      `more than ${MAX_GSIS - WIRED_GSIS} interrupt vectors: fewer devices or queues are needed`,
    )
  }

  /** Routes an allocated GSI. The guest chose the message: one that KVM refuses goes nowhere. */
  route(gsi: number, address: number, data: number): void {
    this.together(() => {
      this.#messages.set(gsi, { gsi, msi: { address, data } })
      this.#changed([gsi])
    })
  }

  free(gsi: number): void {
    this.together(() => {
      if (this.#messages.get(gsi)) this.#changed([])
      this.#messages.delete(gsi)
    })
  }

  /**
   * Runs `change` and tells KVM of all that it routed and freed at once: one by one, each is a table of all. If KVM refuses
   * the table, none of the messages routed in `change` goes anywhere.
   */
  together(change: () => void): void {
    if (this.#together !== undefined) {
      change()
      return
    }
    const together = { gsis: [] as number[], changed: false }
    this.#together = together
    try {
      change()
    } finally {
      this.#together = undefined
    }
    if (!together.changed) return
    try {
      this.#apply()
    } catch (error) {
      if (!(error instanceof SystemError) || together.gsis.length === 0) throw error
      for (const gsi of together.gsis) this.#messages.set(gsi, null)
      this.#apply()
    }
  }

  #changed(gsis: readonly number[]): void {
    if (this.#together === undefined) return
    this.#together.changed = true
    this.#together.gsis.push(...gsis)
  }

  /** GSIs that are allocated; for statistics and tests. */
  get count(): number {
    return this.#messages.size
  }

  #apply(): void {
    const messages = [...this.#messages.values()].filter((route) => route !== null)
    this.#vm.setGsiRouting([...WIRED, ...messages])
  }
}
