import { createServer, type Server, type Socket } from "node:net"

const ARP = 0x0806
const IPV4 = 0x0800
const ICMP = 1
const MAC = Uint8Array.of(0x52, 0x54, 0, 0, 0, 1)

/**
 * The other end of a wire (`--net socket,connect=PATH`): a machine that answers ARP requests for its address and pings to it,
 * and nothing else.
 */
export class PingPeer {
  /** Pings that were answered. */
  pings = 0
  readonly #address: Uint8Array
  readonly #server: Server
  readonly #sockets = new Set<Socket>()

  /** `address` such as "10.0.0.1". Resolves when the socket is there. */
  static async listen(path: string, address: string): Promise<PingPeer> {
    const peer = new PingPeer(address)
    await new Promise<void>((resolve) => peer.#server.listen(path, resolve))
    return peer
  }

  private constructor(address: string) {
    this.#address = Uint8Array.from(address.split("."), Number)
    this.#server = createServer((socket) => this.#serve(socket))
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  /** Frames come and go with their length, 32 bits big-endian, before them. */
  #serve(socket: Socket): void {
    let pending = Buffer.alloc(0)
    this.#sockets.add(socket)
    socket.on("error", () => {}) // whoever is killed does not say goodbye
    socket.on("close", () => this.#sockets.delete(socket))
    socket.on("data", (data) => {
      pending = Buffer.concat([pending, data])
      while (pending.length >= 4 && pending.length >= 4 + pending.readUInt32BE(0)) {
        const length = pending.readUInt32BE(0)
        const answer = this.#answer(pending.subarray(4, 4 + length))
        pending = pending.subarray(4 + length)
        if (answer === undefined) continue
        const size = Buffer.alloc(4)
        size.writeUInt32BE(answer.length)
        socket.write(Buffer.concat([size, answer]))
      }
    })
  }

  #answer(frame: Buffer): Buffer | undefined {
    const type = frame.readUInt16BE(12)
    if (type === ARP && frame.readUInt16BE(20) === 1 && this.#isMine(frame, 38)) return this.#arpReply(frame)
    if (type !== IPV4 || frame[23] !== ICMP || !this.#isMine(frame, 30)) return undefined
    const icmp = 14 + 4 * (frame[14]! & 15)
    return frame[icmp] === 8 ? this.#echoReply(frame, icmp) : undefined
  }

  #isMine(frame: Buffer, at: number): boolean {
    return this.#address.every((byte, index) => frame[at + index] === byte)
  }

  #arpReply(request: Buffer): Buffer {
    const reply = Buffer.from(request)
    reply.set(request.subarray(6, 12), 0)
    reply.set(MAC, 6)
    reply.writeUInt16BE(2, 20)
    reply.set(MAC, 22)
    reply.set(this.#address, 28)
    reply.set(request.subarray(22, 32), 32)
    return reply
  }

  #echoReply(request: Buffer, icmp: number): Buffer {
    const reply = Buffer.from(request)
    reply.set(request.subarray(6, 12), 0)
    reply.set(MAC, 6)
    reply.set(request.subarray(26, 30), 30)
    reply.set(request.subarray(30, 34), 26)
    reply[icmp] = 0
    // The type went from 8 to 0: the sum of all words is 0x800 less, its complement as much more (RFC 1624).
    const sum = request.readUInt16BE(icmp + 2) + 0x800
    reply.writeUInt16BE((sum & 0xffff) + (sum >>> 16), icmp + 2)
    this.pings++
    return reply
  }
}
