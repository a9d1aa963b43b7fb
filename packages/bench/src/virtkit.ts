// The virtkit command, as a program of this package.
import { main } from "virtkit"

process.exitCode = await main(process.argv.slice(2))
