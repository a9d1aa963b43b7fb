import * as uart from "./serial-constants.js"

/** Modem control and status: the other side is always there and ready; in loopback, the inputs are the outputs. */
export class ModemLines {
  /** MCR. */
  control = 0
  /** The bits of MSR that say what changed since it was read. */
  deltas = 0

  get loopback(): boolean {
    return (this.control & uart.MCR_LOOPBACK) !== 0
  }

  /** The input lines as bits of MSR. */
  get lines(): number {
    if (!this.loopback) return uart.MSR_CTS | uart.MSR_DSR | uart.MSR_DCD
    return (
      ((this.control & uart.MCR_RTS) !== 0 ? uart.MSR_CTS : 0) |
      ((this.control & uart.MCR_DTR) !== 0 ? uart.MSR_DSR : 0) |
      ((this.control & uart.MCR_OUT1) !== 0 ? uart.MSR_RI : 0) |
      ((this.control & uart.MCR_OUT2) !== 0 ? uart.MSR_DCD : 0)
    )
  }

  readStatus(): number {
    const status = this.lines | this.deltas
    this.deltas = 0
    return status
  }

  writeControl(value: number): void {
    const before = this.lines
    this.control = value & uart.MCR_MASK
    const changed = before ^ this.lines
    if ((changed & uart.MSR_CTS) !== 0) this.deltas |= uart.MSR_DELTA_CTS
    if ((changed & uart.MSR_DSR) !== 0) this.deltas |= uart.MSR_DELTA_DSR
    if ((changed & before & uart.MSR_RI) !== 0) this.deltas |= uart.MSR_TRAILING_EDGE_RI
    if ((changed & uart.MSR_DCD) !== 0) this.deltas |= uart.MSR_DELTA_DCD
  }
}
