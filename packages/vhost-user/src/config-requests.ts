import { UnixSocket } from "@virtkit/native"
import * as protocol from "./constants.js"
import { VhostUserError } from "./error.js"
import type { Handlers } from "./handler.js"
import { encodeMessage, type Reply, type Request } from "./message.js"
import * as payload from "./payload.js"
import type { Runner } from "./runner.js"

/** The requests about the device's configuration space, and the channel by which its changes are told. */
export class ConfigRequests {
  readonly handlers: Handlers
  readonly #runner: Runner
  #backEndChannel: UnixSocket | undefined

  constructor(runner: Runner) {
    this.#runner = runner
    this.handlers = [
      [protocol.VHOST_USER_SET_BACKEND_REQ_FD, (request) => this.#setBackEndChannel(request)],
      [protocol.VHOST_USER_GET_CONFIG, (request) => this.#getConfig(request)],
      [protocol.VHOST_USER_SET_CONFIG, (request) => this.#setConfig(request)],
    ]
  }

  close(): void {
    this.#backEndChannel?.close()
  }

  /** The front end reads configuration and status again. */
  tellChange(): void {
    const message = encodeMessage(protocol.VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, 0, new Uint8Array(0))
    try {
      // A front end that does not read its channel has unread ones in it already.
      this.#backEndChannel?.send(message, 0, message.length)
    } catch {
      // Its end is closed; the connection itself will say so.
    }
  }

  #setBackEndChannel(request: Request): undefined {
    let channel: UnixSocket
    try {
      channel = new UnixSocket(request.fds[0]!)
    } catch (error) {
      throw new VhostUserError(`SET_BACKEND_REQ_FD: ${(error as Error).message}`, { cause: error })
    }
    request.fds[0] = -1
    this.#backEndChannel?.close()
    this.#backEndChannel = channel
  }

  /** What lies past the end of the device's configuration space reads as zeros (bad-input #5). */
  #getConfig(request: Request): Reply {
    const { offset, size } = payload.parseConfig(request)
    const answer = new Uint8Array(12 + size)
    const view = new DataView(answer.buffer)
    view.setUint32(0, offset, true)
    view.setUint32(4, size, true)
    answer.set(this.#runner.device.config.subarray(offset, offset + size), 12)
    return { payload: answer }
  }

  /** A write that reaches past the end is dropped (bad-input #5). */
  #setConfig(request: Request): undefined {
    const { offset, size, data } = payload.parseConfig(request)
    if (offset + size <= this.#runner.device.config.length) this.#runner.writeConfig(offset, data.slice())
  }
}
