#!/usr/bin/env node
import { main } from "./main.js"

// A reader that went away, as in `virtkit doctor | head -1`, is nothing to tell of.
for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {})

process.exitCode = await main(process.argv.slice(2))
