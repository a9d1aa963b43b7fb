// Runs in the lab, in a network namespace of its own: a host that a guest reaches from there. It answers on all addresses: any
// name is ADDRESS for its name server, and its web server has /NUMBER, so many pseudo-random bytes. Says on its standard output
// when it is ready, with the MD5 sum of the BYTES bytes that it is going to be asked for.
import { createHash } from "node:crypto"
import { createSocket } from "node:dgram"
import { once } from "node:events"
import { createServer } from "node:http"

const [address = "", bytes] = process.argv.slice(2)

const block = new Uint8Array(1 << 20)
for (let at = 0, state = 1; at < block.length; at++) {
  state = (Math.imul(state, 1103515245) + 12345) >>> 0
  block[at] = state >>> 16
}

function* blocks(length: number): Generator<Uint8Array> {
  for (let left = length; left > 0; left -= block.length) yield block.subarray(0, left)
}

/** RFC 1035: the question comes back with one answer if an address is asked for, else with none. */
function answer(query: Buffer): Buffer {
  let end = 12
  while (query[end]! !== 0) end += 1 + query[end]!
  const wantsAddress = query.readUInt16BE(end + 1) === 1
  const question = query.subarray(12, end + 5)
  const header = Buffer.from([query[0]!, query[1]!, 0x84, 0, 0, 1, 0, wantsAddress ? 1 : 0, 0, 0, 0, 0])
  const record = Buffer.from([
    ...[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4],
    ...address.split(".").map((part) => Number(part)),
  ])
  return Buffer.concat([header, question, ...(wantsAddress ? [record] : [])])
}

const names = createSocket("udp4")
names.on("message", (query, from) => names.send(answer(query), from.port, from.address))
names.bind(53)
const web = createServer(async (request, response) => {
  const length = Number(request.url?.slice(1))
  response.setHeader("content-length", length)
  for (const part of blocks(length)) if (!response.write(part)) await once(response, "drain")
  response.end()
})
web.listen(80)
await Promise.all([once(names, "listening"), once(web, "listening")])
const hash = createHash("md5")
for (const part of blocks(Number(bytes))) hash.update(part)
process.stdout.write(`${hash.digest("hex")}\n`)
