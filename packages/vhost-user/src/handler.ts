import type { Reply, Request } from "./message.js"

/** Carries out a request; gives its answer, if it is of those that have one. Throws `VhostUserError`. */
export type Handler = (request: Request) => Reply | undefined | Promise<Reply | undefined>

/** By number of the request. */
export type Handlers = readonly (readonly [request: number, handler: Handler])[]
