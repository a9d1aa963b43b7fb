// npm run bench [-- exits|memory|boots|pci|ring|ring-threads|net|blk|blk-alone|blk-long ...] [--runs N]: virtkit beside QEMU, in the same run, as Markdown on stdout.
import { parseArgs } from "node:util"
import { measureBlk } from "./blk.js"
import { measureBlkAlone } from "./blk-alone.js"
import { measureBlkLong } from "./blk-long.js"
import { measureBoots, measurePciExits } from "./boots.js"
import { measureExits } from "./exits.js"
import { measureMemory } from "./memory.js"
import { measureNet } from "./net.js"
import { formatReport, type Section } from "./report.js"
import { measureRing, measureRingThreads } from "./ring.js"

const measurements: Readonly<Record<string, (runs: number) => Promise<Section>>> = {
  exits: measureExits,
  memory: measureMemory,
  boots: measureBoots,
  pci: measurePciExits,
  ring: measureRing,
  "ring-threads": measureRingThreads,
  net: measureNet,
  blk: measureBlk,
  "blk-alone": measureBlkAlone,
  "blk-long": measureBlkLong,
}

const { values, positionals } = parseArgs({ options: { runs: { type: "string" } }, allowPositionals: true })
const runs = Number(values.runs ?? 5)
if (!Number.isInteger(runs) || runs < 1) throw new RangeError("--runs must be a number from 1")
for (const name of positionals.length > 0 ? positionals : Object.keys(measurements)) {
  const measure = measurements[name]
  if (measure === undefined)
    throw new RangeError(`there is no measurement "${name}": ${Object.keys(measurements).join(", ")}`)
  process.stdout.write(`${formatReport([await measure(runs)])}\n`)
}
