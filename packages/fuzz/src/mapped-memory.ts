import { mmapMemory } from "@virtkit/memory/mmap"
import { TestMemory } from "@virtkit/testkit"

/** Memory that system calls can use. */
export class MappedMemory extends TestMemory {
  override readonly regions: TestMemory["regions"]
  readonly #mapped = mmapMemory(0x4_0000)

  constructor() {
    super({ regions: [] })
    this.regions = this.#mapped.regions
  }

  override hostAddress(address: number, length: number): number {
    return this.#mapped.hostAddress(address, length)
  }

  override markDirty(): void {}
}
