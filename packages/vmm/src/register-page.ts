import type { RegisterPage } from "@virtkit/interface"
import type { Vm as KvmVm } from "@virtkit/kvm"
import type { GuestMemoryMap } from "@virtkit/memory"
import { type MappedPage, mmapMemory, mmapPage } from "@virtkit/memory/mmap"

const PAGE_SIZE = 4096

/** A register page as a KVM read-only memory slot: the guest reads it without an exit, its writes exit. */
export class SlotRegisterPage implements RegisterPage {
  readonly #vm: KvmVm
  readonly #slot: number
  // KVM has only the address; this keeps the memory.
  readonly #page: MappedPage = mmapPage()
  #guestAddress = 0
  #shown = false

  constructor(vm: KvmVm, slot: number) {
    this.#vm = vm
    this.#slot = slot
  }

  get view(): DataView {
    return this.#page.view
  }

  /** Where it is the next time that it is shown. */
  place(guestAddress: number): void {
    this.hide()
    this.#guestAddress = guestAddress
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

/** Configuration space of one PCI bus. */
const ONES_BYTES = 0x10_0000
let ones: GuestMemoryMap | undefined

/** Nobody writes to it, so one is enough for all VMs of the process. */
function allOnes(): GuestMemoryMap {
  if (ones === undefined) {
    ones = mmapMemory(ONES_BYTES)
    ones.fill(0, ONES_BYTES, 0xff)
  }
  return ones
}

/** The register pages of a VM: a guest that moves its devices about gets the same few again and again. */
export class RegisterPages {
  readonly #vm: KvmVm
  readonly #free: SlotRegisterPage[] = []
  #nextSlot: number

  /** Memory slots from `firstSlot` on are its own. */
  constructor(vm: KvmVm, firstSlot: number) {
    this.#vm = vm
    this.#nextSlot = firstSlot
  }

  /** A hidden page. */
  acquire(guestAddress: number): SlotRegisterPage {
    const page = this.#free.pop() ?? new SlotRegisterPage(this.#vm, this.#nextSlot++)
    page.place(guestAddress)
    return page
  }

  /** From now on the guest reads all ones there, without exits; its writes exit. At most {@link ONES_BYTES}. */
  cover(guestAddress: number, size: number): void {
    if (size === 0) return
    const owner = allOnes()
    const hostAddress = owner.hostAddress(0, size)
    this.#vm.setMemorySlot({ slot: this.#nextSlot++, guestAddress, size, hostAddress, readonly: true, owner })
  }

  release(page: SlotRegisterPage): void {
    page.hide()
    this.#free.push(page)
  }
}
