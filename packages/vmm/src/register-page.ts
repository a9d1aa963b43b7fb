import type { RegisterPage } from "@virtkit/interface"
import type { Vm as KvmVm } from "@virtkit/kvm"
import { type MappedPage, mmapPage } from "@virtkit/memory/mmap"

const PAGE_SIZE = 4096

/** A register page as a KVM read-only memory slot: the guest reads it without an exit, its writes exit. */
export class SlotRegisterPage implements RegisterPage {
  readonly #vm: KvmVm
  readonly #slot: number
  readonly #guestAddress: number
  // KVM has only the address; this keeps the memory.
  readonly #page: MappedPage = mmapPage()
  #shown = false

  constructor(vm: KvmVm, slot: number, guestAddress: number) {
    this.#vm = vm
    this.#slot = slot
    this.#guestAddress = guestAddress
  }

  get view(): DataView {
    return this.#page.view
  }

  hide(): void {
    if (this.#shown) this.#set(0)
    this.#shown = false
  }

  show(): void {
    if (!this.#shown) this.#set(PAGE_SIZE)
    this.#shown = true
  }

  #set(size: number): void {
    this.#vm.setMemorySlot({
      slot: this.#slot,
      guestAddress: this.#guestAddress,
      size,
      hostAddress: this.#page.hostAddress,
      readonly: true,
      owner: this.#page,
    })
  }
}
