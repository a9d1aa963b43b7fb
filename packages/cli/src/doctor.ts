import { diagnose, type Finding } from "./diagnosis.js"
import { parseCommand } from "./run-options.js"
import { doctorUsage, EXIT_CLEAN, EXIT_CRASH } from "./usage.js"

/** `virtkit doctor`: status 0 when guests can run here one way or another. */
export async function doctorCommand(argv: readonly string[]): Promise<number> {
  const { values } = parseCommand(argv, { json: { type: "boolean" }, help: { type: "boolean" } })
  if (values.help) {
    process.stdout.write(doctorUsage)
    return EXIT_CLEAN
  }
  const { accel, reason, findings } = await diagnose()
  if (values.json) {
    process.stdout.write(`${JSON.stringify({ accel, reason, findings }, null, 2)}\n`)
  } else {
    process.stdout.write(findings.map(formatFinding).join(""))
    process.stdout.write(`\n--accel auto is ${accel ?? "nothing"}: ${reason}\n`)
  }
  return accel === undefined ? EXIT_CRASH : EXIT_CLEAN
}

const WIDTH = 12

function formatFinding({ name, ok, detail, fix }: Finding): string {
  const line = `${ok ? "ok " : "-- "} ${name.padEnd(WIDTH)} ${detail}\n`
  return fix === undefined ? line : `${line}${" ".repeat(WIDTH + 5)}to mend it: ${fix}\n`
}
