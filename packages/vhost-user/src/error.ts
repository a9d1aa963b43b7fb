import { VirtkitError } from "@virtkit/interface"

/** The other end of a connection broke the protocol; the connection is ended with this reason. */
export class VhostUserError extends VirtkitError {
  override readonly name = "VhostUserError"

  constructor(message: string, options?: ErrorOptions) {
    super("ERR_VIRTKIT_VHOST_USER", message, options)
  }
}
