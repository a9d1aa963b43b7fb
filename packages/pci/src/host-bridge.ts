import { type AccessSize, type PciIdentity, RestoreError } from "@virtkit/interface"
import { ConfigPage } from "./config-page.js"
import { ConfigSpace } from "./config-space.js"
import type { BusContext } from "./context.js"
import { declareHeader, declareType0 } from "./header.js"

/** Saved state of the host bridge. */
export interface HostBridgeState {
  readonly config: Uint8Array
}

/** The host bridge as its own bus sees it, device 0: what guests without ACPI look for to know that there is PCI. */
export class HostBridge {
  readonly device = 0
  readonly config: ConfigSpace = new ConfigSpace()
  readonly #page: ConfigPage
  readonly #context: BusContext

  constructor(identity: PciIdentity, context: BusContext) {
    this.#context = context
    declareHeader(this.config, {
      identity,
      headerType: 0,
      // Real ones cannot be switched off either.
      command: 0,
      hasCapabilities: false,
      hasIntx: false,
      commandWritten: () => undefined,
    })
    declareType0(this.config, identity, [], () => undefined)
    this.#page = new ConfigPage("host bridge", context.host, this.config, this.write.bind(this))
  }

  write(offset: number, size: AccessSize, value: number): void | Promise<void> {
    return this.config.write(offset, size, value)
  }

  leave(): void {
    this.#page.placement.leaveUnless(this.#context.ecamAddress(0, 0))
  }

  settle(): void {
    this.#page.placement.settle(this.#context.ecamAddress(0, 0))
  }

  get hasEcamPage(): boolean {
    return this.#page.placement.address !== undefined
  }

  state(): HostBridgeState {
    return { config: this.config.state() }
  }

  check(saved: unknown): void {
    if (typeof saved !== "object" || saved === null) throw new RestoreError("no state of the host bridge")
    this.config.check("host bridge", (saved as Partial<HostBridgeState>).config)
  }

  restore(saved: HostBridgeState): void {
    this.config.restore(saved.config)
  }

  async remove(): Promise<void> {
    this.#page.placement.leaveUnless(undefined)
  }
}
