// @ts-check
// What conformance suites need of a test runner, for mutate-ring.mjs: stands in for vitest in the bundle that it makes.
// Runs the tests in order and ends the process: 0 when all passed, 1 with the name of the first that failed. With
// VIRTKIT_SLOW it names the tests that take long.
import { isDeepStrictEqual } from "node:util"

/** @type {{ name: string, body: () => unknown }[]} */
const tests = []
/** @type {string[]} */
const path = []

/**
 * @param {string} name
 * @param {() => void} body
 */
export function describe(name, body) {
  path.push(name)
  body()
  path.pop()
}

/**
 * @param {string} name
 * @param {() => unknown} body
 */
export function it(name, body) {
  tests.push({ name: [...path, name].join(" > "), body })
}

/** @param {unknown} actual */
export function expect(actual) {
  return {
    /** @param {unknown} expected */
    toBe(expected) {
      if (!Object.is(actual, expected)) throw new Error(`${shown(actual)} is not ${shown(expected)}`)
    },
    /** @param {unknown} expected */
    toEqual(expected) {
      if (!isDeepStrictEqual(actual, expected)) throw new Error(`${shown(actual)} is not ${shown(expected)}`)
    },
  }
}

/** @param {unknown} value */
function shown(value) {
  return JSON.stringify(value, (_, item) => (typeof item === "bigint" ? `${item}n` : item))?.slice(0, 300)
}

async function run() {
  const failed = []
  for (const { name, body } of tests) {
    const start = performance.now()
    try {
      await body()
    } catch (error) {
      failed.push(name)
      console.log(`${name}\n  ${error instanceof Error ? error.message : error}`)
      if (process.env.VIRTKIT_ALL === undefined) break
    }
    const ms = performance.now() - start
    if (process.env.VIRTKIT_SLOW !== undefined && ms > Number(process.env.VIRTKIT_SLOW)) {
      console.log(`${ms.toFixed(0)} ms: ${name}`)
    }
  }
  if (failed.length === 0) console.log(`${tests.length} tests passed`)
  process.exit(failed.length === 0 ? 0 : 1)
}

// Once all files of the bundle were evaluated. An error outside of any test fails too.
process.on("unhandledRejection", (error) => {
  console.log(`unhandled rejection: ${error instanceof Error ? error.message : error}`)
  process.exit(1)
})
setImmediate(() => void run())
