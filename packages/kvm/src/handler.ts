import type { AccessSize } from "@virtkit/interface"
import type { ExitAnswer, VcpuExit } from "./exits.js"
import type { Vcpu } from "./vcpu.js"

/**
 * What answers the exits of a vCPU. All methods are called on the thread that started the vCPU, one at a time, never
 * re-entrantly; the vCPU waits meanwhile. If a method throws, `error` is called and the guest reads all ones.
 *
 * Accesses of 8 bytes arrive as two of 4, the low half first, other odd lengths in pieces of 4, 2 and 1; string and
 * repeated instructions as that many single accesses.
 */
export interface ExitHandler {
  portRead(port: number, size: AccessSize): number
  /** While a returned promise is pending the vCPU stays stopped. */
  portWrite(port: number, size: AccessSize, value: number): void | Promise<void>
  mmioRead(address: number, size: AccessSize): number
  /** While a returned promise is pending the vCPU stays stopped. */
  mmioWrite(address: number, size: AccessSize, value: number): void | Promise<void>
  /**
   * Every other reason. The vCPU is stopped, its state may be read and changed, until `vcpu.resume()`; returning
   * "resume" does that at once, and returning an answer does it with that answer; when a pause was asked for meanwhile,
   * the next `vcpu.resume()` gives it.
   */
  // biome-ignore lint/suspicious/noConfusingVoidType: most handlers return nothing
  exit(vcpu: Vcpu, exit: VcpuExit): "resume" | ExitAnswer | void
  /** A method above threw, or its promise rejected; the vCPU went on, or for `exit` is stopped. Must not throw. */
  error(vcpu: Vcpu, error: unknown): void
}
