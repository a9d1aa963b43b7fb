// @ts-check
// What conformance suites need of a test runner, for mutate-ring.mjs: stands in for vitest in the bundle that it makes.
// Runs the tests whose names have VIRTKIT_ONLY in them, in order, and ends the process: 0 when all passed, 1 with the
// name of the first that failed.
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
  const wanted = tests.filter(({ name }) => name.includes(process.env.VIRTKIT_ONLY ?? ""))
  for (const { name, body } of wanted) {
    try {
      await body()
    } catch (error) {
      console.log(`${name}\n  ${error instanceof Error ? error.message : error}`)
      process.exit(1)
    }
  }
  console.log(`${wanted.length} tests passed`)
  process.exit(wanted.length > 0 ? 0 : 1)
}

// Once all files of the bundle were evaluated. An error outside of any test fails too.
process.on("unhandledRejection", (error) => {
  console.log(`unhandled rejection: ${error instanceof Error ? error.message : error}`)
  process.exit(1)
})
setImmediate(() => void run())
