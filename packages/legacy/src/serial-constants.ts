/**
 * Registers and bits of the 16550A by the names of the National Semiconductor PC16550D data sheet. Offsets count from the
 * port's base; with LCR.DLAB set, offsets 0 and 1 are the divisor latch.
 */
export const RBR_THR = 0
export const IER = 1
export const IIR_FCR = 2
export const LCR = 3
export const MCR = 4
export const LSR = 5
export const MSR = 6
export const SCR = 7

export const IER_RECEIVED_DATA = 0x01
export const IER_TRANSMITTER_EMPTY = 0x02
export const IER_LINE_STATUS = 0x04
export const IER_MODEM_STATUS = 0x08
/** The upper half reads 0: a driver tells a 16550A from later chips by that. */
export const IER_MASK = 0x0f

export const IIR_NONE = 0x01
export const IIR_MODEM_STATUS = 0x00
export const IIR_TRANSMITTER_EMPTY = 0x02
export const IIR_RECEIVED_DATA = 0x04
export const IIR_LINE_STATUS = 0x06
export const IIR_CHARACTER_TIMEOUT = 0x0c
export const IIR_FIFOS_ENABLED = 0xc0

export const FCR_ENABLE = 0x01
export const FCR_CLEAR_RECEIVER = 0x02

export const LCR_DLAB = 0x80

export const MCR_DTR = 0x01
export const MCR_RTS = 0x02
export const MCR_OUT1 = 0x04
export const MCR_OUT2 = 0x08
export const MCR_LOOPBACK = 0x10
export const MCR_MASK = 0x1f

export const LSR_DATA_READY = 0x01
export const LSR_OVERRUN = 0x02
export const LSR_BREAK = 0x10
/** Transmitter holding register and shift register empty; here always together. */
export const LSR_TRANSMITTER_EMPTY = 0x60
export const LSR_FIFO_ERROR = 0x80
/** The bits that stay set until LSR is read. */
export const LSR_STICKY = 0x1e

export const MSR_DELTA_CTS = 0x01
export const MSR_DELTA_DSR = 0x02
export const MSR_TRAILING_EDGE_RI = 0x04
export const MSR_DELTA_DCD = 0x08
export const MSR_CTS = 0x10
export const MSR_DSR = 0x20
export const MSR_RI = 0x40
export const MSR_DCD = 0x80

export const FIFO_SIZE = 16
/** Characters in the receiver FIFO at which "received data" is due, by FCR bits 7:6. */
export const TRIGGER_LEVELS: readonly number[] = [1, 4, 8, 14]
