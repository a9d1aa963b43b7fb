import { StateError } from "@virtkit/interface"

/**
 * created -> running <-> paused -> exited -> closed. A VM that never started can be closed; one that runs or is paused
 * exits first. `exited` and `closed` are never left.
 */
export type VmState = "created" | "running" | "paused" | "exited" | "closed"

const legal: Readonly<Record<VmState, readonly VmState[]>> = {
  created: ["running", "exited", "closed"],
  running: ["paused", "exited"],
  paused: ["running", "exited"],
  exited: ["closed"],
  closed: [],
}

/** The state of one VM; refuses every transition that the diagram above does not have. */
export class Lifecycle {
  #state: VmState = "created"
  readonly #onChange: (state: VmState) => void

  constructor(onChange: (state: VmState) => void) {
    this.#onChange = onChange
  }

  get state(): VmState {
    return this.#state
  }

  /** Throws {@link StateError} with the operation's name unless the VM is in one of `states`. */
  require(operation: string, ...states: readonly VmState[]): void {
    if (!states.includes(this.#state)) {
      throw new StateError(`${operation}: the VM is ${this.#state}, it must be ${states.join(" or ")}`)
    }
  }

  to(next: VmState): void {
    if (!legal[this.#state].includes(next))
      throw new StateError(`a VM cannot go from ${this.#state} to ${next}`)
    this.#state = next
    this.#onChange(next)
  }
}
