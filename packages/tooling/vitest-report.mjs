// @ts-check
// A vitest reporter that appends one line of JSON, the counts and every skipped test with its reason, to the file named
// by VIRTKIT_TEST_REPORT. Appends, so that a test script may run vitest more than once.
import { appendFileSync } from "node:fs"

/**
 * @typedef {object} TestReport
 * @property {number} passed
 * @property {number} failed failed tests, and errors outside of tests
 * @property {string[]} skipped names with the file and the reason, if the test gave one
 * @property {Record<string, { passed: number, failed: number }>} files those in which something failed
 * @property {string[]} [repeated] files that failed and were run again; they do not count here
 *
 * @typedef {object} Outcome what this uses of vitest's TestCase
 * @property {string} fullName
 * @property {() => { state: string, note?: string | undefined }} result
 *
 * @typedef {object} Module what this uses of vitest's TestModule
 * @property {string} relativeModuleId
 * @property {() => readonly unknown[]} errors
 * @property {{ allTests: () => Iterable<Outcome>, allSuites: () => Iterable<{ errors: () => readonly unknown[] }> }} children
 */

/**
 * @param {Iterable<Module>} modules
 * @param {readonly unknown[]} unhandledErrors
 * @returns {TestReport}
 */
export function summarise(modules, unhandledErrors) {
  /** @type {TestReport} */
  const report = { passed: 0, failed: unhandledErrors.length, skipped: [], files: {} }
  for (const module of modules) {
    const file = { passed: 0, failed: 0 }
    file.failed += module.errors().length > 0 ? 1 : 0
    for (const suite of module.children.allSuites()) file.failed += suite.errors().length > 0 ? 1 : 0
    for (const test of module.children.allTests()) {
      const { state, note } = test.result()
      if (state === "passed") file.passed += 1
      else if (state === "failed") file.failed += 1
      else report.skipped.push(`${module.relativeModuleId} > ${test.fullName}${note ? ` [${note}]` : ""}`)
    }
    report.passed += file.passed
    report.failed += file.failed
    if (file.failed > 0) report.files[module.relativeModuleId] = file
  }
  return report
}

export default class VitestReport {
  /**
   * @param {Iterable<Module>} modules
   * @param {readonly unknown[]} unhandledErrors
   */
  onTestRunEnd(modules, unhandledErrors) {
    const file = process.env.VIRTKIT_TEST_REPORT
    if (file !== undefined) appendFileSync(file, `${JSON.stringify(summarise(modules, unhandledErrors))}\n`)
  }
}
