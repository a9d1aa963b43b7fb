import { createHash } from "node:crypto"
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

/** A directory for each target, a file for each input. */
export const CORPUS: string = fileURLToPath(new URL("../corpus", import.meta.url))

/** How the names of inputs that once failed begin: they stay, whatever else does. */
const FAILED = "failed-"

/** The inputs kept for a target, by file name. */
export function readCorpus(target: string, corpus: string = CORPUS): Map<string, Uint8Array> {
  const directory = join(corpus, target)
  if (!existsSync(directory)) return new Map()
  const names = readdirSync(directory).sort()
  return new Map(names.map((name) => [name, new Uint8Array(readFileSync(join(directory, name)))]))
}

/** Keeps an input that failed, to be replayed by `npm test` from now on; returns the file's path. */
export function writeFailed(target: string, input: Uint8Array, corpus: string = CORPUS): string {
  return writeInput(target, `${FAILED}${nameOf(input)}`, input, corpus)
}

/** Replaces the inputs of a target, those that failed aside, by the `most` shortest of `inputs`. */
export function writeCorpus(
  target: string,
  inputs: readonly Uint8Array[],
  most: number,
  corpus: string = CORPUS,
): void {
  for (const name of readCorpus(target, corpus).keys()) {
    if (!name.startsWith(FAILED)) rmSync(join(corpus, target, name))
  }
  const shortest = [...inputs].sort((a, b) => a.length - b.length).slice(0, most)
  for (const input of shortest) writeInput(target, nameOf(input), input, corpus)
}

function writeInput(target: string, name: string, input: Uint8Array, corpus: string): string {
  mkdirSync(join(corpus, target), { recursive: true })
  const path = join(corpus, target, name)
  writeFileSync(path, input)
  return path
}

function nameOf(input: Uint8Array): string {
  return createHash("sha256").update(input).digest("hex").slice(0, 12)
}
